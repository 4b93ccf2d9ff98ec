//! What goes into statements as text, against a real Postgres: it reads what was meant, whatever that is.

use futures_util::TryStreamExt as _;
use highwater_server::cursor::{After, Cursor};
use highwater_server::quoting::{identifier, literal};
use highwater_shared::copy_text;
use highwater_testbed::seed;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::postgres::PgPoolCopyExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::rig::{Rig, migrated};

/// Strings of a statement, and statements.
const STRINGS: usize = 250;
const STATEMENTS: usize = 20;

/// What a scanner may stumble over, and characters of every length and kind.
const PIECES: [&str; 30] = [
    "'",
    "''",
    "\\",
    "\\\\",
    "\\'",
    "\"",
    "\n",
    "\r",
    "\t",
    "\u{8}",
    "\u{c}",
    "\u{b}",
    "\u{1}",
    "\u{7f}",
    "$$",
    "$a$",
    "--",
    "/*",
    "*/",
    ";",
    "\\.",
    "\\N",
    "E'",
    "U&'\\0041'",
    "%",
    "a",
    "ä",
    "\u{2028}",
    "\u{fffe}",
    "\u{10ffff}",
];

/// A string of such pieces, some of them long.
fn odd(random: &mut StdRng) -> String {
    let pieces = match random.random_range(0..20) {
        0 => 20_000,
        1..6 => 1,
        _ => random.random_range(0..12),
    };
    (0..pieces)
        .map(|_| PIECES[random.random_range(0..PIECES.len())])
        .collect()
}

#[tokio::test]
async fn postgres_reads_every_literal_as_it_was_meant() {
    let database = migrated().await;
    let pool = database.pool().await.unwrap();
    let random = &mut StdRng::seed_from_u64(seed());
    for n in 0..STATEMENTS {
        // The same whatever this says.
        let conforming = if n % 2 == 0 { "on" } else { "off" };
        sqlx::raw_sql(AssertSqlSafe(format!(
            "alter database {} set standard_conforming_strings = {conforming}",
            database.name()
        )))
        .execute(&pool)
        .await
        .unwrap();
        let pool = database.pool().await.unwrap();
        let strings: Vec<String> = (0..STRINGS).map(|_| odd(random)).collect();
        let rows = strings.iter().enumerate();
        let rows = rows.map(|(place, text)| format!("({place}, {})", literal(text).unwrap()));
        let name: String = odd(random).chars().take(15).chain(['x']).collect();
        let statement = format!(
            "copy (select v.t as {} from (values {}) v (n, t) order by n) to stdout",
            identifier(&name),
            rows.collect::<Vec<_>>().join(", ")
        );
        let copied = pool.copy_out_raw(&statement).await.unwrap();
        let chunks: Vec<_> = copied.try_collect().await.unwrap();
        let text = chunks.concat();
        let lines = text.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
        let read: Vec<String> = lines
            .map(|line| String::from_utf8(copy_text::unescape(line).into_owned()).unwrap())
            .collect();
        assert_eq!(read, strings);
    }
}

#[tokio::test]
async fn a_key_is_literally_what_the_cursor_says() {
    let rig = Rig::start("create table note (a text, b text, primary key (a, b))").await;
    rig.enable(&["note"]).await;
    let random = &mut StdRng::seed_from_u64(seed());
    // What an index takes of a key is short of 2,704 bytes.
    let short = |random: &mut StdRng| odd(random).chars().take(200).collect::<String>();
    let mut connection = PgConnection::connect(&rig.database.url()).await.unwrap();
    for _ in 0..60 {
        sqlx::query("insert into note values ($1, $2) on conflict do nothing")
            .bind(short(random))
            .bind(short(random))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let first = rig.server.page("limit=1").await;
    let genuine = Cursor::decode(first["next"].as_str().unwrap()).unwrap();
    for _ in 0..60 {
        let key = [short(random), short(random)];
        let mut forged = genuine.clone();
        forged.pull.as_mut().unwrap().position.after = Some(After {
            order: 0,
            key: key.to_vec(),
        });
        let page = rig.server.page(&format!("since={}", forged.encode())).await;
        let after = "select count(*) from note where (a, b) > ($1, $2)";
        let expected: i64 = sqlx::query_scalar(after)
            .bind(&key[0])
            .bind(&key[1])
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let rows = page["changes"].as_array().unwrap().len();
        assert_eq!(rows, usize::try_from(expected).unwrap(), "{key:?}");
    }
}
