//! API keys: the file in which they stand, and whose a key is.
//!
//! A key is `hw_<id>_<secret>`. The id finds its line, the secret proves it. The file holds of the
//! secret only a keyed hash. A slow one would add nothing: the secret is 256 random bits, and no
//! list of guesses is long enough.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use highwater_shared::{EntityName, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::watched::FileFault;
use super::{Denied, scope_values};
use crate::caller::{Caller, Grant};

/// What every key begins with, and no token does.
pub(super) const KEY_PREFIX: &str = "hw_";

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// A line of the file.
#[derive(Clone, Serialize, Deserialize)]
// A misspelt member must not grant more than was meant.
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    id: String,
    name: String,
    /// Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entities: Option<BTreeSet<EntityName>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    scopes: BTreeMap<String, Value>,
    /// Absent: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    operator: bool,
    /// Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    salt: String,
    hash: String,
}

/// The keys of a file, by id.
pub(super) struct Keys(HashMap<String, Known>);

struct Known {
    salt: hmac::Key,
    hash: Vec<u8>,
    expires: Option<Timestamp>,
    caller: Caller,
}

impl Entry {
    /// An entry for a new key, and the key, which nothing can show again.
    pub(super) fn new(grant: &Grant, expires: Option<Timestamp>) -> Result<(Self, String), Unspecified> {
        let (mut id, mut secret, mut salt) = ([0; ID_BYTES], [0; SECRET_BYTES], [0; SALT_BYTES]);
        for bytes in [&mut id[..], &mut secret, &mut salt] {
            rand::fill(bytes)?;
        }
        // Without a line between its words, so that the key can be cut at them.
        let id = format!("{:016x}", u64::from_be_bytes(id));
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let hash = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salt), secret.as_bytes());
        let key = format!("{KEY_PREFIX}{id}_{secret}");
        let values = |values: &BTreeSet<String>| values.iter().cloned().map(Value::String).collect();
        let scopes = grant.scopes.iter();
        let entry = Self {
            id,
            name: grant.name.clone(),
            entities: grant.entities.as_deref().cloned(),
            scopes: scopes.map(|(column, of)| (column.clone(), values(of))).collect(),
            operator: grant.is_operator,
            expires,
            salt: URL_SAFE_NO_PAD.encode(salt),
            hash: URL_SAFE_NO_PAD.encode(hash),
        };
        Ok((entry, key))
    }

    fn known(self) -> Result<Known, String> {
        if self.id.is_empty() || !self.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(format!("id: {:?} is not of letters and digits", self.id));
        }
        let bytes = |member, text: &str, least: usize| match URL_SAFE_NO_PAD.decode(text) {
            Ok(bytes) if bytes.len() >= least => Ok(bytes),
            _ => Err(format!("{member}: it was not written by `key new`")),
        };
        let mut scopes = BTreeMap::new();
        for (column, value) in &self.scopes {
            let values = scope_values(value).ok_or_else(|| {
                format!("scopes: {column} is neither text nor a whole number, nor an array of those")
            })?;
            scopes.insert(column.clone(), values);
        }
        Ok(Known {
            salt: hmac::Key::new(hmac::HMAC_SHA256, &bytes("salt", &self.salt, SALT_BYTES)?),
            hash: bytes("hash", &self.hash, 32)?,
            expires: self.expires,
            caller: Caller::with(Grant {
                name: self.name,
                entities: self.entities.map(Arc::new),
                scopes,
                is_operator: self.operator,
            }),
        })
    }
}

/// Reads a file of keys: a JSON object a line. Empty lines and those that begin with `#` are for
/// people.
pub(super) fn read(bytes: &[u8]) -> Result<Keys, FileFault> {
    let mut keys = HashMap::new();
    for (place, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = |what| FileFault::Line {
            number: place + 1,
            what,
        };
        let entry: Entry = serde_json::from_slice(line).map_err(|error| wrong(said(&error)))?;
        let id = entry.id.clone();
        let known = entry.known().map_err(wrong)?;
        if keys.insert(id.clone(), known).is_some() {
            return Err(wrong(format!("id: {id:?} stands on an earlier line too")));
        }
    }
    Ok(Keys(keys))
}

/// What is wrong with a line, and where in it: the line's own number is 1 to the parser.
fn said(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let what = said.split(" at line ").next().unwrap_or_default();
    format!("{what}, at column {}", error.column())
}

