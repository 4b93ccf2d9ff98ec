//! Random tables with random rows and random changes arrive value for value, in both forms, in
//! pages of any size.

use std::fmt::Write as _;
use std::path::Path;

use highwater_server::admin::EnableOptions;
use highwater_testbed::seed;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::exact::Both;
use crate::json::By;
use crate::kinds::{Fit, KINDS, Kind, SCHEMA};
use crate::rig::{Rig, run};
use crate::verify::{assert_verified, verify};
use crate::verify_kinds::spoil;

/// Tables of a course.
const TABLES: usize = 12;

/// The most rows that are inserted into a table at once.
const ROWS_MAX: usize = 40;

/// Rounds of changes, each with a pull at its end.
const ROUNDS: usize = 3;

/// Changes to each table in a round.
const CHANGES: usize = 6;

/// What a writer's session may say of how values print: none of it may show.
const SESSIONS: &[&str] = &[
    "set datestyle = 'SQL, DMY'",
    "set datestyle = 'German'",
    "set timezone = 'Asia/Kolkata'",
    "set timezone = 'America/St_Johns'",
    "set intervalstyle = 'iso_8601'",
    "set bytea_output = 'escape'",
    "set extra_float_digits = -15",
    "set lc_monetary = 'C'",
];

#[derive(Debug)]
struct Column {
    name: String,
    kind: Kind,
    /// Which part of its values is null; those of a key and of a `not null` never are.
    nulls: f64,
}

#[derive(Debug)]
struct Table {
    name: String,
    columns: Vec<Column>,
    /// Columns of the key, in the order of the key.
    key: Vec<usize>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_tables_arrive_value_for_value_in_both_forms() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let rig = Rig::start(SCHEMA, &[]).await;
    let collations: Vec<String> = sqlx::query_scalar(
        "select quote_ident(collname) from pg_collation
         where collname in ('C', 'und-x-icu', 'de-x-icu', 'tr-x-icu') order by 1",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    // Dealt out, so that every type is in some table.
    let mut kinds = KINDS.to_vec();
    kinds.shuffle(&mut random);
    let tables: Vec<Table> = (0..TABLES)
        .map(|number| {
            let values = kinds.iter().skip(number).step_by(TABLES);
            Table::random(&mut random, format!("t{number}"), values)
        })
        .collect();
    for table in &tables {
        let sql = table.create(&mut random, &collations);
        eprintln!("{sql}");
        run(&rig.pool, &sql).await;
        run(&rig.pool, &table.insert(&mut random, ROWS_MAX)).await;
        rig.enable(&table.name, EnableOptions::default()).await;
    }

    let mut pulls = [
        ("cursors", Both::new(&rig, "cursors.db", By::Cursor)),
        ("dates", Both::new(&rig, "dates.db", By::Date)),
    ];
    for round in 0..=ROUNDS {
        for (by, both) in &mut pulls {
            let limit = random.random_range(3..=40);
            let what = format!("seed {seed}, round {round}, by {by}, pages of {limit}");
            both.pull(limit).await;
            for Table { name, .. } in &tables {
                let rows = both.assert_exact(name, name, &what).await;
                assert!(rows > 0 || round > 0, "{what}: no rows in {name}");
            }
            assert_verified(&rig.url(), &both.store, &["--deep"], &what).await;
        }
        if round == 0 {
            for (_, both) in &mut pulls {
                both.pull_until_nothing_begins_anew().await;
            }
        }
        if round < ROUNDS {
            change(&rig, &mut random, &tables).await;
        }
    }
    let (_, first) = &pulls[0];
    let mut spoilt = 0;
    for table in &tables {
        spoilt += spoil_each(&rig, &first.store, table).await;
    }
    assert!(spoilt > 0, "seed {seed}: no rows left to spoil in any table");
    for (by, both) in pulls {
        assert_eq!(both.json.resets, 0, "seed {seed}, by {by}: something began anew");
    }
}

/// Whatever value is changed in the store, it is found, and repaired. Returns the columns of which
/// a value was changed; none where the changes left no rows.
async fn spoil_each(rig: &Rig, store: &Path, table: &Table) -> usize {
    let Table {
        name: table, columns, ..
    } = table;
    let mut spoilt = 0;
    for column in columns {
        if !spoil(store, table, &column.name) {
            continue;
        }
        spoilt += 1;
        let (code, told) = verify(&rig.url(), store, &["--deep", "--entity", table]).await;
        assert_eq!(code, 3, "{table}.{}: {told}", column.name);
        let (code, told) = verify(&rig.url(), store, &["--deep", "--repair", "--entity", table]).await;
        assert_eq!(code, 0, "{table}.{}: {told}", column.name);
    }
    let rows: i64 = rusqlite::Connection::open(store)
        .unwrap()
        .query_row(&format!("select count(*) from \"{table}\""), [], |row| row.get(0))
        .unwrap();
    assert_eq!(spoilt > 0, rows > 0, "{table} has {rows} rows");
    spoilt
}

impl Table {
    /// A table with columns of these types, and a key of any.
    fn random<'k>(random: &mut StdRng, name: String, values: impl Iterator<Item = &'k Kind>) -> Self {
        let keys: Vec<&Kind> = KINDS.iter().filter(|kind| kind.fit != Fit::Value).collect();
        // A third of them as most tables have it.
        let mut kinds: Vec<Kind> = match random.random_range(0..6) {
            0 => vec![KINDS[1]],
            1 => vec![KINDS[2]],
            2..5 => vec![**keys.choose(random).unwrap()],
            _ => (0..random.random_range(2..=4))
                .map(|_| **keys.choose(random).unwrap())
                .collect(),
        };
        let key_columns = kinds.len();
        kinds.extend(values);
        let mut columns: Vec<(usize, Column)> = kinds
            .into_iter()
            .enumerate()
            .map(|(place, kind)| {
                let name = format!("c{place}");
                let nulls = match random.random_range(0..3) {
                    _ if place < key_columns => 0.0,
                    0 => 0.0,
                    _ => random.random_range(0.1..0.6),
                };
                (place, Column { name, kind, nulls })
            })
            .collect();
        // The key's columns stand anywhere, and in another order than in the key.
        columns.shuffle(random);
        let mut key: Vec<usize> = (0..columns.len())
            .filter(|place| columns[*place].0 < key_columns)
            .collect();
        key.shuffle(random);
        Self {
            name,
            columns: columns.into_iter().map(|(_, column)| column).collect(),
            key,
        }
    }

