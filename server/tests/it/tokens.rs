//! Tokens (JWT): which are taken, and how keys rotate. All keys are made by the tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use highwater_server::ServeOptions;
use highwater_server::auth::{
    AuthError, AuthOptions, Authenticator, TokenAlgorithm, TokenKeys, TokenOptions,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};

use crate::issuer::{Issuer, Key, claims, set};
use crate::rig::{Rig, Served};

fn options(keys: TokenKeys) -> TokenOptions {
    TokenOptions {
        keys,
        algorithms: Vec::new(),
        audiences: Vec::new(),
        issuers: Vec::new(),
    }
}

async fn open(tokens: TokenOptions) -> Result<Authenticator, AuthError> {
    let options = AuthOptions {
        api_keys: None,
        tokens: Some(tokens),
    };
    Authenticator::open(options).await
}

/// A server that takes tokens.
struct Taking {
    server: Served,
    _rig: Rig,
}

impl Taking {
    async fn start(tokens: TokenOptions) -> Self {
        let rig = Rig::start(
            "create table product (id int primary key); create table customer (id int primary key)",
        )
        .await;
        rig.enable(&["product", "customer"]).await;
        let chosen = ServeOptions {
            authenticator: Some(Arc::new(open(tokens).await.unwrap())),
            ..ServeOptions::default()
        };
        Self {
            server: Served::start_with(&rig.pool, chosen).await,
            _rig: rig,
        }
    }

    async fn status(&self, token: &str) -> u16 {
        let response = self.server.get_by("/changes", &format!("Bearer {token}")).await;
        let status = response.status().as_u16();
        let is_challenged = response.headers().contains_key("www-authenticate");
        assert_eq!(is_challenged, status == 401);
        status
    }
}

/// A file in a folder that goes with the test.
fn file(text: &str) -> (PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, text).unwrap();
    (path, folder)
}

#[tokio::test]
async fn a_key_verifies_tokens_of_its_own_algorithm_alone() {
    let keys = [Key::rsa("rsa"), Key::ec("ec"), Key::ed("ed")];
    let (path, _folder) = file(&set(&keys.each_ref()));
    let taking = Taking::start(options(TokenKeys::File(path))).await;
    let good = claims(&json!({}));
    for key in &keys {
        assert_eq!(taking.status(&key.sign(&good)).await, 200, "{}", key.id);
        // Each by the name of each other, and one that says nothing.
        for other in &keys {
            let mut renamed = key.clone();
            renamed.id.clone_from(&other.id);
            let expected = if other.id == key.id { 200 } else { 401 };
            assert_eq!(
                taking.status(&renamed.sign(&good)).await,
                expected,
                "{} as {}",
                key.id,
                other.id
            );
        }
        let mut nameless = key.clone();
        nameless.id.clear();
        assert_eq!(taking.status(&nameless.sign(&good)).await, 401, "{}", key.id);
        // Its content changed after it was signed.
        let token = key.sign(&claims(&json!({"entities": []})));
        let [head, _, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let body = URL_SAFE_NO_PAD.encode(good.to_string());
        assert_eq!(taking.status(&format!("{head}.{body}.{signature}")).await, 401);
    }
}

#[tokio::test]
async fn a_token_without_a_signature_is_none() {
    let keys = [Key::rsa("rsa"), Key::ed("ed")];
    let (path, _folder) = file(&set(&keys.each_ref()));
    let taking = Taking::start(options(TokenKeys::File(path))).await;
    let body = URL_SAFE_NO_PAD.encode(claims(&json!({})).to_string());
    for algorithm in ["none", "None", "NONE", "nOnE", "", "RS256", "EdDSA"] {
        for id in ["rsa", "ed"] {
            let head = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "typ": "JWT", "kid": id}).to_string());
            for token in [
                format!("{head}.{body}."),
                format!("{head}.{body}"),
                format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode("none")),
            ] {
                assert_eq!(taking.status(&token).await, 401, "{algorithm} {id}");
            }
        }
    }
}

