//! What a pull asks once more, what it gives up, and what it waits for.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::applied::PageApplied;
use crate::meter::Meter;
use crate::pull::{Refused, Taking};

fn filled() -> Bytes {
    Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table"])
        .end("c1", false)
}

/// A page that breaks off before its end.
fn broken(page: &Bytes) -> Bytes {
    page.slice(..page.len() - 10)
}

#[tokio::test]
async fn only_the_first_question_about_everything_is_held_by_the_server() {
    let place = Place::new();
    let pages = [
        Page::new().reset().end("c1", true),
        Page::new().upsert(&["1 Chair"]).end("c2", false),
    ];
    let wait = Duration::from_secs(5);
    let options = Options {
        wait,
        ..Options::default()
    };
    let pulled = pull_with(&place.open(), pages, options).await;
    let waits: Vec<Duration> = pulled.asks.iter().map(|ask| ask.wait).collect();
    assert_eq!(waits, [wait, Duration::ZERO]);
}

#[tokio::test]
async fn a_server_that_goes_in_circles_is_given_up_and_no_other() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [filled()]).await.report();
    let numbered = |page: Page, from: usize, times: usize| {
        (from..from + times).map(move |number| page.clone().end(&format!("n{number}"), true))
    };
    let empty = |from, times| numbered(Page::new(), from, times);
    let end = || [Page::new().end("c3", false)];
    // A deletion is something that came, and so is each of many rows.
    let deletion = numbered(Page::new().delete(&["1"], "deleted"), 100, 1);
    let pages = empty(0, 100).chain(deletion).chain(empty(101, 100)).chain(end());
    assert_eq!(pull(&store, pages).await.report().deleted, 1);
    let rows = numbered(Page::new().upsert(&["2 Desk"]), 0, 150);
    assert_eq!(pull(&store, rows.chain(end())).await.report().rows, 150);
    let error = pull(&store, empty(0, 101).chain(end())).await.error();
    assert!(matches!(error, Error::Stalled), "{error}");
}

#[tokio::test]
async fn what_broke_off_is_asked_again_as_often_as_was_said_and_counted() {
    let place = Place::new();
    let page = filled();
    let tries = |retries, pages: Vec<Bytes>| {
        let (store, options) = (
            place.open(),
            Options {
                retries,
                ..Options::default()
            },
        );
        async move { pull_with(&store, pages, options).await }
    };
    let error = tries(1, vec![broken(&page), broken(&page), page.clone()])
        .await
        .error();
    assert!(matches!(error, Error::Incomplete), "{error}");
    let report = tries(2, vec![broken(&page), broken(&page), page.clone()])
        .await
        .report();
    assert_eq!((report.rows, report.retries), (2, 2));
    // What no second attempt can mend gets none.
    let pulled = tries(2, vec![Bytes::from_static(b"no page\n"), page]).await;
    assert_eq!(pulled.asks.len(), 1);
    assert!(matches!(pulled.error(), Error::Malformed(_)));
}

#[tokio::test]
async fn rows_of_an_attempt_that_failed_are_not_told_as_progress() {
    let place = Place::new();
    let first = Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table"])
        .end("c1", true);
    let second = Page::new().delete(&["1"], "deleted").end("c2", true);
    let third = Page::new().upsert(&["3 Lamp", "4 Desk"]).end("c3", false);
    let told = Mutex::new(Vec::new());
    let options = Options {
        retries: 1,
        observer: &|event| match event {
            Event::Progress(progress) => told.lock().expect("told").push(progress.rows),
            Event::Retrying { .. } => told.lock().expect("told").clear(),
            _ => {}
        },
        ..Options::default()
    };
    let pages = [first, second, broken(&third), third];
    pull_with(&place.open(), pages, options).await.report();
    let told = told.into_inner().expect("told");
    assert_eq!(told.first(), Some(&3), "{told:?}");
}

#[tokio::test]
async fn a_server_that_refuses_a_question_without_a_cursor_is_not_asked_again() {
    let place = Place::new();
    let pulled = pull(&place.open(), [GONE, filled()]).await;
    assert_eq!(pulled.asks.len(), 1);
    assert!(matches!(pulled.error(), Error::Resync { reason: None, .. }));
}

#[tokio::test]
async fn rows_of_a_scope_that_was_taken_away_go_and_those_of_a_disabled_entity_stay() {
    for (gone, expected) in [(GONE, 1), (SCOPE_CHANGED, 0)] {
        let place = Place::new();
        let store = place.open();
        let both = filled_with_tax();
        pull(&store, [both]).await.report();
        pull(&store, [gone, filled()]).await.report();
        assert_eq!(place.query("select id from tax").len(), expected);
    }
}

