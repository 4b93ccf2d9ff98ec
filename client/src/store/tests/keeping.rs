//! `--keep-deleted`: rows that were deleted stay, flagged.

use super::*;

#[tokio::test]
async fn deleted_rows_are_kept_flagged_and_come_back() {
    let place = Place::new();
    let store = place.open();
    let first = Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table", "3 Lamp"])
        .end("c1", false);
    pull_with(&store, [first], keep()).await.report();
    let gone = Page::new()
        .delete(&["1"], "deleted")
        .delete(&["2"], "out_of_scope")
        .end("c2", false);
    pull_with(&store, [gone], keep()).await.report();
    assert_eq!(
        place.query("select id || name || deleted from product"),
        ["1Chair1", "3Lamp0"]
    );
    assert_eq!(
        super::super::status(place.path()).expect("a status").entities[0].rows,
        1
    );
    let back = Page::new().upsert(&["1 Armchair"]).end("c3", false);
    pull_with(&store, [back], keep()).await.report();
    assert_eq!(
        place.query("select id || name || deleted from product"),
        ["1Armchair0", "3Lamp0"]
    );
    // What a renewal does not bring again was deleted too.
    let anew = Page::new().reset().upsert(&["3 Lamp"]).end("c4", false);
    pull_with(&store, [anew], keep()).await.report();
    assert_eq!(
        place.query("select id || name || deleted from product"),
        ["1Armchair1", "3Lamp0"]
    );
    let anew = Page::new().reset().upsert(&["1 Armchair"]).end("c5", false);
    pull_with(&store, [anew], keep()).await.report();
    assert_eq!(
        place.query("select id || name || deleted from product"),
        ["1Armchair0", "3Lamp1"]
    );
}

#[tokio::test]
async fn a_store_without_the_flag_gets_it_when_it_is_asked_for() {
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
    let gone = Page::new().delete(&["1"], "deleted").end("c2", false);
    pull_with(&store, [gone], keep()).await.report();
    assert_eq!(
        place.query("select name || deleted from product"),
        ["Chair1", "Table0"]
    );
    // Without the wish, deleted rows leave again.
    pull(&store, [Page::new().delete(&["2"], "deleted").end("c3", false)])
        .await
        .report();
    assert_eq!(place.query("select name || deleted from product"), ["Chair1"]);
}

#[tokio::test]
async fn a_renewal_without_the_wish_removes_what_does_not_come_again() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair", "2 Table"]);
    pull_with(&store, [page.end("c1", false)], keep()).await.report();
    let anew = Page::new().reset().upsert(&["1 Chair"]).end("c2", false);
    pull(&store, [anew]).await.report();
    assert_eq!(place.query("select name || deleted from product"), ["Chair0"]);
}

#[tokio::test]
async fn other_columns_leave_the_flag_where_it_was_and_bring_none() {
    let titled = with_name_as("title");
    for (options, flag) in [
        (keep as fn() -> Options<'static>, Some("deleted")),
        (Options::default, None),
    ] {
        let place = Place::new();
        let store = place.open();
        let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
        pull_with(&store, [page], options()).await.report();
        let anew = Page::new()
            .fingerprint("f2")
            .block("product", "reset", &titled, &[])
            .end("c2", false);
        pull_with(&store, [anew], options()).await.report();
        let columns = place.query("select name from pragma_table_info('product')");
        let expected: Vec<&str> = ["id", "title", "changed_date"].into_iter().chain(flag).collect();
        assert_eq!(columns, expected);
    }
}

#[tokio::test]
async fn kept_rows_stay_where_columns_change_with_what_they_hold_in_the_others() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair", "2 Table", "3 Lamp"]);
    pull_with(&store, [page.end("c1", false)], keep()).await.report();
    let gone = Page::new().delete(&["1"], "deleted").end("c2", false);
    pull_with(&store, [gone], keep()).await.report();
    let with_size = PRODUCT.replace(
        r#"{"name":"changed_date""#,
        r#"{"name":"size","type":"integer"},{"name":"changed_date""#,
    );
    // 2 was deleted meanwhile.
    let anew = Page::new()
        .fingerprint("f2")
        .block("product", "reset", &with_size, &[])
        .block("product", "upsert", &with_size, &[&format!("3\tLamp\t7\t{DATE}")]);
    let report = pull_with(&store, [anew.end("c3", false)], keep()).await.report();
    assert_eq!(report.entities[0].upserts, 1);
    assert_eq!(
        place.query("select id || name || coalesce(size, '-') || deleted from product"),
        ["1Chair-1", "2Table-1", "3Lamp70"]
    );
    // Without the wish they go with the next change of columns.
    let anew = Page::new().reset().upsert(&["3 Lamp"]).end("c4", false);
    pull(&store, [anew]).await.report();
    assert_eq!(
        place.query("select id || name || deleted from product"),
        ["3Lamp0"]
    );
}

