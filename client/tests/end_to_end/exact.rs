//! What both forms of a pull must bring, value for value: made of what Postgres prints and of the
//! rules in `docs/types.md`, without any of the client's code.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::json::{By, JsonCopy};
use crate::rig::Rig;

/// Rows by their key, and in each the values by the name of the column.
pub(crate) type Rows<V> = BTreeMap<String, BTreeMap<String, V>>;

/// A value of the store: the same only with the same type, and a float to the last bit.
#[derive(Clone, Debug)]
pub(crate) struct Held(pub(crate) Value);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Value::Real(one), Value::Real(other)) => one.to_bits() == other.to_bits(),
            (one, other) => one == other,
        }
    }
}

/// All live rows of a table, as each form must bring them.
pub(crate) struct Source {
    /// The key's columns, in the order of the key.
    key: Vec<String>,
    pub(crate) stored: Rows<Held>,
    pub(crate) json: Rows<String>,
}

/// How values print for the comparison, whatever the database says.
const SETTINGS: &str = "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres';
    set extra_float_digits = 1; set bytea_output = 'hex'; set lc_monetary = 'C'; set search_path = pg_catalog";

/// Name, type beneath all domains, and place in the key of every column that is published.
const COLUMNS: &str = "
    with recursive beneath (attnum, name, type) as (
        select attnum, attname::text, atttypid from pg_attribute
        where attrelid = $1::text::regclass and attnum > 0 and not attisdropped
          and attname not in ('changed_xid', 'deleted')
        union all
        select b.attnum, b.name, t.typbasetype from beneath b join pg_type t on t.oid = b.type
        where t.typtype = 'd'
    )
    select b.name, format_type(b.type, null),
        (select k.place from pg_index i, unnest(i.indkey::int2[]) with ordinality k (attnum, place)
         where i.indrelid = $1::text::regclass and i.indisprimary and k.attnum = b.attnum
           and k.place <= i.indnkeyatts)
    from beneath b join pg_type t on t.oid = b.type
    where t.typtype <> 'd' order by b.attnum";

/// A name as SQL, for Postgres and SQLite alike.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A store and a copy by JSON that follow one source, and are held against it together.
pub(crate) struct Both<'r> {
    rig: &'r Rig,
    pub(crate) store: PathBuf,
    pub(crate) json: JsonCopy,
}

impl<'r> Both<'r> {
    /// An empty store of this name, and an empty copy.
    pub(crate) fn new(rig: &'r Rig, name: &str, by: By) -> Self {
        Self {
            rig,
            store: rig.store(name),
            json: JsonCopy::new(by),
        }
    }

    /// Pulls both to the end, in pages of `limit` rows.
    pub(crate) async fn pull(&mut self, limit: usize) {
        self.rig
            .pulled(&self.store, &["--limit", &limit.to_string()])
            .await;
        self.json.pull(self.rig, limit).await;
    }

    /// Pulls until a pull resets nothing, and counts resets from there. Whoever has a transaction
    /// open in the cluster, such as a test beside this one, holds back the date of a first pull.
    pub(crate) async fn pull_until_nothing_begins_anew(&mut self) {
        loop {
            self.json.resets = 0;
            self.pull(1_000).await;
            if self.json.resets == 0 {
                return;
            }
        }
    }

    /// Checks the rows of an entity, value for value, and returns how many they are.
    pub(crate) async fn assert_exact(&self, table: &str, entity: &str, what: &str) -> usize {
        let source = Source::read(self.rig, table).await;
        let held = held(&self.store, entity, &source.key);
        assert_same(&source.stored, &held, &format!("{what}: the store's {entity}"));
        let arrived = self.json.rows.get(entity);
        assert!(arrived.is_some(), "{what}: JSON has no {entity}");
        assert_same(
            &source.json,
            &self.json.rows[entity],
            &format!("{what}: {entity} as JSON"),
        );
        source.stored.len()
    }

    /// Pulls, and checks tables whose entities have their names.
    pub(crate) async fn follow(&mut self, tables: &[&str], limit: usize, what: &str) {
        self.pull(limit).await;
        for table in tables {
            self.assert_exact(&quoted(table), table, &format!("{what}, pages of {limit}"))
                .await;
        }
    }
}

