//! Thousands of callers that wait by long poll, as a fleet of live devices does: what they cost
//! while nothing changes, and how soon all of them have a change.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::caller::Caller;
use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::float;
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{self, Reader};
use crate::stage::{Database, Sizes, Stage};
use crate::statements::{StatementLog, Statements};
use crate::watch;

const MEBIBYTES_MAX: f64 = 400.0;
const CPU_PERCENT_MAX: f64 = 5.0;
const TOLD_SECONDS_MAX: f64 = 2.0;
const STATEMENTS_MAX: f64 = 3.0;
const BYTES_PER_MEBIBYTE: f64 = 1024.0 * 1024.0;
const ROWS: u64 = 10_000;
/// How long a caller has the server hold a request, in seconds: the longest that there is.
const WAIT_SECONDS: u64 = 60;
const QUICK_WAIT_SECONDS: u64 = 2;
/// After a change everyone asks again; until that is over it is still the change that costs.
const AFTERMATH: Duration = Duration::from_secs(2);
const QUICK_AFTERMATH: Duration = Duration::from_millis(500);
/// The pause between two commits that concern nobody who waits.
const OTHER_COMMITS: Duration = Duration::from_millis(20);
const TOLD_WAIT_MAX: Duration = Duration::from_mins(2);
const HEADS: [&str; 2] = ["Highwater", ""];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "waiting-callers",
    measures: "10,000 callers that wait by long poll, each on a connection of its own and for 60 s at a time: \
               the server's memory and CPU time while nothing changes, the time from a commit until all have \
               it, and the statements that the server sends to Postgres for it, by Postgres' log, but \
               those that bound a transaction (begin, set, lock, rollback) and the samples, which go on \
               whether anything changes or not",
    against: "fixed bounds",
    bar: "400 MiB, 5 % of a core, 2 s, 3 statements",
    run: |stage| Box::pin(run(stage)),
};

/// How many callers wait.
pub(super) fn callers(sizes: Sizes) -> u64 {
    if sizes.quick { 300 } else { 10_000 }
}

/// How long a caller has the server hold a request, in seconds.
fn wait_seconds(sizes: Sizes) -> u64 {
    if sizes.quick {
        QUICK_WAIT_SECONDS
    } else {
        WAIT_SECONDS
    }
}

fn aftermath(sizes: Sizes) -> Duration {
    if sizes.quick { QUICK_AFTERMATH } else { AFTERMATH }
}

/// All callers; they end when this is dropped.
struct Crowd {
    callers: JoinSet<Result<()>>,
    size: u64,
    /// When each was told of a change.
    told: mpsc::UnboundedReceiver<Instant>,
}

/// What the callers cost.
#[derive(Debug)]
struct Cost {
    /// The most memory of the server while nothing changes, and with changes, in MiB.
    waiting: f64,
    most: f64,
    /// The server's CPU time while nothing changes, in percent of one core.
    percent: f64,
    /// Seconds until all callers had a change.
    told: Vec<f64>,
    /// What the server sent to Postgres for a change.
    sent: Vec<Statements>,
    /// The same of a change that finds the callers at many cursors.
    apart: Apart,
}

/// A change after others, which did not concern the callers.
#[derive(Debug)]
struct Apart {
    told: f64,
    sent: Statements,
    /// The most memory of the server by then, in MiB.
    most: f64,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let size = callers(stage.sizes);
    let database = highwater::enabled(stage, Data::Items { rows: ROWS }).await?;
    let server = Server::start(stage, &database).await?;
    let mut crowd = Crowd::gather(stage, &server, size).await?;
    let (before, began) = (watch::cpu_seconds(server.pid())?, Instant::now());
    crowd.wait(stage.sizes.hold).await?;
    let seconds = began.elapsed().as_secs_f64();
    let percent = (watch::cpu_seconds(server.pid())? - before) / seconds * 100.0;
    let waiting = mebibytes(&server)?;
    let mut told = Vec::new();
    for _ in 0..stage.sizes.pairs {
        told.push(crowd.change(&database).await?);
        crowd.wait(aftermath(stage.sizes)).await?;
    }
    let cost = Cost {
        waiting,
        percent,
        told,
        sent: crowd.statements(stage, &database).await?,
        most: mebibytes(&server)?,
        apart: crowd.apart(stage, &database, &server).await?,
    };
    let lines = cost.lines();
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "A change, until all who wait have it",
            Unit::Seconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![note(stage.sizes)],
    })
}

impl Cost {
    fn lines(self) -> Vec<Line> {
        let sent = |part: fn(&Statements) -> u64| self.sent.iter().map(|sent| float(part(sent))).collect();
        let line = |what: &str, unit, numbers| Line::alone(what, unit, numbers);
        vec![
            line(
                "memory of the server, nothing new",
                Unit::Mebibytes,
                self.waiting.into(),
            ),
            line("memory of the server, at most", Unit::Mebibytes, self.most.into())
                .with_bar(Bar::Value(MEBIBYTES_MAX)),
            line(
                "CPU time of the server, nothing new",
                Unit::PercentOfACore,
                self.percent.into(),
            )
            .with_bar(Bar::Value(CPU_PERCENT_MAX)),
            line(
                "from a commit until all have it",
                Unit::Seconds,
                self.told.iter().copied().collect(),
            )
            .with_bar(Bar::Value(TOLD_SECONDS_MAX)),
            line(
                "statements for a change",
                Unit::Count("statements"),
                sent(|sent| sent.reading),
            )
            .with_bar(Bar::Value(STATEMENTS_MAX)),
            line(
                "transactions for a change",
                Unit::Count("transactions"),
                sent(|sent| sent.transactions),
            ),
            line(
                "samples meanwhile",
                Unit::Count("samples"),
                sent(|sent| sent.samples),
            ),
            line(
                "memory of the server, many cursors",
                Unit::Mebibytes,
                self.apart.most.into(),
            ),
            line(
                "from a commit until all have it, many cursors",
                Unit::Seconds,
                self.apart.told.into(),
            ),
            line(
                "statements for a change, many cursors",
                Unit::Count("statements"),
                float(self.apart.sent.reading).into(),
            ),
        ]
    }
}

