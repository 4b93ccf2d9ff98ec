//! A store is looked at beside its writer: between two pulls, which is waited for, or as it stands.

use highwater_shared::hash::{date_hash, key_hash, value_hash};

use super::super::{Compared, Look, RowHashes, View};
use super::*;

fn open(place: &Place, look: Look, stop: &CancellationToken) -> Result<View, Error> {
    View::open(&place.path(), None, look, stop)
}

fn states(view: &View) -> Vec<State> {
    view.helpers().iter().map(|helper| helper.state).collect()
}

async fn midway(store: &Store) {
    let page = Page::new().reset().upsert(&["1 Chair"]).end("mid", true);
    assert!(pull(store, [page]).await.outcome.is_err());
    assert_eq!(state(store), State::Pulling);
}

#[tokio::test]
async fn a_pull_that_is_under_way_is_waited_for() {
    let place = Place::new();
    let store = place.open();
    midway(&store).await;
    let path = place.path();
    let looking = tokio::task::spawn_blocking(move || {
        View::open(&path, None, Look::BetweenPulls, &CancellationToken::new())
    });
    // Nothing tells that it waits; one that does not has ended by then.
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!looking.is_finished());
    let rest = Page::new().upsert(&["2 Table"]).end("c1", false);
    pull(&store, [rest]).await.report();
    let view = looking.await.expect("a look").expect("a view");
    assert_eq!(states(&view), [State::Current]);
    assert!(view.bytes() > 0);
}

#[tokio::test]
async fn whoever_waits_can_be_stopped_and_who_looks_now_does_not_wait() {
    let place = Place::new();
    let store = place.open();
    midway(&store).await;
    let stopped = CancellationToken::new();
    stopped.cancel();
    let error = open(&place, Look::BetweenPulls, &stopped).expect_err("it is stopped");
    assert!(matches!(error, Error::Stopped), "{error}");
    let view = open(&place, Look::Now, &stopped).expect("a view");
    assert_eq!(states(&view), [State::Pulling]);
}

#[tokio::test]
async fn what_no_pull_will_end_is_told_at_once() {
    let place = Place::new();
    let store = place.open();
    let both = Page::new()
        .reset()
        .upsert(&["1 Chair"])
        .reset_of("tax")
        .end_covering("c1", false, BOTH);
    pull(&store, [both]).await.report();
    let look_at = |wanted: &str| {
        let wanted = [EntityName::new(wanted)];
        let looked = View::open(
            &place.path(),
            Some(&wanted),
            Look::BetweenPulls,
            &CancellationToken::new(),
        );
        looked.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(look_at("tax"), Ok(()));
    assert!(look_at("bill").is_err_and(|error| error.contains("bill")));
    store.reset(&[EntityName::new("tax")]).expect("a reset");
    assert!(look_at("tax").is_err_and(|error| error.contains("tax was reset")));
    let gone = Page::new().reset().upsert(&["1 Chair"]).end("c3", false);
    pull(&store, [GONE, gone]).await.report();
    assert!(look_at("tax").is_err_and(|error| error.contains("no longer offered tax")));
    assert_eq!(look_at("product"), Ok(()));
}

/// A key of two columns, and two others.
const PAIR: &str = r#"[{"name":"area","type":"text","role":"key","place":1},{"name":"id","type":"bigint","role":"key","place":2},{"name":"name","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"},{"name":"size","type":"integer"}]"#;

/// The rows that a look tells of, each with its key as a line, and the hashes of key and row; ascending.
fn told(
    view: &View,
    compared: &Compared,
    keys: Option<&[&str]>,
    is_wanted: impl FnMut(u64) -> bool,
) -> Vec<(String, (u64, u64))> {
    let entity = EntityName::new("pair");
    let mut found = Vec::new();
    let each = |hashes: RowHashes, line: &dyn Fn() -> Vec<u8>| {
        let line = String::from_utf8(line()).expect("text");
        found.push((line, (hashes.key, hashes.digest)));
    };
    match keys {
        None => view.rows(&entity, compared, is_wanted, each).expect("rows"),
        Some(keys) => {
            let keys = keys.iter().map(|key| Ok(key.as_bytes().to_vec()));
            view.rows_of(&entity, compared, keys, each).expect("rows");
        }
    }
    found.sort_unstable();
    found
}

#[tokio::test]
async fn rows_are_told_by_hashes_of_what_postgres_prints() {
    let place = Place::new();
    let store = place.open();
    let row = |area: &str, id: &str, name: &str, size: &str| format!("{area}\t{id}\t{name}\t{DATE}\t{size}");
    let rows = [
        row("a\\tb", "1", "Chair", "7"),
        row("c", "2", "\\N", "-3"),
        row("c", "10", "Lamp", "\\N"),
        row("d", "4", "gone", "1"),
    ];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let page = Page::new()
        .block("pair", "reset", PAIR, &[])
        .block("pair", "upsert", PAIR, &rows)
        .end_covering("c1", false, r#"["pair"]"#);
    pull_with(&store, [page], keep()).await.report();
    let key = r#"[{"name":"area","type":"text","role":"key"},{"name":"id","type":"bigint","role":"key"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"},{"name":"reason","type":"text","role":"reason"}]"#;
    let gone = Page::new()
        .block("pair", "delete", key, &[&format!("d\t4\t{DATE}\tdeleted")])
        .end_covering("c2", false, r#"["pair"]"#);
    pull_with(&store, [gone], keep()).await.report();

    let view = open(&place, Look::BetweenPulls, &CancellationToken::new()).expect("a view");
    let expected = |area: &str, id: &str, others: &[(u64, &str)]| {
        let key = key_hash([area.as_bytes(), id.as_bytes()].into_iter());
        let date = date_hash(key, DATE.as_bytes());
        let values = others
            .iter()
            .map(|(place, value)| value_hash(key, *place, value.as_bytes()));
        (key, values.fold(date, |digest, value| digest ^ value))
    };
    for deep in [false, true] {
        let compared = view.compared(&EntityName::new("pair"), deep).expect("a table");
        assert!(
            compared.keeps_deleted() && compared.has_fingerprint("f1") && !compared.has_fingerprint("f2")
        );
        let names: Vec<&str> = compared.key().map(|(name, _)| name).collect();
        assert_eq!(names, ["area", "id"]);
        let others = |all: &'static [(u64, &'static str)]| if deep { all } else { &[] };
        let all = [
            (
                "a\\tb\t1".to_owned(),
                expected("a\tb", "1", others(&[(3, "Chair"), (5, "7")])),
            ),
            ("c\t10".to_owned(), expected("c", "10", others(&[(3, "Lamp")]))),
            ("c\t2".to_owned(), expected("c", "2", others(&[(5, "-3")]))),
        ];
        assert_eq!(told(&view, &compared, None, |_| true), all);
        let wanted = all[1].1.0;
        assert_eq!(told(&view, &compared, None, |key| key == wanted), all[1..2]);
        let asked = ["c\t10", "d\t4", "a\\tb\t1", "c\t3"];
        let found = told(&view, &compared, Some(&asked), |_| true);
        assert_eq!(found, all[..2], "flagged, and not there");
    }
}
