//! Watches the source for all callers at once, so that those who wait, and those who ask when
//! nothing is new, cost Postgres nothing each.
//!
//! One task looks at the source: at every tick while somebody waits, and when somebody asks. A
//! look is a sample (see [`crate::samples`]). Where its snapshot is that of the look before,
//! nothing was committed in between; otherwise the indexes are asked which entities changed. What
//! came of it is a [`View`], which is all that an up-to-date caller needs.

mod scopes;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::scopes::ScopeChanges;
pub use self::view::View;
use self::view::{Ground, Watched};
use crate::database::Connection;
use crate::entity::Entity;
use crate::node::Node;
use crate::page::{self, Asked, ReadError};
use crate::samples::Samples;
use crate::scope::Limits;
use crate::snapshot::Snapshot;

/// How often the source is looked at while nobody waits: the samples must not grow old.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// How long a caller waits for a look that was begun after it asked; after that it is answered by
/// a page of its own.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often the other tasks are let go first before a look begins.
const GATHER_TURNS_MAX: usize = 64;

/// Looks at the source for everyone.
#[derive(Debug, Default)]
pub struct Watcher {
    /// The history that makes dates safe.
    pub samples: Samples,
    /// The number of the look that was begun last.
    begun: AtomicU64,
    /// How often a look was asked for.
    asked: AtomicU64,
    looks: watch::Sender<Look>,
    /// When the last look began that succeeded.
    looked: Mutex<Option<Instant>>,
    wanted: Notify,
    /// Those who wait, by the entities that they wait for: nobody else is woken.
    groups: Mutex<HashMap<Group, watch::Sender<Option<Arc<View>>>>>,
}

/// Callers who wait for the same: entities, and what of them they may see.
type Group = (Asked, Limits);

/// What a look has shown; `None` where it failed.
#[derive(Clone, Debug, Default)]
struct Look {
    number: u64,
    view: Option<Arc<View>>,
}

impl Watcher {
    /// Looks at the source until told to stop.
    pub async fn watch(&self, node: &Node, tick: Duration, shutdown: CancellationToken) {
        let mut connection = None;
        let mut last: Option<Arc<View>> = None;
        let mut failing = false;
        loop {
            self.gather().await;
            // In this order: whoever is counted here has not seen the next number, and is served by it.
            let asked = self.asked.load(Ordering::SeqCst);
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let began = Instant::now();
            let looking = timeout(
                node.statement_time_max(),
                self.look(node, &mut connection, last.as_ref()),
            );
            // A Postgres that went without a word is waited for no longer than one that thinks.
            let looked = looking
                .await
                .unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into()).into()));
            node.metrics.looked(looked.is_ok(), began.elapsed());
            match looked {
                Ok(view) => {
                    *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
                    failing = false;
                    // Told first: whoever joins a group after it was woken finds the look.
                    self.looks.send_replace(Look {
                        number,
                        view: view.clone(),
                    });
                    self.wake(last.as_ref(), view.as_ref());
                    last = view;
                }
                Err(error) => {
                    connection = None;
                    // Whoever answers the next time may be another server, with another history.
                    last = None;
                    if !failing {
                        tracing::warn!(%error, "cannot look at the source; callers are answered one by one");
                    }
                    failing = true;
                    self.looks.send_replace(Look { number, view: None });
                }
            }
            let pause = if failing || !self.is_anyone_waiting() {
                IDLE_TICK
            } else {
                tick
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.asked_again(asked) => {}
                () = tokio::time::sleep_until(began + pause) => {}
            }
        }
    }

    /// What the last look has shown.
    pub fn latest(&self) -> Option<Arc<View>> {
        self.looks.borrow().view.clone()
    }

    /// When the last look began that succeeded.
    pub fn looked(&self) -> Option<Instant> {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a look shows that is begun after this was called; `None` where none can be had.
    pub async fn fresh(&self) -> Option<Arc<View>> {
        let mut looks = self.looks.subscribe();
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        self.ask();
        let look = timeout(LOOK_WAIT_MAX, looks.wait_for(|look| look.number >= wanted)).await;
        look.ok()?.ok()?.view.clone()
    }

    /// Waits until something that the request asks for has changed since `view`, as far as its caller
    /// may see it, at most until `until`, and returns what the last look has shown.
    pub async fn changed(
        &self,
        view: &View,
        asked: &Asked,
        limits: &Limits,
        until: Instant,
    ) -> Option<Arc<View>> {
        let (mut changes, is_first) = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = groups.is_empty();
            let group = groups.entry((asked.clone(), limits.clone())).or_default();
            (group.subscribe(), is_first)
        };
        // What changed before this subscribed.
        let now = self.latest();
        if now.as_ref().is_some_and(|now| now.differs(view, asked, limits)) {
            return now;
        }
        if is_first {
            // The pause under way is that of an idle server.
            self.ask();
        }
        match timeout_at(until, changes.changed()).await {
            Ok(_) => changes.borrow_and_update().clone(),
            Err(_) => self.latest(),
        }
    }

    /// Has a look begun that was not when this was called.
    fn ask(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.wanted.notify_one();
    }

    /// Waits until somebody asks for whom the look will not do that was begun when so many had asked.
    async fn asked_again(&self, asked: u64) {
        while self.asked.load(Ordering::SeqCst) == asked {
            self.wanted.notified().await;
        }
    }

    /// Waits while more callers ask for a look, so that one serves them all: those whom the look before
    /// has answered may be about to ask again.
    async fn gather(&self) {
        let mut before = None;
        for _ in 0..GATHER_TURNS_MAX {
            let asked = Some(self.asked.load(Ordering::SeqCst));
            if before == asked {
                return;
            }
            before = asked;
            tokio::task::yield_now().await;
        }
    }

    fn is_anyone_waiting(&self) -> bool {
        !self
            .groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Wakes those for whom something has changed, and forgets the groups that nobody is in.
    fn wake(&self, last: Option<&Arc<View>>, now: Option<&Arc<View>>) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, waiting| waiting.receiver_count() > 0);
        for ((asked, limits), waiting) in groups.iter() {
            let same = match (last, now) {
                (Some(last), Some(now)) => Arc::ptr_eq(last, now) || !now.differs(last, asked, limits),
                // A source that cannot be looked at has not changed, as far as is known.
                (_, None) => true,
                (None, Some(_)) => false,
            };
            if !same {
                waiting.send_replace(now.cloned());
            }
        }
    }

    async fn look(
        &self,
        node: &Node,
        kept: &mut Option<Connection>,
        last: Option<&Arc<View>>,
    ) -> Result<Option<Arc<View>>, ReadError> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => node.connect().await?,
        };
        let snapshot = match self.samples.take(connection.get()?).await? {
            Some(snapshot) => snapshot,
            None => connection.claim(node).await?.snapshot,
        };
        let view = match last {
            Some(last) if last.moment.snapshot == snapshot => Some(Arc::clone(last)),
            last => {
                let mut view = look_closely(&mut connection, node, last.map(AsRef::as_ref)).await?;
                if let (Some(last), Some(now)) = (last, &view)
                    && now.moment.source != last.moment.source
                {
                    // A pooler kept the connection and leads to another server since, with another history.
                    view = look_closely(&mut connection, node, None).await?;
                }
                view.map(Arc::new)
            }
        };
        *kept = Some(connection);
        Ok(view)
    }
}