impl Source {
    /// Reads all live rows of a table.
    pub(crate) async fn read(rig: &Rig, table: &str) -> Self {
        let mut connection = PgConnection::connect(&rig.database.url()).await.unwrap();
        let columns: Vec<(String, String, Option<i64>)> = sqlx::query_as(COLUMNS)
            .bind(table)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let table: String = sqlx::query_scalar(
            "select format('%I.%I', n.nspname, c.relname) from pg_class c
             join pg_namespace n on n.oid = c.relnamespace where c.oid = $1::text::regclass",
        )
        .bind(table)
        .fetch_one(&mut connection)
        .await
        .unwrap();
        sqlx::raw_sql(SETTINGS).execute(&mut connection).await.unwrap();
        let mut key: Vec<(i64, String)> = columns
            .iter()
            .filter_map(|(name, _, place)| Some(((*place)?, name.clone())))
            .collect();
        key.sort();
        let mut source = Self {
            key: key.into_iter().map(|(_, name)| name).collect(),
            stored: Rows::new(),
            json: Rows::new(),
        };
        let printed = |(name, kind, _): &(String, String, Option<i64>)| printed(name, kind);
        let json = |(name, ..): &(String, String, Option<i64>)| match name.as_str() {
            "changed_date" => {
                "to_json(to_char(t.changed_date, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))::text".to_owned()
            }
            name => format!("coalesce(to_json(t.{})::text, 'null')", quoted(name)),
        };
        let sql = format!(
            "select array[{}], array[{}] from {table} t where not t.deleted",
            columns.iter().map(printed).collect::<Vec<_>>().join(", "),
            columns.iter().map(json).collect::<Vec<_>>().join(", ")
        );
        let rows: Vec<(Vec<Option<String>>, Vec<String>)> = sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        for (texts, json) in rows {
            let stored: BTreeMap<_, _> = columns
                .iter()
                .zip(texts)
                .map(|((name, kind, _), text)| (name.clone(), value(kind, text)))
                .collect();
            let json: BTreeMap<_, _> = columns
                .iter()
                .zip(json)
                .map(|((name, ..), text)| (name.clone(), text.trim().to_owned()))
                .collect();
            source.stored.insert(keyed(&stored, &source.key), stored);
            let mut key = json.clone();
            key.retain(|name, _| source.key.contains(name));
            source.json.insert(json_keyed(&key), json);
        }
        source
    }
}

/// All rows of a store's table, whose key must be `key`.
pub(crate) fn held(store: &Path, entity: &str, key: &[String]) -> Rows<Held> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(store, flags).unwrap();
    let pragma = "select name from pragma_table_info(?1) where pk > 0 order by pk";
    let held_key: Vec<String> = connection
        .prepare(pragma)
        .unwrap()
        .query_map([entity], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(held_key, key, "the key of {entity}");
    let mut statement = connection
        .prepare(&format!("select * from {}", quoted(entity)))
        .unwrap();
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| {
        let value = |(place, name): (usize, &String)| Ok((name.clone(), Held(row.get(place)?)));
        names
            .iter()
            .enumerate()
            .map(value)
            .collect::<Result<BTreeMap<_, _>, rusqlite::Error>>()
    });
    rows.unwrap()
        .map(|row| row.map(|row| (keyed(&row, key), row)).unwrap())
        .collect()
}

/// The key of a row that came as JSON, of the key's columns alone.
pub(crate) fn json_keyed(key: &BTreeMap<String, String>) -> String {
    format!("{key:?}")
}

fn keyed(row: &BTreeMap<String, Held>, key: &[String]) -> String {
    let values: Vec<&Value> = key.iter().map(|name| &row[name].0).collect();
    format!("{values:?}")
}

/// SQL for what a column's value is printed as, where it is stored as text: by the type's own
/// output, but for timestamps that the calendar form can hold.
fn printed(name: &str, kind: &str) -> String {
    let column = format!("t.{}", quoted(name));
    // `format` calls the output function, unlike a cast, which drops the blanks of a `char(4)`;
    // and a composite of nulls is null to `is null`, but not null.
    let printed = format!("case when num_nulls({column}) = 0 then format('%s', {column}) end");
    let (civil, zone) = match kind {
        "timestamp with time zone" => (format!("({column} at time zone 'UTC')"), "Z"),
        "timestamp without time zone" => (column, ""),
        _ => return printed,
    };
    format!(
        "case when {civil} >= timestamp '0001-01-01' and {civil} < timestamp '10000-01-01'
              then to_char({civil}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || '{zone}' else {printed} end"
    )
}

/// What the store must hold of a value that prints like this.
fn value(kind: &str, printed: Option<String>) -> Held {
    let Some(text) = printed else {
        return Held(Value::Null);
    };
    Held(match kind {
        "smallint" | "integer" | "bigint" | "oid" => Value::Integer(text.parse().unwrap()),
        "boolean" => Value::Integer(i64::from(text == "t")),
        "real" | "double precision" if text == "NaN" => Value::Null,
        // SQLite keeps a float that is an integer as one, and so has no -0.
        "real" | "double precision" if text == "-0" => Value::Real(0.0),
        "real" | "double precision" => Value::Real(text.parse().unwrap()),
        "bytea" => Value::Blob(bytes(&text)),
        _ => Value::Text(text),
    })
}

fn bytes(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("\\x").unwrap().as_bytes();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) * 16 + digit(pair[1]))
        .collect()
}

fn assert_same<V: PartialEq + Debug>(expected: &Rows<V>, held: &Rows<V>, what: &str) {
    let mut faults = Vec::new();
    for (key, row) in expected {
        let Some(held) = held.get(key) else {
            faults.push(format!("{key} is missing"));
            continue;
        };
        let names = row
            .keys()
            .chain(held.keys().filter(|name| !row.contains_key(*name)));
        for name in names.filter(|name| row.get(*name) != held.get(*name)) {
            let (is, due) = (short(&held.get(name)), short(&row.get(name)));
            faults.push(format!("{key}: {name} is {is} instead of {due}"));
        }
    }
    let extra = held.keys().filter(|key| !expected.contains_key(*key));
    faults.extend(extra.map(|key| format!("{key} should not be there")));
    faults.truncate(5);
    assert!(faults.is_empty(), "{what}: {faults:#?}");
}

/// Enough of a value to tell it from others.
fn short(value: &impl Debug) -> String {
    format!("{value:?}").chars().take(300).collect()
}
