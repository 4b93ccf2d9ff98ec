//! How many requests are answered at one time, and how many may wait. What is beyond that is refused
//! at once, so that nothing queues without bound.
//!
//! A request has a turn while it is answered. One that waits is idle and cheap: it gives its turn
//! back and takes a place among those who wait. When its wait ends it queues for a turn, ahead of
//! all who come later. So whoever was let in to wait gets its answer, and is refused last. One caller
//! may be held to a few of the places, so that others find some.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::caller::Caller;
use crate::limit::Limit;
use crate::page::ReadError;

/// How many turns and places there are.
#[derive(Clone, Copy, Debug)]
pub struct TurnsMax {
    /// The most requests that are answered at one time.
    pub requests: usize,
    /// The most that may wait besides.
    pub waiting: usize,
    /// The most of one caller's, of those; without a bound where `None`. Callers who were not asked who
    /// they are cannot be told apart, and have no bound of their own.
    pub waiting_of_one: Option<usize>,
}

/// The turns and places of a server.
#[derive(Clone, Debug)]
pub struct Turns {
    max: TurnsMax,
    answering: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// How many places each caller has, by its name. Nobody stands here who has none, so there are never
    /// more than places.
    places: Arc<Mutex<HashMap<String, usize>>>,
}

/// The turn of one request; given back when this is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    caller: Caller,
    answering: Option<OwnedSemaphorePermit>,
    waiting: Option<Place>,
    rested: Duration,
    rests_since: Option<Instant>,
}

/// A place among those who wait.
#[derive(Debug)]
struct Place {
    _among_all: OwnedSemaphorePermit,
    _of_caller: Option<PlaceOf>,
}

/// One of a caller's own places.
#[derive(Debug)]
struct PlaceOf {
    places: Arc<Mutex<HashMap<String, usize>>>,
    name: String,
}

impl Turns {
    /// So many requests are answered at one time, and so many more may wait.
    pub fn new(max: TurnsMax) -> Self {
        let permits = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            max,
            answering: permits(max.requests),
            waiting: permits(max.waiting),
            places: Arc::default(),
        }
    }

    /// A turn for a request that has come, if one is free and nobody queues for it.
    pub fn take(&self, caller: &Caller) -> Result<Turn, ReadError> {
        let answering = Arc::clone(&self.answering).try_acquire_owned();
        let answering = answering.map_err(|_| ReadError::Limit(Limit::RequestsMax))?;
        Ok(self.turn(caller, Some(answering), None))
    }

    /// The same for a request that may wait: where no turn is free it gets a place, and a turn after those who queue,
    /// by [`Turn::resume`]. Thousands who were woken by one change ask again while others of them still queue.
    pub fn take_or_queue(&self, caller: &Caller) -> Result<Turn, ReadError> {
        if let Ok(answering) = Arc::clone(&self.answering).try_acquire_owned() {
            return Ok(self.turn(caller, Some(answering), None));
        }
        let place = self.place(caller).map_err(ReadError::Limit)?;
        Ok(self.turn(caller, None, Some(place)))
    }

    fn turn(&self, caller: &Caller, answering: Option<OwnedSemaphorePermit>, waiting: Option<Place>) -> Turn {
        Turn {
            turns: self.clone(),
            caller: caller.clone(),
            answering,
            waiting,
            rested: Duration::ZERO,
            rests_since: None,
        }
    }

    /// How many turns are taken.
    pub fn answering(&self) -> usize {
        let all = self.max.requests.min(Semaphore::MAX_PERMITS);
        all.saturating_sub(self.answering.available_permits())
    }

    /// How many places are taken.
    pub fn waiting(&self) -> usize {
        let all = self.max.waiting.min(Semaphore::MAX_PERMITS);
        all.saturating_sub(self.waiting.available_permits())
    }

    fn place(&self, caller: &Caller) -> Result<Place, Limit> {
        let of_caller = match (self.max.waiting_of_one, caller.name()) {
            (Some(most), Some(name)) => {
                Some(PlaceOf::take(&self.places, name, most).ok_or(Limit::CallerWaitingMax)?)
            }
            _ => None,
        };
        let among_all = Arc::clone(&self.waiting).try_acquire_owned();
        Ok(Place {
            _among_all: among_all.map_err(|_| Limit::WaitingMax)?,
            _of_caller: of_caller,
        })
    }
}

impl PlaceOf {
    fn take(places: &Arc<Mutex<HashMap<String, usize>>>, name: &str, most: usize) -> Option<Self> {
        let mut taken = places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken_by_it = taken.get(name).copied().unwrap_or(0);
        if taken_by_it >= most {
            return None;
        }
        taken.insert(name.to_owned(), taken_by_it + 1);
        Some(Self {
            places: Arc::clone(places),
            name: name.to_owned(),
        })
    }
}

