//! A network that fails: a proxy that stands before one server, and that cuts connections, truncates
//! answers, delays them, holds them, or lets no more pass than a link of a given rate would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::Result;

/// Bytes that are passed on at a time: 7 ms at 10 Mbit/s.
const CHUNK_BYTES: usize = 8 * 1024;
const BITS_PER_BYTE: f64 = 8.0;

/// What is wrong with a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// After so many bytes of answers a connection is reset.
    Cut(usize),
    /// After so many bytes of answers a connection is ended as if there were no more to come.
    Truncate(usize),
    /// Each piece of up to 8 KiB comes that much later.
    Delay(Duration),
    /// No answers come, until the fault is another one.
    Hold,
    /// All connections of a direction share a link of so many bits a second.
    Throttle(u32),
}

/// A proxy for one server; it ends, and its connections with it, when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    down: Arc<Direction>,
    listening: JoinHandle<()>,
}

/// What passes in one direction, of all connections together.
#[derive(Debug)]
struct Direction {
    /// When all that has been let in will have passed.
    free: Mutex<Instant>,
    bytes: AtomicU64,
}

/// How a direction of a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By one of those who are connected.
    Theirs,
    /// By us, as if by the other side.
    Truncated,
    /// By us, as a network fails.
    Cut,
}

impl Proxy {
    /// Stands before the server at `server`.
    pub async fn before(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let (up, down) = (Direction::new(), Direction::new());
        let counted = Arc::clone(&down);
        let listening = tokio::spawn(async move {
            // Dropped with this task, the set ends what goes through it.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(
                    client,
                    server,
                    Arc::clone(&up),
                    Arc::clone(&counted),
                    faults.clone(),
                ));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            fault,
            down,
            listening,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has something be wrong from now on, with connections that are open as well.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many bytes have passed from the server to its clients.
    pub fn passed(&self) -> u64 {
        self.down.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Direction {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
        })
    }

    /// Waits until `bytes` have passed a link of this rate.
    async fn wait(&self, bytes: usize, bits_per_second: u32) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let takes = f64::from(bytes) * BITS_PER_BYTE / f64::from(bits_per_second);
        let through = {
            let mut free = self.free.lock().await;
            // A link that was idle saves nothing up.
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(takes);
            *free
        };
        tokio::time::sleep_until(through).await;
    }
}

/// Passes one connection through until both sides have ended it, or the network has.
async fn pass(
    client: TcpStream,
    server: SocketAddr,
    up: Arc<Direction>,
    down: Arc<Direction>,
    faults: watch::Receiver<Fault>,
) {
    // Whoever is connected sees a connection that broke; there is nobody else to tell.
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asking = ask(from_client, to_server, &up, &faults);
    let answering = answer(from_server, to_client, &down, faults.clone());
    let mut asking = std::pin::pin!(asking);
    let mut answering = std::pin::pin!(answering);
    let (to_client, end) = tokio::select! {
        answered = &mut answering => {
            if answered.1 == End::Theirs {
                asking.await;
            }
            answered
        }
        () = &mut asking => answering.await,
    };
    if end == End::Cut {
        let _ = to_client.as_ref().set_zero_linger();
        to_client.forget();
    }
}

/// Passes on what a client says. Only a slow link makes that harder.
async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    up: &Direction,
    faults: &watch::Receiver<Fault>,
) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let fault = *faults.borrow();
        if let Fault::Throttle(bits_per_second) = fault {
            up.wait(read, bits_per_second).await;
        }
        if to.write_all(chunk.get(..read).unwrap_or_default()).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Passes on what a server answers, as well as the network is.
async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    down: &Direction,
    mut faults: watch::Receiver<Fault>,
) -> (OwnedWriteHalf, End) {
    let mut chunk = [0; CHUNK_BYTES];
    let mut passed = 0;
    let mut end = End::Theirs;
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        // It fails only where the proxy is gone, and this with it.
        let _ = faults.wait_for(|fault| *fault != Fault::Hold).await;
        let fault = *faults.borrow();
        let mut most = read;
        match fault {
            Fault::None | Fault::Hold => {}
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Throttle(bits_per_second) => down.wait(read, bits_per_second).await,
            Fault::Cut(bytes) | Fault::Truncate(bytes) => most = bytes.saturating_sub(passed).min(read),
        }
        if to.write_all(chunk.get(..most).unwrap_or_default()).await.is_err() {
            break;
        }
        passed += most;
        down.bytes.fetch_add(most as u64, Ordering::Relaxed);
        if most < read {
            end = if matches!(fault, Fault::Cut(_)) {
                End::Cut
            } else {
                End::Truncated
            };
            break;
        }
    }
    if end != End::Cut {
        let _ = to.shutdown().await;
    }
    (to, end)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    const BYTES: usize = 100_000;

    /// A server that sends a number of bytes to whoever connects, and a proxy before it.
    async fn sending() -> Proxy {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::before(server.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = server.accept().await {
                let _ = client.write_all(&vec![7; BYTES]).await;
            }
        });
        proxy
    }

    /// How many bytes come through, and how it ends.
    async fn read(proxy: &Proxy) -> (usize, Option<ErrorKind>) {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let mut arrived = Vec::new();
        let end = client.read_to_end(&mut arrived).await;
        (arrived.len(), end.err().map(|error| error.kind()))
    }

    #[tokio::test]
    async fn bytes_take_the_time_of_the_link() {
        let proxy = sending().await;
        proxy.set(Fault::Throttle(8_000_000));
        let began = Instant::now();
        assert_eq!(read(&proxy).await, (BYTES, None));
        assert_eq!(proxy.passed(), BYTES as u64);
        // 100,000 bytes at 1,000,000 a second.
        assert!(began.elapsed() >= Duration::from_millis(99));
    }

    #[tokio::test]
    async fn a_truncated_answer_ends_as_a_whole_one_does_and_a_cut_one_does_not() {
        let proxy = sending().await;
        assert_eq!(read(&proxy).await, (BYTES, None));
        proxy.set(Fault::Truncate(10_000));
        assert_eq!(read(&proxy).await, (10_000, None));
        proxy.set(Fault::Cut(10_000));
        let (arrived, error) = read(&proxy).await;
        assert!(arrived <= 10_000);
        assert_eq!(error, Some(ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn what_is_held_comes_later() {
        let proxy = sending().await;
        proxy.set(Fault::Hold);
        let mut reading = std::pin::pin!(read(&proxy));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut reading).await;
        assert!(early.is_err(), "{early:?}");
        proxy.set(Fault::Delay(Duration::from_millis(1)));
        assert_eq!(reading.await, (BYTES, None));
    }
}
