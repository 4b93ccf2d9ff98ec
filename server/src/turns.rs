//! How many requests are answered at one time, and how many may wait. What is beyond that is refused
//! at once, so that nothing queues without bound.
//!
//! A request has a turn while it is answered. One that waits is idle and cheap: it gives its turn
//! back and takes a place among those who wait. When its wait ends it queues for a turn, ahead of
//! all who come later. So whoever was let in to wait gets its answer, and is refused last.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::page::ReadError;

/// The turns and places of a server.
#[derive(Clone, Debug)]
pub struct Turns {
    answering: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The turn of one request; given back when this is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    answering: Option<OwnedSemaphorePermit>,
    waiting: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// So many requests are answered at one time, and so many more may wait.
    pub fn new(requests_max: usize, waiting_max: usize) -> Self {
        let permits = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            answering: permits(requests_max),
            waiting: permits(waiting_max),
        }
    }

    /// A turn for a request that has come, if one is free and nobody queues for it.
    pub fn take(&self) -> Result<Turn, ReadError> {
        let answering = Arc::clone(&self.answering).try_acquire_owned();
        let refused =
            |_| ReadError::Unavailable("the server has too many requests now; try again".to_owned());
        Ok(Turn {
            turns: self.clone(),
            answering: Some(answering.map_err(refused)?),
            waiting: None,
        })
    }
}

impl Turn {
    /// Gives the turn back for as long as the request waits, if it may.
    pub fn rest(&mut self) -> Result<(), ReadError> {
        if self.waiting.is_none() {
            let waiting = Arc::clone(&self.turns.waiting).try_acquire_owned();
            let refused = |_| {
                ReadError::Unavailable("too many callers wait now; ask without wait, or later".to_owned())
            };
            self.waiting = Some(waiting.map_err(refused)?);
        }
        self.answering = None;
        Ok(())
    }

    /// Waits for a turn when the wait is over. The place is kept until the request is answered: it
    /// bounds those who queue here, and the request may have to wait again.
    pub async fn resume(&mut self) {
        // It fails only where somebody closes the semaphore, and nobody does.
        self.answering = Arc::clone(&self.turns.answering).acquire_owned().await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_waited_comes_before_who_comes_later() {
        let turns = Turns::new(1, 1);
        let mut waiting = turns.take().unwrap();
        assert!(turns.take().is_err(), "the only turn is taken");
        waiting.rest().unwrap();
        let answered = turns.take().expect("who waits has no turn");
        {
            let mut resumed = std::pin::pin!(waiting.resume());
            assert!(futures_util::poll!(&mut resumed).is_pending());
            drop(answered);
            assert!(turns.take().is_err(), "the turn is kept for who has waited");
            resumed.await;
        }
        drop(waiting);
        assert!(turns.take().is_ok());
    }

    #[tokio::test]
    async fn a_place_is_kept_until_the_request_is_answered() {
        let turns = Turns::new(2, 1);
        let (mut first, mut second) = (turns.take().unwrap(), turns.take().unwrap());
        first.rest().unwrap();
        assert!(second.rest().is_err(), "the only place is taken");
        first.resume().await;
        assert!(second.rest().is_err());
        first.rest().expect("its own place");
        drop(first);
        second.rest().unwrap();
    }
}
