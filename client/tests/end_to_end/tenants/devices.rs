//! Devices of tenants: a daemon with a key, a program with a token, and a reader of JSON. Their stores note all
//! that they ever hold.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_testbed::{Copy, Process};
use rand::rngs::StdRng;
use reqwest::{Client, StatusCode};
use rusqlite::Connection;
use serde_json::Value;

use super::source::{Granted, Row, Source};
use crate::rig::{client, output};

/// The longest that a device may take to be right once nobody writes.
const PATIENCE: Duration = Duration::from_mins(1);

/// Notes in a store what its table ever holds.
const AUDIT: &str = "
    create table audit (id int, tenant int);
    insert into audit select id, tenant from product;
    create trigger audit_insert after insert on product begin insert into audit values (new.id, new.tenant); end;
    create trigger audit_update after update on product begin insert into audit values (new.id, new.tenant); end";

/// What a store holds that it should: its live products, and the news.
pub(super) fn held(store: &Path) -> rusqlite::Result<BTreeSet<Row>> {
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
pub(super) fn audit(store: &Path) {
    let connection = Connection::open(store).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute_batch(&format!("begin immediate; {AUDIT}; commit"))
        .unwrap();
}

/// Checks all that a store has ever held.
pub(super) fn check_audit(store: &Path, granted: &Granted, pairs: &HashSet<(i32, Option<i32>)>, what: &str) {
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
pub(super) struct Follower {
    pub(super) name: String,
    pub(super) store: PathBuf,
    pub(super) granted: Granted,
    _daemon: Process,
}

impl Follower {
    pub(super) async fn start(source: &Source, name: String, random: &mut StdRng) -> Self {
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

    pub(super) async fn until_held(&self, holds: impl Fn(&BTreeSet<Row>) -> bool) {
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
pub(super) struct Puller {
    pub(super) store: PathBuf,
    pub(super) granted: Granted,
    pub(super) keeps_deleted: bool,
}

impl Puller {
    pub(super) async fn pull(&self, source: &Source, limit: u32) {
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
pub(super) struct Reader {
    pub(super) copy: Copy,
    pub(super) granted: Granted,
    /// The keys that were said to be gone, with the tenants that could be seen then.
    pub(super) gone: Vec<(i32, BTreeSet<i32>)>,
}

impl Reader {
    /// Reads one page, and tells whether more are to come.
    pub(super) async fn read(&mut self, source: &Source, limit: u32, wait: u32) -> bool {
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

    pub(super) fn held(&self) -> BTreeSet<Row> {
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
