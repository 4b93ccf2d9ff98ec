//! A page and its cursor stand or fall together.

use super::*;
use crate::store::checkpoint::pages_to_copy;

#[tokio::test]
async fn a_first_pull_makes_the_table_and_the_sync_helper() {
    let place = Place::new();
    let store = place.open();
    let report = pull(
        &store,
        [Page::new()
            .reset()
            .upsert(&["1 Chair", "2 Table"])
            .end("c1", false)],
    )
    .await
    .report();
    assert_eq!((report.rows, report.deleted, report.pages), (2, 0, 1));
    assert!(!store.is_new().expect("a look"));
    let status = super::super::status(place.path()).expect("a status");
    assert_eq!(
        status
            .entities
            .iter()
            .map(|entity| entity.rows)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(
        place.query("select id || name || changed_date from product"),
        [
            "1Chair2026-11-22T10:00:00.000000Z",
            "2Table2026-11-22T10:00:00.000000Z"
        ]
    );
    assert_eq!(
        place.query(
            "select entity || ' ' || last_sync_date || ' ' || cursor || ' ' || state from sync_helper"
        ),
        ["product 2026-11-22T10:00:00.000000Z c1 current"]
    );
}

#[tokio::test]
async fn a_page_cut_at_any_byte_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    pull(
        &store,
        [Page::new()
            .reset()
            .upsert(&["1 Chair", "2 Table"])
            .end("c1", false)],
    )
    .await
    .report();
    let before = place.dump();
    let page = Page::new()
        .delete(&["2"], "deleted")
        .upsert(&["1 Armchair", "3 Lamp"])
        .reset_of("tax")
        .upsert_of("tax", &["1 VAT"])
        .end_covering("c2", false, BOTH);
    for cut in 0..page.len() {
        let error = pull(&store, [page.slice(..cut)]).await.error();
        assert!(error.is_retryable(), "cut at {cut}: {error}");
        if cut % 16 == 0 || cut + 2 > page.len() {
            assert_eq!(place.dump(), before, "cut at {cut}");
        }
    }
    assert_eq!(place.dump(), before);
    pull(&store, [page]).await.report();
    assert_eq!(
        place.query("select id || name from product order by id"),
        ["1Armchair", "3Lamp"]
    );
    assert_eq!(place.query("select name from tax"), ["VAT"]);
}

#[tokio::test]
async fn a_trailer_is_not_enough_when_the_body_breaks_off_after_it() {
    struct BreaksOff(Option<Bytes>);
    impl PageBody for BreaksOff {
        async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
            self.0.take().map(Some).ok_or_else(out_of_pages)
        }
    }
    let place = Place::new();
    let store = place.open();
    let order = crate::pull::Order {
        ask: Ask::anew(None),
        writing: crate::pull::Writing::InPlace,
        keep_deleted: false,
        anew_rows_max: None,
        scope_changed: false,
        source: SourceId::new("source-1"),
        now: NoTime.now(),
    };
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
    let meter = crate::meter::Meter::default();
    let outcome = crate::pull::Replica::apply(&store, order, BreaksOff(Some(page)), &meter).await;
    assert!(matches!(outcome, Err(Error::Task(_))), "{outcome:?}");
    assert!(store.is_new().expect("a look"));
}

#[tokio::test]
async fn rows_are_changed_in_place_and_deleted_by_key() {
    let place = Place::new();
    let store = place.open();
    pull(
        &store,
        [Page::new()
            .reset()
            .upsert(&["1 Chair", "2 Table"])
            .end("c1", false)],
    )
    .await
    .report();
    // An insert-or-replace would fire the delete trigger.
    place.execute(
        "create table log (what text);
         create trigger gone after delete on product begin insert into log values ('delete ' || old.id); end;
         create trigger changed after update on product begin insert into log values ('update ' || old.id); end;",
    );
    let pulled = pull(
        &store,
        [Page::new()
            .delete(&["2", "77"], "deleted")
            .upsert(&["1 Armchair"])
            .end("c2", false)],
    )
    .await;
    assert_eq!(pulled.since(), [Some("c1")]);
    let report = pulled.report();
    assert_eq!((report.entities[0].upserts, report.entities[0].deletes), (1, 1));
    assert_eq!(
        place.query("select id || name from product order by id"),
        ["1Armchair"]
    );
    assert_eq!(place.query("select what from log"), ["delete 2", "update 1"]);
}

