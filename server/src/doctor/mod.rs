//! `doctor`: what is wrong, or soon will be, and what to do about it.
//!
//! Each check is one small query and what is made of its rows. It reads in one transaction that cannot write.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Row};

use crate::admin::AdminError;
use crate::unprepared;

mod activity;
mod columns;
mod indexes;
mod report;
mod retention;
mod rights;
mod row_security;
mod schema;
mod settings;
mod triggers;

pub use report::{Finding, Report, Severity};

/// Ids in flight that are told of. A cursor holds 4,000; beyond that callers are turned away.
const IN_FLIGHT_TOLD_MIN: usize = 1_000;

/// How long a transaction may be open without being told of.
const LONG_TRANSACTION: Duration = Duration::from_mins(5);

/// The same of a prepared one.
const LONG_PREPARED: Duration = Duration::from_mins(1);

/// What is looked for, and from where.
#[derive(Clone, Debug)]
pub struct DoctorOptions {
    /// The role that serves; the one that is connected where it is absent.
    pub role: Option<String>,
    /// A transaction that has been writing for longer is told.
    pub long_transaction: Duration,
    /// A prepared transaction that has waited for longer for its second phase is told.
    pub long_prepared: Duration,
    /// So many ids in flight are told.
    pub in_flight_told_min: usize,
    /// The clock of this machine.
    pub clock: fn() -> DateTime<Utc>,
}

impl Default for DoctorOptions {
    fn default() -> Self {
        Self {
            role: None,
            long_transaction: LONG_TRANSACTION,
            long_prepared: LONG_PREPARED,
            in_flight_told_min: IN_FLIGHT_TOLD_MIN,
            clock: Utc::now,
        }
    }
}

/// Looks at everything. An error means that the database could not be asked; what is wrong with it is
/// in the report.
pub async fn examine(connection: &mut PgConnection, options: &DoctorOptions) -> Result<Report, AdminError> {
    let mut transaction = connection.begin().await?;
    // As pages read: names print in full, and nothing waits long for a table that is being altered.
    sqlx::raw_sql(
        "set transaction isolation level read committed read only;
         set local search_path = pg_catalog; set local timezone = 'UTC';
         set local quote_all_identifiers = off; set local standard_conforming_strings = on;
         set local lock_timeout = '5s'; set local statement_timeout = '60s'; set local jit = off",
    )
    .execute(&mut *transaction)
    .await?;
    let row = unprepared::query(
        "select current_database()::text as database, current_setting('server_version') as version,
             current_user::text as role, pg_is_in_recovery() as standby",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let connected_role: String = row.try_get("role")?;
    let mut examination = Examination {
        report: Report {
            database: row.try_get("database")?,
            postgres: row.try_get("version")?,
            role: options.role.clone().unwrap_or(connected_role),
            entities: Vec::new(),
            findings: Vec::new(),
        },
        connection: &mut transaction,
        options,
        is_standby: row.try_get("standby")?,
    };
    examination.all().await?;
    let mut report = examination.report;
    report.findings.sort_by_key(|finding| finding.severity);
    transaction.rollback().await?;
    Ok(report)
}

/// What the checks share: where they ask, and where they put what they find.
struct Examination<'e> {
    connection: &'e mut PgConnection,
    options: &'e DoctorOptions,
    is_standby: bool,
    report: Report,
}

impl Examination<'_> {
    async fn all(&mut self) -> Result<(), sqlx::Error> {
        settings::check(self).await?;
        activity::check(self).await?;
        // Without the schema, or the right to read it, there is nothing further to look at.
        if !schema::check(self).await? {
            return Ok(());
        }
        rights::check(self).await?;
        columns::check(self).await?;
        triggers::check(self).await?;
        indexes::check(self).await?;
        row_security::check(self).await?;
        retention::check(self).await
    }

    fn found(&mut self, severity: Severity, check: &'static str) -> Entry<'_> {
        Entry {
            findings: &mut self.report.findings,
            finding: Finding {
                severity,
                check,
                subject: None,
                what: String::new(),
                why: String::new(),
                remedy: String::new(),
            },
        }
    }
}

/// A finding that is being written.
struct Entry<'e> {
    findings: &'e mut Vec<Finding>,
    finding: Finding,
}

impl Entry<'_> {
    fn of(mut self, subject: &str) -> Self {
        self.finding.subject = Some(subject.to_owned());
        self
    }

    fn says(self, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding {
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
            ..self.finding
        });
    }
}
