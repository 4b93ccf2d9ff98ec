//! The devices that name themselves, as this server has met them: who they are, how they fare, what they lack.
//!
//! All of it is in memory and gone with the server. A request costs a look-up under a short lock, and copies
//! nothing where nothing has changed. So that a made-up name costs others nothing, as many are remembered as an
//! option says, and of those who were not seen for longest the first is forgotten.

mod device;
mod report;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;
use highwater_shared::{Device, Timestamp};

use self::device::{Known, State};
pub(crate) use self::device::{Visit, Waiting};
pub(crate) use self::report::Report;
use crate::caller::Caller;
use crate::limit::Limit;
use crate::metrics::ReachedLimits;

/// The devices that are remembered.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Who was seen last stands last.
    devices: Mutex<LinkedHashMap<Name, Arc<Known>, RandomState>>,
    known_max: usize,
    reached: ReachedLimits,
}

/// What a device is known by. Two callers may have a device of one name.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Name {
    /// Empty where nobody is asked who they are, and then for all.
    caller: Box<str>,
    device: Box<str>,
}

/// A device that was looked for.
#[derive(Debug)]
pub(crate) struct Found {
    /// Whom it came as last.
    pub(crate) caller: Caller,
    /// Empty where it sent none, or more than is kept.
    pub(crate) since: String,
}

/// Why a device is not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFound {
    /// There is none of that name.
    Nobody,
    /// Several callers have one of that name.
    Several,
}

/// How many devices there are, and how they fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) waiting: usize,
    pub(crate) failing: usize,
    pub(crate) others: usize,
}

impl Fleet {
    /// A fleet of so many devices at most.
    pub(crate) fn new(known_max: usize, reached: ReachedLimits) -> Self {
        Self {
            devices: Mutex::default(),
            known_max,
            reached,
        }
    }

    /// A request of a device has come. `None` where no device is to be remembered.
    pub(crate) fn visit(&self, device: &Device<'_>, caller: &Caller, now: Timestamp) -> Option<Visit> {
        if self.known_max == 0 {
            return None;
        }
        let known = self.known(device, caller, now);
        known.came(device, caller, now);
        Some(Visit::of(known))
    }

    /// The device of this caller and name, met first where it is not known.
    fn known(&self, device: &Device<'_>, caller: &Caller, now: Timestamp) -> Arc<Known> {
        let owner = caller.name().unwrap_or_default();
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        // As `Name` is hashed, without making one.
        let hash = devices.hasher().hash_one((owner, device.name()));
        let is_it = |name: &Name| *name.caller == *owner && *name.device == *device.name();
        match devices.raw_entry_mut().from_hash(hash, is_it) {
            RawEntryMut::Occupied(mut entry) => {
                entry.to_back();
                Arc::clone(entry.get())
            }
            RawEntryMut::Vacant(_) => {
                let known = Arc::new(Known::new(State::new(device.name(), caller, now)));
                let name = Name {
                    caller: owner.into(),
                    device: device.name().into(),
                };
                devices.insert(name, Arc::clone(&known));
                if devices.len() > self.known_max {
                    devices.pop_front();
                    self.reached.count(Limit::DevicesMax);
                }
                known
            }
        }
    }

    /// Who the device of this name is, and what it sent last as `since`, of this caller where one is named.
    pub(crate) fn find(&self, device: &str, caller: Option<&str>) -> Result<Found, NotFound> {
        let named = {
            let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            let of_caller = |name: &&Name| caller.is_none_or(|caller| *name.caller == *caller);
            let named = devices.iter().filter(|(name, _)| *name.device == *device);
            let mut named = named.filter(|(name, _)| of_caller(name));
            match (named.next(), named.next()) {
                (None, _) => return Err(NotFound::Nobody),
                (Some(_), Some(_)) => return Err(NotFound::Several),
                (Some((_, known)), None) => Arc::clone(known),
            }
        };
        let state = named.state();
        Ok(Found {
            caller: state.caller.clone(),
            since: state.since.clone(),
        })
    }

    /// How many there are, and how they fare. A device that waits is not failing.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for known in self.all() {
            let state = known.state();
            if state.waiting > 0 {
                counts.waiting += 1;
            } else if state.is_failing() {
                counts.failing += 1;
            } else {
                counts.others += 1;
            }
        }
        counts
    }

    /// The most that are remembered.
    pub(crate) fn known_max(&self) -> usize {
        self.known_max
    }

    /// All of them, so that nobody waits while they are looked at one by one.
    fn all(&self) -> Vec<Arc<Known>> {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.values().cloned().collect()
    }
}
