//! Servers that are hostile or broken, against the program: it says what is wrong, needs little memory for it,
//! and leaves the store as it was.

use std::io::Write as _;

use crate::endless::{endless, head, measured, zstd};
use crate::place::{NOBODY, Place};
use crate::program::err;
use crate::server::{Answer, COLUMNS, Server};

/// What the program may hold of memory at once while it refuses what is small.
const PEAK_KIB_MAX: u64 = 200_000;

/// Everything that a pull may change, and that its readers rely on.
fn contents(place: &Place) -> Vec<String> {
    let rows = "select id || name || changed_date from product order by id";
    let helpers = "select entity || last_sync_date || cursor || state || complete || covers from sync_helper order by 1";
    let tables = "select type || name || coalesce(sql, '') from sqlite_schema order by 1";
    let mut contents = Vec::new();
    for sql in [
        rows,
        helpers,
        tables,
        "select text from note",
        "pragma integrity_check",
    ] {
        contents.extend(place.query("store.db", sql));
    }
    contents
}

/// Pulls from a server, and expects that the program fails with these words and leaves the store whole.
async fn refused(name: &str, place: &Place, address: &str, words: &str) {
    let before = contents(place);
    let near = ["--server", address];
    let far = ["--server", "http://sync.example.org"];
    // By way of a proxy that is the server in truth, where pages are to be compressed.
    let server = if name.contains("compressed") { far } else { near };
    let (output, peak_kib) = measured(place, &server, address).await;
    let said = err(&output);
    assert_eq!(output.status.code(), Some(1), "{name}: {said}");
    assert!(
        said.contains(words) && said.lines().count() == 1,
        "{name}: {said}"
    );
    assert!(said.len() < 1_000, "{name} says too much: {} bytes", said.len());
    assert_eq!(contents(place), before, "{name}");
    assert!(peak_kib < PEAK_KIB_MAX, "{name} needs {peak_kib} KiB");
}

/// The answers are refused with these words, and the next honest page is taken.
async fn fails(name: &str, answers: Vec<Answer>, words: &str) {
    let place = Place::filled(3).await;
    let server = Server::start(answers).await;
    refused(name, &place, &server.address, words).await;
    assert!(!server.asked().is_empty(), "{name}: nobody was asked");
    let honest = Server::start([Answer::page("c2", false, &["7 Lamp"])]).await;
    place.succeeds("pull", &honest.address).await;
    assert_eq!(
        place.query("store.db", "select count(*) from product"),
        ["4"],
        "{name}"
    );
    assert_eq!(
        place.query("store.db", "select cursor from sync_helper"),
        ["c2"],
        "{name}"
    );
}

fn block(entity: &str, kind: &str, columns: &str, rows: &[&str]) -> String {
    let header = format!(
        "{{\"version\":1,\"entity\":\"{entity}\",\"kind\":\"{kind}\",\"columns\":{columns},\"fingerprint\":\"f\"}}\n"
    );
    let lines = [&[header.trim_end()], rows, &["\\.", ""]].concat();
    lines.join("\n")
}

fn trailer(next: &str, more: bool, rows: usize, entities: &[&str]) -> String {
    let entities = entities.join("\",\"");
    format!(
        "{{\"next\":\"{next}\",\"more\":{more},\"lastSyncDate\":\"2026-11-22T10:00:00Z\",\"rows\":{rows},\"entities\":[\"{entities}\"]}}\n"
    )
}

fn page(body: String) -> Vec<Answer> {
    vec![Answer::new(200, "application/vnd.highwater.copy", body)]
}

/// A page of one row, which comes after one that is in order.
fn row(line: &str) -> Vec<Answer> {
    let good = "8\tStool\t2026-11-22 10:00:00+00";
    page(block("product", "upsert", COLUMNS, &[good, line]) + &trailer("c9", false, 2, &["product"]))
}

#[tokio::test]
async fn rows_of_wrong_types_and_widths_are_refused() {
    for (name, line, words) in [
        (
            "a text for a number",
            "x\tLamp\t2026-11-22 10:00:00+00",
            "not a bigint",
        ),
        (
            "a number too large",
            "9223372036854775808\tLamp\t2026-11-22 10:00:00+00",
            "not a bigint",
        ),
        ("a null for a key", "\\N\tLamp\t2026-11-22 10:00:00+00", "product"),
        (
            "a row too wide",
            "9\tLamp\t2026-11-22 10:00:00+00\tmore",
            "does not have 3 fields",
        ),
        ("a row too narrow", "9\tLamp", "does not have 3 fields"),
        ("an empty row", "", "not a bigint"),
        (
            "text that is none",
            "9\t\\xff\t2026-11-22 10:00:00+00",
            "not a text",
        ),
    ] {
        fails(name, row(line), words).await;
    }
}

