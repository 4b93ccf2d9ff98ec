//! Tables that tenants share, a server before them that asks who calls, and writers who move rows between tenants.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_server::auth::{self, AuthOptions, NewKey, TokenAlgorithm, TokenKeys, TokenOptions};
use highwater_server::caller::Grant;
use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;

use crate::rig::Rig;

const TENANTS: i32 = 4;
const KEYS: i32 = 60;
const WRITERS: u64 = 6;
const SECRET: &str = "a secret that only this test knows, and it is long enough";

/// `pairs` notes which keys were ever in which tenant, in the transaction that puts them there.
const TABLES: &str = "
    create table product (id int primary key, tenant int, name text);
    insert into product select g, g % 4 + 1, 'p' || g from generate_series(1, 40) g;
    create table news (id int primary key, title text);
    insert into news values (1, 'for all');
    create table pairs (id int, tenant int);
    insert into pairs select id, tenant from product";

/// A product, or one of the news, which belong to no tenant.
pub(super) type Row = (i32, Option<i32>, String);

/// Tenants that a device may see, and all that it ever could.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) now: BTreeSet<i32>,
    pub(super) ever: BTreeSet<i32>,
}

impl Granted {
    pub(super) fn change(&mut self, random: &mut StdRng) {
        self.now = (1..=TENANTS).filter(|_| random.random_bool(0.4)).collect();
        self.ever.extend(&self.now);
    }

    /// A token that grants it, as an application would sign one.
    pub(super) fn token(&self) -> String {
        let claims = json!({"sub": "till", "exp": get_current_timestamp() + 3_600, "tenant": self.now});
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
    }
}

/// A server that knows API keys and tokens, before tables that tenants share.
pub(super) struct Source {
    pub(super) rig: Rig,
    pub(super) url: String,
    pub(super) keys: PathBuf,
}

impl Source {
    pub(super) async fn start() -> Self {
        let rig = Rig::start(TABLES, &["news"]).await;
        rig.enable_scoped("product", "tenant").await;
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
        let url = rig.serve_asking(options).await;
        Self { rig, url, keys }
    }

    /// Makes a key, and waits until the server knows it.
    pub(super) async fn key(&self, name: &str, granted: &Granted) -> String {
        let new = NewKey {
            grant: Grant {
                name: name.to_owned(),
                entities: None,
                scopes: [("tenant".to_owned(), texts(&granted.now))].into(),
                is_operator: false,
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
    pub(super) fn regrant(&self, name: &str, granted: &Granted) {
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
    pub(super) async fn seen(&self, granted: &Granted) -> BTreeSet<Row> {
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
    pub(super) async fn pairs(&self) -> HashSet<(i32, Option<i32>)> {
        let pairs = sqlx::query_as("select distinct id, tenant from pairs");
        pairs
            .fetch_all(&self.rig.pool)
            .await
            .unwrap()
            .into_iter()
            .collect()
    }
}

pub(super) fn texts(tenants: &BTreeSet<i32>) -> BTreeSet<String> {
    tenants.iter().map(ToString::to_string).collect()
}

/// Sets writers to work until told to stop.
pub(super) fn write(url: &str, seed: u64, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
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
pub(super) async fn transaction(
    connection: &mut PgConnection,
    random: &mut StdRng,
) -> Result<(), sqlx::Error> {
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

pub(super) async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    statement.execute(connection).await.map(drop)
}
