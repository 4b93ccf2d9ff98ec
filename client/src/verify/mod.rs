//! Is the copy right? Compares a store with its source while both are in use.
//!
//! Both sides compute digests of the same rows: those that the store's cursor has seen and nobody has
//! changed since. [`compare`] asks, an [`answer`] arrives, a [`question`] says what is asked and what next,
//! [`parts`] tells what differs, [`received`] takes the answers, and [`mend`] fetches what differs. What breaks off is
//! tried again with [`patience`].

mod answer;
mod compare;
mod found;
mod mend;
mod parts;
mod patience;
mod question;
mod received;

pub(crate) use self::compare::{Observer, Verification};
pub use self::found::{Depth, EntityVerified, RowKey, VerifyReport};
pub(crate) use self::mend::Repair;
pub(crate) use self::patience::Patience;
