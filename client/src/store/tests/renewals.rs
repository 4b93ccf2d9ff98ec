//! An entity that begins anew: readers keep the old rows until the new are complete.

use super::*;
use crate::pull::Replica as _;

async fn with_chair_and_table(store: &Store) {
    let page = Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table", "3 Lamp"])
        .end("c1", false);
    pull(store, [page]).await.report();
}

#[tokio::test]
async fn readers_keep_the_old_rows_until_the_pull_has_ended() {
    let place = Place::new();
    let reader;
    {
        let store = place.open();
        with_chair_and_table(&store).await;
        reader = place.reader();
        let pages = [
            Page::new().reset().upsert(&["1 Armchair"]).end("mid1", true),
            Page::new().upsert(&["3 Lamp"]).end("mid2", true),
        ];
        assert!(pull(&store, pages).await.outcome.is_err());
        assert_eq!(state(&store), State::Renewing);
        assert_eq!(
            query(&reader, "select name from product"),
            ["Chair", "Table", "Lamp"]
        );
    }
    // Killed and begun again, it goes on; what changes meanwhile goes where the new rows are.
    let store = place.open();
    let last = Page::new()
        .delete(&["1"], "deleted")
        .upsert(&["4 Desk"])
        .end("c2", false);
    let pulled = pull(&store, [last]).await;
    assert_eq!(pulled.since(), [Some("mid2")]);
    let report = pulled.report();
    assert_eq!((report.entities[0].upserts, report.entities[0].deletes), (1, 2));
    assert_eq!(query(&reader, "select name from product"), ["Lamp", "Desk"]);
    assert_eq!(state(&store), State::Current);
    assert!(
        place
            .query("select name from sqlite_schema where name like 'highwater_renew%'")
            .is_empty()
    );
}

#[tokio::test]
async fn rows_that_are_the_same_stay_untouched() {
    let place = Place::new();
    let store = place.open();
    with_chair_and_table(&store).await;
    place.execute(
        "create table log (what text);
         create trigger inserted after insert on product begin insert into log values ('insert ' || new.id); end;
         create trigger gone after delete on product begin insert into log values ('delete ' || old.id); end;
         create trigger changed after update on product begin insert into log values ('update ' || old.id); end;",
    );
    let page = Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Desk", "4 Sofa"])
        .end("c2", false);
    pull(&store, [page]).await.report();
    assert_eq!(
        place.query("select what from log"),
        ["delete 3", "update 2", "insert 4"]
    );
}

#[tokio::test]
async fn a_second_reset_forgets_what_the_first_had_brought() {
    let place = Place::new();
    let store = place.open();
    with_chair_and_table(&store).await;
    let pages = [
        Page::new()
            .reset()
            .upsert(&["1 Armchair", "8 Stool"])
            .end("mid1", true),
        Page::new().reset().upsert(&["1 Bench"]).end("c2", false),
    ];
    pull(&store, pages).await.report();
    assert_eq!(place.query("select name from product"), ["Bench"]);
}

#[tokio::test]
async fn an_unfinished_first_pull_begins_anew_in_place() {
    let place = Place::new();
    let store = place.open();
    let pages = [
        Page::new()
            .reset()
            .upsert(&["1 Armchair", "8 Stool"])
            .end("mid1", true),
        Page::new().reset().upsert(&["1 Bench"]).end("mid2", true),
    ];
    assert!(pull(&store, pages).await.outcome.is_err());
    assert_eq!(place.query("select name from product"), ["Bench"]);
    assert_eq!(state(&store), State::Pulling);
}

#[tokio::test]
async fn a_renewal_lets_rows_trade_unique_values() {
    let place = Place::new();
    let store = place.open();
    with_chair_and_table(&store).await;
    place.execute("create unique index one_name on product (name)");
    let page = Page::new()
        .reset()
        .upsert(&["1 Table", "2 Chair", "3 Lamp"])
        .end("c2", false);
    pull(&store, [page]).await.report();
    assert_eq!(
        place.query("select id || name from product order by id"),
        ["1Table", "2Chair", "3Lamp"]
    );
    let before = place.dump();
    let clash = Page::new()
        .reset()
        .upsert(&["1 Table", "2 Table"])
        .end("c3", false);
    let error = pull(&store, [clash.clone(), clash]).await.error();
    assert!(
        matches!(&error, Error::UniqueIndex { index, .. } if index == "one_name"),
        "{error}"
    );
    assert_eq!(place.dump(), before);
}

