//! A comparison of a store with its source, and its repair, beside a first pull of the same rows.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use highwater_testbed::Proxy;
use rusqlite::Connection;

use super::against_first_pull::{self, ROWS_FOR_ONE, TABLE};
use super::remote::{link, link_runs};
use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server, Taken};
use crate::measure::{Rounds, rounds};
use crate::outcome::{Benchmark, Chart, Line, Outcome, Unit};
use crate::program;
use crate::stage::{Database, Stage};

/// A resync fetches a table of fewer rows as a whole.
const ROWS_COMPARED_MIN: u64 = 50_000;
/// Over the link there is one row for so many.
const LINK_ROWS_SHARE: u64 = 10;
/// The columns of the table.
const COLUMNS: &str = "id, sku, name, price, quantity, active, note, updated_at";
const HEADS: [&str; 2] = ["verify", "a first pull"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "verify",
    measures: "the time and the bytes of a comparison of a store with its source, and of a repair where one row in a \
               thousand differs",
    against: "a first pull of the same rows",
    bar: "10 % of its time and of its bytes",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Equal,
    Deep,
    Repair,
    Resync,
    Purged,
    FirstPull,
    /// `psql`, which reads every row and sends a number.
    Count,
}

/// Those that are held against a first pull.
const COMPARED: [Who; 5] = [Who::Equal, Who::Deep, Who::Repair, Who::Resync, Who::Purged];

async fn run(stage: &Stage) -> Result<Outcome> {
    let (near, far) = (stage.sizes.rows, stage.sizes.rows / LINK_ROWS_SHARE);
    let everyone = [&COMPARED[..], &[Who::FirstPull, Who::Count]].concat();
    let local = measured(stage, near, false, &everyone).await?;
    let mut lines = compared(near, "", &local);
    lines.push(Line::pair(
        format!("{} rows, {}", count(near), Who::Count.name()),
        Unit::Seconds,
        local.of(Who::Count, |taken| taken.seconds),
        local.of(Who::FirstPull, |taken| taken.seconds),
    ));
    let everyone = [&COMPARED[..], &[Who::FirstPull]].concat();
    let linked = measured(stage, far, true, &everyone).await?;
    let far_lines = compared(far, " over 10 Mbit/s", &linked);
    let chart = |name: &str, title: &str, lines: &[Line]| Chart::of(name, title, Unit::Seconds, HEADS, lines);
    let charts = vec![
        chart(BENCHMARK.name, "Is the copy right?", &lines),
        chart("verify-link", "Is the copy right, over 10 Mbit/s?", &far_lines),
    ];
    lines.extend(far_lines);
    Ok(Outcome {
        heads: HEADS,
        charts,
        lines,
        notes: vec![
            "The source and the store scan their tables at one time, but share the machine: Postgres, the server and \
             the client compete for its cores, and nothing is compressed, over the link neither, where a client of \
             another machine asks for zstd. Where rows differ, each side scans twice, for parts and for the keys in \
             those that differ; rows are fetched, and after a repair looked at again, by their keys. A resync, here \
             after `touch`, compares all values. After a purge nothing is compared: the keys come that it removed. To \
             count the rows, Postgres scans them with several workers, hashes nothing, and has the machine to itself."
                .to_owned(),
        ],
    })
}

/// What everyone takes with so many rows, on a server of their own, over a link to it or without one.
async fn measured(stage: &Stage, rows: u64, is_linked: bool, everyone: &[Who]) -> Result<Rounds<Who, Taken>> {
    let database = highwater::enabled(stage, Data::Items { rows }).await?;
    let server = Server::start(stage, &database).await?;
    let link = if is_linked {
        Some(link(&server).await?)
    } else {
        None
    };
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let stand = Stand {
        stage,
        url: link.as_ref().map_or_else(|| server.url.clone(), Proxy::url),
        database,
        store,
        rows,
    };
    let runs = if is_linked {
        link_runs(stage)
    } else {
        stage.sizes.pairs
    };
    let rounds = rounds(runs, everyone, async |who, _| stand.taken(who).await).await?;
    Stage::remove(&stand.store)?;
    Ok(rounds)
}

