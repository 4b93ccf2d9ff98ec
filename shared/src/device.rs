//! Which device asks: the request header [`CLIENT_HEADER`], so that whoever runs a server sees which of its
//! devices are behind.
//!
//! It is a structured field (RFC 9651): an item with parameters, such as
//! `"till-7"; version="0.1.0"; failed=unreachable`. It says nothing of rights, and nobody is refused for it.

use std::borrow::Cow;
use std::convert::Infallible;

use sfv::visitor::{ItemVisitor, ParameterVisitor};
use sfv::{BareItemFromInput, ItemSerializer, KeyRef, Parser, RefBareItem, StringRef, TokenRef, key_ref};

/// The request header in which a client names its device.
pub const CLIENT_HEADER: &str = "highwater-client";

/// The longest header that is read, in bytes: a name in other letters than English ones takes three bytes for each.
pub const CLIENT_HEADER_BYTES_MAX: usize = 1_024;

/// The longest name of a device, in bytes of UTF-8.
pub const DEVICE_NAME_BYTES_MAX: usize = 128;

/// The longest version, and the longest code of an error, in bytes.
const PARAMETER_BYTES_MAX: usize = 64;

const VERSION: &KeyRef = key_ref("version");
const FAILED: &KeyRef = key_ref("failed");

/// A device as it names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    name: Cow<'a, str>,
    version: Option<Cow<'a, str>>,
    failed: Option<&'a str>,
}

impl<'a> Device<'a> {
    /// A device of this name; `None` where it is empty, longer than [`DEVICE_NAME_BYTES_MAX`], or holds control
    /// characters.
    pub fn new(name: &'a str) -> Option<Self> {
        is_fit(name, DEVICE_NAME_BYTES_MAX).then_some(Self {
            name: Cow::Borrowed(name),
            version: None,
            failed: None,
        })
    }

    /// With the version of its client.
    #[must_use]
    pub fn version_of(mut self, version: &'a str) -> Self {
        self.version = is_fit(version, PARAMETER_BYTES_MAX).then_some(Cow::Borrowed(version));
        self
    }

    /// With the code of the error that its last attempt ended with.
    #[must_use]
    pub fn having_failed(mut self, code: Option<&'a str>) -> Self {
        self.failed = code.filter(|code| is_fit(code, PARAMETER_BYTES_MAX));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of its client, where it says so.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The code of the error that its last attempt ended with, where it did.
    pub fn failed(&self) -> Option<&str> {
        self.failed
    }

    /// Reads a header; `None` where it is none, or too long. Parameters that are not known it passes over.
    pub fn parse(header: &'a [u8]) -> Option<Self> {
        if header.len() > CLIENT_HEADER_BYTES_MAX {
            return None;
        }
        let read = Parser::new(header).parse_item_with_visitor(Reader::default());
        let Reader {
            name,
            version,
            failed,
        } = read.ok()?;
        let (name, version, failed) = (name?, version.as_ref(), failed);
        let fits = is_fit(&name, DEVICE_NAME_BYTES_MAX)
            && version.is_none_or(|version| is_fit(version, PARAMETER_BYTES_MAX))
            && failed.is_none_or(|failed| is_fit(failed, PARAMETER_BYTES_MAX));
        let version = version.cloned();
        fits.then_some(Self {
            name,
            version,
            failed,
        })
    }

    /// The header.
    pub fn header(&self) -> String {
        let mut item = ItemSerializer::new().bare_item(text(&self.name));
        if let Some(version) = &self.version {
            item = item.parameter(VERSION, text(version));
        }
        if let Some(failed) = self.failed.and_then(|failed| TokenRef::from_str(failed).ok()) {
            item = item.parameter(FAILED, failed);
        }
        item.finish()
    }
}

/// A text, in the form for ASCII where that will do.
fn text(text: &str) -> RefBareItem<'_> {
    StringRef::from_str(text).map_or(RefBareItem::DisplayString(text), RefBareItem::String)
}

/// Whether a text is there, no longer than that, and can be shown.
fn is_fit(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && !text.contains(char::is_control)
}

/// What has been read of a header.
#[derive(Default)]
struct Reader<'de> {
    name: Option<Cow<'de, str>>,
    version: Option<Cow<'de, str>>,
    failed: Option<&'de str>,
}