fn note(sizes: Sizes) -> String {
    format!(
        "{} callers, {:.0} s without a change. They run on the machine of the server and share its cores, ask \
         again as soon as they are answered, and began at different moments. A change is an update of one row; \
         its time begins when Postgres has acknowledged the commit. Statements are counted from the commit until \
         {} s after all have it, apart from the timed changes, less those of as long a time before it. Many cursors: a \
         table that is no entity was written to every {} ms before, and each caller stands where it was answered \
         last.",
        count(callers(sizes)),
        sizes.hold.as_secs_f64(),
        aftermath(sizes).as_secs_f64(),
        OTHER_COMMITS.as_millis()
    )
}

impl Crowd {
    /// Connects the callers, and has each ask.
    async fn gather(stage: &Stage, server: &Server, size: u64) -> Result<Self> {
        let (_, since) = Reader::new(&server.url)?.paths(None, None).await?;
        let wait = wait_seconds(stage.sizes);
        let (tell, told) = mpsc::unbounded_channel();
        let mut callers = JoinSet::new();
        for _ in 0..size {
            let caller = Caller::connect(&server.url).await?;
            callers.spawn(call(caller, since.clone(), wait, tell.clone()));
        }
        Ok(Self { callers, size, told })
    }

    /// Lets them wait, and sees to it that they do.
    async fn wait(&mut self, time: Duration) -> Result<()> {
        tokio::select! {
            () = sleep(time) => {}
            ended = self.callers.join_next() => return stopped(ended),
        }
        ensure!(
            self.told.is_empty(),
            "callers were told of a change that was none"
        );
        Ok(())
    }

    /// Changes a row, and returns the seconds until all callers have it.
    async fn change(&mut self, database: &Database) -> Result<f64> {
        let changed = "update item set price = price + 1 where id = 1";
        ensure!(database.rows_of(changed).await? == 1, "nothing was changed");
        let began = Instant::now();
        let mut last = began;
        for had in 0..self.size {
            let at = tokio::select! {
                at = timeout(TOLD_WAIT_MAX, self.told.recv()) => at,
                ended = self.callers.join_next() => return stopped(ended).map(|()| f64::NAN),
            };
            let at = at.with_context(|| format!("only {had} callers of {} were told", self.size))?;
            last = last.max(at.context("the callers have ended")?);
        }
        Ok((last - began).as_secs_f64())
    }

    /// What the server sends to Postgres for each of several changes.
    async fn statements(&mut self, stage: &Stage, database: &Database) -> Result<Vec<Statements>> {
        let mut log = StatementLog::begin(stage).await?;
        let mut sent = Vec::new();
        for _ in 0..stage.sizes.pairs {
            log.since()?;
            self.wait(aftermath(stage.sizes)).await?;
            let idle = log.since()?;
            self.change(database).await?;
            self.wait(aftermath(stage.sizes)).await?;
            let all = log.since()?;
            sent.push(Statements {
                reading: all.reading.saturating_sub(idle.reading),
                transactions: all.transactions.saturating_sub(idle.transactions),
                ..all
            });
        }
        log.end(stage).await?;
        Ok(sent)
    }

    /// Lets each caller be answered once while a table changes that is no entity, and then changes
    /// a row: by then each stands at the snapshot of its last answer.
    async fn apart(&mut self, stage: &Stage, database: &Database, server: &Server) -> Result<Apart> {
        database.run("create table other (number integer)").await?;
        let ends = Instant::now() + Duration::from_secs(wait_seconds(stage.sizes)) + OTHER_COMMITS;
        while Instant::now() < ends {
            database.run("insert into other values (1)").await?;
            self.wait(OTHER_COMMITS).await?;
        }
        let mut log = StatementLog::begin(stage).await?;
        let told = self.change(database).await?;
        self.wait(aftermath(stage.sizes)).await?;
        let sent = log.since()?;
        log.end(stage).await?;
        let most = mebibytes(server)?;
        Ok(Apart { told, sent, most })
    }
}

/// Asks again and again, and tells of each change.
async fn call(
    mut caller: Caller,
    mut since: String,
    wait: u64,
    tell: mpsc::UnboundedSender<Instant>,
) -> Result<()> {
    // At first, and after a change, all ask in one moment: with the same wait they would be answered
    // in one, and so on, where the devices of a fleet have long drifted apart.
    let apart = || rand::random_range(1..=wait);
    let mut seconds = apart();
    loop {
        let path = pages::path(Some(&since), None);
        let trailer = caller.page(&format!("{path}&wait={seconds}")).await?;
        seconds = wait;
        if trailer.rows > 0 {
            // With nobody left to be told the benchmark is over.
            if tell.send(Instant::now()).is_err() {
                return Ok(());
            }
            seconds = apart();
        }
        since = trailer.next;
    }
}

/// Why a caller has stopped, which none should.
fn stopped(ended: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    if let Some(ended) = ended {
        ended?.context("a caller could not go on")?;
    }
    bail!("a caller has stopped")
}

/// The most memory that the server has held until now.
fn mebibytes(server: &Server) -> Result<f64> {
    let peak = watch::peak_bytes(server.pid())?.context("the server has ended")?;
    Ok(float(peak) / BYTES_PER_MEBIBYTE)
}
