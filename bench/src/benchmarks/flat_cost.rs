//! Whether a pull costs what it carries, or what the table holds.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::rounds;
use crate::outcome::{Bar, Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{self, Encoding, Form, Reader};
use crate::stage::{Database, Stage};

/// The large table at most this many times what the small one costs.
const RATIO_MAX: f64 = 1.5;
const SMALL_ROWS: u64 = 10_000;
const ROWS_CHANGED: u64 = 1_000;
const MILLISECONDS_PER_SECOND: f64 = 1000.0;
const HEADS: [&str; 2] = ["large table", "small table"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "flat-cost",
    measures: "a pull of 1,000 changed rows from a large table",
    against: "the same from a table of 10,000 rows",
    bar: "one and a half times the cost",
    run: |stage| Box::pin(run(stage)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Large,
    Small,
}

/// Where the changed rows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Next to each other, as the newest rows do.
    Together,
    /// Evenly over the whole table.
    Apart,
}

/// A table with a server before it, and a store behind.
struct Copied {
    database: Database,
    rows: u64,
    server: Server,
    reader: Reader,
    store: PathBuf,
    since: Option<String>,
}

/// Seconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Of the page, read into nothing.
    page: f64,
    /// Of the pull by the client.
    pull: f64,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let mut large = Copied::of(stage, stage.sizes.rows).await?;
    let mut small = Copied::of(stage, SMALL_ROWS).await?;
    let places = [Place::Together, Place::Apart];
    let who = places.map(|place| [(Size::Large, place), (Size::Small, place)]);
    let rounds = rounds(
        stage.sizes.many(),
        who.as_flattened(),
        async |(size, place), round| match size {
            Size::Large => large.changed(stage, place, round as u64).await,
            Size::Small => small.changed(stage, place, round as u64).await,
        },
    )
    .await?;
    let line = |what: &str, place, part: fn(&Cost) -> f64| {
        let of = |size| rounds.of((size, place), |cost| part(cost) * MILLISECONDS_PER_SECOND);
        Line::pair(what, Unit::Milliseconds, of(Size::Large), of(Size::Small)).with_bar(Bar::Ratio(RATIO_MAX))
    };
    let lines = vec![
        line("the page, rows together", Place::Together, |cost| cost.page),
        line("the page, rows apart", Place::Apart, |cost| cost.page),
        line("the pull, rows together", Place::Together, |cost| cost.pull),
        line("the pull, rows apart", Place::Apart, |cost| cost.pull),
    ];
    Ok(Outcome {
        heads: HEADS,
        charts: vec![Chart::of(
            BENCHMARK.name,
            "A pull of 1,000 changed rows",
            Unit::Milliseconds,
            HEADS,
            &lines,
        )],
        lines,
        notes: vec![format!(
            "The large table has {} rows. The page is read into nothing, the pull is by the client. Together: \
             rows with neighbouring keys. Apart: rows spread evenly, so that in the large table, and in its \
             store, each lies on a page of its own, and in the small ones a few share a page.",
            count(large.rows)
        )],
    })
}

impl Copied {
    async fn of(stage: &Stage, rows: u64) -> Result<Self> {
        let database = highwater::enabled(stage, Data::Items { rows }).await?;
        let server = Server::start(stage, &database).await?;
        let reader = Reader::new(&server.url)?;
        let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
        let mut copied = Self {
            database,
            rows,
            server,
            reader,
            store,
            since: None,
        };
        // Once unmeasured, for what is different the first time only.
        copied.changed(stage, Place::Apart, 0).await?;
        Ok(copied)
    }

    /// Changes rows, reads the page that tells of them, and has the client pull them.
    async fn changed(&mut self, stage: &Stage, place: Place, round: u64) -> Result<Cost> {
        if self.since.is_none() {
            self.since = Some(self.reader.paths(None, None).await?.1);
        }
        let (first, step) = match place {
            Place::Together => (round * ROWS_CHANGED % self.rows, 1),
            Place::Apart => (round % (self.rows / ROWS_CHANGED), self.rows / ROWS_CHANGED),
        };
        let changed = format!(
            "update item set price = price + 1 where id = any(array(
                 select 1 + {first} + n * {step} from generate_series(0, {ROWS_CHANGED} - 1) n))"
        );
        let changed = self.database.rows_of(changed).await?;
        ensure!(changed == ROWS_CHANGED, "{changed} rows were changed");
        let path = pages::path(self.since.as_deref(), None);
        let began = Instant::now();
        self.reader.read(&path, Form::Copy, Encoding::Identity).await?;
        let page = began.elapsed().as_secs_f64();
        self.since = Some(self.reader.paths(self.since.take(), None).await?.1);
        let pulled = highwater::pulled(stage, &self.server.url, &self.store).await?;
        ensure!(pulled.rows == ROWS_CHANGED, "the pull brought {pulled:?}");
        Ok(Cost {
            page,
            pull: pulled.seconds,
        })
    }
}
