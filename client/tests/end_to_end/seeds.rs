//! Stores that begin with a seed: what is in one, and what happens to one that is no good.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use rusqlite::Connection;

use crate::rig::{Rig, client, output, run};
use crate::seed_server::SeedServer;

const TABLES: &[&str] = &["product", "price"];
const SQL: &str = "create table product (id int primary key, name text);
    create table price (product int, area text, amount numeric, primary key (product, area));
    insert into product select g, 'p' || g from generate_series(1, 3000) g;
    insert into price select g, 'a', g from generate_series(1, 500) g";

async fn seed(store: &Path, out: &Path) -> Output {
    let mut command = client("seed", store);
    command.arg("--out").arg(out);
    output(command).await
}

/// A rig with a store that is up to date, and a seed of it.
async fn seeded() -> (Rig, PathBuf) {
    let rig = Rig::start(SQL, TABLES).await;
    let store = rig.store("origin.db");
    rig.pulled(&store, &[]).await;
    let out = rig.store("origin.seed");
    let made = seed(&store, &out).await;
    assert!(made.status.success(), "{}", said(&made));
    (rig, out)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Pulls a new store with a seed; what the program said, as JSON and as text.
async fn begin(rig: &Rig, store: &Path, seed: &str) -> (serde_json::Value, String) {
    let mut command = client("pull", store);
    command.args([
        "--json",
        "--server",
        &format!("http://{}", rig.address),
        "--seed",
        seed,
    ]);
    let output = output(command).await;
    assert!(output.status.success(), "{}", said(&output));
    (serde_json::from_slice(&output.stdout).unwrap(), said(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_begun_with_a_seed_goes_on_from_its_cursor() {
    let (rig, seed) = seeded().await;
    run(
        &rig.pool,
        "update product set name = 'new' where id <= 10; delete from product where id = 20; insert into price values (9, 'b', 1)",
    )
    .await;
    let store = rig.store("begun.db");
    let (report, _) = begin(&rig, &store, seed.to_str().unwrap()).await;
    assert_eq!(
        (&report["rows"], &report["deleted"]),
        (&11.into(), &1.into()),
        "{report}"
    );
    assert_eq!(report["seed"]["rows"], 3500);
    rig.assert_equal(&store, TABLES, "after the seed").await;
    // An ordinary store from here on, and a seed is not looked at any more.
    run(&rig.pool, "delete from price where product < 5").await;
    let (report, _) = begin(&rig, &store, seed.to_str().unwrap()).await;
    assert_eq!(
        (&report["deleted"], &report["seed"]),
        (&4.into(), &serde_json::Value::Null)
    );
    rig.assert_equal(&store, TABLES, "later").await;
    let page_bytes: i64 = Connection::open(&store)
        .unwrap()
        .pragma_query_value(None, "page_size", |row| row.get(0))
        .unwrap();
    assert_eq!(page_bytes, 2048, "the pages of any new store");
    for left in ["begun.db.seeding", "begun.db.seed-part", "begun.db.seeding.lock"] {
        assert!(!rig.store(left).exists(), "{left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_holds_nothing_of_the_device() {
    let rig = Rig::start(SQL, TABLES).await;
    let store = rig.store("own.db");
    rig.pulled(&store, &["--keep-deleted"]).await;
    run(&rig.pool, "delete from product where id <= 100").await;
    rig.pulled(&store, &["--keep-deleted"]).await;
    Connection::open(&store)
        .unwrap()
        .execute_batch(
            "create table diary (secret text); insert into diary values ('mine'); create index by_name on product (name);
             create view v as select * from diary; create trigger t after delete on product begin select 1; end",
        )
        .unwrap();
    let out = rig.store("own.seed");
    assert!(seed(&store, &out).await.status.success());
    let begun = rig.store("others.db");
    begin(&rig, &begun, out.to_str().unwrap()).await;
    rig.assert_equal(&begun, TABLES, "without flagged rows").await;
    let objects: i64 = Connection::open(&begun)
        .unwrap()
        .query_row(
            "select count(*) from sqlite_schema where name in ('diary', 'by_name', 'v', 't')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(objects, 0);
}

/// Each reason is said, and the store is what a plain first pull makes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_is_no_good_is_done_without() {
    let (rig, good) = seeded().await;
    let bytes = std::fs::read(&good).unwrap();
    let other = Rig::start(SQL, TABLES).await;
    let foreign_store = other.store("foreign.db");
    other.pulled(&foreign_store, &[]).await;
    let foreign = rig.store("foreign.seed");
    assert!(seed(&foreign_store, &foreign).await.status.success());
    let mut damaged = bytes.clone();
    let middle = bytes.len() / 2;
    damaged[middle] ^= 1;
    let newer = String::from_utf8_lossy(&bytes).replacen("\"highwaterSeed\":1", "\"highwaterSeed\":2", 1);
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("truncated", bytes[..bytes.len() - 100].to_vec(), "cut off"),
        ("damaged", damaged, "damaged"),
        ("newer", newer.into_bytes(), "version 2"),
        ("html", b"<html>not found</html>".to_vec(), "not a seed"),
        ("empty", Vec::new(), "empty"),
        ("foreign", std::fs::read(&foreign).unwrap(), "another database"),
    ];
    for (name, content, reason) in cases {
        let path = rig.store(name);
        std::fs::write(&path, content).unwrap();
        let store = rig.store(&format!("{name}.db"));
        let (report, said) = begin(&rig, &store, path.to_str().unwrap()).await;
        assert!(said.contains(reason), "{name}: {said}");
        assert!(report["seed"]["refused"].is_string(), "{report}");
        rig.assert_equal(&store, TABLES, name).await;
    }

    // From before the database was put back to an earlier state.
    let mut connection = rig.database.connect().await.unwrap();
    highwater_server::admin::rebase(&mut connection, false)
        .await
        .unwrap();
    let store = rig.store("put back.db");
    let (_, said) = begin(&rig, &store, good.to_str().unwrap()).await;
    rig.assert_equal(&store, TABLES, "after a rebase").await;
    assert!(said.contains("restored or replaced after it was made"), "{said}");

    let mut command = rig.pull(&rig.store("none.db"), &["--seed", "nosuch.seed"]);
    command.arg("--json");
    let missing = output(command).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(said_no_such_file(&missing), "{}", self::said(&missing));
}

fn said_no_such_file(output: &Output) -> bool {
    said(output).contains("no such file")
}

/// A view or trigger in a seed could do anything; only what Highwater writes is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_with_more_in_it_than_entities_is_refused() {
    let (rig, good) = seeded().await;
    // Packed as it should be, from a store that has more in it.
    let bytes = std::fs::read(&good).unwrap();
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let image = rig.store("image.db");
    std::fs::write(&image, zstd::decode_all(&bytes[line + 1..]).unwrap()).unwrap();
    Connection::open(&image)
        .unwrap()
        .execute_batch("create trigger evil after insert on product begin delete from price; end")
        .unwrap();
    let image = std::fs::read(&image).unwrap();
    let body = zstd::encode_all(&image[..], 3).unwrap();
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[..line]).unwrap();
    header["bytes"] = image.len().into();
    header["compressedBytes"] = body.len().into();
    header["sha256"] = sha256(&body).into();
    let evil = rig.store("evil.seed");
    std::fs::write(&evil, [header.to_string().as_bytes(), b"\n", &body].concat()).unwrap();
    let store = rig.store("spared.db");
    let (_, said) = begin(&rig, &store, evil.to_str().unwrap()).await;
    assert!(said.contains("other tables"), "{said}");
    rig.assert_equal(&store, TABLES, "spared").await;
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_nothing_to_give_makes_no_seed() {
    let rig = Rig::start(SQL, TABLES).await;
    let out = rig.store("out.seed");
    let missing = seed(&rig.store("missing.db"), &out).await;
    assert_eq!(missing.status.code(), Some(1));
    let store = rig.store("fresh.db");
    std::fs::write(&store, "").unwrap();
    assert_eq!(seed(&store, &out).await.status.code(), Some(1));
    rig.pulled(&store, &[]).await;
    let unwritable = seed(&store, &rig.store("no/such/folder/out.seed")).await;
    assert_eq!(unwritable.status.code(), Some(1));
    assert!(said(&unwritable).contains("folder"), "{}", said(&unwritable));
    assert!(!out.exists());
}

/// Seeds that are made while a daemon writes stand each at one consistent cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_made_beside_a_daemon_that_writes() {
    let (rig, _) = seeded().await;
    let store = rig.store("daemon.db");
    rig.pulled(&store, &[]).await;
    let mut command = client("run", &store);
    let server = format!("http://{}", rig.address);
    command.args([
        "--quiet",
        "--interval",
        "10ms",
        "--limit",
        "50",
        "--server",
        &server,
    ]);
    let mut daemon = highwater_testbed::Process::spawn(command).unwrap();
    for round in 0..5 {
        // Product and price change together, 400 rows, which are several pages.
        run(
            &rig.pool,
            &format!("update product set name = 'r{round}' where id <= 400; update price set amount = {round} where product <= 400"),
        )
        .await;
        let out = rig.store("beside.seed");
        let made = seed(&store, &out).await;
        assert!(made.status.success(), "{}", said(&made));
        let begun = rig.store(&format!("beside{round}.db"));
        let (report, _) = begin(&rig, &begun, out.to_str().unwrap()).await;
        assert!(report["seed"]["rows"].is_u64(), "{report}");
        rig.assert_equal(&begun, TABLES, "beside a daemon").await;
    }
    let ended = daemon.wait_up_to(Duration::ZERO).unwrap();
    assert!(ended.is_none(), "{ended:?}");
}

/// A download that was cut off goes on where it was, in the same run and in the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_where_it_was_cut_off() {
    let (rig, seed) = seeded().await;
    let bytes = std::fs::read(&seed).unwrap();
    let size = bytes.len() as u64;
    let server = SeedServer::start(bytes.clone(), true).await;
    server.cut_next_at(size / 3);
    let store = rig.store("cut.db");
    let (report, _) = begin(&rig, &store, &server.url).await;
    assert_eq!(report["seed"]["rows"], 3500);
    assert!(
        server.sent() < size + size / 10,
        "{} of {size} bytes",
        server.sent()
    );
    rig.assert_equal(&store, TABLES, "cut once").await;

    // A run that was killed in the middle: its part is there, the next one takes the rest.
    let server = SeedServer::start(bytes.clone(), true).await;
    let store = rig.store("killed.db");
    std::fs::write(rig.store("killed.db.seed-part"), &bytes[..bytes.len() / 2]).unwrap();
    begin(&rig, &store, &server.url).await;
    assert!(server.sent() < size * 6 / 10, "{} of {size} bytes", server.sent());
    rig.assert_equal(&store, TABLES, "killed once").await;

    // The part of another seed, and a server that knows no ranges.
    for ranges in [true, false] {
        let server = SeedServer::start(bytes.clone(), ranges).await;
        let store = rig.store(&format!("other{ranges}.db"));
        let part = rig.store(&format!("other{ranges}.db.seed-part"));
        let other = String::from_utf8_lossy(&bytes).replacen("sha256\":\"", "sha256\":\"0", 1);
        std::fs::write(&part, &other.as_bytes()[..5_000]).unwrap();
        server.cut_next_at(size / 3);
        let (report, said) = begin(&rig, &store, &server.url).await;
        assert_eq!(report["seed"]["rows"], 3500, "{said}");
        rig.assert_equal(&store, TABLES, "other part").await;
    }

    let server = SeedServer::start(bytes, true).await;
    let store = rig.store("wrong.db");
    let (_, said) = begin(&rig, &store, &format!("{}/elsewhere", server.url)).await;
    assert!(said.contains("404"), "{said}");
    rig.assert_equal(&store, TABLES, "no seed there").await;
}

/// What is wrong is the disk, so that nothing has to be fetched twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_made_costs_no_download() {
    let (rig, seed) = seeded().await;
    let bytes = std::fs::read(&seed).unwrap();
    let server = SeedServer::start(bytes.clone(), true).await;
    let (store, part) = (rig.store("begun.db"), rig.store("begun.db.seed-part"));
    let in_the_way = rig.store("begun.db.seeding");
    std::fs::create_dir(&in_the_way).unwrap();
    let failed = output(rig.pull(&store, &["--seed", &server.url])).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(said(&failed).contains("begun.db.seeding"), "{}", said(&failed));
    assert!(std::fs::read(&part).unwrap() == bytes);
    assert!(!store.exists());
    std::fs::remove_dir(in_the_way).unwrap();
    let sent = server.sent();
    begin(&rig, &store, &server.url).await;
    // Its first line tells that the seed is the same still.
    assert!(server.sent() - sent < bytes.len() as u64 / 10);
    rig.assert_equal(&store, TABLES, "begun").await;
    assert!(!part.exists());
}

/// To open it as a seed would cost whoever has it open as a store in the same process the locks on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_no_seed() {
    let (rig, _) = seeded().await;
    let origin = rig.store("origin.db");
    let store = rig.store("begun.db");
    let refused = output(rig.pull(&store, &["--seed", origin.to_str().unwrap()])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("highwater seed"), "{}", said(&refused));
    assert!(!store.exists());
}