impl Drop for PlaceOf {
    fn drop(&mut self) {
        let mut taken = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = taken.entry(std::mem::take(&mut self.name)) {
            *entry.get_mut() = entry.get().saturating_sub(1);
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Turn {
    /// Gives the turn back for as long as the request waits, if it may.
    pub fn rest(&mut self) -> Result<(), ReadError> {
        if self.waiting.is_none() {
            self.waiting = Some(self.turns.place(&self.caller).map_err(ReadError::Limit)?);
        }
        self.answering = None;
        self.rests_since = Some(Instant::now());
        Ok(())
    }

    /// Waits for a turn when the wait is over, unless it has one. The place is kept until the request is answered: it
    /// bounds those who queue here, and the request may have to wait again.
    pub async fn resume(&mut self) {
        if self.answering.is_some() {
            return;
        }
        if let Some(since) = self.rests_since.take() {
            self.rested += since.elapsed();
        }
        // It fails only where somebody closes the semaphore, and nobody does.
        self.answering = Arc::clone(&self.turns.answering).acquire_owned().await.ok();
    }

    /// How long the request has waited for news, as its caller wished.
    pub fn rested(&self) -> Duration {
        self.rested
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Grant;

    fn turns(requests: usize, waiting: usize, waiting_of_one: Option<usize>) -> Turns {
        Turns::new(TurnsMax {
            requests,
            waiting,
            waiting_of_one,
        })
    }

    fn named(name: &str) -> Caller {
        Caller::with(Grant {
            name: name.to_owned(),
            ..Grant::default()
        })
    }

    #[tokio::test]
    async fn who_has_waited_comes_before_who_comes_later() {
        let (turns, caller) = (turns(1, 1, None), Caller::anyone());
        let mut waiting = turns.take(&caller).unwrap();
        assert!(turns.take(&caller).is_err(), "the only turn is taken");
        waiting.rest().unwrap();
        let answered = turns.take(&caller).expect("who waits has no turn");
        {
            let mut resumed = std::pin::pin!(waiting.resume());
            assert!(futures_util::poll!(&mut resumed).is_pending());
            drop(answered);
            assert!(
                turns.take(&caller).is_err(),
                "the turn is kept for who has waited"
            );
            resumed.await;
        }
        drop(waiting);
        assert!(turns.take(&caller).is_ok());
    }

    #[tokio::test]
    async fn who_may_wait_queues_where_no_turn_is_free() {
        let (turns, caller) = (turns(1, 1, None), Caller::anyone());
        let first = turns.take_or_queue(&caller).unwrap();
        assert_eq!(turns.waiting(), 0, "it has its turn");
        let mut queued = turns.take_or_queue(&caller).unwrap();
        assert!(matches!(
            turns.take_or_queue(&caller),
            Err(ReadError::Limit(Limit::WaitingMax))
        ));
        {
            let mut resumed = std::pin::pin!(queued.resume());
            assert!(futures_util::poll!(&mut resumed).is_pending());
            drop(first);
            resumed.await;
        }
        assert_eq!(turns.answering(), 1);
        assert!(turns.take(&caller).is_err(), "who does not wait is refused");
    }

    #[tokio::test]
    async fn a_place_is_kept_until_the_request_is_answered() {
        let (turns, caller) = (turns(2, 1, None), Caller::anyone());
        let (mut first, mut second) = (turns.take(&caller).unwrap(), turns.take(&caller).unwrap());
        first.rest().unwrap();
        assert!(second.rest().is_err(), "the only place is taken");
        first.resume().await;
        assert!(second.rest().is_err());
        first.rest().expect("its own place");
        drop(first);
        second.rest().unwrap();
    }

    #[tokio::test]
    async fn one_caller_has_its_share_of_the_places_and_no_more() {
        let turns = turns(9, 5, Some(2));
        let (till, other) = (named("till"), named("other"));
        let rest = |caller: &Caller| {
            let mut turn = turns.take(caller).unwrap();
            turn.rest().map(|()| turn)
        };
        let (first, _second) = (rest(&till).unwrap(), rest(&till).unwrap());
        assert!(matches!(
            rest(&till),
            Err(ReadError::Limit(Limit::CallerWaitingMax))
        ));
        let _others = (rest(&other).unwrap(), rest(&other).unwrap());
        drop(first);
        let _third = rest(&till).unwrap();
        assert_eq!(turns.waiting(), 4);
        // Who was not asked who it is shares in what is for all alone.
        let _unasked = rest(&Caller::anyone()).unwrap();
        assert!(matches!(
            rest(&Caller::anyone()),
            Err(ReadError::Limit(Limit::WaitingMax))
        ));
    }

    #[tokio::test]
    async fn nobody_is_remembered_who_no_longer_waits() {
        let turns = turns(9, 1, Some(3));
        let mut turn = turns.take(&named("till")).unwrap();
        turn.rest().unwrap();
        // One that finds no place among all gives its own back.
        assert!(turns.take(&named("late")).unwrap().rest().is_err());
        assert_eq!(turns.places.lock().unwrap().len(), 1);
        drop(turn);
        assert!(turns.places.lock().unwrap().is_empty());
    }
}
