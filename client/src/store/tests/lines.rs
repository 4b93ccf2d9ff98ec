//! Which entities a cursor speaks for: others begin anew, with a reset before their rows. And since when an
//! entity's rows come from one line of cursors.

use super::*;

fn chair() -> Page {
    Page::new().reset().upsert(&["1 Chair"])
}

#[tokio::test]
async fn an_answer_to_no_cursor_must_begin_what_is_there_anew() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [chair().end("c1", false)]).await.report();
    let before = place.dump();
    let pulled = pull(&store, [GONE, Page::new().upsert(&["2 Table"]).end("c2", false)]).await;
    assert_eq!(pulled.since(), [Some("c1"), None]);
    let error = pulled.error();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    assert_eq!(place.dump(), before);
}

#[tokio::test]
async fn a_cursor_speaks_for_no_entity_that_stands_at_another() {
    let place = Place::new();
    let store = place.open();
    pull_with(&store, [chair().end("c1", false)], only("product"))
        .await
        .report();
    let tax = Page::new().reset_of("tax").upsert_of("tax", &["1 VAT"]);
    pull_with(&store, [tax.end_covering("t1", false, r#"["tax"]"#)], only("tax"))
        .await
        .report();
    let before = place.dump();
    let without_reset = || {
        Page::new()
            .upsert_of("tax", &["2 Duty"])
            .end_covering("c2", false, BOTH)
    };
    let pulled = pull(&store, [without_reset()]).await;
    assert_eq!(pulled.since(), [Some("c1")]);
    let error = pulled.error();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    assert_eq!(place.dump(), before);
}

#[tokio::test]
async fn a_line_goes_on_with_its_cursor_and_begins_with_another() {
    let place = Place::new();
    let store = place.open();
    let line = |store: &Store| (helper(store, "product").began, helper(store, "product").sequence);
    pull(&store, [chair().end("c1", false)]).await.report();
    assert_eq!(line(&store), (1, 1));
    pull(&store, [Page::new().upsert(&["2 Table"]).end("c2", false)])
        .await
        .report();
    assert_eq!(line(&store), (1, 2));
    // Begun anew at the cursor that was sent, as after a purge: what others have seen of it, it has seen too.
    pull(&store, [chair().end("c3", false)]).await.report();
    assert_eq!(line(&store), (1, 3));
    // Begun anew by a server that had nothing to go on from.
    pull(&store, [GONE, chair().end("c4", false)]).await.report();
    assert_eq!(line(&store), (4, 4));
}

#[tokio::test]
async fn a_line_begins_where_an_entity_is_covered_before_anything_of_it_has_come() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [chair().end("c1", false)]).await.report();
    let pages = [
        Page::new().upsert(&["2 Table"]).end_covering("mid", true, BOTH),
        Page::new()
            .reset_of("tax")
            .upsert_of("tax", &["1 VAT"])
            .end_covering("c2", false, BOTH),
    ];
    pull(&store, pages).await.report();
    let tax = helper(&store, "tax");
    assert_eq!((tax.began, tax.sequence), (2, 3));
    assert_eq!(place.query("select name from tax"), ["VAT"]);
}

#[tokio::test]
async fn an_entity_that_begins_anew_takes_nothing_from_another_that_trades_values() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair", "2 Table"]);
    pull(&store, [page.reset_of("tax").end_covering("c1", false, BOTH)])
        .await
        .report();
    place.execute("create unique index one_name on product (name)");
    let trade = Page::new().upsert(&["1 Table", "2 Chair"]);
    let trade = trade
        .reset_of("tax")
        .upsert_of("tax", &["1 VAT"])
        .end_covering("c2", false, BOTH);
    pull(&store, [trade.clone(), trade]).await.report();
    assert_eq!(
        place.query("select id || name from product order by id"),
        ["1Table", "2Chair"]
    );
    assert_eq!(place.query("select name from tax"), ["VAT"]);
    // What it had brought itself before it began anew is forgotten.
    let again = Page::new()
        .upsert(&["1 Chair", "2 Table", "3 Lamp"])
        .reset()
        .upsert(&["1 Desk"])
        .end_covering("c3", false, BOTH);
    pull(&store, [again.clone(), again]).await.report();
    assert_eq!(place.query("select id || name from product"), ["1Desk"]);
}

#[tokio::test]
async fn each_entity_of_a_page_that_trades_values_gets_its_own_rows() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair", "2 Table"]);
    let page = page.reset_of("tax").upsert_of("tax", &["1 VAT", "2 Duty"]);
    pull(&store, [page.end_covering("c1", false, BOTH)])
        .await
        .report();
    place.execute("create unique index one_name on product (name)");
    let trade = Page::new().upsert(&["1 Table", "2 Chair"]);
    let trade = trade.upsert_of("tax", &["2 Toll"]).upsert(&["3 Lamp"]);
    let trade = trade.end_covering("c2", false, BOTH);
    pull(&store, [trade.clone(), trade]).await.report();
    assert_eq!(
        place.query("select id || name from product order by id"),
        ["1Table", "2Chair", "3Lamp"]
    );
    assert_eq!(
        place.query("select id || name from tax order by id"),
        ["1VAT", "2Toll"]
    );
}

#[tokio::test]
async fn an_unfinished_pull_that_begins_anew_forgets_what_waits_to_be_written() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table"])
        .end("mid", true);
    assert!(
        pull(&store, [page]).await.outcome.is_err(),
        "there is no second page"
    );
    place.execute("create unique index one_name on product (name)");
    let page = Page::new()
        .upsert(&["1 Table", "2 Chair", "3 Lamp"])
        .reset()
        .upsert(&["1 Desk"])
        .end("c1", false);
    pull(&store, [page.clone(), page]).await.report();
    assert_eq!(place.query("select id || name from product"), ["1Desk"]);
}

#[tokio::test]
async fn nothing_is_kept_of_what_another_scope_does_not_send_again() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair", "2 Table"]);
    pull_with(&store, [page.end("c1", false)], keep()).await.report();
    pull_with(&store, [SCOPE_CHANGED, chair().end("c2", false)], keep())
        .await
        .report();
    assert_eq!(place.query("select name || deleted from product"), ["Chair0"]);
}
