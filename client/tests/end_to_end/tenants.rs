//! Random tenants: whatever is written, moved between them, granted and taken back while devices pull, no
//! store ever holds a row or a key that its device was never allowed to see, and at rest each holds what
//! it may see, exactly.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_server::ServeOptions;
use highwater_server::admin::EnableOptions;
use highwater_server::auth::{
    self, AuthOptions, Authenticator, NewKey, TokenAlgorithm, TokenKeys, TokenOptions,
};
use highwater_server::caller::Grant;
use highwater_testbed::{Copy, Process, seed};
use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Client, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;

use crate::rig::{Rig, client, output, run};

const TENANTS: i32 = 4;
const KEYS: i32 = 60;
const WRITERS: u64 = 6;
/// How long the writers write.
const TIME: Duration = Duration::from_secs(12);
/// The longest that a device may take to be right once nobody writes.
const PATIENCE: Duration = Duration::from_mins(1);
const SECRET: &str = "a secret that only this test knows, and it is long enough";

/// `pairs` notes which keys were ever in which tenant, in the transaction that puts them there.
const TABLES: &str = "
    create table product (id int primary key, tenant int, name text);
    insert into product select g, g % 4 + 1, 'p' || g from generate_series(1, 40) g;
    create table news (id int primary key, title text);
    insert into news values (1, 'for all');
    create table pairs (id int, tenant int);
    insert into pairs select id, tenant from product";

/// Notes in a store what its table ever holds.
const AUDIT: &str = "
    create table audit (id int, tenant int);
    insert into audit select id, tenant from product;
    create trigger audit_insert after insert on product begin insert into audit values (new.id, new.tenant); end;
    create trigger audit_update after update on product begin insert into audit values (new.id, new.tenant); end";

/// A product, or one of the news, which belong to no tenant.
type Row = (i32, Option<i32>, String);

/// Tenants that a device may see, and all that it ever could.
#[derive(Debug, Default)]
struct Granted {
    now: BTreeSet<i32>,
    ever: BTreeSet<i32>,
}

impl Granted {
    fn change(&mut self, random: &mut StdRng) {
        self.now = (1..=TENANTS).filter(|_| random.random_bool(0.4)).collect();
        self.ever.extend(&self.now);
    }

    /// A token that grants it, as an application would sign one.
    fn token(&self) -> String {
        let claims = json!({"sub": "till", "exp": get_current_timestamp() + 3_600, "tenant": self.now});
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
    }
}

/// A server that knows API keys and tokens, before tables that tenants share.
struct Source {
    rig: Rig,
    url: String,
    keys: PathBuf,
}

impl Source {
    async fn start() -> Self {
        let rig = Rig::start(TABLES, &["news"]).await;
        let by_tenant = EnableOptions {
            scope: Some("tenant".to_owned()),
            ..EnableOptions::default()
        };
        rig.enable("product", by_tenant).await;
        let (keys, secrets) = (rig.folder.path().join("keys"), rig.folder.path().join("secret"));
        std::fs::write(&secrets, SECRET).unwrap();
        std::fs::write(&keys, "").unwrap();
        let options = AuthOptions {
            api_keys: Some(keys.clone()),
            tokens: Some(TokenOptions {
                keys: TokenKeys::Secrets(secrets),
                algorithms: vec![TokenAlgorithm::Hs256],
                audiences: Vec::new(),
                issuers: Vec::new(),
            }),
        };
        let options = ServeOptions {
            authenticator: Some(Arc::new(Authenticator::open(options).await.unwrap())),
            ..ServeOptions::default()
        };
        let url = format!("http://{}", rig.serve_with(options).await);
        Self { rig, url, keys }
    }

    /// Makes a key, and waits until the server knows it.
    async fn key(&self, name: &str, granted: &Granted) -> String {
        let new = NewKey {
            grant: Grant {
                name: name.to_owned(),
                entities: None,
                scopes: [("tenant".to_owned(), texts(&granted.now))].into(),
            },
            expires: None,
        };
        let key = auth::add_key(&self.keys, &new).unwrap();
        let asked = || {
            Client::new()
                .get(format!("{}/entities", self.url))
                .bearer_auth(&key)
                .send()
        };
        while asked().await.unwrap().status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        key
    }

