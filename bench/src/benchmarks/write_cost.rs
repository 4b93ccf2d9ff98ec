//! What an entity costs those who write to it: a trigger for each row, and two indexes.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::data::items_rows;
use crate::figures::count;
use crate::highwater;
use crate::measure::{float, rounds};
use crate::outcome::{Benchmark, Chart, Line, Outcome, Unit};
use crate::stage::{Database, Stage};

/// Spreads ids over a table: no divisor of a size in use.
const STRIDE: u64 = 7_919;
const MICROSECONDS_PER_SECOND: f64 = 1_000_000.0;
const HEADS: [&str; 2] = ["entity", "other table"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "write-cost",
    measures: "the time of writes to a table that is an entity",
    against: "a plain table; and an indexed one, with the same columns and indexes as the entity but no \
              triggers, whose statements keep a date of change themselves, as applications do",
    bar: "none, it is only shown",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Entity,
    Plain,
    Indexed,
}

/// What the entity is held against, in the order of the lines.
const OTHERS: [(Table, &str); 2] = [(Table::Plain, "plain"), (Table::Indexed, "indexed")];

/// What is measured, in the order in which a round does it.
#[derive(Debug, Clone, Copy)]
enum Write {
    Update { flushed: bool },
    Insert { flushed: bool },
    BulkInsert,
    BulkUpdate,
    BulkDelete,
}

const WRITES: [Write; 7] = [
    Write::Update { flushed: true },
    Write::Insert { flushed: true },
    Write::Update { flushed: false },
    Write::Insert { flushed: false },
    Write::BulkInsert,
    Write::BulkUpdate,
    Write::BulkDelete,
];

/// How many rows are written.
#[derive(Debug, Clone, Copy)]
struct Counts {
    table: u64,
    /// One by one, each waiting for the disk.
    flushed: u64,
    /// One by one, without waiting.
    unflushed: u64,
    /// By one statement.
    bulk: u64,
}

const FULL: Counts = Counts {
    table: 0,
    flushed: 2_000,
    unflushed: 10_000,
    bulk: 100_000,
};
const QUICK: Counts = Counts {
    table: 0,
    flushed: 50,
    unflushed: 100,
    bulk: 1_000,
};

async fn run(stage: &Stage) -> Result<Outcome> {
    let counts = Counts {
        table: stage.sizes.rows,
        ..if stage.sizes.quick { QUICK } else { FULL }
    };
    let database = prepared(stage).await?;
    let mut connection = PgConnection::connect(&database.url).await?;
    let tables = [Table::Entity, Table::Plain, Table::Indexed];
    // Once unmeasured: fresh tables have no room in their pages.
    for table in tables {
        table.written(&database, &mut connection, counts, 0).await?;
    }
    let rounds = rounds(stage.sizes.pairs, &tables, async |table, round| {
        let round = round as u64 + 1;
        table.written(&database, &mut connection, counts, round).await
    })
    .await?;
    connection.close().await?;
    let mut lines = Vec::new();
    for (place, write) in WRITES.iter().enumerate() {
        let of = |table| {
            rounds.of(table, |micros: &Vec<f64>| {
                micros.get(place).copied().unwrap_or(f64::NAN)
            })
        };
        for (other, name) in OTHERS {
            let what = format!("{}; {name}", write.what());
            lines.push(Line::pair(
                what,
                Unit::MicrosecondsPerRow,
                of(Table::Entity),
                of(other),
            ));
        }
    }
    Ok(outcome(lines, counts))
}

fn outcome(lines: Vec<Line>, counts: Counts) -> Outcome {
    Outcome {
        heads: HEADS,
        charts: vec![chart(&lines)],
        lines,
        notes: vec![format!(
            "Tables of {} rows. One by one: prepared statements over one connection, each a transaction of \
             its own, {} that wait for the disk and {} with `synchronous_commit` off. At once: one statement \
             for {} rows.",
            count(counts.table),
            count(counts.flushed),
            count(counts.unflushed),
            count(counts.bulk)
        )],
    }
}

/// The ratios: for each kind of writes one to each of the other tables.
fn chart(lines: &[Line]) -> Chart {
    let ratios = |lines: &[Line]| lines.iter().filter_map(Line::ratio).collect();
    let groups = WRITES.iter().zip(lines.chunks(OTHERS.len()));
    Chart {
        name: BENCHMARK.name.to_owned(),
        title: "The cost of writes to an entity".to_owned(),
        axis: "times the cost in the other table".to_owned(),
        series: OTHERS.map(|(_, name)| format!("beside {name}")).to_vec(),
        groups: groups
            .map(|(write, lines)| (write.what().to_owned(), ratios(lines)))
            .collect(),
        limit: None,
    }
}

