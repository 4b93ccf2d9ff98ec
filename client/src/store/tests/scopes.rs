//! What the caller may see has changed, and is told by rows.

use super::*;

/// What is left of the products in the column of a scope.
fn within(entity: &str, columns: &str, values: &[&str]) -> Page {
    let values = serde_json::to_string(values).expect("JSON");
    let body = format!(
        r#"{{"version":1,"entity":"{entity}","kind":"within","columns":{columns},"fingerprint":"f1","values":{values}}}"#
    );
    Page {
        body: body + "\n\\.\n",
        ..Page::new()
    }
}

const NAME: &str = r#"[{"name":"name","type":"text"}]"#;

async fn filled(store: &Store) {
    let page = Page::new().reset();
    let rows = ["1 Chair", "2 a\\tb", "3 \\N", "4 Lamp", "5 Chair"];
    pull(store, [page.upsert(&rows).end("c1", false)]).await.report();
}

#[tokio::test]
async fn rows_go_that_have_none_of_the_values() {
    let place = Place::new();
    let store = place.open();
    filled(&store).await;
    let page = within("product", NAME, &["Chair", "a\tb"]).upsert(&["6 Sofa"]);
    let report = pull(&store, [page.end("c2", false)]).await.report();
    assert_eq!(place.query("select id from product"), ["1", "2", "5", "6"]);
    assert_eq!((report.entities[0].upserts, report.entities[0].deletes), (1, 2));
    let nothing = within("product", NAME, &[]).end("c3", false);
    assert_eq!(pull(&store, [nothing]).await.report().entities[0].deletes, 4);
    assert!(place.query("select id from product").is_empty());
}

#[tokio::test]
async fn values_are_of_the_type_of_their_column() {
    let place = Place::new();
    let store = place.open();
    filled(&store).await;
    let key = r#"[{"name":"id","type":"bigint","role":"key"}]"#;
    let page = within("product", key, &["2", "4", "77"]).end("c2", false);
    pull(&store, [page]).await.report();
    assert_eq!(place.query("select id from product"), ["2", "4"]);
    let before = place.dump();
    let page = within("product", key, &["2", "two"]).end("c3", false);
    let error = pull(&store, [page]).await.error().to_string();
    assert!(error.contains(r#""two" is not a bigint"#), "{error}");
    assert_eq!(place.dump(), before);
}

/// Rows that are kept though they are deleted are the caller's business no more than others.
#[tokio::test]
async fn rows_that_are_kept_though_deleted_go_too() {
    let place = Place::new();
    let store = place.open();
    filled(&store).await;
    let page = Page::new().delete(&["1", "4"], "deleted").end("c2", false);
    pull_with(&store, [page], keep()).await.report();
    let page = within("product", NAME, &["Chair"]).end("c3", false);
    pull_with(&store, [page], keep()).await.report();
    assert_eq!(place.query("select id from product"), ["1", "5"]);
}

/// A pull that began anew has sent all rows, and others have changed meanwhile: its cursor tells of the new rows, which
/// readers do not see yet.
#[tokio::test]
async fn of_an_entity_that_begins_anew_the_new_rows_go() {
    let place = Place::new();
    let store = place.open();
    filled(&store).await;
    let pages = [
        Page::new()
            .reset()
            .upsert(&["1 Chair", "7 Sofa"])
            .end("mid1", true),
        within("product", NAME, &["Sofa"]).end("mid2", true),
    ];
    assert!(pull(&store, pages).await.outcome.is_err(), "there was no third");
    assert_eq!(state(&store), State::Renewing);
    assert_eq!(place.query("select id from product"), ["1", "2", "3", "4", "5"]);
    pull(&store, [Page::new().end("c2", false)]).await.report();
    assert_eq!(place.query("select id from product"), ["7"]);
}

#[tokio::test]
async fn there_have_to_be_rows_to_tell_of() {
    let place = Place::new();
    let store = place.open();
    filled(&store).await;
    store.reset(&[EntityName::new("product")]).expect("a reset");
    let before = place.dump();
    for entity in ["product", "tax"] {
        let page = within(entity, NAME, &["Chair"]).end_covering("c2", false, BOTH);
        let error = pull(&store, [page]).await.error().to_string();
        let reason = format!("which rows of {entity} are left, and there are none to tell of");
        assert!(error.contains(&reason), "{error}");
        assert_eq!(place.dump(), before);
    }
}

#[tokio::test]
async fn a_column_that_the_rows_do_not_have_has_the_entity_begin_anew() {
    let place = Place::new();
    let store = place.open();
    filled(&store).await;
    let pages = [
        within("product", r#"[{"name":"team","type":"text"}]"#, &["Chair"]).end("c2", false),
        Page::new().reset().upsert(&["1 Chair"]).end("c3", false),
    ];
    let pulled = pull(&store, pages).await;
    assert_eq!(pulled.since(), [Some("c1"), None]);
    pulled.report();
    assert_eq!(place.query("select id from product"), ["1"]);
}