#[tokio::test]
async fn what_the_user_added_survives_pulls_resets_and_resyncs() {
    let place = Place::new();
    let store = place.open();
    with_chair_and_table(&store).await;
    place.execute(
        "create index by_name on product (name);
         create view names as select name from product;
         create table note (product_id integer references product (id) on delete cascade, text text);
         insert into note values (2, 'heavy');
         create trigger seen after insert on product begin insert into note values (new.id, 'new'); end;",
    );
    let objects = || {
        place.query(
            "select name from sqlite_schema where name in ('by_name', 'names', 'note', 'seen') order by name",
        )
    };
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c2", false);
    pull(&store, [page]).await.report();
    assert_eq!(objects(), ["by_name", "names", "note", "seen"]);
    assert_eq!(place.query("select text from note"), ["heavy"]);
    store.reset(&[]).expect("a reset");
    assert_eq!(objects(), ["by_name", "names", "note", "seen"]);
    assert!(place.query("select name from product").is_empty());
    let pulled = pull(&store, [Page::new().reset().upsert(&["5 Bed"]).end("c3", false)]).await;
    assert_eq!(pulled.since(), [None]);
    pulled.report();
    assert_eq!(place.query("select name from names"), ["Bed"]);
    assert_eq!(objects(), ["by_name", "names", "note", "seen"]);
}

