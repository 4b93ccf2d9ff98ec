//! JSON Web Tokens (RFC 7519): whose a token is, and what its claims grant.
//!
//! The key decides by which algorithm a token has to be signed, never the token. What is verified
//! and how is the library's; which keys and algorithms it is given is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use highwater_shared::EntityName;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::fetched::Fetched;
use super::jwks::{self, KeySet, NoKey, SET_BYTES_MAX};
use super::watched::Watched;
use super::{AuthError, Denied, scope_values};
use crate::caller::{Caller, Grant};

/// How far the clocks of issuer and server may differ.
const LEEWAY_SECONDS: u64 = 60;

/// Claims that are about the token and not about what it grants.
const CLAIMS_OF_TOKENS: [&str; 7] = ["iss", "aud", "exp", "nbf", "iat", "jti", ENTITIES];

/// The claim of an operator.
const OPERATOR: &str = "operator";

/// The claim with the entities that may be read.
const ENTITIES: &str = "entities";

/// How tokens are verified.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// Where the keys are.
    pub keys: TokenKeys,
    /// The algorithms that are taken; empty for all that go with such keys.
    pub algorithms: Vec<TokenAlgorithm>,
    /// A token has to be for one of these; empty where it may be for anybody.
    pub audiences: Vec<String>,
    /// A token has to come from one of these; empty where the keys tell enough.
    pub issuers: Vec<String>,
}

/// Where the keys are that sign tokens.
#[derive(Clone, Debug)]
pub enum TokenKeys {
    /// A JWKS at an address: https, or http on this machine.
    Url(Url),
    /// A JWKS in a file.
    File(PathBuf),
    /// Secrets that issuer and server share, in a file, one a line.
    Secrets(PathBuf),
}

/// How a token may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA on P-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256, by a shared secret.
    Hs256,
}

/// Tells whose a token is.
#[derive(Debug)]
pub(super) struct Tokens {
    keys: Keys,
    rules: Rules,
}

/// Which tokens are taken, whatever the keys are.
pub(super) struct Rules {
    algorithms: Vec<Algorithm>,
    validation: Validation,
}

#[derive(Debug)]
enum Keys {
    Fetched(Fetched),
    Watched(Watched<KeySet>),
}

impl Tokens {
    pub(super) async fn open(options: TokenOptions) -> Result<Self, AuthError> {
        let rules = Rules::of(&options)?;
        let keys = match options.keys {
            TokenKeys::Url(url) => Keys::Fetched(Fetched::open(url).await?),
            TokenKeys::File(path) => Keys::Watched(Watched::open(path, SET_BYTES_MAX, jwks::read_set).await?),
            TokenKeys::Secrets(path) => {
                Keys::Watched(Watched::open(path, SET_BYTES_MAX, jwks::read_secrets).await?)
            }
        };
        Ok(Self { keys, rules })
    }

    /// Whose token this is. Where a newer set of keys may tell, it is waited for.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, Denied> {
        match (self.rules.caller_by(&self.keys.now(), token), &self.keys) {
            (Err(NoKey::UnknownId), Keys::Fetched(fetched)) => {
                let fresh = fetched.fresh().await;
                match self.rules.caller_by(&fetched.now(), token) {
                    Err(NoKey::UnknownId) if !fresh => Err(Denied::KeysUnknown),
                    other => other.map_err(NoKey::denied),
                }
            }
            (other, _) => other.map_err(NoKey::denied),
        }
    }

    /// Keeps the keys up to date, until told to stop.
    pub(super) async fn watch(&self, stop: &CancellationToken) {
        match &self.keys {
            Keys::Fetched(fetched) => fetched.watch(stop).await,
            Keys::Watched(watched) => watched.watch(stop).await,
        }
    }

    /// Has the keys read or fetched at once.
    pub(super) fn reload(&self) {
        match &self.keys {
            Keys::Fetched(fetched) => fetched.reload(),
            Keys::Watched(watched) => watched.reload(),
        }
    }
}

impl Rules {
    pub(super) fn of(options: &TokenOptions) -> Result<Self, AuthError> {
        Ok(Self {
            algorithms: options.algorithms()?,
            validation: validation(options),
        })
    }