impl<'de> ItemVisitor<'de> for Reader<'de> {
    type Out = Self;
    type Error = Infallible;

    fn bare_item(
        mut self,
        item: BareItemFromInput<'de>,
    ) -> Result<impl ParameterVisitor<'de, Out = Self>, Infallible> {
        self.name = as_text(item);
        Ok(self)
    }
}

impl<'de> ParameterVisitor<'de> for Reader<'de> {
    type Out = Self;
    type Error = Infallible;

    fn parameter(&mut self, key: &'de KeyRef, value: BareItemFromInput<'de>) -> Result<(), Infallible> {
        if key == VERSION {
            self.version = as_text(value);
        } else if key == FAILED {
            self.failed = match value {
                BareItemFromInput::Token(code) => Some(code.as_str()),
                _ => None,
            };
        }
        Ok(())
    }

    fn finish(self) -> Result<Self, Infallible> {
        Ok(self)
    }
}

fn as_text(item: BareItemFromInput<'_>) -> Option<Cow<'_, str>> {
    match item {
        BareItemFromInput::String(Cow::Borrowed(text)) => Some(Cow::Borrowed(text.as_str())),
        BareItemFromInput::String(Cow::Owned(text)) => Some(Cow::Owned(text.into())),
        BareItemFromInput::DisplayString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(header: &str) -> Option<(String, Option<String>, Option<String>)> {
        let device = Device::parse(header.as_bytes())?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some((
            device.name().to_owned(),
            owned(device.version()),
            owned(device.failed()),
        ))
    }

    #[test]
    fn a_header_is_an_item_with_parameters() {
        let device = Device::new("till-7").unwrap().version_of("0.1.0");
        assert_eq!(device.header(), "\"till-7\";version=\"0.1.0\"");
        let failed = device.having_failed(Some("unreachable"));
        assert_eq!(failed.header(), "\"till-7\";version=\"0.1.0\";failed=unreachable");
        let device = Device::new("Käse \"7\"").unwrap();
        assert_eq!(device.header(), "%\"K%c3%a4se %227%22\"");
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            read("\"till-7\"; version=\"1\"; new=(; failed=cut"),
            None,
            "it is no item"
        );
        assert_eq!(
            read("\"till-7\" ; version=\"1\"").map(|found| found.0),
            None,
            "nor this"
        );
        assert_eq!(
            read("\"till-7\"; version=\"1\"; new=?1; failed=cut; version=\"2\""),
            Some(("till-7".to_owned(), some("2"), some("cut")))
        );
        assert_eq!(
            read("\"a\"; failed=\"cut\"; version=2"),
            Some(("a".to_owned(), None, None))
        );
    }

    #[test]
    fn what_cannot_be_shown_or_is_too_long_is_passed_over() {
        let long = "x".repeat(DEVICE_NAME_BYTES_MAX);
        assert!(read(&format!("\"{long}\"")).is_some());
        for wrong in [
            String::new(),
            "\"\"".to_owned(),
            "till-7".to_owned(),
            "7".to_owned(),
            format!("\"{long}x\""),
            "%\"a%0ab\"".to_owned(),
            format!("\"a\"; version=\"{}\"", "1".repeat(65)),
            format!("\"a\"; failed={}", "f".repeat(65)),
            format!("\"a\"{}", "; b".repeat(400)),
            "\"a\", \"b\"".to_owned(),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
        assert_eq!(Device::new(""), None);
        assert_eq!(Device::new("a\u{7f}"), None);
        assert_eq!(Device::new(&format!("{long}x")), None);
    }

    proptest! {
        #[test]
        fn whatever_a_device_is_called_is_read_as_it_was_written(
            name in "\\PC{1,24}", version in "\\PC{1,16}", failed in "[a-z][a-z_]{0,20}",
        ) {
            let device = Device::new(&name).map(|device| device.version_of(&version).having_failed(Some(&failed)));
            if let Some(device) = device {
                let header = device.header();
                prop_assert_eq!(Device::parse(header.as_bytes()), Some(device));
            }
        }

        #[test]
        fn no_header_makes_it_panic(header: Vec<u8>) {
            let _ = Device::parse(&header);
        }
    }
}