    fn create(&self, random: &mut StdRng, collations: &[String]) -> String {
        let column = |column: &Column| {
            let mut sql = format!("{} {}", column.name, column.kind.name);
            if column.kind.fit == Fit::Text && random.random() {
                let _ = write!(sql, " collate {}", collations.choose(random).unwrap());
            }
            if column.nulls == 0.0 {
                sql.push_str(" not null");
            }
            sql
        };
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        format!(
            "create table {} ({}, primary key ({}))",
            self.name,
            columns.join(", "),
            self.key()
        )
    }

    /// The key's columns as SQL.
    fn key(&self) -> String {
        let names: Vec<&str> = self
            .key
            .iter()
            .map(|place| self.columns[*place].name.as_str())
            .collect();
        names.join(", ")
    }

    fn insert(&self, random: &mut StdRng, rows_max: usize) -> String {
        let rows = random.random_range(1..=rows_max);
        let mut row = || {
            let values: Vec<String> = self.columns.iter().map(|column| column.value(random)).collect();
            format!("({})", values.join(", "))
        };
        let rows: Vec<String> = (0..rows).map(|_| row()).collect();
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        format!(
            "insert into {} ({}) values {} on conflict do nothing",
            self.name,
            names.join(", "),
            rows.join(", ")
        )
    }

    /// Some rows, the same for the same seed.
    fn some(&self, random: &mut StdRng, rows_max: usize) -> String {
        format!(
            "ctid = any (array(select ctid from {} order by {} offset {} limit {}))",
            self.name,
            self.key(),
            random.random_range(0..ROWS_MAX / 2),
            random.random_range(1..=rows_max)
        )
    }

    fn change(&self, random: &mut StdRng) -> String {
        let table = &self.name;
        match random.random_range(0..10) {
            0 | 1 => self.insert(random, 4),
            2 => format!("delete from {table} where {}", self.some(random, 4)),
            3 => format!("update {table} set deleted = true where {}", self.some(random, 4)),
            4 => format!(
                "update {table} set deleted = not deleted where {}",
                self.some(random, 4)
            ),
            5 | 6 => {
                let column = &self.columns[*self.key.choose(random).unwrap()];
                let value = column.value(random);
                let name = &column.name;
                format!(
                    "update {table} set {name} = {value} where {}",
                    self.some(random, 1)
                )
            }
            _ => {
                let column = self.columns.choose(random).unwrap();
                let value = column.value(random);
                let name = &column.name;
                format!(
                    "update {table} set {name} = {value} where {}",
                    self.some(random, 3)
                )
            }
        }
    }
}

impl Column {
    fn value(&self, random: &mut StdRng) -> String {
        if random.random_bool(self.nulls) {
            return "null".to_owned();
        }
        format!("({})::{}", (self.kind.value)(random), self.kind.name)
    }
}

/// Changes to all tables, some of them in one transaction, by writers with settings of their own.
async fn change(rig: &Rig, random: &mut StdRng, tables: &[Table]) {
    let mut connection = PgConnection::connect(&rig.database.url()).await.unwrap();
    for _ in 0..CHANGES * tables.len() {
        if random.random_bool(0.2) {
            execute(&mut connection, SESSIONS.choose(random).unwrap()).await;
        }
        let mut sql = tables.choose(random).unwrap().change(random);
        if random.random_bool(0.3) {
            let other = tables.choose(random).unwrap().change(random);
            sql = format!("begin; {sql}; savepoint s; {other}; release s; commit");
        }
        execute(&mut connection, &sql).await;
    }
}

/// Runs statements. A key that is taken is no fault; the transaction then never was.
async fn execute(connection: &mut PgConnection, sql: &str) {
    let outcome = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut *connection)
        .await;
    if let Err(error) = outcome {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        assert_eq!(code.as_deref(), Some("23505"), "{sql}: {error:?}");
        sqlx::raw_sql("rollback").execute(connection).await.unwrap();
    }
}
