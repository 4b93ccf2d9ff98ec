//! A slow network on one machine: a proxy that lets no more bytes pass than a link of a given rate
//! would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::measure::float;

/// Bytes that are passed on at a time: 7 ms at 10 Mbit/s.
const CHUNK_BYTES: usize = 8 * 1024;
const BITS_PER_BYTE: u64 = 8;

/// A proxy for one server; it ends, and its connections with it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) url: String,
    down: Arc<Bucket>,
    listening: JoinHandle<()>,
}

/// Lets bytes pass at a rate, for all connections of a direction together.
#[derive(Debug)]
struct Bucket {
    bits_per_second: u64,
    /// When all that has been let in will have passed.
    free: Mutex<Instant>,
    passed: AtomicU64,
}

impl Link {
    /// Stands before the server at `url`.
    pub(crate) async fn open(url: &str, bits_per_second: u64) -> Result<Self> {
        let server = url.strip_prefix("http://").context("not a URL of a server")?;
        let server: SocketAddr = server.parse()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (up, down) = (Bucket::new(bits_per_second), Bucket::new(bits_per_second));
        let passing = Arc::clone(&down);
        let listening = tokio::spawn(async move {
            // Dropped with this task, the set ends what goes through it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connect(client, server, Arc::clone(&up), Arc::clone(&passing)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { url, down, listening })
    }

    /// How many bytes have passed from the server to its clients.
    pub(crate) fn passed(&self) -> u64 {
        self.down.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Bucket {
    fn new(bits_per_second: u64) -> Arc<Self> {
        Arc::new(Self {
            bits_per_second,
            free: Mutex::new(Instant::now()),
            passed: AtomicU64::new(0),
        })
    }

    /// Waits until `bytes` have passed.
    async fn pass(&self, bytes: usize) {
        let bytes = bytes as u64;
        let takes = float(bytes * BITS_PER_BYTE) / float(self.bits_per_second);
        let through = {
            let mut free = self.free.lock().await;
            // A link that was idle saves nothing up.
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(takes);
            *free
        };
        tokio::time::sleep_until(through).await;
        self.passed.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Passes one connection through until both sides have ended it.
async fn connect(client: TcpStream, server: SocketAddr, up: Arc<Bucket>, down: Arc<Bucket>) {
    // Whoever is connected sees a connection that broke; there is nobody else to tell.
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pump(from_client, to_server, &up),
        pump(from_server, to_client, &down)
    );
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, bucket: &Bucket) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(read) = from.read(&mut chunk).await {
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        bucket.pass(read).await;
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_the_time_of_the_link() {
        const BYTES: usize = 100_000;
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let link = Link::open(&url, 8_000_000).await.unwrap();
        let sending = tokio::spawn(async move {
            let (mut client, _) = server.accept().await.unwrap();
            client.write_all(&vec![7; BYTES]).await.unwrap();
        });
        let began = Instant::now();
        let address = link.url.strip_prefix("http://").unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut arrived = Vec::new();
        client.read_to_end(&mut arrived).await.unwrap();
        sending.await.unwrap();
        assert_eq!(arrived, vec![7; BYTES]);
        assert_eq!(link.passed(), BYTES as u64);
        // 100,000 bytes at 1,000,000 a second.
        assert!(began.elapsed() >= Duration::from_millis(99));
    }
}
