//! Answers without an end: the program gives up within bounds of memory, and the store stays whole.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::place::Place;
use crate::program::{err, highwater, text};
use crate::server::{Answer, COLUMNS, Server};

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_mins(5);

/// What the program may take of memory: one line of the largest size, twice while it grows, and room
/// for the rest. Address space, since that is what a system can bound.
const MEMORY_KIB_MAX: u64 = 1_500_000;

/// What it may hold of that at once: such a line, and half of another while it grows.
const PEAK_KIB_MAX: u64 = 600_000;

/// How often it is looked at how much that is. The system notes the most that there ever was.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Answers every request with the same beginning, and then with `piece` again and again.
pub(crate) async fn endless(begin: Vec<u8>, piece: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let (begin, piece) = (begin.clone(), piece.clone());
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = caller.read(&mut request).await;
                let mut sent = caller.write_all(&begin).await;
                while sent.is_ok() {
                    sent = caller.write_all(&piece).await;
                }
            });
        }
    });
    address
}

/// Pulls into a store, with little memory, by way of a proxy where the name is not that of this machine: only
/// then pages are compressed. Tells what the program said, and how many KiB it held at once at most.
pub(crate) async fn measured(place: &Place, server: &[&str], proxy: &str) -> (Output, u64) {
    let script = format!("ulimit -v {MEMORY_KIB_MAX}; exec \"$0\" \"$@\"");
    let program = highwater(&[]);
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(script).arg(program.as_std().get_program());
    command.args(["pull", "--quiet", "--store", text(&place.store())]);
    command.args(server);
    command
        .env("http_proxy", proxy)
        .env_remove("no_proxy")
        .env_remove("NO_PROXY");
    command.env_remove("HIGHWATER_TOKEN").kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("a shell");
    let status = format!("/proc/{}/status", child.id().expect("a process"));
    let mut peak_kib = 0;
    let mut ended = std::pin::pin!(tokio::time::timeout(PATIENCE, child.wait_with_output()));
    let output = loop {
        tokio::select! {
            biased;
            output = &mut ended => break output.expect("it gives up").expect("a program"),
            () = tokio::time::sleep(LOOK_EVERY) => {
                let status = std::fs::read_to_string(&status).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let peak = peak.and_then(|peak| peak.split_whitespace().next()?.parse().ok());
                peak_kib = peak_kib.max(peak.unwrap_or(0));
            }
        }
    };
    (output, peak_kib)
}

/// The pull fails with these words, and the store is as it was.
async fn fails(begin: Vec<u8>, piece: Vec<u8>, is_near: bool, words: &str) {
    let place = Place::filled(3).await;
    let address = endless(begin, piece).await;
    let name = if is_near {
        address.as_str()
    } else {
        "http://sync.example.org"
    };
    let (output, peak_kib) = measured(&place, &["--server", name], &address).await;
    assert!(peak_kib > 0 && peak_kib < PEAK_KIB_MAX, "{peak_kib} KiB");
    let said = err(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(words), "{said}");
    assert_eq!(place.query("store.db", "select count(*) from product"), ["3"]);
    assert_eq!(place.query("store.db", "pragma integrity_check"), ["ok"]);
    let server = Server::start([Answer::page("c2", false, &["7 Lamp"])]).await;
    place.succeeds("pull", &server.address).await;
    assert_eq!(place.query("store.db", "select count(*) from product"), ["4"]);
}

pub(crate) fn head(more: &str) -> Vec<u8> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.highwater.copy\r\nhighwater-source: source-1\r\n";
    format!("{head}{more}connection: close\r\n\r\n").into_bytes()
}

fn block() -> String {
    format!(
        "{{\"version\":1,\"entity\":\"product\",\"kind\":\"upsert\",\"columns\":{COLUMNS},\"fingerprint\":\"f\"}}\n"
    )
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("zstd")
}

#[tokio::test]
async fn a_row_without_an_end_is_given_up() {
    let begin = [head(""), block().into_bytes(), b"9\t".to_vec()].concat();
    fails(begin, vec![b'x'; 1 << 20], true, "longer than").await;
}

/// Each of them is in order.
#[tokio::test]
async fn rows_without_an_end_are_given_up() {
    let row = [
        b"9\t".to_vec(),
        vec![b'x'; 1 << 20],
        b"\t2026-11-22 10:00:00+00\n".to_vec(),
    ]
    .concat();
    let begin = [head(""), block().into_bytes()].concat();
    fails(begin, row, true, "larger than").await;
}

/// A few kilobytes that become gigabytes.
#[tokio::test]
async fn what_expands_without_an_end_is_given_up() {
    let begin = [
        head("content-encoding: zstd\r\n"),
        zstd((block() + "9\t").as_bytes()),
    ]
    .concat();
    let bomb = zstd(&vec![b'x'; 64 << 20]);
    assert!(bomb.len() < 64 << 10);
    fails(begin, bomb, false, "longer than").await;
}

#[tokio::test]
async fn headers_without_an_end_are_given_up() {
    let begin = b"HTTP/1.1 200 OK\r\n".to_vec();
    let words = "message head is too large";
    for piece in ["x: y\r\n".repeat(10_000), "x".repeat(65_536)] {
        // Tried again a few times, as what breaks off is.
        fails(begin.clone(), piece.into_bytes(), true, words).await;
    }
}

/// A problem is small, and so is a list of entities.
#[tokio::test]
async fn a_problem_without_an_end_is_given_up() {
    let begin = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n{\"detail\":\"";
    fails(begin.to_vec(), vec![b'x'; 1 << 16], true, "does not answer like").await;
}

#[tokio::test]
async fn a_frame_with_a_window_of_gigabytes_is_refused() {
    // The head of a zstd frame that asks for 2 GiB of memory to be read with.
    let frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x02, 0x00, 0x00];
    let begin = [head("content-encoding: zstd\r\n"), frame].concat();
    fails(begin, vec![0; 1 << 16], false, "too much memory").await;
}
