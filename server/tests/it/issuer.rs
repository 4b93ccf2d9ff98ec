//! Who issues tokens: keys that are made by the test, what they sign, and an address where they can be had.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::Url;

/// A key of an issuer.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) private: EncodingKey,
    /// Public keys as bytes, in every form in which one might pass for a secret.
    pub(crate) public: Vec<Vec<u8>>,
}

impl Key {
    pub(crate) fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        Self {
            id: id.to_owned(),
            algorithm: Algorithm::RS256,
            // PKCS #1, as the library wants it, is what PKCS #8 holds after 26 bytes of its own.
            private: EncodingKey::from_rsa_der(&der.as_ref()[26..]),
            public: vec![public.as_ref().to_vec(), pair.public_key().as_ref().to_vec()],
        }
    }

    pub(crate) fn ec(id: &str) -> Self {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            id: id.to_owned(),
            algorithm: Algorithm::ES256,
            private: EncodingKey::from_ec_der(der.as_ref()),
            public: Vec::new(),
        }
    }

    pub(crate) fn ed(id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        Self {
            id: id.to_owned(),
            algorithm: Algorithm::EdDSA,
            private: EncodingKey::from_ed_der(der.as_ref()),
            public: Vec::new(),
        }
    }

    pub(crate) fn secret(secret: &str) -> Self {
        Self {
            id: String::new(),
            algorithm: Algorithm::HS256,
            private: EncodingKey::from_secret(secret.as_bytes()),
            public: Vec::new(),
        }
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            kid: Some(self.id.clone()).filter(|id| !id.is_empty()),
            ..Header::new(self.algorithm)
        }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.private).unwrap()
    }

    pub(crate) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }
}

/// What a token claims that is good for an hour, and more.
pub(crate) fn claims(more: &Value) -> Value {
    let mut claims = json!({"sub": "till-7", "exp": get_current_timestamp() + 3_600});
    let all = claims.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    claims
}

pub(crate) fn set(keys: &[&Key]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys }).to_string()
}

/// An issuer's address, which counts how often it is asked.
#[derive(Clone, Default)]
pub(crate) struct Issuer {
    asked: Arc<AtomicU64>,
    /// Status and body of its answers.
    answer: Arc<Mutex<(u16, String)>>,
}

impl Issuer {
    pub(crate) async fn start(set: String) -> (Self, Url) {
        let issuer = Self::default();
        issuer.answers(200, set);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (answering, elsewhere) = (issuer.clone(), issuer.answer.lock().unwrap().1.clone());
        let answer = move || async move {
            answering.asked.fetch_add(1, Ordering::SeqCst);
            let (status, body) = answering.answer.lock().unwrap().clone();
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            (status, [("location", "/elsewhere")], body)
        };
        let router = axum::Router::new()
            .route("/keys", axum::routing::get(answer))
            .route("/elsewhere", axum::routing::get(|| async { elsewhere }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (issuer, url.parse().unwrap())
    }

    pub(crate) fn answers(&self, status: u16, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}
