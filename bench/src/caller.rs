//! One caller among thousands: a connection that is kept, and nothing else. A pool would decide by
//! itself how many connections there are, and each shall be that of one device.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use highwater_shared::{COPY_MEDIA_TYPE, Trailer};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, HOST, RETRY_AFTER};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::pages;

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Caller {
    sender: SendRequest<Empty<Bytes>>,
    address: String,
}

/// What a server answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// How long the server asks to wait before another attempt.
    pub(crate) retry_after: Option<Duration>,
}

impl Caller {
    /// Connects to the server at a URL such as `http://127.0.0.1:8080`.
    pub(crate) async fn connect(server: &str) -> Result<Self> {
        let address = server.strip_prefix("http://").context("not a URL of a server")?;
        let stream = TcpStream::connect(address)
            .await
            .context("cannot connect to the server")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender, which is also told what went wrong.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            address: address.to_owned(),
        })
    }

    /// Asks, and reads the answer to its end.
    pub(crate) async fn ask(&mut self, path: &str) -> Result<Answer> {
        let request = Request::get(path)
            .header(HOST, &self.address)
            .header(ACCEPT, COPY_MEDIA_TYPE)
            .body(Empty::new())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let seconds = response.headers().get(RETRY_AFTER);
        let seconds = seconds.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        Ok(Answer {
            status,
            body: response.into_body().collect().await?.to_bytes(),
            retry_after: seconds.map(Duration::from_secs),
        })
    }

    /// The end of a page that must be served.
    pub(crate) async fn page(&mut self, path: &str) -> Result<Trailer> {
        let answer = self.ask(path).await?;
        ensure!(
            answer.status == StatusCode::OK,
            "the server answered {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        pages::trailer(&answer.body)
    }
}
