//! TLS: the certificate and its key, read again when their files change, and the handshake.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use highwater_shared::{Code, PROBLEM_MEDIA_TYPE, Problem};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// The largest file of certificates or of a key.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How much of a plain request is read, so that its caller gets to see the answer.
const PLAIN_BYTES_MAX: u64 = 64 * 1024;

/// The certificate that a server shows, and its key.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// A PEM file: the server's certificate first, then those that lead to an authority.
    pub certificate: PathBuf,
    /// A PEM file with the key of the first certificate, not encrypted.
    pub key: PathBuf,
    /// How often the files are looked at: a renewed certificate is shown that much later at most.
    pub look_every: Duration,
}

impl TlsFiles {
    /// These files, looked at every five seconds.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            look_every: LOOK_EVERY,
        }
    }
}

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} holds no {what} in PEM form", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// What was looked for in it.
        what: &'static str,
    },
    /// Certificate and key cannot be used together.
    #[error("the certificate {} cannot be used with the key {}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// What tells the contents of the files from others, without keeping the key a second time.
type Contents = [u8; 32];

/// TLS with the certificate that was read last.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    current: watch::Receiver<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files, and again as they change until `stop`. What cannot be used then is logged,
    /// and the certificate before it stays.
    pub(super) fn start(files: TlsFiles, stop: CancellationToken) -> Result<Self, TlsError> {
        let read = Files::read(&files)?;
        let (sender, current) = watch::channel(read.config(&files)?);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = renew(&files, read.contents(), &sender) => {}
            }
        });
        Ok(Self { current })
    }

    /// Makes a connection secure. There is none where the caller has sent something other than TLS,
    /// which plain requests are told.
    pub(super) async fn secure(&self, mut stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first.iter().all(u8::is_ascii_uppercase) {
            refuse(&mut stream).await?;
            return Ok(None);
        }
        let config = Arc::clone(&self.current.borrow());
        TlsAcceptor::from(config).accept(stream).await.map(Some)
    }
}

/// Has the sender hold what the files hold.
async fn renew(files: &TlsFiles, mut known: Contents, sender: &watch::Sender<Arc<ServerConfig>>) {
    loop {
        tokio::time::sleep(files.look_every).await;
        let found = {
            let files = files.clone();
            tokio::task::spawn_blocking(move || Files::read(&files)).await
        };
        let Ok(found) = found else { return };
        let config = match found {
            Ok(found) if found.contents() == known => continue,
            Ok(found) => {
                known = found.contents();
                found.config(files)
            }
            Err(error) => {
                // As if they were empty, so that it is said once.
                let contents = Contents::default();
                if std::mem::replace(&mut known, contents) == contents {
                    continue;
                }
                Err(error)
            }
        };
        match config {
            Ok(config) => {
                sender.send_replace(config);
                tracing::info!(certificate = %files.certificate.display(), "a new certificate is shown from now on");
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the certificate has changed and cannot be used; the one before it stays"
            ),
        }
    }
}

/// What the two files hold.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
        })
    }

    fn contents(&self) -> Contents {
        let mut digest = Sha256::new();
        digest.update((self.certificate.len() as u64).to_be_bytes());
        digest.update(&self.certificate);
        digest.update(&self.key);
        digest.finalize().into()
    }

    fn config(&self, files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
        let missing = |file: &Path, what| TlsError::Missing {
            file: file.to_owned(),
            what,
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .unwrap_or_default();
        if chain.is_empty() {
            return Err(missing(&files.certificate, "certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| missing(&files.key, "key (one that is not encrypted)"))?;
        let unusable = |source| TlsError::Unusable {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Read {
            file: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

/// Tells a caller that speaks plain HTTP what to do instead.
async fn refuse(stream: &mut TcpStream) -> io::Result<()> {
    let code = Code::TlsRequired;
    let problem = Problem {
        kind: "about:blank".to_owned(),
        title: "Upgrade Required".to_owned(),
        status: code.status(),
        code: Some(code),
        detail: "this address takes TLS only; write https:// in place of http://".to_owned(),
        reason: None,
        earlier: false,
    };
    let body = serde_json::to_string(&problem)?;
    let answer = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {PROBLEM_MEDIA_TYPE}\r\ncontent-length: {}\r\nupgrade: TLS/1.2, HTTP/1.1\r\nconnection: upgrade, close\r\ncache-control: no-store\r\n\r\n{body}",
        problem.status,
        problem.title,
        body.len(),
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // To close with something unread would take the answer away from under its reader.
    tokio::io::copy(&mut stream.take(PLAIN_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}
