//! Indexes, triggers and views of the user's, when the columns change that they speak of.

use super::*;
use crate::applied::EntityApplied;

/// A page with other columns, whose rows stand as they come.
fn anew(fingerprint: &str, columns: &str, rows: &[&str], next: &str) -> Bytes {
    Page::new()
        .fingerprint(fingerprint)
        .block("product", "reset", columns, &[])
        .block("product", "upsert", columns, rows)
        .end(next, false)
}

async fn with_chair(store: &Store) {
    let page = Page::new().reset().upsert(&["1 Chair"]).end("c1", false);
    pull(store, [page]).await.report();
}

async fn begun_anew(store: &Store, fingerprint: &str, columns: &str, next: &str) -> EntityApplied {
    let row = "1\tChair\t2026-11-22 10:00:00+00";
    let page = anew(fingerprint, columns, &[row], next);
    pull(store, [page]).await.report().entities.remove(0)
}

#[tokio::test]
async fn views_that_lose_a_column_are_kept_and_named() {
    let place = Place::new();
    let store = place.open();
    with_chair(&store).await;
    place.execute(
        r#"create view all_of_them as select * from product;
           create view ids as select id from product;
           create view names as select name from product;
           create view quoted as select "name" from product;
           create view on_names as select name || '!' as loud from names;
           create view never_worked as select colour from product;
           create view literal as select "chair" as text from product;"#,
    );
    let applied = begun_anew(&store, "f2", &with_name_as("title"), "c2").await;
    assert_eq!(applied.broken, ["view names", "view on_names", "view quoted"]);
    assert!(applied.dropped.is_empty());
    assert_eq!(
        place
            .query("select name from sqlite_schema where type = 'view'")
            .len(),
        7
    );
    assert_eq!(place.query("select title from all_of_them"), ["Chair"]);
    // They are named once, and read again when their column is back.
    let applied = begun_anew(
        &store,
        "f3",
        &with_name_as("title").replace("text", "varchar"),
        "c3",
    )
    .await;
    assert!(applied.broken.is_empty(), "{applied:?}");
    let applied = begun_anew(&store, "f1", PRODUCT, "c4").await;
    assert!(applied.broken.is_empty(), "{applied:?}");
    assert_eq!(place.query("select loud from on_names"), ["Chair!"]);
    assert_eq!(place.query("select * from quoted"), ["Chair"]);
}

#[tokio::test]
async fn an_index_is_never_made_over_the_name_of_a_column_that_is_gone() {
    let place = Place::new();
    let store = place.open();
    with_chair(&store).await;
    place.execute(
        r#"create index quoted on product ("name");
           create index by_expression on product (lower("name"));
           create index with_text on product (changed_date) where changed_date <> "never";
           create index by_date on product ("changed_date");"#,
    );
    let applied = begun_anew(&store, "f2", &with_name_as("title"), "c2").await;
    let left =
        place.query("select name from sqlite_schema where type = 'index' and sql is not null order by name");
    assert_eq!(applied.dropped, ["index by_expression", "index quoted"]);
    assert_eq!(left, ["by_date", "with_text"]);
}

#[tokio::test]
async fn a_trigger_on_another_entity_does_not_stop_the_pull() {
    const BOTH: &str = r#"["product","tax"]"#;
    let place = Place::new();
    let store = place.open();
    let first = Page::new().reset().upsert(&["1 Chair"]).reset_of("tax");
    pull(&store, [first.end_covering("c1", false, BOTH)])
        .await
        .report();
    place.execute(
        "create table log (what text);
         create trigger lost after insert on tax begin
             insert into log select name from product; end;
         create trigger kept after insert on tax begin insert into log values ('tax ' || new.name); end;",
    );
    let titles = Page::new()
        .fingerprint("f2")
        .block("product", "reset", &with_name_as("title"), &[]);
    let report = pull(&store, [titles.end_covering("c2", false, BOTH)])
        .await
        .report();
    assert_eq!(report.entities[0].dropped, ["trigger lost"]);
    let tax = Page::new().block("tax", "upsert", PRODUCT, &["1\tVAT\t2026-11-22 10:00:00+00"]);
    pull(&store, [tax.end_covering("c3", false, BOTH)]).await.report();
    assert_eq!(place.query("select what from log"), ["tax VAT"]);
}

#[tokio::test]
async fn what_is_dropped_and_broken_after_a_reset_is_named_as_well() {
    let place = Place::new();
    let store = place.open();
    with_chair(&store).await;
    place.execute("create index by_name on product (name); create view names as select name from product");
    let reset = store.reset(&[]).expect("a reset");
    assert!(reset.dropped.is_empty() && reset.broken.is_empty());
    let applied = begun_anew(&store, "f2", &with_name_as("title"), "c2").await;
    assert_eq!(applied.dropped, ["index by_name"]);
    assert_eq!(applied.broken, ["view names"]);
}

#[tokio::test]
async fn a_column_that_the_user_added_goes_with_a_table_that_is_made_anew() {
    let place = Place::new();
    let store = place.open();
    with_chair(&store).await;
    place.execute(
        "alter table product add column mine text;
         create view my_view as select mine from product;
         create index my_index on product (mine)",
    );
    let changed = Page::new().upsert(&["1 Stool"]).end("c2", false);
    pull(&store, [changed]).await.report();
    // It is no hindrance, so a reset leaves it there.
    store.reset(&[]).expect("a reset");
    assert!(place.query("select mine from my_view").is_empty());
    place.execute("alter table product drop column name");
    let reset = store.reset(&[]).expect("a reset");
    assert_eq!(reset.dropped, ["index my_index", "column mine"]);
    assert_eq!(reset.broken, ["view my_view"]);
    with_chair(&store).await;
    // So it does when the columns of the source change.
    place.execute(
        "alter table product add column mine text; create view my_other as select mine from product",
    );
    let applied = begun_anew(&store, "f2", &with_name_as("title"), "c3").await;
    assert_eq!(applied.dropped, ["column mine"]);
    assert_eq!(applied.broken, ["view my_other", "view my_view"]);
}

#[tokio::test]
async fn a_unique_index_that_the_rows_of_other_columns_violate_is_named() {
    let place = Place::new();
    let store = place.open();
    with_chair(&store).await;
    place.execute("create unique index one_date on product (changed_date)");
    let before = place.dump();
    let rows = [
        "1\tChair\t2026-11-22 10:00:00+00",
        "2\tTable\t2026-11-22 10:00:00+00",
    ];
    let page = anew("f2", &with_name_as("title"), &rows, "c2");
    let error = pull(&store, [page.clone(), page]).await.error();
    assert!(
        matches!(&error, Error::UniqueIndex { index, .. } if index == "one_date"),
        "{error}"
    );
    assert_eq!(place.dump(), before);
}