/// The times and the bytes beside those of a first pull.
fn compared(rows: u64, way: &str, rounds: &Rounds<Who, Taken>) -> Vec<Line> {
    let lines = COMPARED.map(|who| {
        let name = format!("{} rows{way}, {}", count(rows), who.name());
        against_first_pull::lines(&name, rounds, who, Who::FirstPull)
    });
    lines.into_iter().flatten().collect()
}

/// A store that has been pulled, and the address that it is compared over.
struct Stand<'a> {
    stage: &'a Stage,
    database: Database,
    url: String,
    store: PathBuf,
    rows: u64,
}

impl Stand<'_> {
    /// Does it once.
    async fn taken(&self, who: Who) -> Result<Taken> {
        let (stage, rows) = (self.stage, self.rows);
        match who {
            Who::Equal => highwater::verified(stage, &self.url, &self.store, &[]).await,
            Who::Deep => highwater::verified(stage, &self.url, &self.store, &["--deep"]).await,
            Who::Repair => {
                spoil(&self.store)?;
                highwater::verified(stage, &self.url, &self.store, &["--repair"]).await
            }
            Who::Resync => {
                spoil(&self.store)?;
                highwater::touch(stage, &self.database, TABLE).await?;
                let pulled = highwater::pulled(stage, &self.url, &self.store).await?;
                let came = pulled.rows + pulled.deleted;
                ensure!(
                    rows < ROWS_COMPARED_MIN || came < rows / 100,
                    "{came} rows came of {rows}"
                );
                Ok(pulled.into())
            }
            Who::Purged => {
                let (gone, database) = (format!("id % {ROWS_FOR_ONE} = 0"), &self.database);
                database
                    .run(format!(
                        "create table gone as select {COLUMNS} from {TABLE} where {gone}; delete from {TABLE} where {gone}"
                    ))
                    .await?;
                highwater::purge(stage, database).await?;
                let pulled = highwater::pulled(stage, &self.url, &self.store).await?;
                let came = (pulled.rows, pulled.deleted);
                ensure!(came == (0, rows / ROWS_FOR_ONE), "{came:?} came");
                database
                    .run(format!(
                        "insert into {TABLE} ({COLUMNS}) select {COLUMNS} from gone; drop table gone"
                    ))
                    .await?;
                highwater::pulled(stage, &self.url, &self.store).await?;
                Ok(pulled.into())
            }
            Who::FirstPull => {
                let (pulled, store) = highwater::pulled_anew(stage, &self.url, rows).await?;
                Stage::remove(&store)?;
                Ok(pulled.into())
            }
            Who::Count => {
                let mut psql = stage.psql(&self.database);
                psql.args(["-c", &format!("select count(*) from {TABLE}")]);
                let seconds = program::timed(psql).await?.seconds;
                Ok(Taken { seconds, bytes: 0 })
            }
        }
    }
}

impl Who {
    fn name(self) -> String {
        let some = |what: &str| format!("one row in {} {what}", count(ROWS_FOR_ONE));
        match self {
            Self::Equal => "all the same".to_owned(),
            Self::Deep => "all the same, value for value".to_owned(),
            Self::Repair => some("repaired"),
            Self::Resync => some("fetched by a resync"),
            Self::Purged => some("deleted and purged"),
            Self::FirstPull => "pulled".to_owned(),
            Self::Count => "counted by psql".to_owned(),
        }
    }
}

/// Takes rows away, adds some, and dates others back.
fn spoil(store: &Path) -> Result<()> {
    let connection = Connection::open(store)?;
    let each = 4 * ROWS_FOR_ONE;
    connection.execute_batch(&format!(
        "delete from {TABLE} where id % {each} = 1;
         update {TABLE} set changed_date = '2020-01-01T00:00:00.000000Z' where id % {each} in (2, 3);
         insert into {TABLE} select -id, sku, name, price, quantity, active, note, updated_at, changed_date
         from {TABLE} where id % {each} = 0"
    ))?;
    Ok(())
}
