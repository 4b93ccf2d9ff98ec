//! Digests: parts, keys and rows tell the same rows, cost one scan or less, and hashes are those of Postgres.

use std::time::Duration;

use highwater_shared::hash::hash;
use highwater_shared::{BlockHeader, PageParser, PageSink, Trailer};
use highwater_testbed::seed;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::rig::{Rig, Served};

pub(crate) const PRODUCTS: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 1000) g; analyze product";

/// The lines of an answer, each with the kind of its block.
#[derive(Default)]
struct Lines {
    kind: String,
    lines: Vec<(String, String)>,
}

impl PageSink for Lines {
    type Error = std::convert::Infallible;

    fn block(&mut self, header: BlockHeader) -> Result<(), Self::Error> {
        self.kind = format!("{:?}", header.kind);
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Self::Error> {
        let line = String::from_utf8_lossy(line).into_owned();
        self.lines.push((self.kind.clone(), line));
        Ok(())
    }
}

/// What is answered to such a question.
pub(crate) async fn asked(server: &Served, body: &Value) -> (Vec<(String, String)>, Trailer) {
    let response = server.post("/digests", body.to_string(), None).await;
    assert_eq!(response.status(), 200, "{body}: {:?}", response.text().await);
    let mut lines = Lines::default();
    let mut parser = PageParser::new();
    parser.push(&response.bytes().await.unwrap(), &mut lines).unwrap();
    (lines.lines, parser.finish::<std::convert::Infallible>().unwrap())
}

/// The lines of blocks of one kind.
pub(crate) fn of(lines: &[(String, String)], kind: &str) -> Vec<String> {
    let of_kind = lines.iter().filter(|(found, _)| found == kind);
    of_kind.map(|(_, line)| line.clone()).collect()
}

async fn cursor(server: &Served) -> String {
    let page = server.page("limit=100000").await;
    assert_eq!(page["more"], false);
    page["next"].as_str().unwrap().to_owned()
}

/// They are no later ones, which nobody compares.
#[tokio::test]
async fn rows_with_ids_of_another_cluster_are_compared() {
    let rig = Rig::start(
        "create table part (id int, k int, primary key (id, k)) partition by list (k); create table part_1 partition of part for values in (1)",
    )
    .await;
    rig.enable(&["part"]).await;
    rig.attach_foreign("part", "values (1, 2), (2, 2)", "in (2)")
        .await;
    let since = cursor(&rig.server).await;
    rig.run("insert into part values (3, 1)").await;
    let body = json!({"since": since, "entities": [{"entity": "part", "want": "keys"}]});
    let (lines, _) = asked(&rig.server, &body).await;
    assert_eq!(of(&lines, "Changed"), ["3\t1"]);
    assert_eq!(of(&lines, "Key").len(), 2, "{lines:?}");
}

#[tokio::test]
async fn the_hash_is_the_one_that_postgres_computes() {
    let rig = Rig::start("select 1").await;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let cases: Vec<(String, i64)> = (0..2_000)
        .map(|_| {
            let length = random.random_range(0..80);
            let character = |random: &mut StdRng| match random.random_range(0..4) {
                0 => random.random_range('\u{80}'..'\u{ffff}'),
                _ => random.random_range(' '..'~'),
            };
            let text = (0..length).map(|_| character(&mut random)).collect();
            (
                text,
                if random.random_bool(0.2) {
                    0
                } else {
                    random.random()
                },
            )
        })
        .collect();
    let (texts, seeds): (Vec<String>, Vec<i64>) = cases.iter().cloned().unzip();
    let hashes: Vec<i64> = sqlx::query_scalar(
        "select hashtextextended(c.text collate \"C\", c.seed)
         from unnest($1::text[], $2::bigint[]) with ordinality c (text, seed, place) order by c.place",
    )
    .bind(texts)
    .bind(seeds)
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    for ((text, with), expected) in cases.iter().zip(hashes) {
        let found = hash(text.as_bytes(), with.cast_unsigned());
        assert_eq!(found.cast_signed(), expected, "seed {seed}: {text:?}, {with}");
    }
}

#[tokio::test]
async fn parts_keys_and_rows_tell_the_same_rows() {
    let rig = Rig::start(PRODUCTS).await;
    rig.enable(&["product"]).await;
    let since = cursor(&rig.server).await;
    rig.run("update product set name = 'new' where id = 5; delete from product where id = 6")
        .await;
    let ask = async |of: Value| asked(&rig.server, &json!({"since": since, "entities": [of]})).await;
    let (parts, trailer) = ask(json!({"entity": "product", "bits": 3})).await;
    // Who goes on from there hears of what was named.
    let page = rig.server.page(&format!("since={}", trailer.next)).await;
    assert_eq!(
        (trailer.more, page["changes"].as_array().unwrap().len()),
        (true, 2),
        "{page}"
    );
    let again = json!({"since": trailer.next, "entities": [{"entity": "product", "bits": 3}]});
    assert_eq!(asked(&rig.server, &again).await.0, parts);
    let mut changed = of(&parts, "Changed");
    changed.sort();
    assert_eq!(changed, ["5", "6"]);
    let parts = of(&parts, "Part");
    assert_eq!(parts.len(), 8);
    let mut rows = 0;
    for part in &parts {
        let fields: Vec<i64> = part.split('\t').map(|field| field.parse().unwrap()).collect();
        let within = json!({"bits": 3, "parts": [fields[0]]});
        let (keys, _) = ask(json!({"entity": "product", "want": "keys", "within": within})).await;
        let keys = of(&keys, "Key");
        let digests = keys
            .iter()
            .map(|key| key.split('\t').nth(1).unwrap().parse::<i64>().unwrap());
        assert_eq!(digests.fold(0, std::ops::BitXor::bitxor), fields[2]);
        assert_eq!(i64::try_from(keys.len()).ok(), Some(fields[1]));
        let (whole, _) = ask(json!({"entity": "product", "want": "rows", "within": within})).await;
        assert_eq!(of(&whole, "Upsert").len(), keys.len());
        rows += keys.len();
    }
    assert_eq!(rows, 998);
    // Without a cursor the answer is of now, and has one.
    let (now, trailer) = asked(
        &rig.server,
        &json!({"entities": [{"entity": "product", "bits": 0}]}),
    )
    .await;
    assert!(
        now.iter().all(|(kind, _)| kind == "Part") && now[0].1.starts_with("0\t999\t"),
        "{now:?}"
    );
    let page = rig.server.page(&format!("since={}", trailer.next)).await;
    assert_eq!(page["changes"], json!([]), "it goes on from there");
}

#[tokio::test]
async fn rows_are_told_by_their_keys() {
    let rig = Rig::start(
        r"create table pair (a text, b int, note text, primary key (b, a));
          insert into pair select t, g, 'n' from unnest(array[e'tab\there', e'back\\slash', '', 'é']) t, generate_series(1, 3) g",
    )
    .await;
    rig.enable(&["pair"]).await;
    let since = cursor(&rig.server).await;
    rig.run("update pair set note = 'new' where (a, b) = ('', 1)")
        .await;
    let ask = async |of: Value| {
        asked(&rig.server, &json!({"since": since, "entities": [of]}))
            .await
            .0
    };
    let all = of(&ask(json!({"entity": "pair", "want": "keys"})).await, "Key");
    assert_eq!(all.len(), 11);
    let key_of = |line: &String| line.rsplit_once('\t').unwrap().0.to_owned();
    for line in &all {
        // A key that no row has, one that changed since, and one that is named twice.
        let keys = json!([key_of(line), "7\tnone", "1\t", key_of(line)]);
        let found = ask(json!({"entity": "pair", "want": "keys", "keys": keys})).await;
        assert_eq!(of(&found, "Key"), std::slice::from_ref(line));
        assert_eq!(of(&found, "Changed"), ["1\t"]);
        let rows = ask(json!({"entity": "pair", "want": "rows", "keys": keys})).await;
        assert_eq!(of(&rows, "Upsert").len(), 1, "{rows:?}");
        let parts = ask(json!({"entity": "pair", "bits": 0, "keys": keys})).await;
        assert!(of(&parts, "Part")[0].starts_with("0\t1\t"), "{parts:?}");
    }
    let none = ask(json!({"entity": "pair", "want": "keys", "keys": []})).await;
    assert_eq!(of(&none, "Key"), Vec::<String>::new());
}

#[tokio::test]
async fn a_comparison_of_everything_is_one_scan_and_rows_that_are_named_are_looked_up() {
    let rig = Rig::start(PRODUCTS).await;
    rig.enable(&["product"]).await;
    let since = cursor(&rig.server).await;
    // A server whose connections have counted nothing yet.
    let pool = rig.database.pool().await.unwrap();
    let server = Served::start(&pool).await;
    let scans = async || -> (i64, i64) {
        sqlx::query_as("select seq_scan, idx_tup_fetch from pg_stat_user_tables where relname = 'product'")
            .fetch_one(&rig.pool)
            .await
            .unwrap()
    };
    rig.run("select pg_stat_reset()").await;
    let body = json!({"since": since, "deep": true, "entities": [{"entity": "product", "bits": 10}]});
    asked(&server, &body).await;
    for want in ["keys", "rows"] {
        let of = json!({"entity": "product", "want": want, "keys": ["7", "300", "2000"]});
        let (lines, _) = asked(&server, &json!({"since": since, "entities": [of]})).await;
        assert_eq!(lines.len(), 2, "{lines:?}");
    }
    // They count when they end.
    drop(server);
    pool.close().await;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while scans().await.0 == 0 {
        assert!(std::time::Instant::now() < deadline, "no scan was counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (scans, by_index) = scans().await;
    assert_eq!(scans, 1);
    assert!(by_index < 20, "{by_index} rows by an index");
}

/// The cursor that comes with digests is asked with again: it stands for what was seen before them, and what has come since is
/// named as changed.
#[tokio::test]
async fn the_cursor_of_digests_is_compared_as_the_one_that_they_were_asked_with() {
    let rig = Rig::start(PRODUCTS).await;
    rig.enable(&["product"]).await;
    let since = cursor(&rig.server).await;
    let keys = async |since: &str| {
        let body = json!({"since": since, "entities": [{"entity": "product", "want": "keys"}]});
        asked(&rig.server, &body).await
    };
    rig.run("update product set name = 'new' where id <= 10").await;
    let (first, trailer) = keys(&since).await;
    assert_ne!(trailer.next, since);
    rig.run("update product set name = 'newer' where id = 20").await;
    let (second, _) = keys(&trailer.next).await;
    let changed = |lines| of(lines, "Changed").len();
    assert_eq!((changed(&first), changed(&second)), (10, 11));
    assert_eq!(of(&second, "Key").len(), 989);
}
