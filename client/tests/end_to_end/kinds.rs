//! The types that columns of random tables have, and what each may be used for.

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::values::{
    array, bits, bytea, date, decimal, double, inet, integer, interval, json, literal, mood, numeric, pair,
    range, real, text, time, timestamp, timetz,
};

/// The types that a random table may have, beside those that Postgres brings along.
pub(crate) const SCHEMA: &str = r#"create schema kinds;
    create type kinds.mood as enum ('so so', 'fine', '', 'a,b', 'q"uote', 'back\slash', 'ß🌊');
    create domain kinds.posint as bigint check (value > 0);
    create domain kinds.price as numeric(10, 2);
    create domain kinds.code as char(6);
    create domain kinds.inner_code as kinds.code;
    create domain kinds.moment as timestamptz(3);
    create type kinds.pair as (number int, label text);
    create type kinds.nested as (pair kinds.pair, list int[], note text)"#;

/// A type of a column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// The type, as SQL names it.
    pub(crate) name: &'static str,
    /// What it may be used for.
    pub(crate) fit: Fit,
    /// A value of it, as an expression that can be cast to it.
    pub(crate) value: fn(&mut StdRng) -> String,
}

/// What a type may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Columns and keys.
    Key,
    /// Columns and keys, with any collation.
    Text,
    /// Columns only: equal values print in more than one way, or have no order.
    Value,
}

/// All of them.
pub(crate) const KINDS: &[Kind] = &[
    kind("smallint", Fit::Key, |r| integer(r, 16)),
    kind("integer", Fit::Key, |r| integer(r, 32)),
    kind("bigint", Fit::Key, |r| integer(r, 64)),
    kind("oid", Fit::Key, |r| r.random::<u32>().to_string()),
    kind("xid8", Fit::Key, |r| literal(&r.random::<u64>().to_string())),
    kind("numeric(9,3)", Fit::Key, |r| decimal(r, 6)),
    kind("numeric(38,0)", Fit::Key, |r| decimal(r, 38)),
    kind("numeric", Fit::Value, numeric),
    kind("real", Fit::Value, real),
    kind("double precision", Fit::Value, double),
    kind("money", Fit::Key, |r| format!("{}::numeric", decimal(r, 12))),
    kind("boolean", Fit::Key, |r| r.random::<bool>().to_string()),
    kind("text", Fit::Text, |r| literal(&text(r, 40))),
    kind("varchar(12)", Fit::Text, |r| literal(&text(r, 12))),
    kind("char(9)", Fit::Text, |r| literal(&text(r, 9))),
    kind("\"char\"", Fit::Key, |r| {
        literal(&char::from(r.random_range(1..128u8)).to_string())
    }),
    kind("name", Fit::Key, |r| literal(&text(r, 12))),
    kind("bytea", Fit::Key, bytea),
    kind("date", Fit::Key, date),
    kind("time", Fit::Key, time),
    kind("time(2)", Fit::Key, time),
    kind("timetz", Fit::Key, timetz),
    kind("timestamp", Fit::Key, timestamp),
    kind("timestamp(0)", Fit::Key, timestamp),
    kind("timestamptz", Fit::Key, timestamp),
    kind("timestamptz(4)", Fit::Key, timestamp),
    kind("interval", Fit::Value, interval),
    kind("interval day to second(2)", Fit::Value, interval),
    kind("uuid", Fit::Key, |r| {
        literal(&format!("{:032x}", r.random::<u128>()))
    }),
    kind("json", Fit::Value, |r| literal(&format!(" {:#} ", json(r, 3)))),
    kind("jsonb", Fit::Value, |r| literal(&json(r, 3).to_string())),
    kind("kinds.mood", Fit::Key, mood),
    kind("kinds.posint", Fit::Key, |r| {
        r.random_range(1..=i64::MAX).to_string()
    }),
    kind("kinds.price", Fit::Key, |r| decimal(r, 8)),
    kind("kinds.code", Fit::Key, |r| literal(&text(r, 6))),
    kind("kinds.inner_code", Fit::Key, |r| literal(&text(r, 6))),
    kind("kinds.moment", Fit::Key, timestamp),
    kind("kinds.pair", Fit::Key, pair),
    kind("kinds.nested", Fit::Value, |r| {
        let (list, note) = (array(r, "int", |r| integer(r, 32)), literal(&text(r, 9)));
        format!("row({}, {list}, {note})", pair(r))
    }),
    kind("int[]", Fit::Key, |r| array(r, "int", |r| integer(r, 32))),
    kind("text[]", Fit::Key, |r| array(r, "text", |r| literal(&text(r, 9)))),
    kind("double precision[]", Fit::Value, |r| array(r, "float8", double)),
    kind("bytea[]", Fit::Key, |r| array(r, "bytea", bytea)),
    kind("timestamptz[]", Fit::Key, |r| array(r, "timestamptz", timestamp)),
    kind("jsonb[]", Fit::Value, |r| {
        array(r, "jsonb", |r| literal(&json(r, 2).to_string()))
    }),
    kind("kinds.mood[]", Fit::Key, |r| array(r, "kinds.mood", mood)),
    kind("kinds.pair[]", Fit::Key, |r| array(r, "kinds.pair", pair)),
    kind("int4range", Fit::Key, |r| {
        range(r, "int4", |r| r.random_range(-99..99).to_string())
    }),
    kind("numrange", Fit::Value, |r| range(r, "num", numeric)),
    kind("daterange", Fit::Key, |r| range(r, "date", date)),
    kind("tstzrange", Fit::Key, |r| range(r, "tstz", timestamp)),
    kind("int8multirange", Fit::Key, |r| {
        let mut one = || range(r, "int8", |r| r.random_range(-1_i64 << 60..1 << 60).to_string());
        format!("int8multirange({}, {})", one(), one())
    }),
    kind("inet", Fit::Key, |r| inet(r, 32)),
    kind("cidr", Fit::Key, |r| format!("network(inet {})", inet(r, 32))),
    kind("macaddr", Fit::Key, |r| {
        literal(&format!("{:012x}", r.random::<u64>() >> 16))
    }),
    kind("macaddr8", Fit::Key, |r| {
        literal(&format!("{:016x}", r.random::<u64>()))
    }),
    kind("bit(11)", Fit::Key, |r| literal(&bits(r, 11))),
    kind("varbit", Fit::Key, |r| {
        let length = r.random_range(0..20);
        literal(&bits(r, length))
    }),
    kind("tsvector", Fit::Key, |r| {
        format!("to_tsvector('simple', {})", literal(&text(r, 40)))
    }),
    kind("point", Fit::Value, |r| {
        format!("point({}, {})", double(r), double(r))
    }),
    kind("pg_lsn", Fit::Key, |r| {
        literal(&format!("{:X}/{:X}", r.random::<u32>(), r.random::<u32>()))
    }),
];

const fn kind(name: &'static str, fit: Fit, value: fn(&mut StdRng) -> String) -> Kind {
    Kind { name, fit, value }
}
