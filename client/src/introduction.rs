//! What the server is told of this device: its name, the version of the client, and how the last attempt ended.
//!
//! It is not secret, and gives no rights: the server's operator sees by it which devices are behind, and why.

use std::sync::{Arc, Mutex, PoisonError};

use highwater_shared::Device;
use reqwest::header::HeaderValue;

use crate::error::Error;

/// The version that the server is told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the server is told. Copies tell the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Introduction {
    /// The name; nothing is told without one.
    name: Option<String>,
    /// The code of the error that the last attempt ended with.
    failed: Arc<Mutex<Option<&'static str>>>,
}

impl Introduction {
    /// That of a device with this name; one that cannot be sent is none.
    pub(crate) fn of(name: &str) -> Self {
        Self {
            name: Device::new(name).map(|device| device.name().to_owned()),
            failed: Arc::default(),
        }
    }

    /// An attempt has failed.
    pub(crate) fn failed(&self, error: &Error) {
        // Somebody wanted it to end, which is no fault.
        if !error.is_stopped() {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.code());
        }
    }

    /// An attempt has brought a page.
    pub(crate) fn succeeded(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The header to send.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let device = Device::new(self.name.as_deref()?)?;
        let header = device.version_of(VERSION).having_failed(failed).header();
        HeaderValue::try_from(header).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_until_a_page_has_come() {
        let introduction = Introduction::of("Käse");
        let told = || introduction.header().unwrap().to_str().unwrap().to_owned();
        let plain = format!("%\"K%c3%a4se\";version=\"{VERSION}\"");
        assert_eq!(told(), plain);
        introduction.failed(&Error::Incomplete);
        introduction.failed(&Error::Stopped);
        assert_eq!(told(), format!("{plain};failed=incomplete"));
        introduction.clone().succeeded();
        assert_eq!(told(), plain);
        for none in ["", "a\nb", &"x".repeat(129)] {
            assert_eq!(Introduction::of(none).header(), None);
        }
    }
}
