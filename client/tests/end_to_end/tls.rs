//! Both programs over TLS: who believes whom, and what is said where nobody does.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use highwater_testbed::certificates::{Authority, Files};
use highwater_testbed::{Process, programs};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::rig::{Rig, client, output};

const SQL: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 3000) g";

/// The address of this machine that certificates are for.
const HERE: &[&str] = &["127.0.0.1"];

/// `highwater-server serve` with a certificate, as long as this lives.
struct Server {
    address: String,
    _process: Process,
}

impl Server {
    async fn start(rig: &Rig, files: &Files) -> Self {
        let mut command = Command::new(programs::build(false).unwrap().server);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--database-url", &rig.database.url()])
            .arg("--tls-cert")
            .arg(&files.certificate)
            .arg("--tls-key")
            .arg(&files.key)
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped());
        let mut process = Process::spawn(command).unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let address = tokio::task::spawn_blocking(move || {
            let mut lines = log.lines().map(|line| line.unwrap());
            let line = lines
                .find(|line| line.contains("\"serving\""))
                .expect("it serves");
            // So that it never waits for a reader of its log.
            std::thread::spawn(move || lines.for_each(drop));
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            line["fields"]["address"].as_str().unwrap().to_owned()
        });
        Self {
            address: address.await.unwrap(),
            _process: process,
        }
    }
}

/// Accepts TLS, and then one of these protocols.
fn acceptor(files: &Files, protocols: &[&str]) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_owned()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Something else that speaks TLS, and answers every request with this.
async fn stranger(files: &Files, answer: Vec<u8>) -> String {
    let acceptor = acceptor(files, &["http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(mut caller) = acceptor.accept(caller).await else {
                    return;
                };
                let _ = caller.read(&mut [0; 4096]).await;
                let _ = caller.write_all(&answer).await;
                let _ = caller.shutdown().await;
            });
        }
    });
    address
}

async fn pull(server: &str, store: &Path, more: &[&str]) -> Output {
    let mut command = client("pull", store);
    command.args(["--quiet", "--server", server]).args(more);
    output(command).await
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Trust {
    authority: Authority,
    ca: PathBuf,
}

impl Trust {
    fn new(rig: &Rig) -> Self {
        let authority = Authority::new(rig.folder.path()).unwrap();
        let ca = authority.file().unwrap();
        Self { authority, ca }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_pulled_over_tls_by_who_believes_the_server() {
    let rig = Rig::start(SQL, &["product"]).await;
    let Trust { authority, ca } = Trust::new(&rig);
    let server = Server::start(&rig, &authority.issue("server", HERE).unwrap()).await;
    let address = format!("https://{}", server.address);
    let store = rig.store("store.db");
    // Several certificates may be in the file.
    let other = Authority::new(rig.folder.path()).unwrap().pem();
    std::fs::write(&ca, other.clone() + &authority.pem()).unwrap();
    let pulled = pull(&address, &store, &["--ca-cert", text(&ca), "--limit", "1000"]).await;
    assert!(pulled.status.success(), "{}", said(&pulled));
    rig.assert_equal(&store, &["product"], "over TLS").await;

    let only_other = rig.store("other.pem");
    std::fs::write(&only_other, other).unwrap();
    for more in [&[][..], &["--ca-cert", text(&only_other)]] {
        let refused = pull(&address, &rig.store("no.db"), more).await;
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(
            said.contains("not known here") && said.contains("--ca-cert"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_tls_comes_about_it_is_said_why() {
    let rig = Rig::start(SQL, &["product"]).await;
    let Trust { authority, ca } = Trust::new(&rig);
    let server = Server::start(&rig, &authority.issue("server", HERE).unwrap()).await;
    let store = rig.store("store.db");
    let with_ca = ["--ca-cert", text(&ca)];
    let fails = async |address: &str, words: &str| {
        let refused = pull(address, &store, &with_ca).await;
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    };
    // Plain HTTP to a server that takes TLS, and TLS to one that takes plain HTTP.
    fails(&format!("http://{}", server.address), "write https://").await;
    fails(&format!("https://{}", rig.address), "does not speak TLS").await;
    let (_, port) = server.address.split_once(':').unwrap();
    fails(&format!("https://localhost:{port}"), "for another name").await;
    let expired = authority.issue_expired("expired", HERE).unwrap();
    let expired = stranger(&expired, Vec::new()).await;
    fails(&format!("https://{expired}"), "expired").await;
}

#[tokio::test]
async fn the_client_offers_http2() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path()).unwrap();
    let ca = authority.file().unwrap();
    let acceptor = acceptor(&authority.issue("server", HERE).unwrap(), &["h2", "http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let mut pull = client("pull", &folder.path().join("store.db"));
    pull.args(["--server", &address, "--ca-cert", text(&ca)]);
    let _pull = Process::spawn(pull).unwrap();
    let (caller, _) = listener.accept().await.unwrap();
    let secured = acceptor.accept(caller).await.unwrap();
    assert_eq!(secured.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

/// From https to http, on the same host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_out_of_tls_is_not_followed() {
    let rig = Rig::start(SQL, &["product"]).await;
    let Trust { authority, ca } = Trust::new(&rig);
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}/changes\r\ncontent-length: 0\r\n\r\n",
        rig.url()
    );
    let files = authority.issue("stranger", HERE).unwrap();
    let stranger = stranger(&files, answer.into_bytes()).await;
    let store = rig.store("store.db");
    let refused = pull(&format!("https://{stranger}"), &store, &["--ca-cert", text(&ca)]).await;
    let said = said(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("redirects elsewhere") && said.contains("http://"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_on_the_servers_host_is_fetched_with_the_same_certificates() {
    let rig = Rig::start(SQL, &["product"]).await;
    let Trust { authority, ca } = Trust::new(&rig);
    let origin = rig.store("origin.db");
    rig.pulled(&origin, &[]).await;
    let seed = rig.store("shop.seed");
    let mut make = client("seed", &origin);
    make.arg("--out").arg(&seed);
    assert!(output(make).await.status.success());
    let seed = std::fs::read(&seed).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seed.len());
    let files = authority.issue("stranger", HERE).unwrap();
    let seeds = stranger(&files, [head.into_bytes(), seed].concat()).await;
    let seeds = format!("https://{seeds}/shop.seed");
    let server = Server::start(&rig, &authority.issue("server", HERE).unwrap()).await;
    let address = format!("https://{}", server.address);
    let begin = async |server: &str, store: &str| {
        let mut command = client("pull", &rig.store(store));
        command.args(["--json", "--server", server, "--seed", &seeds]);
        command.args(["--ca-cert", text(&ca)]);
        let pulled = output(command).await;
        assert!(pulled.status.success(), "{}", said(&pulled));
        let report: serde_json::Value = serde_json::from_slice(&pulled.stdout).unwrap();
        report["seed"].clone()
    };
    assert_eq!(begin(&address, "near.db").await["rows"], 3000);
    // For this server the file is not meant to say whom to believe elsewhere.
    let elsewhere = format!("http://localhost:{}", rig.address.port());
    let refused = begin(&elsewhere, "far.db").await;
    assert!(
        refused["refused"].as_str().unwrap().contains("not known here"),
        "{refused}"
    );
}
