//! What earlier versions wrote is understood: the files in `tests/golden`, a folder for each version.
//!
//! To write those of this version, once and before it is released: `HIGHWATER_GOLDEN=write cargo test --locked -p
//! highwater-client --test end_to_end golden`. Those of a released version are never written again.

mod course;
mod replay;

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value, json};

use self::course::{Answer, Course};
use self::replay::Replay;
use crate::rig::{Rig, client, output, run};

/// The golden files of a version.
struct Golden {
    folder: PathBuf,
}

impl Golden {
    /// The folder of all versions.
    fn home() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
    }

    /// All versions that there are.
    fn all() -> Vec<Self> {
        let folders = fs::read_dir(Self::home()).unwrap();
        let mut all: Vec<Self> = folders
            .map(|entry| Self {
                folder: entry.unwrap().path(),
            })
            .collect();
        all.sort_by(|a, b| a.folder.cmp(&b.folder));
        assert!(!all.is_empty(), "no golden files");
        all
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn text(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn answers(&self) -> Vec<Answer> {
        serde_json::from_str(&self.text("answers.json")).unwrap()
    }

    fn own_id(&self) -> String {
        self.text("own-id").trim().to_owned()
    }

    /// What the store holds in the end.
    fn rows(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    /// A store of that version, copied: opening it may write.
    fn store(&self, folder: &Path) -> PathBuf {
        let copy = folder.join("golden.db");
        fs::copy(self.path("store.sqlite"), &copy).unwrap();
        copy
    }

    /// The database that the files were made of, with the changes: another cluster, so another source, which says
    /// that it is the same database. Beside it the address of a server that has read this.
    async fn rig(&self) -> (Rig, String) {
        let rig = Rig::start(&self.text("source.sql"), course::ENTITIES).await;
        let sql = format!("update highwater.source set own_id = '{}'", self.own_id());
        run(&rig.pool, &sql).await;
        run(&rig.pool, &self.text("changes.sql")).await;
        let url = format!("http://{}", rig.serve_anew().await);
        (rig, url)
    }
}

/// All rows of a store, by entity; none of Highwater's own tables.
fn rows(store: &Path) -> Value {
    let connection = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut entities = Map::new();
    for entity in course::ENTITIES {
        let mut statement = connection
            .prepare(&format!("select * from \"{entity}\" order by 1, 2"))
            .unwrap();
        let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        let held = statement.query_map([], |row| {
            let mut held = Map::new();
            for (place, name) in names.iter().enumerate() {
                let value = match row.get_ref(place)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(number) => json!(number),
                    ValueRef::Real(number) => json!(number),
                    ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
                    ValueRef::Blob(bytes) => json!({ "bytes": bytes }),
                };
                held.insert(name.clone(), value);
            }
            Ok(Value::Object(held))
        });
        let held = held.unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        entities.insert((*entity).to_owned(), Value::Array(held));
    }
    Value::Object(entities)
}

/// Runs the client, and returns what it wrote as JSON.
async fn highwater(command: &str, store: &Path, arguments: &[&str]) -> Value {
    let mut program = client(command, store);
    program.arg("--json").args(arguments);
    let output = output(program).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {told}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command}: {error}, {told}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_version_writes_has_all_that_the_golden_files_have() {
    let course = Course::run().await;
    let version = Golden::home().join(env!("CARGO_PKG_VERSION"));
    if std::env::var("HIGHWATER_GOLDEN").is_ok_and(|value| value == "write") {
        course.write(&version);
    }
    let newest = Golden::all().pop().unwrap();
    let (golden, now) = (newest.answers(), &course.answers);
    assert_eq!(golden.len(), now.len(), "answers");
    for (golden, now) in golden.iter().zip(now) {
        let (was, is) = (golden.form(), now.form());
        assert!(
            course::contains(&is, &was),
            "{}: was {was:#}, is {is:#}",
            now.what()
        );
    }
    let (was, is) = (newest.rows("rows.json"), rows(&course.store));
    assert_eq!(course::masked(&is), course::masked(&was), "the rows of the store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_earlier_servers_fill_a_store() {
    for golden in Golden::all() {
        let folder = tempfile::tempdir().unwrap();
        let replay = Replay::start(&golden.own_id(), golden.answers()).await;
        let store = folder.path().join("store.db");
        highwater("pull", &store, &["--server", &replay.url]).await;
        assert_eq!(
            rows(&store),
            golden.rows("rows-first.json"),
            "{}",
            golden.folder.display()
        );
        highwater("pull", &store, &["--server", &replay.url]).await;
        assert_eq!(
            rows(&store),
            golden.rows("rows.json"),
            "{}",
            golden.folder.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_of_earlier_clients_are_read_and_go_on() {
    for golden in Golden::all() {
        let folder = tempfile::tempdir().unwrap();
        let store = golden.store(folder.path());
        let status = highwater("status", &store, &[]).await;
        let entities = status["entities"].as_array().unwrap();
        let stand: Vec<&Value> = entities.iter().map(|entity| &entity["state"]).collect();
        assert_eq!(stand, ["current"; 2], "{status}");
        assert_eq!(rows(&store), golden.rows("rows-first.json"));
        let replay = Replay::start(&golden.own_id(), golden.answers()).await;
        highwater("pull", &store, &["--server", &replay.url]).await;
        assert_eq!(rows(&store), golden.rows("rows.json"));

        // And on another cluster, where its cursor holds no more.
        let (_rig, url) = golden.rig().await;
        let store = golden.store(folder.path());
        highwater("pull", &store, &["--server", &url]).await;
        assert_eq!(
            course::masked(&rows(&store)),
            course::masked(&golden.rows("rows.json"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_of_earlier_clients_begin_a_store() {
    for golden in Golden::all() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("begun.db");
        let replay = Replay::start(&golden.own_id(), golden.answers()).await;
        let seed = golden.path("store.seed");
        let arguments = ["--server", &replay.url, "--seed", seed.to_str().unwrap()];
        let report = highwater("pull", &store, &arguments).await;
        assert!(report["seed"]["rows"].as_u64() > Some(0), "{report}");
        assert_eq!(rows(&store), golden.rows("rows.json"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_and_keys_of_earlier_servers_are_understood() {
    for golden in Golden::all() {
        let (rig, _) = golden.rig().await;
        let url = rig.serve_keys(&golden.path("keys")).await;
        let key = golden.text("key");
        let http = reqwest::Client::new();
        let cursors: Vec<String> = golden.answers().iter().filter_map(Answer::next).collect();
        assert!(cursors.len() > 5, "{cursors:?}");
        for cursor in cursors {
            let answer = http
                .get(format!("{url}/changes?since={cursor}"))
                .bearer_auth(key.trim())
                .send()
                .await
                .unwrap();
            // It was read, and what it says is that it is from another source. Nonsense would be 400.
            assert_eq!(answer.status(), 410);
            let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(problem["reason"], "source_changed", "{problem}");
        }
    }
}