impl Keys {
    /// Whose key this is, given without its prefix.
    pub(super) fn caller(&self, key: &str, now: Timestamp) -> Result<Caller, Denied> {
        let (id, secret) = key
            .split_once('_')
            .ok_or(Denied::Invalid("an API key that is cut off"))?;
        let known = self
            .0
            .get(id)
            .ok_or(Denied::Invalid("an API key that is not in the file"))?;
        let name = || known.caller.name().unwrap_or_default().to_owned();
        if hmac::verify(&known.salt, secret.as_bytes(), &known.hash).is_err() {
            return Err(Denied::WrongSecret(name()));
        }
        if known.expires.is_some_and(|expires| expires <= now) {
            return Err(Denied::Expired(name()));
        }
        Ok(known.caller.clone())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn grant() -> Grant {
        Grant {
            name: "till-7".to_owned(),
            entities: Some(Arc::new([EntityName::new("product")].into())),
            scopes: [("tenant_id".to_owned(), ["7".to_owned()].into())].into(),
            is_operator: false,
        }
    }

    fn key(expires: Option<Timestamp>) -> (String, String) {
        let (entry, key) = Entry::new(&grant(), expires).unwrap();
        (serde_json::to_string(&entry).unwrap(), key)
    }

    fn caller(keys: &Keys, key: &str, now: Timestamp) -> Result<Caller, Denied> {
        keys.caller(key.strip_prefix(KEY_PREFIX).unwrap(), now)
    }

    #[test]
    fn a_key_names_its_caller_until_it_expires() {
        let later = Timestamp::from_micros(1);
        let (line, key) = key(Some(later));
        let keys = read(format!("# Keys\n\n{line}\n").as_bytes()).unwrap();
        assert_eq!(caller(&keys, &key, NOW), Ok(Caller::with(grant())));
        assert_eq!(
            caller(&keys, &key, later),
            Err(Denied::Expired("till-7".to_owned()))
        );
        let (_, other) = self::key(None);
        assert!(matches!(caller(&keys, &other, NOW), Err(Denied::Invalid(_))));
        // Of an expired key only its holder is told so.
        let secret = other.rsplit_once(&other[..20]).unwrap().1;
        let forged = format!("{}{secret}", &key[..20]);
        assert_eq!(forged.len(), key.len());
        assert_eq!(
            caller(&keys, &forged, later),
            Err(Denied::WrongSecret("till-7".to_owned()))
        );
    }

    #[test]
    fn only_a_key_that_says_so_is_an_operators() {
        for is_operator in [true, false] {
            let grant = Grant {
                is_operator,
                ..grant()
            };
            let (entry, key) = Entry::new(&grant, None).unwrap();
            let line = serde_json::to_string(&entry).unwrap();
            assert_eq!(line.contains("operator"), is_operator);
            let keys = read(line.as_bytes()).unwrap();
            assert_eq!(caller(&keys, &key, NOW).unwrap().is_operator(), is_operator);
        }
    }

    #[test]
    fn the_file_does_not_hold_what_a_caller_sends() {
        let (line, key) = key(None);
        let secret = key.splitn(3, '_').nth(2).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(secret).unwrap().len(), 32);
        assert!(!line.contains(secret));
        assert_ne!(line, self::key(None).0);
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let (line, _) = key(None);
        for (wrong, said) in [
            (
                line.replace("\"entities\"", "\"entites\""),
                "line 3: unknown field `entites`",
            ),
            (line.replace("[\"7\"]", "{}"), "line 3: scopes: tenant_id"),
            (line.replace("\"hash\":\"", "\"hash\":\"$"), "line 3: hash: "),
            (
                line.replace("\"name\":\"till-7\",", ""),
                "line 3: missing field `name`",
            ),
            (line[..40].to_owned(), "line 3: EOF while parsing"),
            (format!("{line}\n{line}"), "line 4: id: "),
            ("\u{1}".to_owned(), "line 3: expected value"),
        ] {
            let error = read(format!("# Keys\n\n{wrong}\n").as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(said), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_key_and_no_file_makes_it_panic(key in ".{0,80}", file: Vec<u8>) {
            let keys = read(self::key(None).0.as_bytes()).unwrap();
            prop_assert!(keys.caller(&key, NOW).is_err());
            let _ = read(&file);
        }
    }
}
