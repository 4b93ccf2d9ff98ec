//! The application adopts Highwater while it runs, by one command and without a change of its code.

use std::path::Path;

use highwater_testbed::{Result, Stage};
use reqwest::{Client, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};

/// What a device has, in the form in which the application tells it.
fn held(store: &Path) -> Result<Value> {
    let store = Connection::open(store)?;
    let mut todos = store.prepare("select id, title, done from todo order by id")?;
    let rows = todos.query_map([], |row| {
        let (id, title, done): (i64, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(json!({"id": id, "title": title, "done": done}))
    })?;
    Ok(rows.collect::<Result<Vec<Value>, _>>()?.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_application_writes_arrives_on_a_device() -> Result<()> {
    let stage = Stage::start("app").await?;
    let app = stage.start_program(
        Path::new(env!("CARGO_BIN_EXE_highwater-example-app")),
        &["127.0.0.1:0"],
    )?;
    let http = Client::builder().no_proxy().build()?;
    let todos = format!("{}/todos", app.url);
    let list = || async { anyhow::Ok(http.get(&todos).send().await?.json::<Value>().await?) };
    let add = |title: &'static str| http.post(&todos).json(&json!({ "title": title })).send();
    add("written before anything was enabled")
        .await?
        .error_for_status()?;
    // Its statements are prepared.
    list().await?;

    stage.admin(&["migrate"])?;
    stage.admin(&["enable", "todo"])?;
    let server = stage.serve(&[])?;
    let store = stage.folder().join("todos.db");
    let pull = || stage.client(&["pull", "--server", &server.url, "--store", "todos.db"], None);
    pull()?;
    assert_eq!(held(&store)?, list().await?);

    for title in ["to be done", "to be removed"] {
        add(title).await?.error_for_status()?;
    }
    let done = http
        .patch(format!("{todos}/2"))
        .json(&json!({"done": true}))
        .send();
    assert_eq!(done.await?.status(), StatusCode::NO_CONTENT);
    pull()?;
    assert_eq!(held(&store)?, list().await?);
    let removed = http.delete(format!("{todos}/3")).send();
    assert_eq!(removed.await?.status(), StatusCode::NO_CONTENT);
    pull()?;
    let expected = json!([
        {"id": 1, "title": "written before anything was enabled", "done": false},
        {"id": 2, "title": "to be done", "done": true},
    ]);
    assert_eq!(held(&store)?, expected);
    assert_eq!(list().await?, expected);
    Ok(())
}