#[tokio::test]
async fn kept_rows_go_where_the_key_changes() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair", "2 Table"]);
    pull_with(&store, [page.end("c1", false)], keep()).await.report();
    let gone = Page::new().delete(&["1"], "deleted").end("c2", false);
    pull_with(&store, [gone], keep()).await.report();
    for (key, next) in [
        (PRODUCT.replace("bigint", "text"), "c3"),
        (
            PRODUCT.replace(r#""type":"text""#, r#""type":"text","role":"key""#),
            "c4",
        ),
    ] {
        let anew = Page::new()
            .fingerprint(next)
            .block("product", "reset", &key, &[])
            .block("product", "upsert", &key, &[&format!("2\tTable\t{DATE}")]);
        pull_with(&store, [anew.end(next, false)], keep()).await.report();
        assert_eq!(
            place.query("select id || name || deleted from product"),
            ["2Table0"]
        );
    }
}

#[tokio::test]
async fn a_column_of_the_same_name_is_in_the_way() {
    let place = Place::new();
    let store = place.open();
    let columns = with_name_as("Deleted");
    let page = Page::new()
        .block("product", "reset", &columns, &[])
        .end("c1", false);
    let error = pull_with(&store, [page], keep()).await.error();
    assert!(matches!(error, Error::KeepDeleted { .. }), "{error}");
    assert!(store.is_new().expect("a look"));
}

#[tokio::test]
async fn a_store_with_a_column_of_that_name_cannot_get_the_flag_later() {
    let place = Place::new();
    let store = place.open();
    let columns = with_name_as("Deleted");
    let page = |next: &str| {
        Page::new()
            .block("product", "upsert", &columns, &["1\tno\t2026-11-22 10:00:00+00"])
            .end(next, false)
    };
    let reset = Page::new()
        .block("product", "reset", &columns, &[])
        .end("c1", false);
    pull(&store, [reset]).await.report();
    pull(&store, [page("c2")]).await.report();
    let error = pull_with(&store, [page("c3")], keep()).await.error();
    assert!(matches!(error, Error::KeepDeleted { .. }), "{error}");
    assert_eq!(place.query("select \"Deleted\" from product"), ["no"]);
}

#[tokio::test]
async fn a_column_of_the_users_goes_by_its_name_though_rows_are_kept() {
    let place = Place::new();
    let store = place.open();
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
    pull_with(&store, [page], keep()).await.report();
    place.execute("alter table product add column mine text");
    let titled = with_name_as("title");
    let anew = Page::new()
        .fingerprint("f2")
        .block("product", "reset", &titled, &[])
        .end("c2", false);
    let applied = pull_with(&store, [anew], keep())
        .await
        .report()
        .entities
        .remove(0);
    assert_eq!(applied.dropped, ["column mine"]);
}

/// Not even where the pull that was told so was killed, and another one ends it.
#[tokio::test]
async fn what_the_caller_may_no_longer_see_is_not_kept() {
    for is_interrupted in [false, true] {
        let place = Place::new();
        let store = place.open();
        let first = Page::new()
            .reset()
            .upsert(&["1 Chair"])
            .reset_of("tax")
            .upsert_of("tax", &["1 VAT"]);
        pull_with(&store, [first.end_covering("c1", false, BOTH)], keep())
            .await
            .report();
        let begins = Page::new()
            .reset()
            .upsert(&["2 Lamp"])
            .end_covering("c2", true, BOTH);
        let ends = Page::new()
            .reset_of("tax")
            .upsert_of("tax", &["2 GST"])
            .end_covering("c3", false, BOTH);
        if is_interrupted {
            pull_with(&store, [SCOPE_CHANGED, begins], keep()).await.error();
            pull_with(&store, [ends], keep()).await.report();
        } else {
            pull_with(&store, [SCOPE_CHANGED, begins, ends], keep())
                .await
                .report();
        }
        assert_eq!(
            place.query("select name from product"),
            ["Lamp"],
            "{is_interrupted}"
        );
        assert_eq!(place.query("select name from tax"), ["GST"], "{is_interrupted}");
        // From then on what is deleted is kept again.
        let gone = Page::new()
            .delete(&["2"], "deleted")
            .end_covering("c4", false, BOTH);
        pull_with(&store, [gone], keep()).await.report();
        assert_eq!(place.query("select name || deleted from product"), ["Lamp1"]);
    }
}
