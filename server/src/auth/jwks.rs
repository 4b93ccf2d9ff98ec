//! The keys that sign tokens: a JSON Web Key Set (RFC 7517), or secrets that issuer and server share.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::Denied;
use super::watched::FileFault;

/// The largest set, and the largest file of secrets.
pub(super) const SET_BYTES_MAX: u64 = 1024 * 1024;

/// The shortest secret: as long as what HMAC-SHA-256 makes of it (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The most secrets. Each is tried with a token.
const SECRETS_MAX: usize = 4;

/// The keys.
pub(super) struct KeySet(Vec<SigningKey>);

/// A key, and the one algorithm that it is for. A token does not choose.
pub(super) struct SigningKey {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Why no key is found for a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// A newer set may hold it.
    UnknownId,
    /// No set will help.
    Refused(Denied),
}

impl KeySet {
    /// The keys that may have signed a token which names this key and algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&SigningKey>, NoKey> {
        let is_named = |key: &&SigningKey| key.algorithm == Algorithm::HS256 || key.id.as_deref() == id;
        let named: Vec<&SigningKey> = match (id, self.0.as_slice()) {
            // Where there is one key only, a token need not say which.
            (None, [only]) => vec![only],
            _ => self.0.iter().filter(is_named).collect(),
        };
        if named.is_empty() {
            return Err(match id {
                Some(_) => NoKey::UnknownId,
                None => NoKey::Refused(Denied::Invalid(
                    "a token that names no key, and there are several",
                )),
            });
        }
        let fitting: Vec<_> = named
            .into_iter()
            .filter(|key| key.algorithm == algorithm)
            .collect();
        if fitting.is_empty() {
            return Err(NoKey::Refused(Denied::Invalid(
                "a token by an algorithm that its key is not for",
            )));
        }
        Ok(fitting)
    }
}

/// Reads a JWKS. Keys that cannot verify a token are passed over: a set may serve other ends as well.
pub(super) fn read_set(bytes: &[u8]) -> Result<KeySet, FileFault> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(bytes)
        .map_err(|error| FileFault::Content(format!("is no JSON Web Key Set: {error}")))?;
    let keys: Vec<SigningKey> = set.keys.into_iter().filter_map(signing_key).collect();
    if keys.is_empty() {
        let what = "has no key that signs by RS256, ES256 or EdDSA";
        return Err(FileFault::Content(what.to_owned()));
    }
    Ok(KeySet(keys))
}

fn signing_key(json: Value) -> Option<SigningKey> {
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        // Secrets do not belong into a set, which others may read.
        _ => return None,
    };
    let common = jwk.common.clone();
    let is_for_it = common.key_algorithm.is_none_or(|named| named == algorithm.into())
        && common
            .public_key_use
            .is_none_or(|used| used == PublicKeyUse::Signature)
        && common
            .key_operations
            .is_none_or(|all| all.contains(&KeyOperations::Verify));
    is_for_it.then_some(SigningKey {
        id: common.key_id,
        algorithm,
        key: DecodingKey::from_jwk(&jwk).ok()?,
    })
}

/// Reads a file of secrets, one a line.
pub(super) fn read_secrets(bytes: &[u8]) -> Result<KeySet, FileFault> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    let mut keys = Vec::new();
    for (place, line) in lines {
        let secret = line.trim_ascii_end();
        if secret.is_empty() {
            continue;
        }
        let wrong = |what: String| FileFault::Line {
            number: place + 1,
            what,
        };
        if secret.len() < SECRET_BYTES_MIN {
            return Err(wrong(format!("a secret needs {SECRET_BYTES_MIN} bytes or more")));
        }
        if keys.len() == SECRETS_MAX {
            return Err(wrong(format!("there are more than {SECRETS_MAX} secrets")));
        }
        keys.push(SigningKey {
            id: None,
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(secret),
        });
    }
    if keys.is_empty() {
        return Err(FileFault::Content("holds no secret".to_owned()));
    }
    Ok(KeySet(keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// From RFC 8037, appendix A.2, and RFC 7517, appendix A.1.
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const EC: (&str, &str) = (
        "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    );

    fn set(keys: &[Value]) -> Result<KeySet, FileFault> {
        read_set(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn ed(id: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": X, "kid": id})
    }

    fn ec(id: &str) -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": EC.0, "y": EC.1, "kid": id})
    }

    #[test]
    fn a_key_is_found_by_its_id_and_is_for_one_algorithm() {
        let set = set(&[ed("a"), ec("b"), ec("a")]).unwrap();
        let found = |id, algorithm| set.find(id, algorithm).map(|keys| keys.len());
        assert_eq!(found(Some("a"), Algorithm::EdDSA), Ok(1));
        assert_eq!(found(Some("a"), Algorithm::ES256), Ok(1));
        assert_eq!(found(Some("c"), Algorithm::ES256), Err(NoKey::UnknownId));
        for (id, algorithm) in [
            (Some("b"), Algorithm::EdDSA),
            (Some("b"), Algorithm::HS256),
            (None, Algorithm::ES256),
        ] {
            assert!(matches!(found(id, algorithm), Err(NoKey::Refused(_))), "{id:?}");
        }
    }

    #[test]
    fn a_token_need_not_name_the_only_key() {
        let set = set(&[ed("a")]).unwrap();
        assert!(set.find(None, Algorithm::EdDSA).is_ok());
        assert!(matches!(set.find(None, Algorithm::HS256), Err(NoKey::Refused(_))));
        assert_eq!(
            set.find(Some("b"), Algorithm::EdDSA).err(),
            Some(NoKey::UnknownId)
        );
    }

    #[test]
    fn keys_for_other_ends_are_passed_over() {
        let with = |member: &str, value: Value| {
            let mut key = ed("other");
            key[member] = value;
            key
        };
        let others = [
            with("use", json!("enc")),
            with("alg", json!("ES256")),
            with("key_ops", json!(["sign"])),
            with("crv", json!("X25519")),
            with("x", json!("$")),
            json!({"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U", "kid": "other"}),
            json!({"kty": "new", "kid": "other"}),
            json!(7),
        ];
        for other in &others {
            assert!(set(std::slice::from_ref(other)).is_err(), "{other}");
        }
        let mixed = [&others[..], &[ed("a")]].concat();
        let set = set(&mixed).unwrap();
        assert_eq!(
            set.find(Some("other"), Algorithm::EdDSA).err(),
            Some(NoKey::UnknownId)
        );
        assert!(set.find(Some("a"), Algorithm::EdDSA).is_ok());
    }

    #[test]
    fn a_short_secret_is_refused() {
        let secret = "s".repeat(32);
        assert!(read_secrets(format!("{secret}\n").as_bytes()).is_ok());
        assert!(read_secrets(format!("{secret}\r\n\n{secret}").as_bytes()).is_ok());
        let error = read_secrets(format!("{secret}\n{}", &secret[1..]).as_bytes())
            .err()
            .unwrap();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        assert!(!error.to_string().contains("ss"), "{error}");
        assert!(read_secrets(b"\n").is_err());
    }

    proptest! {
        #[test]
        fn no_set_makes_it_panic(bytes: Vec<u8>) {
            let _ = (read_set(&bytes), read_secrets(&bytes));
        }
    }
}
