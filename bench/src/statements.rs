//! The statements that a server sends to Postgres, as Postgres' own log has them: that needs
//! nothing to be installed.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::stage::Stage;

/// Each line of the log begins with who has asked.
const PREFIX: &str = "%a ";
const SERVER: &str = "highwater-server LOG:  ";
/// How long a change of settings may take to arrive.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

/// Postgres' log, which has every statement while this is kept.
#[derive(Debug)]
pub(crate) struct StatementLog {
    path: PathBuf,
    read: u64,
}

/// How many statements a server has sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Statements {
    /// The samples of the looks at the source, which go on while nothing changes; each is one message.
    pub(crate) samples: u64,
    /// Transactions of looks and pages. Each begins with a message that sets and locks, and ends
    /// with another; both read nothing.
    pub(crate) transactions: u64,
    /// All other statements.
    pub(crate) reading: u64,
}

impl StatementLog {
    /// Has Postgres log every statement, and waits until it logs those of the server, which must
    /// be at work.
    pub(crate) async fn begin(stage: &Stage) -> Result<Self> {
        let settings = [("log_line_prefix", Some(PREFIX)), ("log_statement", Some("all"))];
        stage.configure(&settings).await?;
        let path = stage.log_file();
        let mut log = Self { path, read: 0 };
        let deadline = Instant::now() + BEGIN_WAIT_MAX;
        while log.since()?.samples == 0 {
            ensure!(Instant::now() < deadline, "Postgres does not log statements");
            tokio::time::sleep(LOOK).await;
        }
        Ok(log)
    }

    /// What was sent since this was asked last.
    pub(crate) fn since(&mut self) -> Result<Statements> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // A line under way is read the next time.
        let end = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        text.truncate(end);
        self.read += end as u64;
        Ok(Statements::of(&String::from_utf8_lossy(&text)))
    }

    /// Has Postgres log as before.
    pub(crate) async fn end(self, stage: &Stage) -> Result<()> {
        let settings = [("log_line_prefix", None), ("log_statement", None)];
        stage.configure(&settings).await
    }
}

impl Statements {
    fn of(log: &str) -> Self {
        let mut counted = Self::default();
        // `statement: text`, or `execute name: text`.
        let said = log.lines().filter_map(|line| line.strip_prefix(SERVER));
        let texts = said.filter_map(|said| match said.split_once(": ") {
            Some(("statement", text)) => Some(text),
            Some((how, text)) if how.starts_with("execute ") => Some(text),
            _ => None,
        });
        for text in texts {
            if text.starts_with("begin isolation level read committed") {
                counted.samples += 1;
            } else if text.starts_with("begin isolation level repeatable read") {
                counted.transactions += 1;
            } else if text != "rollback" {
                counted.reading += 1;
            }
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_of_the_server_are_counted() {
        let log = "highwater-server LOG:  statement: begin isolation level read committed read only;
\t             select 1
[unknown] LOG:  statement: update item set price = 1
highwater-server LOG:  execute sqlx_s_1: select e.number, e.name
\tfrom highwater.entity e
highwater-server DETAIL:  parameters: $1 = '1'
highwater-server LOG:  statement: begin isolation level repeatable read read only;
\tset local lock_timeout = 5000
highwater-server LOG:  statement: copy (select 1) to stdout
highwater-server LOG:  statement: rollback
highwater-server LOG:  could not send data to client: Broken pipe
";
        let expected = Statements {
            samples: 1,
            transactions: 1,
            reading: 2,
        };
        assert_eq!(Statements::of(log), expected);
    }
}