#[tokio::test]
async fn pages_of_wrong_entities_and_columns_are_refused() {
    let tax = block("tax", "reset", COLUMNS, &[]);
    let id =
        |name: &str, role: &str| format!("{{\"name\":\"{name}\",\"type\":\"bigint\",\"role\":\"{role}\"}}");
    let many: Vec<String> = (0..3_000).map(|n| id(&format!("c{n}"), "key")).collect();
    let many = format!("[{},{}]", many.join(","), id("d", "changed_date"));
    let end = || trailer("c9", false, 0, &["product"]);
    let with = |entity: &str, columns: &str| {
        let name = entity.replace('\\', "\\\\");
        block(&name, "reset", columns, &[]) + &trailer("c9", false, 0, &["product", &name])
    };
    for (name, body, words) in [
        (
            "another entity",
            tax.clone() + &end(),
            "leaves out the entity tax",
        ),
        (
            "rows before their reset",
            block("tax", "upsert", COLUMNS, &["1\tVAT\t2026-11-22 10:00:00+00"]) + &end(),
            "without the reset",
        ),
        ("a table of the user's", with("note", COLUMNS), "note"),
        (
            "a table of the store's",
            with("sync_helper", COLUMNS),
            "sync_helper",
        ),
        ("a table of SQLite's", with("sqlite_schema", COLUMNS), "sqlite"),
        (
            "no key",
            with("tax", &format!("[{}]", id("d", "changed_date"))),
            "no key",
        ),
        (
            "no date",
            with("tax", &format!("[{}]", id("a", "key"))),
            "no changed_date",
        ),
        (
            "columns that differ by case",
            with(
                "tax",
                &format!(
                    "[{},{},{}]",
                    id("a", "key"),
                    id("A", "key"),
                    id("d", "changed_date")
                ),
            ),
            "differ only by case",
        ),
        ("more columns than there can be", with("tax", &many), "columns"),
    ] {
        fails(name, page(body), words).await;
    }
}

#[tokio::test]
async fn cursors_that_lead_nowhere_are_refused() {
    let end = |next: &str, more| trailer(next, more, 0, &["product"]);
    for (name, answers, words) in [
        (
            "a cursor that does not advance",
            page(end("c1", true)),
            "none of them brings the pull on",
        ),
        ("no cursor", page(end("", false)), "its cursor is empty"),
        (
            "a cursor longer than an address",
            page(end(&"c".repeat(70_000), false)),
            "longer than 61440 bytes",
        ),
        (
            "a resync without an end",
            vec![Answer::problem(410, "resync_required", Some("source_changed")); 9],
            "cannot serve the cursor",
        ),
    ] {
        fails(name, answers, words).await;
    }
}

/// RFC 3339 can write them, and no SyncHelper could that was to be read again.
#[tokio::test]
async fn dates_beyond_the_calendar_leave_a_store_that_can_be_read() {
    for date in ["9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:59"] {
        let place = Place::filled(3).await;
        let end = trailer("c9", false, 0, &["product"]).replace("2026-11-22T10:00:00Z", date);
        let server = Server::start(page(end)).await;
        place.succeeds("pull", &server.address).await;
        place.succeeds("status", NOBODY).await;
        let honest = Server::start([Answer::page("c2", false, &["7 Lamp"])]).await;
        place.succeeds("pull", &honest.address).await;
        assert_eq!(
            place.query("store.db", "select count(*) from product"),
            ["4"],
            "{date}"
        );
    }
}

/// Each brings a new cursor, and so is kept; none brings a row.
#[tokio::test]
async fn a_pull_without_an_end_is_given_up_and_goes_on_later() {
    let place = Place::filled(3).await;
    let pages = (0..1_000).map(|n| Answer::page(&format!("n{n}"), true, &[]));
    let server = Server::start(pages).await;
    let (output, peak_kib) = measured(&place, &["--server", &server.address], &server.address).await;
    assert!(
        err(&output).contains("none of them brings the pull on"),
        "{}",
        err(&output)
    );
    assert!(server.asked().len() < 200 && peak_kib < PEAK_KIB_MAX);
    assert_eq!(place.query("store.db", "pragma integrity_check"), ["ok"]);
    let honest = Server::start([Answer::page("c2", false, &["7 Lamp"])]).await;
    place.succeeds("pull", &honest.address).await;
    assert_eq!(place.query("store.db", "select count(*) from product"), ["4"]);
}