    /// Changes what a key grants, as an operator does: in the file, which the server reads again.
    fn regrant(&self, name: &str, granted: &Granted) {
        let text = std::fs::read_to_string(&self.keys).unwrap();
        let lines = text
            .lines()
            .map(|line| match serde_json::from_str::<Value>(line) {
                Ok(mut entry) if entry["name"] == name => {
                    entry["scopes"] = json!({"tenant": texts(&granted.now)});
                    entry.to_string() + "\n"
                }
                _ => line.to_owned() + "\n",
            });
        let new = self.keys.with_extension("written");
        std::fs::write(&new, lines.collect::<String>()).unwrap();
        std::fs::rename(&new, &self.keys).unwrap();
    }

    /// The live products of these tenants, and the news.
    async fn seen(&self, granted: &Granted) -> BTreeSet<Row> {
        let tenants: Vec<i32> = granted.now.iter().copied().collect();
        sqlx::query_as(
            "select id, tenant, name from product where not deleted and tenant = any ($1)
             union all select id, null, title from news",
        )
        .bind(tenants)
        .fetch_all(&self.rig.pool)
        .await
        .unwrap()
        .into_iter()
        .collect()
    }

    /// Keys with every tenant that they were ever in.
    async fn pairs(&self) -> HashSet<(i32, Option<i32>)> {
        let pairs = sqlx::query_as("select distinct id, tenant from pairs");
        pairs
            .fetch_all(&self.rig.pool)
            .await
            .unwrap()
            .into_iter()
            .collect()
    }
}

fn texts(tenants: &BTreeSet<i32>) -> BTreeSet<String> {
    tenants.iter().map(ToString::to_string).collect()
}

/// Sets writers to work until told to stop.
fn write(url: &str, seed: u64, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    (0..WRITERS)
        .map(|number| {
            let (url, stop) = (url.to_owned(), Arc::clone(stop));
            let mut random = StdRng::seed_from_u64(seed ^ ((number + 1) << 32));
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                execute(&mut connection, "set deadlock_timeout = '50ms'")
                    .await
                    .unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if transaction(&mut connection, &mut random).await.is_err() {
                        execute(&mut connection, "rollback").await.unwrap();
                    }
                }
            })
        })
        .collect()
}

/// One transaction, with rows that move between tenants, in savepoints too.
async fn transaction(connection: &mut PgConnection, random: &mut StdRng) -> Result<(), sqlx::Error> {
    execute(connection, "begin").await?;
    for _ in 0..random.random_range(1..4) {
        let (id, other) = (random.random_range(1..=KEYS), random.random_range(1..=KEYS));
        let (tenant, name) = (random.random_range(1..=TENANTS), random.random::<u32>());
        let change = match random.random_range(0..8) {
            0 => format!("delete from product where id = {id}"),
            1 => format!("update product set deleted = not deleted where id = {id}"),
            2 | 3 => format!("update product set tenant = {tenant} where id = {id}"),
            4 => format!(
                "update product set id = {other} where id = {id}
                     and not exists (select from product where id = {other})"
            ),
            5 => format!("update product set tenant = null where id = {id}"),
            _ => format!(
                "insert into product values ({id}, {tenant}, 'n{name}')
                 on conflict (id) do update set name = excluded.name, tenant = excluded.tenant"
            ),
        };
        let noted = format!("insert into pairs select id, tenant from product where id in ({id}, {other})");
        let in_savepoint = random.random_bool(0.3);
        if in_savepoint {
            execute(connection, "savepoint s").await?;
        }
        execute(connection, &change).await?;
        execute(connection, &noted).await?;
        if in_savepoint && random.random_bool(0.4) {
            execute(connection, "rollback to s").await?;
        }
        if random.random_bool(0.3) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        }
    }
    let end = if random.random_bool(0.1) {
        "rollback"
    } else {
        "commit"
    };
    execute(connection, end).await
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    statement.execute(connection).await.map(drop)
}