/// Asks which entities changed since the last view. `None` where Postgres does not serve.
async fn look_closely(
    connection: &mut Connection,
    node: &Node,
    last: Option<&View>,
) -> Result<Option<View>, ReadError> {
    let nothing = Snapshot::nothing();
    let seen = last.map_or(&nothing, |last| &last.moment.snapshot);
    let look = page::look(connection, node, seen).await?;
    connection.end().await?;
    if look.moment.moved {
        return Ok(None);
    }
    connection.flushed(&look.moment).await?;
    let before: HashMap<i32, &Watched> = last
        .iter()
        .flat_map(|last| &last.entities)
        .map(|watched| (watched.entity.covered.number, watched))
        .collect();
    let number = last.map_or(0, |last| last.look + 1);
    let now = Arc::new(Ground {
        look: number,
        snapshot: look.moment.snapshot.clone(),
        wal: look.moment.stands_on(),
    });
    let mut scopes = last.map_or_else(ScopeChanges::default, |last| ScopeChanges::clone(&last.scopes));
    let watched = |entity: &Entity| {
        let number = entity.covered.number;
        let known = before.get(&number);
        // What was removed and purged between two looks has left nothing to be found.
        let is_hidden = entity
            .purged
            .as_ref()
            .is_some_and(|purged| purged.may_hide_from(seen));
        let known = known.filter(|known| known.entity.covered == entity.covered && !is_hidden);
        match (look.changed_scopes(number), known) {
            _ if entity.scope.is_none() => {}
            (Some(changed), Some(_)) => scopes.change(number, changed, &now),
            (None, Some(_)) if !look.is_changed(number) => {}
            _ => scopes.change_all(number, &now),
        }
        let known = known.filter(|_| !look.is_changed(number));
        Watched {
            entity: entity.clone(),
            changed: known.map_or_else(|| Arc::clone(&now), |known| Arc::clone(&known.changed)),
        }
    };
    let entities = look.entities.iter().map(watched).collect();
    Ok(Some(View {
        look: number,
        entities,
        scopes: Arc::new(scopes),
        answers: view::Answers::default(),
        moment: look.moment,
    }))
}
