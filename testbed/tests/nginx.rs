//! The configuration in `deploy/` does what its comments say, in a real nginx that ends with its owner.
//!
//! The servers here are simple ones that the tests make answer as they like. The variables of this
//! process say which tests may be left out: see the crate's documentation.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use highwater_testbed::process::Signal;
use highwater_testbed::{NGINX_CONF, Nginx, Process, Result};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server that answers every request with what `answer` makes of it: the whole response. Where that
/// is nothing, it closes the connection.
struct Responder {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl Responder {
    fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (requests, sent) = (Arc::default(), Arc::default());
        let responder = Self {
            address: listener.local_addr()?,
            requests: Arc::clone(&requests),
            sent: Arc::clone(&sent),
        };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = Arc::clone(&answer);
                let (requests, sent) = (Arc::clone(&requests), Arc::clone(&sent));
                thread::spawn(move || {
                    while let Ok(request) = head(&stream) {
                        requests.fetch_add(1, Ordering::SeqCst);
                        let answer = answer(&request);
                        // Whoever asked may be gone.
                        if answer.is_empty() || (&stream).write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Ok(responder)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The head of a message, byte by byte, so that nothing of what follows is taken.
fn head(mut stream: &TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        bytes.extend(byte);
    }
    Ok(String::from_utf8(bytes)?)
}

fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

/// What nginx answers to `GET path` with further header lines: the whole response.
fn get(nginx: &Nginx, path: &str, headers: &str) -> Result<String> {
    let mut stream = TcpStream::connect(nginx.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn nginx(upstreams: &[SocketAddr]) -> Result<Option<Nginx>> {
    let nginx = Nginx::start(NGINX_CONF, upstreams)?;
    if nginx.is_none() {
        eprintln!("left out: it needs nginx");
    }
    Ok(nginx)
}

/// An address that refuses connections, as a server that is down does.
fn nobody() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn requests_pass_and_nothing_is_left_at_the_end() -> Result<()> {
    let server = Responder::start(|request| response("200 OK", "", request))?;
    let Some(mut nginx) = nginx(&[server.address])? else {
        return Ok(());
    };
    let answer = get(
        &nginx,
        "/changes?since=cursor&limit=7",
        "Accept-Encoding: zstd\r\n",
    )?;
    assert_eq!(status(&answer), "200");
    assert!(
        answer.contains("GET /changes?since=cursor&limit=7 HTTP/1.1"),
        "{answer}"
    );
    assert!(answer.contains("Accept-Encoding: zstd"), "{answer}");
    assert_eq!(nginx.error_log()?, "");

    let address = nginx.address();
    nginx.stop()?;
    assert!(TcpStream::connect(address).is_err());
    nginx.start_again()?;
    assert_eq!(status(&get(&nginx, "/", "")?), "200");
    let folder = nginx.folder().to_owned();
    drop(nginx);
    assert!(TcpStream::connect(address).is_err());
    assert!(!folder.exists());
    Ok(())
}

#[test]
fn killed_owner_leaves_no_nginx() -> Result<()> {
    if nginx(&[nobody()?])?.is_none() {
        return Ok(());
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-testbed"));
    command.args(["nginx", &nobody()?.to_string()]);
    command.stdout(Stdio::piped());
    let mut owner = Process::spawn(command)?;
    let stdout = owner.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let url = lines.next().context("it has ended")??;
    let folder = lines.next().context("it has ended")??;
    let address = url.strip_prefix("http://").context("not a URL")?.to_owned();
    let folder = folder.strip_prefix("folder ").context("not a folder")?;
    TcpStream::connect(&address)?;
    owner.signal(Signal::Kill)?;
    until("nginx or its folder is still there", || {
        Ok(TcpStream::connect(&address).is_err() && !std::fs::exists(folder)?)
    })
}

#[test]
fn reload_takes_other_servers_and_refuses_nonsense() -> Result<()> {
    let one = Responder::start(|_| response("200 OK", "", "one"))?;
    let two = Responder::start(|_| response("200 OK", "", "two"))?;
    let Some(mut nginx) = nginx(&[one.address])? else {
        return Ok(());
    };
    assert!(get(&nginx, "/", "")?.ends_with("one"));
    nginx.reload(NGINX_CONF, &[two.address])?;
    assert!(get(&nginx, "/", "")?.ends_with("two"));
    let nonsense = NGINX_CONF.replace("proxy_buffering on;", "proxy_buffering perhaps;");
    let refused = nginx.reload(&nonsense, &[one.address]).unwrap_err().to_string();
    assert!(refused.contains("proxy_buffering"), "{refused}");
    assert!(get(&nginx, "/", "")?.ends_with("two"));
    Ok(())
}

#[test]
fn what_a_server_cannot_answer_the_next_one_does() -> Result<()> {
    let unavailable =
        Responder::start(|_| response("503 Service Unavailable", "Retry-After: 1\r\n", "later"))?;
    let server = Responder::start(|_| response("200 OK", "", "page"))?;
    for fails in [unavailable.address, nobody()?] {
        let Some(nginx) = nginx(&[fails, server.address])? else {
            return Ok(());
        };
        for _ in 0..20 {
            assert_eq!(status(&get(&nginx, "/changes", "")?), "200");
        }
    }
    assert!(unavailable.requests() > 0);

    // The errors that mean something to the caller are not passed on.
    let gone = Responder::start(|_| response("410 Gone", "", "resync"))?;
    let Some(nginx) = nginx(&[gone.address, gone.address])? else {
        return Ok(());
    };
    assert_eq!(status(&get(&nginx, "/changes", "")?), "410");
    assert_eq!(gone.requests(), 1);
    Ok(())
}

#[test]
fn where_no_server_answers_nginx_says_so_in_their_form_and_goes_on_asking() -> Result<()> {
    let healthy = Arc::new(Mutex::new(false));
    let is_healthy = Arc::clone(&healthy);
    let server = Responder::start(move |_| {
        if *is_healthy.lock().unwrap() {
            response("200 OK", "", "page")
        } else {
            String::new()
        }
    })?;
    let Some(nginx) = nginx(&[server.address, nobody()?])? else {
        return Ok(());
    };
    for _ in 0..20 {
        let answer = get(&nginx, "/changes", "X-Request-Id: mine\r\n")?;
        assert_eq!(status(&answer), "503");
        assert!(
            answer.contains("Content-Type: application/problem+json"),
            "{answer}"
        );
        assert!(answer.contains("X-Request-Id: mine"), "{answer}");
        assert!(answer.contains("Retry-After: 5"), "{answer}");
        assert!(answer.contains(r#""code":"unavailable""#), "{answer}");
    }
    // All have failed too often by now. They are asked all the same.
    *healthy.lock().unwrap() = true;
    assert_eq!(status(&get(&nginx, "/changes", "")?), "200");
    Ok(())
}

#[test]
fn only_what_the_server_allows_is_kept_and_nothing_of_a_callers_own() -> Result<()> {
    let server = Responder::start(|request| {
        let (status, headers) = match request.split(' ').nth(1).unwrap_or_default() {
            "/kept" => ("200 OK", "Cache-Control: public, max-age=60\r\nVary: Accept\r\n"),
            "/error" => ("404 Not Found", "Cache-Control: public, max-age=60\r\n"),
            "/private" => ("200 OK", "Cache-Control: no-store\r\n"),
            "/waits?wait=50" => ("200 OK", "Cache-Control: public, max-age=60\r\n"),
            _ => ("200 OK", ""),
        };
        response(status, headers, "page")
    })?;
    let Some(nginx) = nginx(&[server.address])? else {
        return Ok(());
    };
    let asked = |path: &str, headers: &str| -> Result<usize> {
        let before = server.requests();
        get(&nginx, path, headers)?;
        get(&nginx, path, headers)?;
        Ok(server.requests() - before)
    };
    assert_eq!(asked("/kept", "Accept: application/json\r\n")?, 1);
    assert_eq!(asked("/kept", "Accept: other/form\r\n")?, 1);
    assert_eq!(asked("/kept", "Authorization: Bearer secret\r\n")?, 2);
    for path in ["/error", "/private", "/unsaid", "/waits?wait=50"] {
        assert_eq!(asked(path, "")?, 2, "{path}");
    }
    // Each response has an id of its own, also where the page is an old one.
    let answer = get(&nginx, "/kept", "Accept: other/form\r\nX-Request-Id: mine\r\n")?;
    assert!(answer.contains("X-Request-Id: mine"), "{answer}");
    Ok(())
}

#[test]
fn a_page_that_has_grown_old_is_asked_for_by_its_etag() -> Result<()> {
    let server = Responder::start(|request| {
        let headers = "Cache-Control: public, max-age=1\r\nETag: \"one\"\r\n";
        if request.contains("If-None-Match: \"one\"") {
            format!("HTTP/1.1 304 Not Modified\r\n{headers}\r\n")
        } else {
            response("200 OK", headers, "page")
        }
    })?;
    let Some(nginx) = nginx(&[server.address])? else {
        return Ok(());
    };
    until("it was never asked for by its ETag", || {
        let answer = get(&nginx, "/kept", "")?;
        assert_eq!(status(&answer), "200");
        assert!(answer.ends_with("page"), "{answer}");
        Ok(nginx.access_log()?.contains(" REVALIDATED "))
    })?;
    let answer = get(&nginx, "/kept", "If-None-Match: \"one\"\r\n")?;
    assert_eq!(status(&answer), "304");
    Ok(())
}

#[test]
fn of_many_who_ask_for_the_same_page_one_is_let_through() -> Result<()> {
    let (reply, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Responder::start(move |_| {
        // Until the test lets it.
        let _ = gate.lock().unwrap().recv();
        response("200 OK", "Cache-Control: public, max-age=60\r\n", "page")
    })?;
    let Some(nginx) = nginx(&[server.address])? else {
        return Ok(());
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| get(&nginx, "/changes", "")))
            .collect();
        until("nobody asks", || Ok(server.requests() > 0))?;
        reply.send(())?;
        for caller in callers {
            let answer = caller.join().unwrap()?;
            assert!(answer.ends_with("page"), "{answer}");
        }
        assert_eq!(server.requests(), 1);
        Ok(())
    })
}

#[test]
fn a_slow_reader_does_not_hold_the_server() -> Result<()> {
    // As large as pages become.
    const PAGE_BYTES: usize = 32 << 20;
    let page = "x".repeat(PAGE_BYTES);
    let server = Responder::start(move |_| response("200 OK", "", &page))?;
    let Some(nginx) = nginx(&[server.address])? else {
        return Ok(());
    };
    let mut stream = TcpStream::connect(nginx.address())?;
    write!(
        stream,
        "GET /changes HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )?;
    // Nothing has been read yet; the sockets between hold a few megabytes at most.
    until("the page was not taken from the server", || {
        Ok(server.sent.load(Ordering::SeqCst) == 1)
    })?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    assert!(answer.len() > PAGE_BYTES);
    Ok(())
}

#[test]
fn the_longest_cursor_passes_and_stays_out_of_the_log() -> Result<()> {
    let server = Responder::start(|request| response("200 OK", "", &request.len().to_string()))?;
    let Some(nginx) = nginx(&[server.address])? else {
        return Ok(());
    };
    let cursor = "c".repeat(64 * 1024);
    let answer = get(&nginx, &format!("/changes?since={cursor}&entity=product"), "")?;
    assert_eq!(status(&answer), "200", "{answer}");
    let log = nginx.access_log()?;
    assert!(log.contains("\"GET /changes\" 200 "), "{log}");
    assert!(!log.contains("since"), "{log}");
    assert_eq!(nginx.error_log()?, "");
    Ok(())
}