/// The three tables with the same rows.
async fn prepared(stage: &Stage) -> Result<Database> {
    let database = stage.database(stage.sizes.items()).await?;
    database
        .run("create table plain (like item including all); insert into plain select * from item")
        .await?;
    highwater::enable(stage, &database, "item").await?;
    database
        .run("create table indexed (like item including defaults including indexes)")
        .await?;
    database.run("insert into indexed select * from item").await?;
    // Filled row by row, its indexes are not as packed as those that were made afterwards.
    database.run("reindex table plain; reindex table indexed").await?;
    for table in ["item", "plain", "indexed"] {
        database.settle(table).await?;
    }
    Ok(database)
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Entity => "item",
            Self::Plain => "plain",
            Self::Indexed => "indexed",
        }
    }

    /// Changes rows; `which` is a condition.
    fn update(self, which: &str) -> String {
        let stamp = match self {
            Self::Indexed => ", changed_xid = pg_current_xact_id(), changed_date = clock_timestamp()",
            Self::Entity | Self::Plain => "",
        };
        format!(
            "update {} set quantity = quantity + 1{stamp} where {which}",
            self.name()
        )
    }

    /// Does all the writes and returns for each the microseconds that a row took.
    async fn written(
        self,
        database: &Database,
        connection: &mut PgConnection,
        counts: Counts,
        round: u64,
    ) -> Result<Vec<f64>> {
        let mut micros = Vec::with_capacity(WRITES.len());
        for write in WRITES {
            let waits = !matches!(
                write,
                Write::Update { flushed: false } | Write::Insert { flushed: false }
            );
            let waits = if waits { "on" } else { "off" };
            let set = format!("set synchronous_commit = {waits}");
            sqlx::raw_sql(AssertSqlSafe(set))
                .execute(&mut *connection)
                .await?;
            let began = Instant::now();
            let rows = self.write(connection, write, counts, round).await?;
            micros.push(began.elapsed().as_secs_f64() * MICROSECONDS_PER_SECOND / float(rows));
        }
        // What was inserted goes, and leaves its room to the next round.
        let left = format!("delete from {} where id > {}", self.name(), counts.table);
        database.run(left).await?;
        database.settle(self.name()).await?;
        Ok(micros)
    }

    /// Does one kind of writes and returns how many rows it wrote.
    async fn write(
        self,
        connection: &mut PgConnection,
        write: Write,
        counts: Counts,
        round: u64,
    ) -> Result<u64> {
        // New ids: the bulk's, then those of the single rows that waited, then the others.
        let bulk_last = counts.table + counts.bulk;
        let bulk = format!("id > {} and id <= {bulk_last}", counts.table);
        let statement = match write {
            Write::Update { flushed } => {
                let rows = counts.singles(flushed);
                let ids = (0..rows).map(|n| 1 + (n + round * rows) * STRIDE % counts.table);
                return one_by_one(connection, self.update("id = $1"), ids).await;
            }
            Write::Insert { flushed } => {
                let first = bulk_last + 1 + if flushed { 0 } else { counts.flushed };
                let sql = format!(
                    "insert into {} (id, sku, name, price, quantity, active, note, updated_at)
                     values ($1::bigint, 'SKU-' || $1::bigint, 'Item', 12.50, 7, true, null, '2026-01-01 00:00:00+00')",
                    self.name()
                );
                return one_by_one(connection, sql, first..first + counts.singles(flushed)).await;
            }
            Write::BulkInsert => items_rows(self.name(), counts.table + 1, bulk_last),
            Write::BulkUpdate => self.update(&bulk),
            Write::BulkDelete => format!("delete from {} where {bulk}", self.name()),
        };
        let done = sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
        ensure!(
            done.rows_affected() == counts.bulk,
            "{} rows were written at once",
            done.rows_affected()
        );
        Ok(counts.bulk)
    }
}

impl Write {
    fn what(self) -> &'static str {
        match self {
            Self::Update { flushed: true } => "update, one by one",
            Self::Update { flushed: false } => "update, one by one, unflushed",
            Self::Insert { flushed: true } => "insert, one by one",
            Self::Insert { flushed: false } => "insert, one by one, unflushed",
            Self::BulkInsert => "insert at once",
            Self::BulkUpdate => "update at once",
            Self::BulkDelete => "delete at once",
        }
    }
}

impl Counts {
    fn singles(self, flushed: bool) -> u64 {
        if flushed { self.flushed } else { self.unflushed }
    }
}

/// Runs a prepared statement for each id, each time as a transaction of its own.
async fn one_by_one(
    connection: &mut PgConnection,
    sql: String,
    ids: impl Iterator<Item = u64>,
) -> Result<u64> {
    let sql: Arc<str> = sql.into();
    let mut rows = 0;
    for id in ids {
        let done = sqlx::query(AssertSqlSafe(Arc::clone(&sql)))
            .bind(i64::try_from(id)?)
            .execute(&mut *connection)
            .await?;
        ensure!(done.rows_affected() == 1, "there is no row {id}");
        rows += 1;
    }
    Ok(rows)
}