/// What a store holds that it should: its live products, and the news.
fn held(store: &Path) -> rusqlite::Result<BTreeSet<Row>> {
    let connection = Connection::open(store)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let deleted = "select count(*) from pragma_table_info('product') where name = 'deleted'";
    let live = match connection.query_row(deleted, [], |row| row.get(0))? {
        0 => "",
        _ => "where deleted = 0",
    };
    let rows =
        format!("select id, tenant, name from product {live} union all select id, null, title from news");
    connection
        .prepare(&rows)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

/// Has a store note what it holds from now on.
fn audit(store: &Path) {
    let connection = Connection::open(store).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute_batch(&format!("begin immediate; {AUDIT}; commit"))
        .unwrap();
}

/// Checks all that a store has ever held.
fn check_audit(store: &Path, granted: &Granted, pairs: &HashSet<(i32, Option<i32>)>, what: &str) {
    let connection = Connection::open(store).unwrap();
    let mut statement = connection
        .prepare("select distinct id, tenant from audit")
        .unwrap();
    let noted: Vec<(i32, Option<i32>)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(!noted.is_empty(), "{what}: the store has noted nothing");
    for (id, tenant) in noted {
        assert!(
            pairs.contains(&(id, tenant)),
            "{what}: {id} was never of tenant {tenant:?}"
        );
        let was_granted = tenant.is_some_and(|tenant| granted.ever.contains(&tenant));
        assert!(
            was_granted,
            "{what}: tenant {tenant:?} was never granted: {granted:?}"
        );
    }
}

/// A device with an API key, whose daemon follows live.
struct Follower {
    name: String,
    store: PathBuf,
    granted: Granted,
    _daemon: Process,
}

impl Follower {
    async fn start(source: &Source, name: String, random: &mut StdRng) -> Self {
        let mut granted = Granted::default();
        // It must hold a row, to have a table that can be audited.
        granted.change(random);
        granted.now.insert(1);
        granted.ever.insert(1);
        let key = source.key(&name, &granted).await;
        let store = source.rig.store(&format!("{name}.db"));
        let mut command = client("run", &store);
        command
            .args(["--quiet", "--resync-spread", "0s", "--server", &source.url])
            .env("HIGHWATER_TOKEN", key);
        let daemon = Process::spawn(command).unwrap();
        let follower = Self {
            name,
            store,
            granted,
            _daemon: daemon,
        };
        follower.until_held(|rows| !rows.is_empty()).await;
        audit(&follower.store);
        follower
    }

    async fn until_held(&self, holds: impl Fn(&BTreeSet<Row>) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = None;
        while !last.as_ref().is_some_and(&holds) {
            let name = &self.name;
            assert!(
                tokio::time::Instant::now() < deadline,
                "{name} {:?}: {last:?}",
                self.granted
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = held(&self.store).ok();
        }
    }
}

/// A device with a token, which pulls when it is told.
struct Puller {
    store: PathBuf,
    granted: Granted,
    keeps_deleted: bool,
}

impl Puller {
    async fn pull(&self, source: &Source, limit: u32) {
        let mut command = client("pull", &self.store);
        command
            .args(["--quiet", "--server", &source.url, "--limit", &limit.to_string()])
            .env("HIGHWATER_TOKEN", self.granted.token());
        if self.keeps_deleted {
            command.arg("--keep-deleted");
        }
        let pulled = output(command).await;
        let said = String::from_utf8_lossy(&pulled.stderr);
        assert!(pulled.status.success(), "{said}");
        for (id, tenant, _) in held(&self.store).unwrap() {
            let may_see = tenant.is_none_or(|tenant| self.granted.now.contains(&tenant));
            assert!(may_see, "{id} of {tenant:?} is held with {:?}", self.granted);
        }
    }
}

/// One who reads JSON with a token, by short and by long polls.
#[derive(Default)]
struct Reader {
    copy: Copy,
    granted: Granted,
    /// The keys that were said to be gone, with the tenants that could be seen then.
    gone: Vec<(i32, BTreeSet<i32>)>,
}

impl Reader {
    /// Reads one page, and tells whether more are to come.
    async fn read(&mut self, source: &Source, limit: u32, wait: u32) -> bool {
        let mut query = vec![("limit", limit.to_string()), ("wait", wait.to_string())];
        query.extend(self.copy.since.clone().map(|since| ("since", since)));
        let request = Client::new().get(format!("{}/changes", source.url)).query(&query);
        let response = request.bearer_auth(self.granted.token()).send().await.unwrap();
        let status = response.status();
        let page: Value = response.json().await.unwrap();
        if status == StatusCode::GONE {
            assert_eq!(page["reason"], "scope_changed");
            self.copy.since = None;
            return true;
        }
        assert_eq!(status, StatusCode::OK, "{page}");
        for change in page["changes"].as_array().unwrap() {
            let Some(id) = change["key"]["id"]
                .as_i64()
                .filter(|_| change["entity"] == "product")
            else {
                continue;
            };
            if change["deleted"] == true {
                self.gone
                    .push((i32::try_from(id).unwrap(), self.granted.now.clone()));
            } else {
                let tenant = i32::try_from(change["row"]["tenant"].as_i64().unwrap()).unwrap();
                assert!(self.granted.now.contains(&tenant), "{:?}: {change}", self.granted);
            }
        }
        self.copy.apply(&page)
    }

    fn held(&self) -> BTreeSet<Row> {
        let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
        let rows = |entity, name: &'static str| {
            let rows = self.copy.rows(entity).into_values();
            rows.map(move |row| {
                let name = row[name].as_str().unwrap().to_owned();
                (number(&row["id"]).unwrap(), number(&row["tenant"]), name)
            })
        };
        rows("product", "name").chain(rows("news", "title")).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_store_ever_holds_what_its_device_was_never_allowed_to_see() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let source = Source::start().await;
    let mut followers = Vec::new();
    for number in 0..2 {
        followers.push(Follower::start(&source, format!("follower{number}"), &mut random).await);
    }
    let mut pullers = Vec::new();
    for keeps_deleted in [false, true] {
        let store = source.rig.store(&format!("puller{keeps_deleted}.db"));
        let granted = Granted {
            now: [1].into(),
            ever: [1].into(),
        };
        let puller = Puller {
            store,
            granted,
            keeps_deleted,
        };
        puller.pull(&source, 1_000).await;
        audit(&puller.store);
        pullers.push(puller);
    }
    let mut readers = [Reader::default(), Reader::default()];
    for reader in &mut readers {
        reader.granted.change(&mut random);
    }

    let stop = Arc::new(AtomicBool::new(false));
    let writers = write(&source.rig.database.url(), seed, &stop);
    let until = tokio::time::Instant::now() + TIME;
    while tokio::time::Instant::now() < until {
        for follower in &mut followers {
            if random.random_bool(0.05) {
                follower.granted.change(&mut random);
                source.regrant(&follower.name, &follower.granted);
            }
        }
        for puller in &mut pullers {
            if random.random_bool(0.2) {
                puller.granted.change(&mut random);
            }
            puller.pull(&source, random.random_range(1..40)).await;
        }
        for reader in &mut readers {
            if random.random_bool(0.1) {
                reader.granted.change(&mut random);
            }
            for _ in 0..random.random_range(1..6) {
                let wait = u32::from(random.random_bool(0.2));
                reader.read(&source, random.random_range(1..20), wait).await;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    // Wakes everybody, so that a right that was taken back meanwhile is looked at again.
    run(&source.rig.pool, "update news set title = 'at rest'").await;

    let pairs = source.pairs().await;
    for follower in &followers {
        let expected = source.seen(&follower.granted).await;
        follower.until_held(|rows| *rows == expected).await;
        check_audit(&follower.store, &follower.granted, &pairs, &follower.name);
    }
    for puller in &pullers {
        puller.pull(&source, 7).await;
        let expected = source.seen(&puller.granted).await;
        assert_eq!(held(&puller.store).unwrap(), expected, "{:?}", puller.granted);
        check_audit(&puller.store, &puller.granted, &pairs, "a device that pulls");
    }
    for reader in &mut readers {
        while reader.read(&source, 5, 0).await {}
        assert_eq!(reader.held(), source.seen(&reader.granted).await);
        for (id, tenants) in &reader.gone {
            let was_seen = tenants.iter().any(|tenant| pairs.contains(&(*id, Some(*tenant))));
            assert!(was_seen, "{id} is gone for {tenants:?}, and never was theirs");
        }
    }
}