#[tokio::test]
async fn pages_that_are_none_are_refused() {
    let good = block(
        "product",
        "upsert",
        COLUMNS,
        &["8\tStool\t2026-11-22 10:00:00+00"],
    );
    let end = trailer("c9", false, 1, &["product"]);
    let names: Vec<String> = (0..5_000).map(|n| format!("e{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let resets: String = names
        .iter()
        .map(|name| block(name, "reset", COLUMNS, &[]))
        .collect();
    for (name, body, words) in [
        (
            "a count that differs",
            good.clone() + &trailer("c9", false, 7, &["product"]),
            "counts 7 rows",
        ),
        (
            "text after the end",
            good.clone() + &end + "more",
            "follows the trailer",
        ),
        ("a second end", good.clone() + &end + &end, "follows the trailer"),
        (
            "rows of a reset",
            block("product", "reset", COLUMNS, &["1"]) + &end,
            "a reset has rows",
        ),
        (
            "a within of several columns",
            block("product", "within", COLUMNS, &["1"]) + &end,
            "and there are none to tell of",
        ),
        (
            "nesting without an end",
            good.clone() + &"[".repeat(100_000) + "\n",
            "recursion limit",
        ),
        (
            "a header that is too long",
            good.clone() + &"[],".repeat(2_000_000) + "\n",
            "longer than 4194304 bytes",
        ),
        (
            "a header of nothing but arrays",
            good.clone() + "[" + &"[],".repeat(1_300_000) + "[]]\n",
            "invalid type",
        ),
        (
            "a later version",
            good.replace("\"version\":1", "\"version\":7"),
            "version 7",
        ),
        (
            "more entities than there can be",
            trailer("c9", true, 0, &names),
            "more than 4096 entities",
        ),
        ("more tables than there can be", resets, "more than 4096 entities"),
    ] {
        fails(name, page(body), words).await;
    }
}

#[tokio::test]
async fn redirects_lead_nowhere_and_end() {
    let redirect = |to: &str| Answer::new(307, "text/plain", "").header("location", to);
    for (name, answers, words) in [
        (
            "a redirect to another host",
            vec![redirect("http://localhost:9/changes")],
            "redirect",
        ),
        (
            "a redirect to another scheme",
            vec![redirect("file:///etc/passwd")],
            "does not answer like",
        ),
        (
            "a redirect without an end",
            vec![redirect("/changes"); 100],
            "redirect",
        ),
        ("a redirect to nowhere", vec![redirect("http://")], ""),
    ] {
        fails(name, answers, words).await;
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(bytes).expect("gzip");
    writer.finish().expect("gzip")
}

/// A few kilobytes that become gigabytes, wherever a body is read.
#[tokio::test]
async fn bombs_are_refused_wherever_a_body_is_read() {
    let problem = |coding: &str| {
        format!("HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-encoding: {coding}\r\nconnection: close\r\n\r\n")
            .into_bytes()
    };
    let zeros = vec![b' '; 64 << 20];
    let spaces = zstd(&zeros);
    let lines = zstd(&b"{}\n".repeat(8 << 20));
    assert!(spaces.len() < 64 << 10 && lines.len() < 64 << 10);
    for (name, begin, piece, words) in [
        (
            "a compressed problem",
            problem("zstd"),
            spaces.clone(),
            "does not answer like",
        ),
        (
            "a compressed header",
            head("content-encoding: zstd\r\n"),
            spaces,
            "longer than 4194304 bytes",
        ),
        (
            "compressed lines",
            head("content-encoding: zstd\r\n"),
            lines,
            "missing field",
        ),
        // This one is not asked for, and not unpacked.
        (
            "a problem compressed by gzip",
            problem("gzip"),
            gzip(&zeros),
            "does not answer like",
        ),
        (
            "a page compressed by gzip",
            head("content-encoding: gzip\r\n"),
            gzip(&zeros),
            "",
        ),
    ] {
        let place = Place::filled(3).await;
        let address = endless(begin, piece).await;
        refused(name, &place, &address, words).await;
    }
}

/// What the library asks for besides pages.
#[tokio::test]
async fn a_list_of_entities_without_an_end_is_given_up() {
    let json = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nhighwater-source: source-1\r\nconnection: close\r\n\r\n{\"entities\":[".to_vec();
    let address = endless(json, vec![b' '; 1 << 20]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let client = highwater_client::Client::builder(&address).open(folder.path().join("store.db"));
    let error = client.expect("a client").entities().await.expect_err("no end");
    assert!(error.to_string().contains("where few were due"), "{error}");
}