/// Whoever could pass a public key off as a shared secret could sign as the issuer.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    let key = Key::rsa("rsa");
    let (path, _folder) = file(&set(&[&key]));
    let taking = Taking::start(options(TokenKeys::File(path))).await;
    let jwk = key.public().to_string().into_bytes();
    let modulus = URL_SAFE_NO_PAD
        .decode(key.public()["n"].as_str().unwrap())
        .unwrap();
    for secret in key.public.iter().chain([&jwk, &modulus]) {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = Header {
                alg: algorithm,
                ..key.header()
            };
            let forged =
                jsonwebtoken::encode(&header, &claims(&json!({})), &EncodingKey::from_secret(secret));
            assert_eq!(taking.status(&forged.unwrap()).await, 401, "{algorithm:?}");
        }
    }
    let (path, _folder) = file(&set(&[&key]));
    let mixed = TokenOptions {
        algorithms: vec![TokenAlgorithm::Hs256],
        ..options(TokenKeys::File(path))
    };
    assert!(matches!(open(mixed).await, Err(AuthError::Option(_))));
}

#[tokio::test]
async fn shared_secrets_rotate_one_by_one() {
    let [old, new] = ["o", "n"].map(|text| text.repeat(40));
    let (path, _folder) = file(&format!("{old}\n"));
    let taking = Taking::start(options(TokenKeys::Secrets(path.clone()))).await;
    let (by_old, by_new) = (Key::secret(&old), Key::secret(&new));
    let good = claims(&json!({}));
    assert_eq!(taking.status(&by_old.sign(&good)).await, 200);
    assert_eq!(taking.status(&by_new.sign(&good)).await, 401);
    assert_eq!(taking.status(&Key::rsa("rsa").sign(&good)).await, 401);
    std::fs::write(&path, format!("{old}\n{new}\n")).unwrap();
    until(&taking, &by_new.sign(&good), 200).await;
    assert_eq!(taking.status(&by_old.sign(&good)).await, 200);
    // Also which of several secrets signed an expired one is found out.
    let expired = by_old.sign(&claims(&json!({"exp": 1})));
    let response = taking
        .server
        .get_by("/changes", &format!("Bearer {expired}"))
        .await;
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["detail"], "the key or token has expired");
}

