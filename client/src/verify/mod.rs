//! Is the copy right? Compares a store with its source while both are in use.
//!
//! Both sides compute digests of the same rows: those that the store's cursor has seen and nobody has
//! changed since. [`compare`] asks, an [`answer`] arrives, a [`question`] says what is asked and what next,
//! [`parts`] tells what differs, [`received`] takes the answers, and [`mend`] fetches what differs.

mod answer;
mod compare;
mod found;
mod mend;
mod parts;
mod question;
mod received;

pub(crate) use self::compare::{Observer, RETRY_AFTER_MAX, Verification};
pub use self::found::{Depth, EntityVerified, RowKey, VerifyReport};
pub(crate) use self::mend::mend;
