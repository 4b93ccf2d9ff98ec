//! What is set on a connection when it is accepted.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// Callers that have connected and not been accepted yet. Where more come in one moment, as when a server
/// comes back to its fleet, the system lets them try again after a second.
const BACKLOG: i32 = 4096;

/// Has the listener take many callers who come in one moment.
pub(super) fn widen(listener: &TcpListener) {
    if let Err(error) = socket2::SockRef::from(listener).listen(BACKLOG) {
        tracing::debug!(%error, "the listener keeps its backlog");
    }
}

/// Sets what a response needs to arrive soon, or to be given up.
pub(super) fn prepare(stream: &TcpStream, send_wait_max: Duration) {
    let set = stream
        .set_nodelay(true)
        // Or the end of a body waits for the acknowledgement of what came before it, 40 ms on Linux.
        .and_then(|()| give_up_after(stream, send_wait_max));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection cannot be set up as it should be");
    }
}

/// Has the system end the connection when its caller takes nothing of what was sent for so long: the
/// last chunks of its page would stay in memory until it is gone.
#[cfg(target_os = "linux")]
fn give_up_after(stream: &TcpStream, send_wait_max: Duration) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(send_wait_max))
}

/// Elsewhere no system call is known for it, and it is the caller's system that ends the connection.
#[cfg(not(target_os = "linux"))]
fn give_up_after(_stream: &TcpStream, _send_wait_max: Duration) -> io::Result<()> {
    Ok(())
}