    /// Whose token this is, by these keys.
    pub(super) fn caller_by(&self, set: &KeySet, token: &str) -> Result<Caller, NoKey> {
        let refused = |why| NoKey::Refused(Denied::Invalid(why));
        // Of algorithms such as `none`, which the library does not know, nothing is read.
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| refused("it is no token, or one without a signature"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(refused("a token by an algorithm that is not taken"));
        }
        if header.crit.is_some() {
            return Err(refused("a token with critical headers, of which none is known"));
        }
        let mut denied = Denied::Invalid("");
        for key in set.find(header.kid.as_deref(), header.alg)? {
            let validation = Validation {
                algorithms: vec![key.algorithm],
                ..self.validation.clone()
            };
            match jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation) {
                Ok(token) => return grant(&token.claims).map(Caller::with).map_err(refused),
                Err(error) => {
                    let other = refusal(error.kind(), token);
                    // Of several secrets the one that signed it tells most.
                    if denied == Denied::Invalid("") || other != Denied::Invalid(WRONG_SIGNATURE) {
                        denied = other;
                    }
                }
            }
        }
        Err(NoKey::Refused(denied))
    }
}

impl Keys {
    fn now(&self) -> Arc<KeySet> {
        match self {
            Self::Fetched(fetched) => fetched.now(),
            Self::Watched(watched) => watched.now(),
        }
    }
}

impl NoKey {
    fn denied(self) -> Denied {
        match self {
            Self::UnknownId => Denied::Invalid("a token by a key that is not known"),
            Self::Refused(denied) => denied,
        }
    }
}

