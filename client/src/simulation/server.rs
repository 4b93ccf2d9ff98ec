//! A server before the model of the source: it answers, breaks off, refuses, or lets the client
//! die, while somebody writes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use highwater_shared::{Code, EntityName, ResyncReason};
use rand::Rng;
use rand::rngs::StdRng;

use super::page::Step;
use super::source::{Source, TEAMS, Teams};
use super::{ENTITIES, VirtualClock, page, seen};
use crate::error::Error;
use crate::plan::Ask;
use crate::pull::{Answer, Outcome, PageBody, Remote};
use crate::sync_helper::{Cursor, SourceId};

/// Bytes of a chunk, small enough that pages are cut within every part of theirs.
const CHUNK_BYTES: usize = 97;

/// A promotion loses fewer commits than this.
const LOST_MAX: u64 = 12;

const YEAR_SECONDS: i64 = 365 * 24 * 3_600;

/// What goes wrong, and how often in a thousand requests.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    None,
    Refused,
    Unreachable,
    /// The cursor can no longer be served, for one reason or another.
    Gone(Option<ResyncReason>),
    /// The answer comes that was given to the same question before, as from a cache.
    Repeated,
    /// It comes after so many seconds.
    Late(u64),
    /// The device's clock is set, by so many seconds.
    ClockSet(i64),
    CutAt(usize),
    EndsEarlyAt(usize),
    CrashAt(usize),
    Crash,
}

/// What has happened in a world, for who tells what must be from what need not.
#[derive(Default)]
pub(super) struct Happened {
    /// Whether an answer was given again since the pull began, which may be of the time before it.
    pub(super) repetition: bool,
    /// Whether the store was told since then that what the caller may see has changed.
    pub(super) change_of_scope: bool,
    /// Whether the store ever went on from a cursor of its past.
    pub(super) way_back: bool,
    /// All that pages ever sent.
    pub(super) steps: BTreeSet<Step>,
}

pub(super) struct World {
    pub(super) source: Source,
    /// What the caller might see, the last of it now.
    pub(super) scopes: Vec<Teams>,
    /// How many these become at most.
    pub(super) scopes_max: usize,
    pub(super) rng: StdRng,
    /// The last answer to a question that went on from a cursor.
    pub(super) answered: Option<(Ask, Bytes)>,
    pub(super) happened: Happened,
    pub(super) faults_per_mille: u32,
    pub(super) writes_per_mille: u32,
    /// Whether to tell the whole course, for a single seed.
    pub(super) is_told: bool,
    /// How far servers may be behind, in commits.
    pub(super) lag_max: u64,
    /// Whether tables stay as they are, so that no entity begins anew.
    pub(super) is_calm: bool,
    /// Whether servers know where earlier timelines ended.
    pub(super) reads_history: bool,
    /// Writes until the next pull: who writes faster than the client reads is never caught up with.
    pub(super) writes_left: u32,
}

pub(super) struct SimulatedServer {
    pub(super) world: Mutex<World>,
    pub(super) clock: VirtualClock,
}

pub(super) struct SimulatedBody {
    chunks: VecDeque<Bytes>,
    end: Option<Error>,
}

