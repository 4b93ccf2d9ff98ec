//! How a row is named on a command line: `7`, `id=7`, `a=1,b=x` or JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::value::RawValue;

use crate::error::Error;

/// A key, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedKey {
    text: String,
    /// Where it was written as an object: the texts of its values.
    object: Option<BTreeMap<String, String>>,
}

impl FromStr for AskedKey {
    type Err = Error;

    /// Reads the value of a key of one column, `column=value` for each column with commas between them, or
    /// a JSON object.
    fn from_str(text: &str) -> Result<Self, Error> {
        let object = if text.trim_start().starts_with('{') {
            let object = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text);
            let object = object.map_err(|error| no_key(&format!("{text} is no JSON object ({error})")))?;
            let texts = object
                .into_iter()
                .map(|(name, value)| (name, printed(value.get())));
            Some(texts.collect())
        } else {
            None
        };
        Ok(Self {
            text: text.to_owned(),
            object,
        })
    }
}

impl fmt::Display for AskedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AskedKey {
    /// The key as the server is asked for it.
    pub(super) fn on_the_wire(&self, columns: Option<&[&str]>) -> String {
        match (&self.object, self.named(columns)) {
            (None, Some(named)) => serde_json::json!(named).to_string(),
            _ => self.text.clone(),
        }
    }

    /// Its values as text, in the order of these columns.
    pub(super) fn values(&self, columns: &[&str]) -> Result<Vec<String>, Error> {
        let object = self.object.clone().or_else(|| self.named(Some(columns)));
        let values = match (object, columns) {
            (Some(mut object), _) if object.len() == columns.len() => {
                columns.iter().map(|name| object.remove(*name)).collect()
            }
            (None, [_]) => Some(vec![self.text.clone()]),
            _ => None,
        };
        values.ok_or_else(|| {
            let names = columns.join(", ");
            no_key(&format!("{} does not name the columns {names}", self.text))
        })
    }

    /// What is written as `column=value`. A text that is the value of a single column may have such a form by
    /// accident, so where the columns are known they decide.
    fn named(&self, columns: Option<&[&str]>) -> Option<BTreeMap<String, String>> {
        let parts = self.text.split(',').map(|part| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim().to_owned(), value.to_owned()))
        });
        let named: BTreeMap<String, String> = parts.collect::<Option<_>>()?;
        let is_meant = match columns {
            Some(columns) => {
                columns.len() == named.len() && columns.iter().all(|name| named.contains_key(*name))
            }
            None => named.keys().all(|name| !name.is_empty()),
        };
        is_meant.then_some(named)
    }
}

/// The text of a JSON value. A number is left as it was written: 1.50 is not 1.5 to a store.
fn printed(value: &str) -> String {
    serde_json::from_str(value).unwrap_or_else(|_| value.to_owned())
}

fn no_key(what: &str) -> Error {
    Error::Key {
        reason: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str, columns: &[&str]) -> Option<Vec<String>> {
        text.parse::<AskedKey>().ok()?.values(columns).ok()
    }

    #[test]
    fn a_key_is_read_in_each_of_its_forms() {
        for (text, columns, read) in [
            ("7", &["id"][..], &["7"][..]),
            ("id=7", &["id"], &["7"]),
            ("{\"id\": 7}", &["id"], &["7"]),
            ("{\"id\": 1.50}", &["id"], &["1.50"]),
            ("b=x,a=1", &["a", "b"], &["1", "x"]),
            ("{\"b\":\"x\\n\",\"a\":1}", &["a", "b"], &["1", "x\n"]),
            // The value of a text key that only looks like a name and a value.
            ("a=1", &["word"], &["a=1"]),
        ] {
            assert_eq!(
                values(text, columns).as_deref(),
                Some(
                    read.iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .as_slice()
                ),
                "{text}"
            );
        }
        for (wrong, columns) in [
            ("7", &["a", "b"][..]),
            ("a=1", &["a", "b"]),
            ("a=1,c=2", &["a", "b"]),
            ("{\"id\":7,\"x\":1}", &["id"]),
            ("{\"id\"", &["id"]),
        ] {
            assert_eq!(values(wrong, columns), None, "{wrong}");
        }
    }

    #[test]
    fn the_server_is_asked_by_columns_or_by_the_value_as_it_stands() {
        let wire = |text: &str, columns: Option<&[&str]>| {
            text.parse::<AskedKey>().expect("a key").on_the_wire(columns)
        };
        assert_eq!(wire("7", None), "7");
        assert_eq!(wire("id=7", None), "{\"id\":\"7\"}");
        assert_eq!(wire("id=7", Some(&["id"])), "{\"id\":\"7\"}");
        assert_eq!(wire("id=7", Some(&["word"])), "id=7");
        assert_eq!(wire("{\"id\": 7}", Some(&["id"])), "{\"id\": 7}");
    }
}