impl TokenOptions {
    fn algorithms(&self) -> Result<Vec<Algorithm>, AuthError> {
        let of_keys: &[TokenAlgorithm] = match self.keys {
            TokenKeys::Secrets(_) => &[TokenAlgorithm::Hs256],
            _ => &[
                TokenAlgorithm::Rs256,
                TokenAlgorithm::Es256,
                TokenAlgorithm::EdDsa,
            ],
        };
        // A public key that passes for a secret lets everybody sign.
        if self.algorithms.iter().any(|chosen| !of_keys.contains(chosen)) {
            return Err(AuthError::Option(
                "HS256 goes with a file of secrets, and the other algorithms with a JWKS".to_owned(),
            ));
        }
        let chosen = match self.algorithms.as_slice() {
            [] => of_keys,
            chosen => chosen,
        };
        let algorithm = |chosen: &TokenAlgorithm| match chosen {
            TokenAlgorithm::Rs256 => Algorithm::RS256,
            TokenAlgorithm::Es256 => Algorithm::ES256,
            TokenAlgorithm::EdDsa => Algorithm::EdDSA,
            TokenAlgorithm::Hs256 => Algorithm::HS256,
        };
        Ok(chosen.iter().map(algorithm).collect())
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

/// What the library is to look at. The algorithm is that of the key.
fn validation(options: &TokenOptions) -> Validation {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    let mut required = vec!["exp"];
    // What is compared has to be there: the library lets pass what is absent.
    validation.validate_aud = !options.audiences.is_empty();
    if validation.validate_aud {
        validation.set_audience(&options.audiences);
        required.push("aud");
    }
    if !options.issuers.is_empty() {
        validation.set_issuer(&options.issuers);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

const WRONG_SIGNATURE: &str = "a token whose signature is not that of its key";

/// What the log is told. The library's own words may quote the token.
fn refusal(error: &ErrorKind, token: &str) -> Denied {
    Denied::Invalid(match error {
        ErrorKind::ExpiredSignature => {
            // The signature was good, so that the name is the issuer's.
            let claims = jsonwebtoken::dangerous::insecure_decode::<Map<String, Value>>(token);
            return Denied::Expired(claims.map_or(String::new(), |token| name(&token.claims)));
        }
        ErrorKind::ImmatureSignature => return Denied::NotYetValid,
        ErrorKind::InvalidSignature => WRONG_SIGNATURE,
        ErrorKind::InvalidAudience => "a token for another audience",
        ErrorKind::InvalidIssuer => "a token of another issuer",
        ErrorKind::MissingRequiredClaim(_) => "a token without one of exp, aud and iss that is needed",
        ErrorKind::InvalidClaimFormat(_) => "a token whose exp or nbf is no date",
        _ => "a token that cannot be read",
    })
}

/// What the claims of a verified token grant.
fn grant(claims: &Map<String, Value>) -> Result<Grant, &'static str> {
    let entities = match claims.get(ENTITIES) {
        None => None,
        Some(Value::Array(names)) => {
            let names: Option<BTreeSet<EntityName>> = names
                .iter()
                .map(|name| name.as_str().map(EntityName::new))
                .collect();
            Some(Arc::new(names.ok_or("a token whose entities are not all text")?))
        }
        // What was meant is not known, and it must not come to mean all.
        Some(_) => return Err("a token whose entities are no array"),
    };
    let scopes = claims
        .iter()
        .filter(|(claim, _)| !CLAIMS_OF_TOKENS.contains(&claim.as_str()))
        .filter_map(|(claim, value)| Some((claim.clone(), scope_values(value)?)))
        .collect::<BTreeMap<_, _>>();
    Ok(Grant {
        name: name(claims),
        entities,
        scopes,
        // A text or a number of that name is the value of a scope column, like any other.
        is_operator: claims.get(OPERATOR) == Some(&Value::Bool(true)),
    })
}

fn name(claims: &Map<String, Value>) -> String {
    let named = ["sub", "name"]
        .iter()
        .find_map(|claim| claims.get(*claim)?.as_str());
    named.unwrap_or("(unnamed)").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(json: &Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn claims_become_a_grant() {
        let granted = grant(&claims(&json!({
            "sub": "device-1", "exp": 1, "aud": "x", "entities": ["product"],
            "tenant_id": 7, "region": ["eu", 12], "admin": true, "ratio": 1.5, "mixed": ["a", {}],
            "cut": "7\u{0}", "cuts": ["8", "7\u{0}"]
        })));
        let granted = granted.unwrap();
        assert_eq!(granted.name, "device-1");
        assert_eq!(*granted.entities.unwrap(), [EntityName::new("product")].into());
        let scopes = json!({"region": ["12", "eu"], "sub": ["device-1"], "tenant_id": ["7"]});
        assert_eq!(serde_json::to_value(&granted.scopes).unwrap(), scopes);
    }

    #[test]
    fn a_list_of_entities_that_is_none_never_means_all() {
        assert_eq!(grant(&claims(&json!({}))).unwrap().entities, None);
        for wrong in [
            json!(null),
            json!("product"),
            json!({"product": true}),
            json!(["product", 7]),
        ] {
            assert!(grant(&claims(&json!({ "entities": wrong }))).is_err(), "{wrong}");
        }
        assert_eq!(
            grant(&claims(&json!({"entities": []})))
                .unwrap()
                .entities
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn only_a_claim_that_is_true_makes_an_operator() {
        let granted = |operator: Value| grant(&claims(&json!({ "operator": operator }))).unwrap();
        assert!(granted(json!(true)).is_operator);
        for other in [json!(false), json!("true"), json!(1), json!([true]), json!(null)] {
            assert!(!granted(other).is_operator);
        }
        assert!(granted(json!("acme")).scopes.contains_key("operator"));
    }

    #[test]
    fn algorithms_go_with_their_kind_of_keys() {
        let options = |keys, algorithm| TokenOptions {
            keys,
            algorithms: vec![algorithm],
            audiences: Vec::new(),
            issuers: Vec::new(),
        };
        let (set, secrets) = (TokenKeys::File("f".into()), TokenKeys::Secrets("f".into()));
        assert!(options(set.clone(), TokenAlgorithm::Hs256).algorithms().is_err());
        assert!(
            options(secrets.clone(), TokenAlgorithm::Rs256)
                .algorithms()
                .is_err()
        );
        let chosen = options(set, TokenAlgorithm::Es256).algorithms().unwrap();
        assert_eq!(chosen, [Algorithm::ES256]);
        assert!(options(secrets, TokenAlgorithm::Hs256).algorithms().is_ok());
    }
}
