//! Views of the user's: which of them make sense.

use std::collections::BTreeSet;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::table::is_senseless;
use super::table_sql::quoted;
use crate::error::Error;

/// The views that can be read, each with how names in double quotes were taken.
#[derive(Debug)]
pub(super) struct Views(BTreeSet<(String, Quotes)>);

/// What SQLite makes of a name in double quotes that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Quotes {
    /// A text, which is how most programs have it: `"name"` of a column that is gone is `name`.
    Text,
    /// An error, so that such a view is seen to have lost its column.
    Name,
}

impl Views {
    /// The views of the file that can be read now.
    pub(super) fn that_work(connection: &Connection) -> Result<Self, Error> {
        let mut statement =
            connection.prepare("select name from sqlite_schema where type = 'view' order by name")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        let names: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
        let mut working = BTreeSet::new();
        for quotes in [Quotes::Text, Quotes::Name] {
            let before = connection.db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, quotes == Quotes::Text)?;
            let working_so = names
                .iter()
                .filter(|name| can_be_read(connection, name))
                .map(|name| (name.clone(), quotes));
            working.extend(working_so);
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, before)?;
        }
        Ok(Self(working))
    }

    /// Those of the views that can no longer be read as they could.
    pub(super) fn broken(&self, connection: &Connection) -> Result<Vec<String>, Error> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let now = Self::that_work(connection)?;
        let broken: BTreeSet<&String> = self.0.difference(&now.0).map(|(name, _)| name).collect();
        Ok(broken.into_iter().map(|name| format!("view {name}")).collect())
    }
}

fn can_be_read(connection: &Connection, view: &str) -> bool {
    let sql = format!("select * from main.{}", quoted(view));
    // Another fault than the view's own is met again by whoever writes next, and said there.
    !connection.prepare(&sql).is_err_and(|error| is_senseless(&error))
}