#[tokio::test]
async fn changed_columns_begin_the_entity_anew_and_no_value_lands_in_a_wrong_one() {
    const WIDER: &str = r#"[{"name":"id","type":"bigint","role":"key"},{"name":"colour","type":"text"},{"name":"name","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}]"#;
    let place = Place::new();
    let store = place.open();
    with_chair_and_table(&store).await;
    place.execute(
        "create index by_name on product (name);
         create view names as select name from product;
         create table log (what text);
         create trigger seen after insert on product begin insert into log values (new.name); end;",
    );
    let row = "1\tred\tChair\t2026-11-22 10:00:00+00";
    let changed = Page::new()
        .fingerprint("f2")
        .block("product", "upsert", WIDER, &[row])
        .end("c2", false);
    let anew = Page::new()
        .fingerprint("f2")
        .block("product", "reset", WIDER, &[])
        .block("product", "upsert", WIDER, &[row])
        .end("c3", false);
    let pulled = pull(&store, [changed, anew]).await;
    assert_eq!(pulled.since(), [Some("c1"), None]);
    let report = pulled.report();
    assert!(report.entities[0].dropped.is_empty());
    assert_eq!(place.query("select colour || name from product"), ["redChair"]);
    assert_eq!(place.query("select name from names"), ["Chair"]);
    assert_eq!(
        place.query("select name from sqlite_schema where name in ('by_name', 'seen') order by name"),
        ["by_name", "seen"]
    );
    // Without the column `name`, its index and trigger make no sense any more; the rest stays.
    let page = Page::new()
        .fingerprint("f3")
        .block(
            "product",
            "reset",
            &WIDER.replace(r#"{"name":"name","type":"text"},"#, ""),
            &[],
        )
        .end("c4", false);
    let report = pull(&store, [page]).await.report();
    assert_eq!(report.entities[0].dropped, ["index by_name", "trigger seen"]);
    let page = Page::new()
        .fingerprint("f3")
        .block(
            "product",
            "upsert",
            &WIDER.replace(r#"{"name":"name","type":"text"},"#, ""),
            &["7\tblue\t2026-11-22 10:00:00+00"],
        )
        .end("c5", false);
    pull(&store, [page]).await.report();
    assert_eq!(place.query("select colour from product"), ["blue"]);
}

#[tokio::test]
async fn the_old_rows_stay_readable_while_changed_columns_are_fetched() {
    let place = Place::new();
    let store = place.open();
    with_chair_and_table(&store).await;
    let other = with_name_as("title");
    let pages = [
        Page::new()
            .fingerprint("f2")
            .block("product", "reset", &other, &[])
            .end("mid", true),
        Page::new().fingerprint("f2").end("mid2", true),
    ];
    assert!(pull(&store, pages).await.outcome.is_err());
    assert_eq!(
        place.query("select name from product"),
        ["Chair", "Table", "Lamp"]
    );
    let page = Page::new()
        .fingerprint("f2")
        .block("product", "upsert", &other, &["1\tChair\t2026-11-22 10:00:00+00"])
        .end("c2", false);
    pull(&store, [page]).await.report();
    assert_eq!(place.query("select title from product"), ["Chair"]);
}

#[tokio::test]
async fn what_the_server_no_longer_has_is_withdrawn_and_may_come_back() {
    let place = Place::new();
    let store = place.open();
    let both = Page::new()
        .reset()
        .upsert(&["1 Chair"])
        .reset_of("tax")
        .block("tax", "upsert", PRODUCT, &["1\tVAT\t2026-11-22 10:00:00+00"])
        .end_covering("c1", false, BOTH);
    pull(&store, [both.clone()]).await.report();
    pull(&store, [Page::new().end("c2", false)]).await.report();
    assert_eq!(helper(&store, "tax").state, State::Withdrawn);
    assert_eq!(place.query("select name from tax"), ["VAT"]);
    let pulled = pull(&store, [Page::new().end("c3", false)]).await;
    assert_eq!(pulled.since(), [Some("c2")]);
    let back = Page::new().reset_of("tax").end_covering("c4", false, BOTH);
    pull(&store, [back]).await.report();
    assert_eq!(helper(&store, "tax").state, State::Current);
    assert!(place.query("select name from tax").is_empty());
}

#[tokio::test]
async fn what_must_begin_anew_is_refused_without_its_reset() {
    let place = Place::new();
    let store = place.open();
    with_chair_and_table(&store).await;
    let product = EntityName::new("product");
    crate::pull::Replica::begin_anew(&store, &product)
        .await
        .expect("a mark");
    let before = place.dump();
    for page in [
        Page::new().upsert(&["1 Stool"]).end("c2", false),
        Page::new().upsert(&["1 Stool"]).end("mid", true),
        Page::new().end("c2", false),
    ] {
        let pulled = pull(&store, [page]).await;
        assert_eq!(pulled.since(), [None]);
        let error = pulled.error();
        assert!(matches!(error, Error::Malformed(_)), "{error}");
        assert_eq!(place.dump(), before);
    }
    // Not on the first page either, but once the pull goes on.
    let pages = [
        Page::new().end("mid", true),
        Page::new().upsert(&["1 Stool"]).end("c2", false),
    ];
    let error = pull(&store, pages).await.error();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    assert_eq!(state(&store), State::Waiting);
    assert_eq!(
        place.query("select name from product"),
        ["Chair", "Table", "Lamp"]
    );
}

#[tokio::test]
async fn an_entity_begun_anew_alone_is_taken_out_of_the_others_cursor_first() {
    let place = Place::new();
    let store = place.open();
    let tax = |next: &str, covers: &str| Page::new().reset_of("tax").end_covering(next, false, covers);
    let page = Page::new().reset().upsert(&["1 Chair"]).reset_of("tax");
    pull(&store, [page.end_covering("c1", false, BOTH)])
        .await
        .report();
    store.reset(&[EntityName::new("tax")]).expect("a reset");
    let pulled = pull_with(&store, [tax("t1", r#"["tax"]"#)], only("tax")).await;
    assert_eq!(pulled.since(), [None]);
    pulled.report();
    // `c1` covers `tax` at the server, though what `tax` holds may be older than `c1`.
    let pages = [Page::new().end("c2", false), tax("c3", BOTH)];
    let pulled = pull(&store, pages).await;
    assert_eq!(pulled.since(), [Some("c1"), Some("c2")]);
    assert_eq!(pulled.asks[0].entities, Some(vec![EntityName::new("product")]));
    pulled.report();
}

#[tokio::test]
async fn entities_that_begin_anew_at_once_do_so_each_out_of_sight() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new()
        .reset()
        .upsert(&["1 Chair"])
        .reset_of("tax")
        .upsert_of("tax", &["1 VAT"]);
    pull(&store, [page.end_covering("c1", false, BOTH)])
        .await
        .report();
    // A name that the hidden table of one of them would have.
    place.execute("create table highwater_renew_1 (mine text); insert into highwater_renew_1 values ('x')");
    let page = Page::new()
        .reset()
        .upsert(&["2 Table"])
        .reset_of("tax")
        .upsert_of("tax", &["2 Duty"]);
    let names = "select name from product union all select name from tax";
    let pages = [page.end_covering("mid", true, BOTH)];
    assert!(
        pull(&store, pages).await.outcome.is_err(),
        "there is no second page"
    );
    assert_eq!(place.query(names), ["Chair", "VAT"]);
    pull(&store, [Page::new().end_covering("c2", false, BOTH)])
        .await
        .report();
    assert_eq!(place.query(names), ["Table", "Duty"]);
    assert_eq!(place.query("select mine from highwater_renew_1"), ["x"]);
}

#[tokio::test]
async fn columns_that_no_table_can_have_are_refused() {
    let place = Place::new();
    let store = place.open();
    for columns in [
        PRODUCT.replace(r#","role":"key""#, ""),
        PRODUCT.replace(r#","role":"changed_date""#, ""),
        with_name_as("ID"),
    ] {
        let page = Page::new()
            .block("product", "reset", &columns, &[])
            .end("c1", false);
        let error = pull(&store, [page]).await.error();
        assert!(matches!(error, Error::Malformed(_)), "{error}: {columns}");
    }
    assert!(store.is_new().expect("a look"));
}

/// It reads before it writes, and SQLite lets nobody wait who does so without having said it.
#[tokio::test]
async fn whoever_begins_anew_waits_for_another_writer() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
    pull(&store, [page]).await.report();
    let mut other = place.reader();
    other.execute_batch("create table mine (x)").expect("a table");
    for is_reset in [false, true] {
        let lock = "begin immediate; insert into mine values (1)";
        other.execute_batch(lock).expect("a lock");
        let writing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            other.execute_batch("commit").expect("written");
            other
        });
        if is_reset {
            store.reset(&[]).expect("it waits");
        } else {
            let begun = store.begin_anew(&EntityName::new("product")).await;
            begun.expect("it waits");
        }
        other = writing.join().expect("a thread");
    }
}