impl PageBody for SimulatedBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match (self.chunks.pop_front(), self.end.take()) {
            (Some(chunk), end) => {
                self.end = end;
                Ok(Some(chunk))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

impl SimulatedServer {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote for SimulatedServer {
    type Body = SimulatedBody;

    async fn changes(&self, ask: &Ask) -> Result<Answer<SimulatedBody>, Error> {
        let mut world = self.world();
        world.write();
        let fault = world.fault();
        let source = SourceId::new(world.source.id.as_str());
        let is_lost = ask.since.iter().chain(&ask.held).any(|cursor| !world.has(cursor));
        match fault {
            Fault::Refused => return Err(refused(503, Code::Unavailable)),
            Fault::Unreachable => {
                return Err(Error::Unreachable {
                    server: "simulated".to_owned(),
                    reason: "simulated".to_owned(),
                    source: "simulated".into(),
                });
            }
            Fault::Crash => return Err(crash()),
            Fault::Gone(reason) if ask.since.is_some() => {
                world.happened.change_of_scope |= reason == Some(ResyncReason::ScopeChanged);
                return Ok(gone(source, reason, false));
            }
            Fault::Late(seconds) => self.clock.pass(Duration::from_secs(seconds)),
            Fault::ClockSet(seconds) => self.clock.set(seconds),
            _ => {}
        }
        // Nor is a change told by rows where a store could not tell which of its rows are left.
        let is_told = ask.takes_rescoped && world.rng.random_ratio(7, 8);
        let is_for = |cursor, is_told| seen(cursor).is_for(world.scope(), is_told);
        let goes_on = ask.since.iter().all(|cursor| is_for(cursor, is_told));
        if !goes_on || !ask.held.iter().all(|cursor| is_for(cursor, false)) {
            world.happened.change_of_scope = true;
            return Ok(gone(source, Some(ResyncReason::ScopeChanged), false));
        }
        if is_lost {
            return Ok(gone(
                source,
                Some(ResyncReason::SourceChanged),
                world.reads_history,
            ));
        }
        let limit = world.rng.random_range(1..8);
        let lag_max = world.lag_max;
        let lag = world.rng.random_range(0..=lag_max);
        // A node that lags behind what a cursor has seen lets the caller wait until it has that.
        let floor = ask
            .held
            .iter()
            .map(|cursor| seen(cursor).replayed)
            .max()
            .unwrap_or(0);
        let at = world.source.now().saturating_sub(lag).max(floor);
        let page = match &world.answered {
            Some((asked, page)) if asked == ask && matches!(fault, Fault::Repeated) => {
                let page = page.clone();
                world.happened.repetition = true;
                page
            }
            _ => {
                let page = page::page(&world.source, ask, world.scope(), limit, at)
                    .map_err(|_| refused(404, Code::UnknownEntity))?;
                world.happened.steps.extend(page.steps);
                page.body
            }
        };
        world.answered = ask.since.is_some().then(|| (ask.clone(), page.clone()));
        if world.is_told {
            println!("{fault:?}, at {at}: {ask:?}\n{}", String::from_utf8_lossy(&page));
        }
        let (bytes, end) = match fault {
            Fault::CutAt(part) => (page.slice(..page.len() * part / 1000), Some(cut())),
            Fault::CrashAt(part) => (page.slice(..page.len() * part / 1000), Some(crash())),
            Fault::EndsEarlyAt(part) => (page.slice(..page.len() * part / 1000), None),
            _ => (page, None),
        };
        let chunks = bytes.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
        Ok(Answer {
            source,
            outcome: Outcome::Page(SimulatedBody { chunks, end }),
        })
    }
}

impl World {
    /// Whether a cursor can be served after all promotions.
    pub(super) fn has(&self, cursor: &Cursor) -> bool {
        let seen = seen(cursor);
        seen.is_kept_by(&self.source) && (self.reads_history || seen.is_of(self.source.timeline()))
    }

    /// What the caller may see.
    pub(super) fn scope(&self) -> &Teams {
        self.scopes.last().expect("a scope")
    }

    /// The caller may see other rows from now on.
    fn rescope(&mut self) {
        let scope = (0..TEAMS).filter(|_| self.rng.random_bool(0.6)).collect();
        self.scopes.push(scope);
        // Answers are for who may see the same.
        self.answered = None;
    }

    /// The primary is lost, and a standby that lagged takes over.
    fn promote(&mut self) {
        let lost = self.rng.random_range(0..LOST_MAX);
        self.source.promote(self.source.now().saturating_sub(lost));
        // Answers of the primary are gone with it.
        self.answered = None;
    }

    pub(super) fn fault(&mut self) -> Fault {
        if !self.rng.random_ratio(self.faults_per_mille, 1000) {
            return Fault::None;
        }
        let part = self.rng.random_range(0..1000);
        match self.rng.random_range(0..10) {
            0 => Fault::Refused,
            1 => Fault::Unreachable,
            2 => Fault::Gone(match self.rng.random_range(0..3) {
                0 => None,
                1 => Some(ResyncReason::SourceChanged),
                _ => Some(ResyncReason::ScopeChanged),
            }),
            7 => Fault::Repeated,
            8 => Fault::Late(self.rng.random_range(0..600)),
            9 => Fault::ClockSet(self.rng.random_range(-YEAR_SECONDS..YEAR_SECONDS)),
            3 => Fault::CutAt(part),
            4 => Fault::EndsEarlyAt(part),
            5 => Fault::CrashAt(part),
            _ => Fault::Crash,
        }
    }

    /// Somebody writes to the source, or not.
    pub(super) fn write(&mut self) {
        while self.writes_left > 0 && self.rng.random_ratio(self.writes_per_mille, 1000) {
            self.writes_left -= 1;
            let entity = EntityName::new(ENTITIES[self.rng.random_range(0..ENTITIES.len())]);
            let key = self.rng.random_range(0..12);
            let kinds = if self.is_calm { 5..45 } else { 0..65 };
            match self.rng.random_range(kinds) {
                0 => self.source.truncate(&entity),
                1 => self.source.enable(&entity),
                2 => self.source.disable(&entity),
                3 => self.source.purge(&entity, false),
                4 => self.source.alter(&entity),
                5 | 6 => self.source.purge(&entity, true),
                7 | 8 => self.promote(),
                9 | 10 if self.scopes.len() < self.scopes_max => self.rescope(),
                11..26 => self.source.delete(&entity, key),
                _ => {
                    let team = self.rng.random_range(0..TEAMS);
                    self.source.upsert(&entity, key, team);
                }
            }
        }
    }
}

fn gone(source: SourceId, reason: Option<ResyncReason>, earlier: bool) -> Answer<SimulatedBody> {
    Answer {
        source,
        outcome: Outcome::Resync { reason, earlier },
    }
}

fn refused(status: u16, code: Code) -> Error {
    Error::Refused {
        status,
        code: Some(code),
        detail: "simulated".to_owned(),
        retry_after: Some(Duration::from_secs(5)),
    }
}

pub(super) fn cut() -> Error {
    Error::Cut {
        server: "simulated".to_owned(),
        reason: "simulated".to_owned(),
        source: "simulated".into(),
    }
}

/// The process dies: nothing retries, nothing is cleaned up.
pub(super) fn crash() -> Error {
    Error::Task("simulated".into())
}
