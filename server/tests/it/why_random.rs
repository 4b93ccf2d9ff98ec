//! What `GET /why` says of each row, and what a pull from the same cursor then really brings, in courses made up
//! at random.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_server::admin::{self, PurgeOptions};
use highwater_testbed::{Copy, seed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::scopes::{Tenants, of};
use crate::why::path;

/// Keys in play: few, so that each meets much.
const KEYS: i32 = 16;

/// Rounds of changes, with questions after each.
const ROUNDS: usize = 25;

/// More rows than there are.
const LIMIT_MIN: usize = 1_000;

/// Who asks: the tenants that they see.
const CALLERS: [&[i32]; 3] = [&[1], &[2, 3], &[1, 2, 3]];

/// A device: what it has, and who it is.
struct Device {
    copy: Copy,
    caller: String,
    by_date: bool,
}

fn change(random: &mut StdRng) -> String {
    let (id, other, tenant) = (
        random.random_range(1..=KEYS),
        random.random_range(1..=KEYS),
        random.random_range(1..=3),
    );
    match random.random_range(0..14) {
        0..=3 => format!(
            "insert into product values ({id}, {tenant}, 'new') on conflict (id) do update set deleted = false, name = 'again'"
        ),
        4 => format!("delete from product where id = {id}"),
        5 => format!("update product set deleted = not deleted where id = {id}"),
        6..=8 => format!("update product set tenant = {tenant} where id = {id}"),
        9 => format!(
            "update product set id = {other} where id = {id} and not exists (select from product where id = {other})"
        ),
        _ => format!("update product set name = name || 'x' where id = {id}"),
    }
}

impl Device {
    fn since(&self) -> Option<&str> {
        self.copy.since.as_deref()
    }

    async fn ask(&self, tenants: &Tenants, id: i32) -> Value {
        let since = self.since().unwrap_or("1970-01-01T00:00:00Z");
        let path = path(Some(since), "product", &id.to_string());
        let response = tenants.server.get_by(&path, &self.caller).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// One page, applied; what it says of each key, and of the entity. Tells whether more is to come.
    async fn page(&mut self, tenants: &Tenants, limit: usize, told: &mut BTreeMap<i32, Value>) -> bool {
        let since = self
            .since()
            .map_or(String::new(), |since| format!("since={since}&"));
        let query = format!("{since}limit={limit}&entity=product&purged=keys");
        let response = tenants.get(&query, &self.caller).await;
        let status = response.status();
        let page: Value = response.json().await.unwrap();
        if status == StatusCode::GONE {
            self.copy.since = None;
            return true;
        }
        assert_eq!(status, StatusCode::OK, "{page}");
        for change in page["changes"].as_array().unwrap() {
            let id = change["key"]["id"].as_i64().unwrap_or_default();
            told.insert(i32::try_from(id).unwrap(), change.clone());
        }
        let more = self.copy.apply(&page);
        if !more && self.by_date && !self.copy.last_sync_date.starts_with("1970") {
            self.copy.since = Some(self.copy.last_sync_date.clone());
        }
        more
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_row_is_what_the_next_pull_brings() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let tenants = Tenants::start().await;
    let mut session = PgConnection::connect(&tenants.rig.database.url()).await.unwrap();
    let mut writer = PgConnection::connect(&tenants.rig.database.url()).await.unwrap();
    execute(&mut writer, "set lock_timeout = '20ms'").await;
    let mut devices: Vec<Device> = (0..9)
        .map(|number| Device {
            copy: Copy::default(),
            caller: of(CALLERS[number % CALLERS.len()]),
            by_date: number % 4 == 3,
        })
        .collect();
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    let mut is_open = false;
    for round in 0..ROUNDS {
        // A writer of its own may stay open over several rounds.
        if !is_open && random.random_bool(0.3) {
            let late = format!(
                "begin; set local lock_timeout = '2s'; update product set name = 'late' where id = {KEYS}"
            );
            is_open = execute(&mut session, &late).await;
        } else if is_open && random.random_bool(0.5) {
            execute(&mut session, "commit").await;
            is_open = false;
        }
        for _ in 0..random.random_range(1..8) {
            let change = change(&mut random);
            let end = if random.random_bool(0.1) {
                "rollback"
            } else {
                "commit"
            };
            execute(&mut writer, &format!("begin; {change}; {end}")).await;
        }
        if !is_open && (round == ROUNDS / 2 || random.random_bool(0.06)) {
            let all = ["truncate product", "select highwater.touch('product')"];
            tenants.rig.run(all.choose(&mut random).unwrap()).await;
        }
        if round == ROUNDS / 3 || random.random_bool(0.06) {
            let mut connection = tenants.rig.database.connect().await.unwrap();
            let options = PurgeOptions {
                keys_max: random.random_range(0..2 * KEYS.unsigned_abs()),
                ..PurgeOptions::older_than(Duration::ZERO)
            };
            admin::purge(&mut connection, &options).await.unwrap();
        }
        for (number, device) in devices.iter_mut().enumerate() {
            if random.random_bool(0.4) {
                continue;
            }
            // A date does not say for whom it was made, so what a caller may no longer see stays there.
            if !device.by_date && random.random_bool(0.05) {
                device.caller = of(CALLERS.choose(&mut random).unwrap());
            }
            let what = format!("seed {seed}, round {round}, device {number}");
            check(&tenants, device, &what, &mut met).await;
            // Half of them are left in the middle of their next pull.
            if random.random_bool(0.5) {
                for _ in 0..random.random_range(1..8) {
                    let change = change(&mut random);
                    execute(&mut writer, &format!("begin; {change}; commit")).await;
                }
                for _ in 0..random.random_range(1..3) {
                    let limit = random.random_range(1..4);
                    if !device.page(&tenants, limit, &mut BTreeMap::new()).await {
                        break;
                    }
                }
            }
        }
    }
    eprintln!("{met:?}");
    for outcome in [
        "seen",
        "changed_since",
        "deleted",
        "out_of_scope",
        "no_such_row",
        "begins_anew",
    ] {
        assert!(
            met.contains_key(outcome),
            "seed {seed}: {outcome} was not met: {met:?}"
        );
    }
}

/// Asks about every key, pulls to the end, and holds the one against the other.
async fn check(tenants: &Tenants, device: &mut Device, what: &str, met: &mut BTreeMap<String, usize>) {
    let mut said: BTreeMap<i32, Value> = BTreeMap::new();
    for id in 1..=KEYS {
        said.insert(id, device.ask(tenants, id).await);
    }
    let (before, was_midway) = (device.copy.clone(), device.is_midway());
    let mut told = BTreeMap::new();
    // In pages that nobody else has asked for: one that is shared may be from before a purge.
    let limit = LIMIT_MIN + met.values().sum::<usize>();
    while device.page(tenants, limit, &mut told).await {}
    let (old, new) = (before.rows("product"), device.copy.rows("product"));
    for (id, answer) in &said {
        let outcome = answer["outcome"].as_str().unwrap();
        *met.entry(outcome.to_owned()).or_default() += 1;
        let brought = match told.get(id) {
            Some(change) if change["deleted"] == true => "deletion",
            Some(_) => "row",
            None => "nothing",
        };
        assert_eq!(answer["nextPull"], brought, "{what}: {answer}");
        if let Some(change) = told.get(id) {
            // Of a row that was removed from two scopes of a caller the later tombstone may have come before.
            let date = |of: &Value| of["changedDate"].as_str().unwrap().to_owned();
            let is_it = date(change) == date(answer) || brought == "deletion" && date(change) < date(answer);
            assert!(is_it, "{what}: {answer}: {change}");
        }
        let anew = ["not_covered", "begins_anew", "source_changed", "scope_changed"].contains(&outcome);
        assert!(
            !anew || told.contains_key(&0),
            "{what}: nothing began anew: {answer}"
        );
        assert!(
            anew || was_midway || !told.contains_key(&0),
            "{what}: all began anew: {answer}"
        );
        let key = json!({ "id": id }).to_string();
        match outcome {
            "seen" => {
                assert!(new.contains_key(&key), "{what}: {answer}");
                assert!(was_midway || old.get(&key) == new.get(&key), "{what}: {answer}");
            }
            "changed_since" | "page_to_come" => assert!(new.contains_key(&key), "{what}: {answer}"),
            "deleted" | "out_of_scope" | "no_such_row" => {
                assert!(!new.contains_key(&key), "{what}: {answer}");
            }
            _ => assert_eq!(new.contains_key(&key), brought == "row", "{what}: {answer}"),
        }
    }
}

impl Device {
    /// Whether it stands in the middle of a pull. A pull to the end has left the date, or a cursor whose next
    /// page is the last of a pull of its own.
    fn is_midway(&self) -> bool {
        let cursor = self
            .since()
            .and_then(|since| highwater_server::cursor::Cursor::decode(since).ok());
        cursor.is_some_and(|cursor| cursor.pull.is_some())
    }
}

/// Runs statements; where a lock is held for longer, or a key is taken, the transaction never was.
async fn execute(connection: &mut PgConnection, sql: &str) -> bool {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut *connection)
        .await;
    if let Err(error) = &done {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        assert!(
            matches!(code.as_deref(), Some("55P03" | "23505")),
            "{sql}: {error}"
        );
        sqlx::raw_sql("rollback").execute(connection).await.unwrap();
    }
    done.is_ok()
}