async fn until(taking: &Taking, token: &str, status: u16) {
    let wait = async {
        while taking.status(token).await != status {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.expect("the keys that are in the file now");
}

#[tokio::test]
async fn a_token_counts_at_its_time_for_its_audience_by_its_issuer() {
    let key = Key::ed("ed");
    let (path, _folder) = file(&set(&[&key]));
    let taking = Taking::start(TokenOptions {
        audiences: vec!["highwater".to_owned(), "sync".to_owned()],
        issuers: vec!["https://issuer.example".to_owned()],
        ..options(TokenKeys::File(path))
    })
    .await;
    let now = get_current_timestamp();
    let good = json!({"iss": "https://issuer.example", "aud": "highwater"});
    for (more, status) in [
        (json!({}), 200),
        (json!({"aud": ["other", "sync"]}), 200),
        (json!({"aud": "other"}), 401),
        (json!({"aud": ["other"]}), 401),
        (json!({"aud": []}), 401),
        (json!({"aud": null}), 401),
        (json!({"aud": 7}), 401),
        (json!({"iss": "https://issuer.example.org"}), 401),
        (json!({"iss": null}), 401),
        (json!({"iss": {}}), 401),
        // Clocks may differ by a minute, and no more.
        (json!({"exp": now - 30}), 200),
        (json!({"exp": now - 90}), 401),
        (json!({"exp": null}), 401),
        (json!({"exp": "never"}), 401),
        (json!({"exp": -1}), 401),
        (json!({"exp": 1e300}), 401),
        (json!({"nbf": now + 30}), 200),
        (json!({"nbf": now + 120}), 401),
        (json!({"nbf": "now"}), 401),
    ] {
        let mut all = claims(&good);
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        assert_eq!(taking.status(&key.sign(&all)).await, status, "{more}");
    }
    // Without claims that are asked for, and with a header that must be understood.
    assert_eq!(
        taking.status(&key.sign(&claims(&json!({"aud": "sync"})))).await,
        401
    );
    let critical = Header {
        crit: Some(vec!["b64".to_owned()]),
        ..key.header()
    };
    let critical = jsonwebtoken::encode(&critical, &claims(&good), &key.private).unwrap();
    assert_eq!(taking.status(&critical).await, 401);
}

#[tokio::test]
async fn the_claim_entities_bounds_what_may_be_read() {
    let key = Key::ed("ed");
    let (path, _folder) = file(&set(&[&key]));
    let taking = Taking::start(options(TokenKeys::File(path))).await;
    let page = async |more: Value, query: &str| {
        let authorization = format!("Bearer {}", key.sign(&claims(&more)));
        let response = taking
            .server
            .get_by(&format!("/changes{query}"), &authorization)
            .await;
        (
            response.status().as_u16(),
            response.json::<Value>().await.unwrap(),
        )
    };
    let (_, all) = page(json!({}), "").await;
    assert_eq!(all["entities"], json!(["product", "customer"]));
    let (_, some) = page(json!({"entities": ["customer"]}), "").await;
    assert_eq!(some["entities"], json!(["customer"]));
    assert_eq!(
        page(json!({"entities": ["customer"]}), "?entity=product").await.0,
        403
    );
    assert_eq!(page(json!({"entities": "customer"}), "").await.0, 401);
}

/// A token by a new key has the keys fetched, is waited for, and is let in; however many come by
/// keys that are nobody's, the issuer is asked once.
#[tokio::test]
async fn keys_rotate_at_an_address_and_a_storm_is_one_question() {
    let (old, new, foreign) = (Key::ec("2026"), Key::ed("2027"), Key::ed("nobody"));
    let (issuer, url) = Issuer::start(set(&[&old])).await;
    let taking = Taking::start(options(TokenKeys::Url(url))).await;
    let good = claims(&json!({}));
    assert_eq!((taking.status(&old.sign(&good)).await, issuer.asked()), (200, 1));
    issuer.answers(200, set(&[&new]));
    assert_eq!(taking.status(&new.sign(&good)).await, 200);
    assert_eq!(
        taking.status(&old.sign(&good)).await,
        401,
        "a key that was withdrawn"
    );
    assert_eq!(issuer.asked(), 2);
    let forged = foreign.sign(&good);
    let storm = futures_util::future::join_all((0..50).map(|_| taking.status(&forged)));
    assert!(storm.await.iter().all(|status| *status == 401));
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn an_issuer_that_fails_leaves_its_keys_in_force() {
    let (old, new) = (Key::ec("2026"), Key::ed("2027"));
    let (issuer, url) = Issuer::start(set(&[&old])).await;
    let taking = Taking::start(options(TokenKeys::Url(url.clone()))).await;
    let good = claims(&json!({}));
    issuer.answers(500, set(&[&new]));
    // Whether it is good nobody can say now, so that its caller is to come again.
    assert_eq!(taking.status(&new.sign(&good)).await, 503);
    assert_eq!(taking.status(&old.sign(&good)).await, 200);
    for (status, body) in [
        (404, set(&[&old])),
        (302, set(&[&old])),
        (200, "{".to_owned()),
        (200, json!({"keys": []}).to_string()),
        (200, format!("{}{}", set(&[&old]), " ".repeat(2 * 1024 * 1024))),
    ] {
        issuer.answers(status, body);
        let refused = open(options(TokenKeys::Url(url.clone()))).await;
        assert!(matches!(refused, Err(AuthError::Fetch { .. })), "{status}");
    }
    for unsafe_url in [
        "http://issuer.example/keys",
        "http://127.0.0.1.example/keys",
        "ftp://127.0.0.1/keys",
    ] {
        let refused = open(options(TokenKeys::Url(unsafe_url.parse().unwrap()))).await;
        let Err(AuthError::Fetch { fault, .. }) = refused else {
            panic!("{unsafe_url} is taken");
        };
        assert!(fault.to_string().contains("only https"), "{fault}");
    }
}

#[tokio::test]
async fn a_file_of_keys_rotates_and_one_that_is_wrong_changes_nothing() {
    let (old, new) = (Key::ec("2026"), Key::ed("2027"));
    let (path, _folder) = file(&set(&[&old]));
    let taking = Taking::start(options(TokenKeys::File(path.clone()))).await;
    let good = claims(&json!({}));
    std::fs::write(&path, "{}").unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(taking.status(&old.sign(&good)).await, 200);
    std::fs::write(&path, set(&[&new])).unwrap();
    until(&taking, &new.sign(&good), 200).await;
    assert_eq!(taking.status(&old.sign(&good)).await, 401);
}