fn filled_with_tax() -> Bytes {
    Page::new()
        .reset()
        .upsert(&["1 Chair"])
        .reset_of("tax")
        .upsert_of("tax", &["7 VAT"])
        .end_covering("c1", false, BOTH)
}

#[tokio::test]
async fn columns_that_change_under_a_pull_begin_anew_a_bounded_number_of_times() {
    let changing = || {
        let page = Page::new().reset().fingerprint("f2").upsert(&["1 Chair"]);
        page.end("c1", false)
    };
    for (times, is_served) in [(16, true), (17, false)] {
        let place = Place::new();
        let store = place.open();
        pull(&store, [filled()]).await.report();
        let pages = std::iter::repeat_with(changing).take(times).chain([filled()]);
        let pulled = pull(&store, pages).await;
        assert_eq!((pulled.asks.len(), pulled.outcome.is_ok()), (17, is_served));
        if let Err(error) = pulled.outcome {
            assert!(matches!(error, Error::SchemaChanged { .. }), "{error}");
        }
    }
}

/// A comparison that fails with these errors, one after the other, and then says that all is to begin anew.
struct Declines {
    /// How many rows an entity must have for it.
    rows_min: u64,
    errors: Mutex<Vec<Error>>,
    times: AtomicUsize,
}

impl Declines {
    fn new(rows_min: u64, errors: Vec<Error>) -> Self {
        Self {
            rows_min,
            errors: Mutex::new(errors),
            times: AtomicUsize::new(0),
        }
    }
}

impl Shortcut for Declines {
    fn take<'a>(&'a self, _: Refused, meter: &'a Meter) -> Taking<'a> {
        self.times.fetch_add(1, Ordering::Relaxed);
        // What it looks at is no progress of the pull.
        meter.set_rows(1_000);
        let error = self.errors.lock().expect("errors").pop();
        Box::pin(async move { error.map_or(Ok(None::<PageApplied>), Err) })
    }

    fn rows_min(&self) -> u64 {
        self.rows_min
    }
}

#[tokio::test]
async fn a_comparison_that_breaks_off_is_tried_again_and_one_that_fails_ends_the_pull() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [filled()]).await.report();
    let told = Mutex::new(Vec::new());
    let compared = |errors, pages: Vec<Bytes>| {
        let (store, told) = (&store, &told);
        async move {
            let declines = Declines::new(0, errors);
            let observer = |event: Event<'_>| {
                if let Event::Progress(progress) = event {
                    told.lock().expect("told").push(progress.rows);
                }
            };
            let options = Options {
                retries: 9,
                shortcut: Some(&declines),
                observer: &observer,
                ..Options::default()
            };
            pull_with(store, pages, options).await
        }
    };
    let pages = || vec![GONE, GONE, filled()];
    let pulled = compared(vec![Error::Incomplete], pages()).await;
    assert_eq!(pulled.since(), [Some("c1"), Some("c1"), None]);
    assert_eq!(pulled.report().retries, 1);
    assert_eq!(told.lock().expect("told").first(), Some(&0));
    let error = compared(vec![Error::Stalled], pages()).await.error();
    assert!(matches!(error, Error::Stalled), "{error}");
    // Where it breaks off each time, all begins anew.
    let endless = (0..9).map(|_| Error::Incomplete).collect();
    let pulled = compared(endless, pages()).await;
    assert_eq!(pulled.since(), [Some("c1"), Some("c1"), None]);
    pulled.report();
}

#[tokio::test]
async fn an_entity_that_begins_anew_is_compared_where_it_has_rows_enough() {
    for (rows, times) in [(&["1 Chair"][..], 0), (&["1 Chair", "2 Table"], 1)] {
        let place = Place::new();
        let store = place.open();
        pull(&store, [Page::new().reset().upsert(rows).end("c1", false)])
            .await
            .report();
        let declines = Declines::new(2, Vec::new());
        let options = Options {
            shortcut: Some(&declines),
            ..Options::default()
        };
        let anew = Page::new().reset().upsert(&["3 Lamp"]).end("c2", false);
        // Where it is compared, the page is asked for once more.
        pull_with(&store, vec![anew; 1 + times], options).await.report();
        assert_eq!(declines.times.into_inner(), times, "{rows:?}");
        assert_eq!(place.query("select name from product"), ["Lamp"]);
    }
}
