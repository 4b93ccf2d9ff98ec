//! Tokens that nobody signed, against the rules that real ones have to keep.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use serde_json::{Map, Value};

use super::jwks::{self, KeySet, NoKey};
use super::jwt::{Rules, TokenKeys, TokenOptions};
use super::keys;
use crate::caller::Caller;

/// Public keys of three kinds: RFC 7515, appendix A.2, RFC 7517, appendix A.1, and RFC 8037, appendix A.2.
const SET: &str = include_str!("../../../fuzz/keys.json");

/// What issuer and server share.
const SECRET: &[u8] = b"a secret of no fewer bytes than it takes";

/// How far clocks may differ, and a test last, in seconds.
const LEEWAY_SECONDS: i64 = 60 + 600;

/// Keys, and the rules for tokens by them.
struct Server {
    keys: KeySet,
    rules: Rules,
}

impl Server {
    fn new(keys: KeySet, of: TokenKeys) -> Self {
        let options = TokenOptions {
            keys: of,
            algorithms: Vec::new(),
            audiences: Vec::new(),
            issuers: Vec::new(),
        };
        Self {
            keys,
            rules: Rules::of(&options).expect("no option is wrong"),
        }
    }

    fn caller(&self, token: &str) -> Result<Caller, NoKey> {
        self.rules.caller_by(&self.keys, token)
    }
}

static BY_SET: LazyLock<Server> = LazyLock::new(|| {
    let keys = jwks::read_set(SET.as_bytes()).expect("a set");
    Server::new(keys, TokenKeys::File("keys".into()))
});

static BY_SECRET: LazyLock<Server> = LazyLock::new(|| {
    let keys = jwks::read_secrets(SECRET).expect("a secret");
    Server::new(keys, TokenKeys::Secrets("keys".into()))
});

/// Everything of the public keys that might pass for a secret: each member of the set, as text and as
/// bytes, and the set itself.
static PUBLIC: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let set: Value = serde_json::from_str(SET).expect("JSON");
    let mut public = vec![SET.as_bytes().to_vec(), Vec::new()];
    for key in set.get("keys").and_then(Value::as_array).expect("keys") {
        public.push(key.to_string().into_bytes());
        for text in key.as_object().expect("a key").values().filter_map(Value::as_str) {
            public.push(text.as_bytes().to_vec());
            public.extend(URL_SAFE_NO_PAD.decode(text));
        }
    }
    public
});

/// Takes the bytes as a token, as a line of a file of keys, and as three lines of which a token is made:
/// its header, its claims and its signature.
pub(crate) fn token(bytes: &[u8]) {
    let _ = keys::read(bytes).map(|keys| keys.caller("a_b", highwater_shared::Timestamp::EPOCH));
    if let Ok(text) = std::str::from_utf8(bytes) {
        refused(text);
    }
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (header, claims, signature) = (line(), line(), line());
    let signed = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let with = |signature: &[u8]| format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    refused(&with(signature));
    refused(&with(b""));
    for public in &*PUBLIC {
        let confused = with(&hmac_of(public, &signed));
        assert!(
            BY_SET.caller(&confused).is_err(),
            "a public key passed for a secret"
        );
    }
    let genuine = with(&hmac_of(SECRET, &signed));
    assert!(
        BY_SET.caller(&genuine).is_err(),
        "a secret passed for a public key"
    );
    if BY_SECRET.caller(&genuine).is_ok() {
        is_in_order(header, claims);
    }
}

fn hmac_of(secret: &[u8], signed: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
}

/// Nobody who holds a key has signed it.
fn refused(token: &str) {
    for server in [&*BY_SET, &*BY_SECRET] {
        assert!(server.caller(token).is_err(), "it was not signed");
    }
}

/// What holds of every token that is taken.
fn is_in_order(header: &[u8], claims: &[u8]) {
    let header: Map<String, Value> = serde_json::from_slice(header).expect("a header");
    assert_eq!(header.get("alg"), Some(&Value::from("HS256")));
    assert!(header.get("crit").is_none_or(Value::is_null));
    let claims: Map<String, Value> = serde_json::from_slice(claims).expect("claims");
    let now = Utc::now().timestamp();
    let seconds = |claim: &str| claims.get(claim).and_then(Value::as_f64);
    #[expect(clippy::cast_precision_loss, reason = "seconds of this millennium")]
    let (earliest, latest) = ((now - LEEWAY_SECONDS) as f64, (now + LEEWAY_SECONDS) as f64);
    assert!(seconds("exp").expect("a date") >= earliest);
    assert!(seconds("nbf").is_none_or(|date| date <= latest));
    let is_list = |list: &Value| {
        list.as_array()
            .is_some_and(|list| list.iter().all(Value::is_string))
    };
    assert!(claims.get("entities").is_none_or(is_list));
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::Algorithm;

    /// Without this, all would be refused and nothing be tested.
    #[test]
    fn a_token_that_was_signed_is_taken() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let claims = URL_SAFE_NO_PAD.encode(r#"{"exp":32503680000,"sub":"till"}"#);
        let signed = format!("{header}.{claims}");
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac_of(SECRET, &signed)));
        assert_eq!(BY_SECRET.caller(&token).unwrap().name(), Some("till"));
        for (id, algorithm) in [
            ("rsa", Algorithm::RS256),
            ("ec", Algorithm::ES256),
            ("ed", Algorithm::EdDSA),
        ] {
            assert!(BY_SET.keys.find(Some(id), algorithm).is_ok(), "{id}");
        }
        assert!(PUBLIC.len() > 20);
    }
}
