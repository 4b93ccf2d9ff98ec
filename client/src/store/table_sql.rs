//! The SQL that is made of a table's definition. Names are quoted here, and nowhere else.

use highwater_shared::{Column, ColumnRole, ValueKind};

use super::table::{DELETED, Table};
use super::value;

impl Table {
    /// `create table`, in `schema`, under `name`.
    pub(super) fn create_sql(&self, schema: &str, name: &str) -> String {
        let single_integer_key = {
            let mut key = self.key();
            let first = key.next().map(Column::value_kind);
            first == Some(ValueKind::Integer) && key.next().is_none()
        };
        let mut columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let constraint = match column.role {
                    Some(ColumnRole::Key) if single_integer_key => " primary key",
                    Some(ColumnRole::Key | ColumnRole::ChangedDate) => " not null",
                    _ => "",
                };
                let sqlite_type = value::sqlite_type(column.value_kind());
                format!("{} {sqlite_type}{constraint}", quoted(&column.name))
            })
            .collect();
        if self.keeps_deleted {
            columns.push(format!("{} integer not null default 0", quoted(DELETED)));
        }
        // One B-tree for rows and key: a key that is not an integer would have one of its own.
        let options = if single_integer_key {
            "strict"
        } else {
            columns.push(format!("primary key ({})", list(self.key(), "")));
            "strict, without rowid"
        };
        format!(
            "create table {schema}.{} (\n  {}\n) {options}",
            quoted(name),
            columns.join(",\n  ")
        )
    }

    /// Writes a whole row in place, its values in the order of the columns.
    pub(super) fn upsert_sql(&self, target: &str) -> String {
        let values: Vec<String> = (1..=self.columns.len())
            .map(|index| format!("?{index}"))
            .collect();
        // By another name, since to SQLite a table called `excluded` would be what `excluded` means.
        format!(
            "insert into {target} as kept ({}) values ({}) {}",
            list(self.columns.iter(), ""),
            values.join(", "),
            self.on_conflict_sql()
        )
    }

    /// What an insert does where the key is there already.
    pub(super) fn on_conflict_sql(&self) -> String {
        let mut changes: Vec<String> = self
            .columns
            .iter()
            .filter(|column| column.role != Some(ColumnRole::Key))
            .map(|column| format!("{0} = excluded.{0}", quoted(&column.name)))
            .collect();
        if self.keeps_deleted {
            changes.push(format!("{} = 0", quoted(DELETED)));
        }
        format!(
            "on conflict ({}) do update set {}",
            list(self.key(), ""),
            changes.join(", ")
        )
    }

    /// Removes one row, its key in the order of the key's columns.
    pub(super) fn delete_sql(&self) -> String {
        format!(
            "delete from main.{} where {}",
            quoted(&self.name),
            self.key_is_bound()
        )
    }

    /// Flags one row as deleted, its key as in [`Table::delete_sql`] and then the date.
    pub(super) fn flag_sql(&self) -> String {
        format!(
            "update main.{} set {} = 1, {} = ?{} where {}",
            quoted(&self.name),
            quoted(DELETED),
            quoted(self.changed_date()),
            self.key().count() + 1,
            self.key_is_bound()
        )
    }

    /// The name of the column that holds when a row last changed.
    pub(super) fn changed_date(&self) -> &str {
        self.columns
            .iter()
            .find(|column| column.role == Some(ColumnRole::ChangedDate))
            .map_or("changed_date", |column| column.name.as_str())
    }

    /// What follows a `select` for the rows that were not deleted.
    pub(super) fn where_live(&self) -> String {
        if self.keeps_deleted {
            format!(" where {} = 0", deleted_column())
        } else {
            String::new()
        }
    }

    fn key_is_bound(&self) -> String {
        let terms: Vec<String> = self
            .key()
            .enumerate()
            .map(|(index, column)| format!("{} = ?{}", quoted(&column.name), index + 1))
            .collect();
        terms.join(" and ")
    }
}

/// The name of the deleted flag, quoted.
pub(super) fn deleted_column() -> String {
    quoted(DELETED)
}

/// An identifier as SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Columns as SQL, each after `prefix`.
pub(super) fn list<'a>(columns: impl Iterator<Item = &'a Column>, prefix: &str) -> String {
    let names: Vec<String> = columns
        .map(|column| format!("{prefix}{}", quoted(&column.name)))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn column(name: &str, type_name: &str, role: Option<ColumnRole>) -> Column {
        Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            role,
            place: None,
        }
    }

    fn table(columns: Vec<Column>) -> Table {
        Table {
            name: "odd \"name\"".to_owned(),
            columns,
            fingerprint: String::new(),
            keeps_deleted: true,
        }
    }

    #[test]
    fn an_integer_key_is_the_rowid() {
        let table = table(vec![
            column("id", "bigint", Some(ColumnRole::Key)),
            column("select", "numeric", None),
            column(
                "changed_date",
                "timestamp with time zone",
                Some(ColumnRole::ChangedDate),
            ),
        ]);
        assert_eq!(
            table.create_sql("main", &table.name),
            "create table main.\"odd \"\"name\"\"\" (\n  \"id\" integer primary key,\n  \"select\" text,\n  \
             \"changed_date\" text not null,\n  \"deleted\" integer not null default 0\n) strict"
        );
    }

    #[test]
    fn the_key_is_in_its_own_order() {
        let place = |place, column| Column {
            place: Some(place),
            ..column
        };
        let table = table(vec![
            place(2, column("a", "text", Some(ColumnRole::Key))),
            place(1, column("b", "text", Some(ColumnRole::Key))),
        ]);
        let sql = table.create_sql("main", "t");
        assert!(sql.contains("primary key (\"b\", \"a\")"), "{sql}");
    }

    #[test]
    fn every_statement_is_sql_that_sqlite_takes() {
        for key_type in ["integer", "text"] {
            let table = table(vec![
                column("k\"1", key_type, Some(ColumnRole::Key)),
                column("k2", "uuid", Some(ColumnRole::Key)),
                column("größe", "double precision", None),
                column(
                    "changed_date",
                    "timestamp with time zone",
                    Some(ColumnRole::ChangedDate),
                ),
            ]);
            let connection = Connection::open_in_memory().expect("memory");
            let target = format!("main.{}", quoted(&table.name));
            connection
                .execute_batch(&table.create_sql("main", &table.name))
                .expect("create");
            for sql in [table.upsert_sql(&target), table.delete_sql(), table.flag_sql()] {
                connection.prepare(&sql).expect(&sql);
            }
        }
    }
}
