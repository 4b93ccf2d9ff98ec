//! TLS: who is served with it, who is not, and what becomes of a new certificate.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::time::Duration;

use highwater_server::{ServeOptions, TlsFiles};
use highwater_testbed::Process;
use highwater_testbed::certificates::{Authority, Files};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::program::program;
use crate::rig::{Rig, Served};

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority, and a certificate of it for this machine.
struct Trust {
    authority: Authority,
    files: Files,
    folder: TempDir,
}

impl Trust {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path()).unwrap();
        let files = authority.issue("server", &["127.0.0.1", "localhost"]).unwrap();
        Self {
            authority,
            files,
            folder,
        }
    }

    fn options(&self) -> ServeOptions {
        ServeOptions {
            tls: Some(TlsFiles::new(&self.files.certificate, &self.files.key)),
            ..ServeOptions::default()
        }
    }

    /// What makes a caller that believes this authority only.
    fn caller(&self) -> reqwest::ClientBuilder {
        let authority = reqwest::Certificate::from_pem(self.authority.pem().as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([authority])
            .tls_info(true)
    }

    /// The certificate that a new caller is shown.
    async fn shown(&self, address: &str) -> Vec<u8> {
        let caller = self.caller().build().unwrap();
        let response = caller.get(format!("https://{address}/healthz")).send();
        let response = response.await.expect("a response");
        let tls: &reqwest::tls::TlsInfo = response.extensions().get().unwrap();
        tls.peer_certificate().unwrap().to_owned()
    }
}

async fn served(options: ServeOptions) -> (Rig, Served) {
    let rig = Rig::start("create table product (id int primary key)").await;
    let server = Served::start_with(&rig.pool, options).await;
    (rig, server)
}

#[tokio::test]
async fn callers_are_served_over_tls_with_http2_and_without() {
    let trust = Trust::new();
    let (_rig, server) = served(trust.options()).await;
    let url = format!("https://{}/entities", server.address);
    for (caller, version) in [
        (trust.caller(), reqwest::Version::HTTP_2),
        (trust.caller().http1_only(), reqwest::Version::HTTP_11),
        (
            trust.caller().tls_version_max(reqwest::tls::Version::TLS_1_2),
            reqwest::Version::HTTP_2,
        ),
        (
            trust.caller().tls_version_min(reqwest::tls::Version::TLS_1_3),
            reqwest::Version::HTTP_2,
        ),
    ] {
        let response = caller.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        assert!(
            response.headers()["strict-transport-security"]
                .to_str()
                .unwrap()
                .contains("max-age=")
        );
        let list: Value = response.json().await.unwrap();
        assert_eq!(list["entities"], serde_json::json!([]));
    }
    // Another authority has not signed it, and this name is not in it.
    let other = Trust::new().caller().build().unwrap();
    assert!(other.get(&url).send().await.is_err());
    let port = server.address.port();
    let resolved = SocketAddr::from(([127, 0, 0, 1], port));
    let elsewhere = trust
        .caller()
        .resolve("elsewhere.example", resolved)
        .build()
        .unwrap();
    let response = elsewhere.get(format!("https://elsewhere.example:{port}/healthz"));
    assert!(response.send().await.is_err());
}

#[tokio::test]
async fn plain_requests_are_told_to_come_by_tls() {
    let trust = Trust::new();
    let (_rig, server) = served(trust.options()).await;
    let response = server.get("/changes").await;
    assert_eq!(response.status(), 426);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "tls_required");
    assert!(
        problem["detail"].as_str().unwrap().contains("https://"),
        "{problem}"
    );
}

#[tokio::test]
async fn handshakes_that_stand_still_stop_nobody_and_are_ended() {
    let trust = Trust::new();
    let options = ServeOptions {
        header_time_max: Duration::from_secs(2),
        ..trust.options()
    };
    let (_rig, server) = served(options).await;
    let mut standing = Vec::new();
    for n in 0..200_usize {
        let mut caller = TcpStream::connect(server.address).await.unwrap();
        // The beginning of a handshake, for some.
        caller.write_all(&[22, 3, 1, 2, 0, 1][..n % 7]).await.unwrap();
        standing.push(caller);
    }
    let caller = trust.caller().build().unwrap();
    let answer = caller.get(format!("https://{}/healthz", server.address)).send();
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    assert_eq!(answer.unwrap().status(), 200);
    for mut caller in standing {
        let ended = tokio::time::timeout(PATIENCE, caller.read_to_end(&mut Vec::new())).await;
        // Whether it is told so or finds out, the connection is gone.
        let _ = ended.expect("the server ends it");
    }
}

/// The program with its log.
fn start(rig: &Rig, trust: &Trust) -> (Process, impl Iterator<Item = Value>) {
    let url = rig.database.url();
    let mut serve = program(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    serve.args(["--database-url", &url]);
    serve.arg("--tls-cert").arg(&trust.files.certificate);
    serve.arg("--tls-key").arg(&trust.files.key);
    serve.stderr(std::process::Stdio::piped());
    let mut process = Process::spawn(serve).unwrap();
    let log = BufReader::new(process.stderr.take().unwrap()).lines();
    (
        process,
        log.map(|line| serde_json::from_str(&line.unwrap()).unwrap()),
    )
}

/// Waits for a line of the log.
fn logged(log: &mut impl Iterator<Item = Value>, words: &str) -> Value {
    let mut lines = log.map(|line| line["fields"].clone());
    let line = lines.find(|line| line["message"].as_str().unwrap().contains(words));
    line.unwrap_or_else(|| panic!("{words} is logged"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let rig = Rig::start("create table product (id int primary key)").await;
    let trust = Trust::new();
    let (_process, mut log) = start(&rig, &trust);
    let address = logged(&mut log, "serving")["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let first = trust.shown(&address).await;

    // A key that is not the certificate's, as in the middle of a renewal.
    let other = trust.authority.issue("other", &["127.0.0.1"]).unwrap();
    std::fs::copy(&other.key, &trust.files.key).unwrap();
    let refused = logged(&mut log, "the one before it stays");
    assert!(refused.to_string().contains("server.key"), "{refused}");
    assert!(!refused.to_string().contains("PRIVATE"), "{refused}");
    assert_eq!(trust.shown(&address).await, first);

    std::fs::copy(&other.certificate, &trust.files.certificate).unwrap();
    logged(&mut log, "a new certificate");
    assert_ne!(trust.shown(&address).await, first);

    std::fs::remove_file(&trust.files.key).unwrap();
    logged(&mut log, "the one before it stays");
    assert_ne!(trust.shown(&address).await, first);
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused_at_the_start() {
    let rig = Rig::start("create table product (id int primary key)").await;
    let trust = Trust::new();
    let url = rig.database.url();
    let empty = trust.folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let missing = trust.folder.path().join("missing.pem");
    let other = trust.authority.issue("other", &["localhost"]).unwrap();
    let Files { certificate, key } = trust.files.clone();
    for (certificate, key, words) in [
        (&missing, &key, "missing.pem"),
        (&certificate, &missing, "missing.pem"),
        (&empty, &key, "empty.pem holds no certificate"),
        (&certificate, &certificate, "server.pem holds no key"),
        (&certificate, &other.key, "cannot be used with the key"),
    ] {
        let mut serve = program(&["serve", "--listen", "127.0.0.1:0", "--database-url", &url]);
        serve.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
        let output = serve.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