/// A daemon was killed, and somebody removed its store and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_store_has_left_beside_its_place_is_no_part_of_one_begun_with_a_seed() {
    let (rig, seed) = seeded().await;
    let (killed, store) = (rig.store("killed.db"), rig.store("anew.db"));
    rig.pulled(&killed, &[]).await;
    let connection = Connection::open(&killed).unwrap();
    connection
        .execute_batch("update product set name = 'old'; delete from price; create table mine (x)")
        .unwrap();
    for suffix in ["-wal", "-shm"] {
        let beside = |name: &str| rig.store(&format!("{name}{suffix}"));
        std::fs::copy(beside("killed.db"), beside("anew.db")).unwrap();
    }
    begin(&rig, &store, seed.to_str().unwrap()).await;
    rig.assert_equal(&store, TABLES, "beside an old log").await;
    let connection = Connection::open(&store).unwrap();
    let check: String = connection
        .query_row("pragma integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

/// A server that sends on and on fills no disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_fetched_than_a_seed_has() {
    const MORE_BYTES: usize = 40 * 1024 * 1024;
    let (rig, seed) = seeded().await;
    let mut longer = std::fs::read(&seed).unwrap();
    longer.resize(longer.len() + MORE_BYTES, 0);
    for (name, bytes, why) in [
        ("longer", longer, "behind its end"),
        ("lineless", vec![b'x'; MORE_BYTES], "not a seed"),
    ] {
        let server = SeedServer::start(bytes, true).await;
        let store = rig.store(&format!("{name}.db"));
        let (_, told) = begin(&rig, &store, &server.url).await;
        assert!(told.contains(why), "{told}");
        assert!(server.sent() < MORE_BYTES as u64, "{} bytes", server.sent());
        assert!(!rig.store(&format!("{name}.db.seed-part")).exists());
        rig.assert_equal(&store, TABLES, name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_takes_no_other_files_place() {
    let (rig, origin) = seeded().await;
    let store = rig.store("origin.db");
    let note = rig.store("note.txt");
    std::fs::write(&note, "mine").unwrap();
    let link = rig.store("link.db");
    std::os::unix::fs::symlink(&store, &link).unwrap();
    let before = std::fs::read(&store).unwrap();
    for out in [&store, &link, &note, &rig.store("origin.db.lock")] {
        let made = seed(&store, out).await;
        assert_eq!(made.status.code(), Some(1), "{}", out.display());
        assert!(said(&made).contains("no seed"), "{}", said(&made));
    }
    assert!(std::fs::read(&store).unwrap() == before);
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "mine");
    // An older seed, and an empty file that somebody made to keep the name.
    let empty = rig.store("empty.seed");
    std::fs::write(&empty, "").unwrap();
    for out in [&origin, &empty] {
        let made = seed(&store, out).await;
        assert!(made.status.success(), "{}", said(&made));
    }
}

/// What is under way lies in a folder beside the seed, which one that is killed cannot remove.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_seed_leaves_is_taken_over_by_the_next() {
    let (rig, origin) = seeded().await;
    let store = rig.store("origin.db");
    let work = rig.store(".origin.seed.part");
    assert!(!work.exists(), "it was not killed");
    std::fs::create_dir(&work).unwrap();
    for left in ["image", "image-journal", "seed", "lock"] {
        std::fs::write(work.join(left), "half of it").unwrap();
    }
    // Its process lives.
    let held = std::fs::File::open(work.join("lock")).unwrap();
    held.lock().unwrap();
    let before = std::fs::read(&origin).unwrap();
    let second = seed(&store, &origin).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(
        said(&second).contains("another process is making it"),
        "{}",
        said(&second)
    );
    assert!(std::fs::read(&origin).unwrap() == before);
    assert_eq!(std::fs::read_to_string(work.join("image")).unwrap(), "half of it");
    // Closed it would stay locked for as long as a process that a test beside this one starts has it, too.
    held.unlock().unwrap();
    let made = seed(&store, &origin).await;
    assert!(made.status.success(), "{}", said(&made));
    assert!(!work.exists());
    let begun = rig.store("begun.db");
    begin(&rig, &begun, origin.to_str().unwrap()).await;
    rig.assert_equal(&begun, TABLES, "begun").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_is_not_there_leaves_nothing_behind() {
    let rig = Rig::start(SQL, TABLES).await;
    // The server of changes has no seeds, and says so with 404.
    let url = format!("http://{}/shop.seed", rig.address);
    let store = rig.store("none.db");
    begin(&rig, &store, &url).await;
    assert!(!rig.store("none.db.seed-part").exists());
    let mut command = client("pull", &rig.store("ftp.db"));
    command.args(["--server", &url, "--seed", "ftp://127.0.0.1/shop.seed"]);
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("http://"), "{}", said(&refused));
}