#[tokio::test]
async fn composite_and_text_keys_hold_every_type() {
    const COLUMNS: &str = r#"[
        {"name":"code","type":"text","role":"key"},{"name":"no","type":"smallint","role":"key"},
        {"name":"big","type":"numeric"},{"name":"flag","type":"boolean"},{"name":"ratio","type":"double precision"},
        {"name":"raw","type":"bytea"},{"name":"at","type":"timestamp without time zone"},
        {"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}]"#;
    let columns = COLUMNS.replace('\n', "");
    let place = Place::new();
    let store = place.open();
    let rows = [
        "a\\tb\t1\t123456789012345678901234567890.5\tt\t-Infinity\t\\\\x00ff\t2026-01-01 00:00:00.5\t2026-11-22 10:00:00+00",
        "a\\tb\t2\t\\N\tf\tNaN\t\\N\tinfinity\t2026-11-22 10:00:00+00",
    ];
    let page = Page::new()
        .block("Odd \\\"Name\\\"", "reset", &columns, &[])
        .block("Odd \\\"Name\\\"", "upsert", &columns, &rows)
        .end_covering("c1", false, r#"["Odd \"Name\""]"#);
    pull(&store, [page]).await.report();
    let table = r#""Odd ""Name""""#;
    let read = |expression: &str| place.query(&format!("select {expression} from {table} order by no"));
    assert_eq!(read("code || no"), ["a\tb1", "a\tb2"]);
    assert_eq!(read("big"), ["123456789012345678901234567890.5", "null"]);
    assert_eq!(read("typeof(flag) || flag"), ["integer1", "integer0"]);
    assert_eq!(read("ratio"), ["-inf", "null"]);
    assert_eq!(read("hex(raw)"), ["00FF", ""]);
    assert_eq!(read("at"), ["2026-01-01T00:00:00.500000", "infinity"]);
    // The same key again changes the row, and does not add one.
    let page = Page::new()
        .block(
            "Odd \\\"Name\\\"",
            "upsert",
            &columns,
            &[&rows[1].replace("\tf\t", "\tt\t")],
        )
        .end_covering("c2", false, r#"["Odd \"Name\""]"#);
    pull(&store, [page]).await.report();
    assert_eq!(read("flag"), ["1", "1"]);
}

#[tokio::test]
async fn a_pull_goes_on_where_it_stopped() {
    let place = Place::new();
    let first = Page::new().reset().upsert(&["1 Chair"]).end("mid", true);
    {
        let store = place.open();
        assert!(pull(&store, [first]).await.outcome.is_err());
        assert_eq!(state(&store), State::Pulling);
    }
    let store = place.open();
    let pulled = pull(&store, [Page::new().upsert(&["2 Table"]).end("c1", false)]).await;
    assert_eq!(pulled.since(), [Some("mid")]);
    pulled.report();
    assert_eq!(state(&store), State::Current);
    assert_eq!(place.query("select name from product"), ["Chair", "Table"]);
}

#[tokio::test]
async fn rows_that_trade_a_unique_value_are_applied_as_deletes_and_inserts() {
    let place = Place::new();
    let store = place.open();
    pull(
        &store,
        [Page::new()
            .reset()
            .upsert(&["1 Chair", "2 Table"])
            .end("c1", false)],
    )
    .await
    .report();
    place.execute("create unique index one_name on product (name)");
    let swap = Page::new()
        .upsert(&["1 Table", "2 Chair", "3 Lamp"])
        .end("c2", false);
    let pulled = pull(&store, [swap.clone(), swap]).await;
    assert_eq!(pulled.since(), [Some("c1"), Some("c1")]);
    pulled.report();
    assert_eq!(
        place.query("select id || name from product order by id"),
        ["1Table", "2Chair", "3Lamp"]
    );
    // Two rows with one value can never stand: the index is named, and nothing has changed.
    let before = place.dump();
    let clash = Page::new().upsert(&["1 Table", "2 Table"]).end("c3", false);
    let error = pull(&store, [clash.clone(), clash]).await.error();
    assert!(
        matches!(&error, Error::UniqueIndex { index, .. } if index == "one_name"),
        "{error}"
    );
    assert_eq!(place.dump(), before);
}

#[tokio::test]
async fn pages_that_do_not_hold_together_are_refused() {
    let place = Place::new();
    let store = place.open();
    pull(
        &store,
        [Page::new().reset().upsert(&["1 Chair"]).end("c1", false)],
    )
    .await
    .report();
    let before = place.dump();
    let pages = [
        // Rows of an entity that was never announced.
        Page::new()
            .upsert_of("tax", &["1 VAT"])
            .end_covering("c2", false, BOTH),
        // An entity without anything, at the end of the pull.
        Page::new().end_covering("c2", false, BOTH),
        // An entity that the trailer does not know.
        Page::new().upsert(&["2 Table"]).end_covering("c2", false, "[]"),
        // Too few and too many fields, and values of another type.
        Page::new()
            .block("product", "upsert", PRODUCT, &["2\tTable"])
            .end("c2", false),
        Page::new()
            .block("product", "upsert", PRODUCT, &["2\tTable\tx\ty"])
            .end("c2", false),
        Page::new().upsert(&["two Table"]).end("c2", false),
        // A key that is null, for which SQLite would make up a number.
        Page::new().upsert(&["\\N Table"]).end("c2", false),
        Page::new()
            .block("product", "delete", PRODUCT_KEY, &["1"])
            .end("c2", false),
        Page::new()
            .block("product", "delete", "[]", &["1"])
            .end("c2", false),
        // A key of the same name that is of another type.
        Page::new()
            .block(
                "product",
                "delete",
                &PRODUCT_KEY.replace("bigint", "text"),
                &["1\t2026-11-22 10:00:00+00\tdeleted"],
            )
            .end("c2", false),
        Bytes::from_static(b"<html>\n</html>\n"),
    ];
    for page in pages {
        let text = String::from_utf8_lossy(&page).into_owned();
        let error = pull(&store, [page]).await.error();
        let is_named = matches!(error, Error::Malformed(_) | Error::SchemaChanged { .. });
        assert!(is_named || matches!(error, Error::Task(_)), "{error}: {text}");
        assert_eq!(
            place.query("select id || name from product order by id"),
            ["1Chair"],
            "{text}"
        );
    }
    assert_eq!(before.len(), place.dump().len());
}

#[tokio::test]
async fn a_cursor_that_does_not_move_ends_the_pull() {
    let place = Place::new();
    let store = place.open();
    let pages = [
        Page::new().reset().upsert(&["1 Chair"]).end("mid", true),
        Page::new().end("mid", true),
    ];
    let error = pull(&store, pages).await.error();
    assert!(matches!(error, Error::Stalled), "{error}");
    let circle = (0..500).map(|page| Page::new().end(&format!("mid{page}"), true));
    let error = pull(&store, circle).await.error();
    assert!(matches!(error, Error::Stalled), "{error}");
}

/// Not by the commit of the next page, which would wait for it.
#[tokio::test]
async fn a_long_page_is_copied_from_the_log_before_the_next_one_comes() {
    let place = Place::new();
    let store = place.open();
    let long = "x".repeat(1 << 20);
    let rows: Vec<String> = (0..5).map(|id| format!("{id} {long}")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let page = Page::new().reset().upsert(&rows).end("c1", true);
    assert_eq!(pull(&store, [page]).await.since(), [None, Some("c1")]);
    let began = Instant::now();
    let reader = place.reader();
    while pages_to_copy(&reader).expect("a log") > 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "it stays in the log");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
