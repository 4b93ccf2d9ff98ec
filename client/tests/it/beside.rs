//! What may be done beside a pull in the same process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use highwater_client::{Client, Depth, Error, Pace, State, Store};
use tokio_util::sync::CancellationToken;

use crate::server::{Answer, Server};

const PATIENCE: Duration = Duration::from_mins(1);

/// Enough that the last of them arrive while the first are written.
const ROWS: usize = 100_000;

/// The store is asked about the pull while a page is written into it, and the page has to wait for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_may_ask_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<String> = (1..=ROWS).map(|id| format!("{id} Chair")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let server = Server::start([
        Answer::first_page("c1", true, &["0 Table"]),
        Answer::page("c2", false, &rows),
    ])
    .await;
    let store: Arc<OnceLock<Store>> = Arc::default();
    let asked: Arc<AtomicUsize> = Arc::default();
    let observer = {
        let (store, asked) = (Arc::clone(&store), Arc::clone(&asked));
        move |_: highwater_client::Event<'_>| {
            let helpers = store.get().unwrap().sync_helpers().unwrap();
            // In the middle of the second page it stands as the first one left it.
            if helpers.iter().any(|helper| helper.state == State::Pulling) {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let client = Client::builder(&server.address)
        .observer(observer)
        .open(folder.path().join("store.db"))
        .unwrap();
    store.set(client.store().clone()).unwrap();
    let (ended, end) = mpsc::channel();
    // Not a thread of the test's, which would wait for it for ever.
    thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        ended.send(runtime.block_on(client.pull())).unwrap();
    });
    let pulled = tokio::task::block_in_place(|| end.recv_timeout(PATIENCE));
    assert_eq!(
        pulled.expect("it waits for itself").unwrap().rows,
        ROWS as u64 + 1
    );
    assert!(asked.load(Ordering::Relaxed) > 1);
}

/// One that follows holds its request at the server, and is not waited for.
#[tokio::test]
async fn a_pull_that_waits_for_another_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start([
        Answer::first_page("c1", false, &["1 Chair"]),
        Answer::page("c1", false, &[]).after(PATIENCE * 2),
    ])
    .await;
    let client = Client::builder(&server.address)
        .open(folder.path().join("store.db"))
        .unwrap();
    client.pull().await.unwrap();
    let (following, stop) = (CancellationToken::new(), CancellationToken::new());
    let follows = client.follow(Pace::Live, &following);
    let stopped = async {
        while server.asked().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let waiting = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            stop.cancel();
        };
        let (pulled, ()) = tokio::join!(client.pull_until(&stop), waiting);
        assert!(matches!(pulled, Err(Error::Stopped)), "{pulled:?}");
        let repaired = client.repair(Depth::Dates, &stop).await;
        assert!(matches!(repaired, Err(Error::Stopped)), "{repaired:?}");
        following.cancel();
    };
    let both = async { tokio::join!(follows, stopped) };
    let (followed, ()) = tokio::time::timeout(PATIENCE, both)
        .await
        .expect("it waits for the other");
    followed.unwrap();
}
