//! The server has every entity begin anew: a fleet waits at random, and readers keep their rows.

use super::*;

/// Over how long the tests spread.
const SPREAD: Duration = Duration::from_mins(1);

/// A clock that notes who sleeps for how long, and what readers see meanwhile.
struct Sleeper<'a> {
    place: &'a Place,
    /// Cancelled by the one who sleeps, who then does not wake up.
    stop: Option<CancellationToken>,
    slept: Mutex<Vec<(Duration, Vec<String>)>>,
}

impl Clock for Sleeper<'_> {
    fn now(&self) -> Timestamp {
        NoTime.now()
    }

    fn monotonic(&self) -> Instant {
        NoTime.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        let seen = self.place.query("select name from product");
        self.slept.lock().expect("slept").push((duration, seen));
        if let Some(stop) = &self.stop {
            stop.cancel();
            std::future::pending::<()>().await;
        }
    }
}

/// A pull into a store that was filled before, of which the server may say that its cursor is gone.
struct Resync<'a> {
    place: &'a Place,
    store: &'a Store,
    resyncs: Spread,
    is_stopped: bool,
}

impl Resync<'_> {
    async fn pull(&self, pages: impl IntoIterator<Item = Bytes>) -> (Pulled, Vec<(Duration, Vec<String>)>) {
        let script = Script {
            pages: Mutex::new(pages.into_iter().collect()),
            source: "source-1".to_owned(),
            ..Script::default()
        };
        let stop = CancellationToken::new();
        let clock = Sleeper {
            place: self.place,
            stop: self.is_stopped.then(|| stop.clone()),
            slept: Mutex::default(),
        };
        let pull = Pull {
            remote: &script,
            store: self.store,
            clock: &clock,
            wanted: None,
            keep_deleted: false,
            wait: Duration::ZERO,
            retries: ExponentialBuilder::new().with_max_times(0),
            resyncs: self.resyncs,
            shortcut: None,
            takes_rescoped: true,
            stop: &stop,
            observer: &|_| {},
        };
        let outcome = pull.run().await;
        let pulled = Pulled {
            outcome,
            asks: script.asks.into_inner().expect("asks"),
        };
        (pulled, clock.slept.into_inner().expect("slept"))
    }
}

fn anew() -> Bytes {
    Page::new().reset().upsert(&["1 Bench"]).end("c2", false)
}

async fn filled() -> (Place, Store) {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
    pull(&store, [page]).await.report();
    (place, store)
}

#[tokio::test]
async fn the_wait_is_random_and_the_old_rows_stay_readable_meanwhile() {
    let mut waits = Vec::new();
    for seed in 0..20 {
        let (place, store) = filled().await;
        let resync = Resync {
            place: &place,
            store: &store,
            resyncs: Spread::over(SPREAD).seeded(seed),
            is_stopped: false,
        };
        let (pulled, slept) = resync.pull([GONE, anew()]).await;
        assert_eq!(pulled.since(), [Some("c1"), None]);
        pulled.report();
        assert_eq!(slept.len(), 1);
        let (wait, seen) = &slept[0];
        assert!(*wait < SPREAD, "{wait:?}");
        assert_eq!(*seen, ["Chair"]);
        waits.push(*wait);
        assert_eq!(place.query("select name from product"), ["Bench"]);
    }
    waits.sort_unstable();
    waits.dedup();
    assert_eq!(waits.len(), 20, "they arrive together");
}

#[tokio::test]
async fn whoever_waits_for_the_pull_is_not_made_to_wait_longer() {
    let (place, store) = filled().await;
    let resync = Resync {
        place: &place,
        store: &store,
        resyncs: Spread::none(),
        is_stopped: false,
    };
    let (pulled, slept) = resync.pull([GONE, anew()]).await;
    pulled.report();
    assert!(slept.is_empty(), "{slept:?}");
}

#[tokio::test]
async fn an_entity_that_begins_anew_within_a_page_waits_for_nobody() {
    let (place, store) = filled().await;
    let resync = Resync {
        place: &place,
        store: &store,
        resyncs: Spread::over(SPREAD),
        is_stopped: false,
    };
    let (pulled, slept) = resync.pull([anew()]).await;
    assert_eq!(pulled.since(), [Some("c1")]);
    pulled.report();
    assert!(slept.is_empty(), "{slept:?}");
}

#[tokio::test]
async fn a_stop_ends_the_wait_and_the_next_pull_is_told_again() {
    let (place, store) = filled().await;
    let resync = |is_stopped| Resync {
        place: &place,
        store: &store,
        resyncs: Spread::over(SPREAD),
        is_stopped,
    };
    let before = place.dump();
    let (pulled, _) = resync(true).pull([GONE]).await;
    assert!(pulled.error().is_stopped());
    assert_eq!(place.dump(), before);
    let (pulled, slept) = resync(false).pull([GONE, anew()]).await;
    assert_eq!(pulled.since(), [Some("c1"), None]);
    pulled.report();
    assert_eq!(slept.len(), 1);
}
