//! Metrics: that documents, dashboard and alerts name what is exported, what the numbers say, and who may
//! read them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::rig::{Copy, Pull as _, Rig, Served};

const TABLE: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

async fn rig() -> Rig {
    let rig = Rig::start(TABLE).await;
    rig.enable(&["product"]).await;
    rig
}

/// What a server exports: the kind of each metric, and the labels of each series with their values.
struct Exported {
    kinds: BTreeMap<String, String>,
    series: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Exported {
    /// Reads the text, and with it that it is well formed: each metric is described once, and what follows
    /// belongs to it.
    fn read(text: &str) -> Self {
        let mut exported = Self {
            kinds: BTreeMap::new(),
            series: BTreeMap::new(),
        };
        let mut family = "";
        let body = text.strip_suffix("# EOF\n").expect("an end");
        for line in body.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                let (name, kind) = described.split_once(' ').unwrap();
                family = name;
                let metric = if kind == "counter" {
                    format!("{name}_total")
                } else {
                    name.to_owned()
                };
                assert!(
                    exported.kinds.insert(metric, kind.to_owned()).is_none(),
                    "{name} twice"
                );
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                assert!(name.starts_with(family), "{line} stands under {family}");
                let known = exported.series.entry(name.to_owned()).or_default();
                for (label, value) in labels_of(labels.strip_suffix('}').unwrap()) {
                    known.entry(label).or_default().insert(value);
                }
            }
        }
        exported
    }
}

/// Labels of a series, or of a selector as far as it names their values.
fn labels_of(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("{text}"));
        (label.trim().to_owned(), value.trim_matches('"').to_owned())
    };
    pairs.map(pair).collect()
}

/// A server that has done a bit of everything.
async fn busy() -> (Rig, Exported) {
    let rig = rig().await;
    for accept in ["application/json", "application/vnd.highwater.copy"] {
        assert_eq!(rig.server.get_as("/changes", accept).await.status(), 200);
    }
    rig.run("delete from product where id <= 5; analyze highwater.tombstone")
        .await;
    let text = rig.server.get("/metrics").await.text().await.unwrap();
    let exported = Exported::read(&text);
    (rig, exported)
}

fn file(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of metrics in a text, each with the selector behind it where there is one.
fn names(text: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("highwater_") {
        let rest = &text[start..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let selector = rest[end..]
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        found.push((
            rest[..end].to_owned(),
            selector.map(|(selector, _)| selector.to_owned()),
        ));
    }
    found
}

#[tokio::test]
async fn every_metric_is_described_and_every_described_one_is_exported() {
    let (_rig, exported) = busy().await;
    let mut described = BTreeMap::new();
    for line in file("docs/metrics.md").lines() {
        if let Some((name, rest)) = line
            .strip_prefix("| `highwater_")
            .and_then(|line| line.split_once("` | "))
        {
            let cells: Vec<&str> = rest.split('|').map(str::trim).collect();
            let &[kind, labels, ..] = cells.as_slice() else {
                panic!("{line}");
            };
            described.insert(format!("highwater_{name}"), kind.to_owned());
            let labels: BTreeSet<&str> = labels.split('`').skip(1).step_by(2).collect();
            let series = exported
                .series
                .iter()
                .find(|(series, _)| series.starts_with(&format!("highwater_{name}")));
            let (_, has) = series.unwrap_or_else(|| panic!("{name} has no series"));
            let has: BTreeSet<&str> = has
                .keys()
                .map(String::as_str)
                .filter(|label| *label != "le")
                .collect();
            assert_eq!(has, labels, "labels of highwater_{name}");
        }
    }
    assert_eq!(described, exported.kinds);
    for (name, kind) in &exported.kinds {
        assert!(name.starts_with("highwater_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
    }
}

#[tokio::test]
async fn dashboard_and_alerts_ask_for_what_is_exported() {
    let (_rig, exported) = busy().await;
    let dashboard: Value = serde_json::from_str(&file("deploy/dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    assert!(expressions.len() > 20, "{} expressions", expressions.len());
    // Descriptions of alerts name metrics too.
    expressions.push(file("deploy/alerts.yaml"));
    let mut asked = BTreeSet::new();
    for expression in &expressions {
        for (name, selector) in names(expression) {
            let series = exported.series.get(&name);
            let series = series.unwrap_or_else(|| panic!("{name} is not exported: {expression}"));
            for (label, value) in labels_of(selector.as_deref().unwrap_or_default()) {
                // These two are Prometheus' own.
                if !["job", "instance"].contains(&label.as_str()) {
                    let values = series.get(&label);
                    let values = values.unwrap_or_else(|| panic!("{name} has no {label}"));
                    let is_known = values.contains(&value) || label == "status";
                    assert!(is_known, "{name} has no {label} {value}");
                }
            }
            asked.insert(name);
        }
    }
    // What nobody looks at need not be exported. A histogram is looked at by its buckets.
    for (name, kind) in &exported.kinds {
        let series = if kind == "histogram" {
            format!("{name}_bucket")
        } else {
            name.clone()
        };
        assert!(asked.contains(&series), "nothing asks for {series}");
    }
}

/// Each alert is described, and tried by the file beside it.
#[test]
fn alerts_are_described_and_hold() {
    let found = |text: &str, before: &str| -> BTreeSet<String> {
        let after = |(start, _): (usize, &str)| text[start + before.len()..].chars();
        let names = text.match_indices(before).map(after);
        names
            .map(|rest| rest.take_while(char::is_ascii_alphanumeric).collect())
            .collect()
    };
    let alerts = found(&file("deploy/alerts.yaml"), "- alert: ");
    assert!(alerts.len() > 5, "{alerts:?}");
    assert_eq!(
        found(&file("docs/metrics.md"), "| `H")
            .iter()
            .map(|rest| format!("H{rest}"))
            .collect::<BTreeSet<_>>(),
        alerts
    );
    assert_eq!(found(&file("deploy/alerts.test.yaml"), "alertname=\""), alerts);
    for arguments in [
        ["check", "rules", "deploy/alerts.yaml"],
        ["test", "rules", "deploy/alerts.test.yaml"],
    ] {
        let Some(mut promtool) = highwater_testbed::promtool().unwrap() else {
            eprintln!("left out: there is no promtool, and none can be fetched");
            return;
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let output = promtool.current_dir(root).args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(output.status.success(), "{said:?}");
    }
}

#[tokio::test]
async fn of_a_page_each_entity_counts_its_own() {
    let rig = Rig::start(
        "create table long (id int primary key, note text); insert into long select g, repeat('x', 100) from generate_series(1, 3) g;
         create table short (id int primary key, note text); insert into short select generate_series(1, 4)",
    )
    .await;
    rig.enable(&["long", "short"]).await;
    let counted = async |what: &str, entity: &str| {
        let series = format!("highwater_entity_{what}_total{{entity=\"{entity}\",format=\"json\"}}");
        rig.server.metric(&series).await.unwrap()
    };
    let response = rig.server.get("/changes").await;
    let page = response.text().await.unwrap();
    assert_eq!(
        (counted("rows", "long").await, counted("rows", "short").await),
        (3.0, 4.0)
    );
    let (long, short) = (counted("bytes", "long").await, counted("bytes", "short").await);
    let changes = page.split_once("],\"").unwrap().0.len() - "{\"changes\":[".len();
    assert_eq!(Some(long + short), u32::try_from(changes).ok().map(f64::from));
    assert!(long > 300.0 && short < long, "{long} and {short}");

    let since = serde_json::from_str::<Value>(&page).unwrap()["next"]
        .as_str()
        .unwrap()
        .to_owned();
    rig.run("update short set note = 'new' where id = 1").await;
    rig.server.page(&format!("since={since}")).await;
    assert_eq!(
        (counted("pages", "long").await, counted("pages", "short").await),
        (1.0, 2.0)
    );
}

#[tokio::test]
async fn the_numbers_are_those_of_what_happened() {
    let rig = rig().await;
    let server = &rig.server;
    let mut copy = Copy::default();
    copy.pull(server, 15).await;
    rig.run("delete from product where id <= 5; analyze highwater.tombstone")
        .await;
    let before = copy.since.clone().unwrap();
    // One is read and shared, the second is at hand.
    for _ in 0..2 {
        assert_eq!(
            server.page(&format!("since={before}")).await["changes"]
                .as_array()
                .unwrap()
                .len(),
            5
        );
    }
    copy.pull(server, 0).await;
    copy.pull(server, 0).await;
    for path in ["/nosuch", "/changes?limit=0", "/nosuch/../x"] {
        server.get(path).await;
    }
    for (series, expected) in [
        ("entity_rows_total{entity=\"product\",format=\"json\"}", 25.0),
        ("entity_pages_total{entity=\"product\",format=\"json\"}", 3.0),
        ("pages_total{format=\"json\",origin=\"shared\"}", 2.0),
        ("pages_total{format=\"json\",origin=\"watcher\"}", 2.0),
        ("pages_total{format=\"copy\",origin=\"read\"}", 0.0),
        ("shared_page_hits_total", 2.0),
        ("limits_reached_total{limit=\"page_rows_max\"}", 1.0),
        (
            "requests_total{route=\"other\",method=\"GET\",status=\"404\"}",
            2.0,
        ),
        (
            "requests_total{route=\"/changes\",method=\"GET\",status=\"400\"}",
            1.0,
        ),
        ("tombstones{entity=\"product\"}", 5.0),
        ("pool_connections_max", 10.0),
    ] {
        let found = server.metric(&format!("highwater_{series}")).await;
        assert_eq!(found, Some(expected), "{series}");
    }
    let lag = server.metric("highwater_watcher_lag_seconds").await.unwrap();
    assert!(lag < 20.0, "{lag}");
    // Other tests write in the same cluster.
    let oldest = server.metric("highwater_oldest_writer_seconds{}").await.unwrap();
    assert!((0.0..20.0).contains(&oldest), "{oldest}");
    // Nobody makes labels by what they send.
    let http = reqwest::Client::new();
    for method in ["PROPFIND", "BREW"] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("http://{}/{method}", server.address);
        http.request(method, url).send().await.unwrap();
    }
    let text = server.get("/metrics").await.text().await.unwrap();
    assert!(
        text.contains("method=\"other\"") && !text.contains("BREW"),
        "{text}"
    );
}

#[tokio::test]
async fn an_old_writer_and_one_who_waits_are_seen() {
    let rig = rig().await;
    let server = &rig.server;
    let mut writer = rig.database.connect().await.unwrap();
    let write = "begin; update product set name = 'held' where id = 1";
    sqlx::raw_sql(write).execute(&mut writer).await.unwrap();
    let since = server.page("").await["next"].as_str().unwrap().to_owned();
    let url = format!("http://{}/changes?since={since}&wait=60", server.address);
    let held = tokio::spawn(async move { reqwest::get(url).await.unwrap() });
    let seen = async {
        loop {
            let age = server.metric("highwater_oldest_writer_seconds{}").await.unwrap();
            let waiting = server.metric("highwater_waiting_callers").await.unwrap();
            if age > 1.0 && (waiting - 1.0).abs() < 0.5 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen)
        .await
        .expect("it is seen");
    sqlx::raw_sql("commit").execute(&mut writer).await.unwrap();
    assert_eq!(held.await.unwrap().status(), 200);
    // The time that it waited is not the server's.
    let took = server
        .metric("highwater_request_duration_seconds_sum{route=\"/changes\"}")
        .await;
    assert!(took.unwrap() < 1.0, "{took:?}");
    let gone = async {
        while server.metric("highwater_oldest_writer_seconds{}").await.unwrap() > 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .expect("it is gone");
}

#[tokio::test]
async fn an_address_of_their_own_serves_metrics_and_nothing_else() {
    let rig = rig().await;
    let (server, metrics) = Served::start_apart(&rig.pool).await;
    assert_eq!(server.page("").await["more"], false);
    assert_eq!(server.get("/metrics").await.status(), 404);
    let ask = async |path: &str| reqwest::get(format!("http://{metrics}{path}")).await.unwrap();
    let response = ask("/metrics").await;
    assert_eq!(response.status(), 200);
    let form = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(form.starts_with("application/openmetrics-text"), "{form}");
    let text = response.text().await.unwrap();
    assert!(
        text.contains("highwater_pages_total{format=\"json\",origin=\"read\"} 1"),
        "{text}"
    );
    for path in ["/changes", "/entities", "/healthz"] {
        assert_eq!(ask(path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn metrics_are_there_while_postgres_is_not() {
    let (mut cluster, pool) = crate::rig::cluster(&[]).await;
    let server = Served::start(&pool).await;
    assert_eq!(server.get("/metrics").await.status(), 200);
    cluster.stop().unwrap();
    let failed = async {
        while server
            .metric("highwater_watcher_looks_total{result=\"failed\"}")
            .await
            .unwrap()
            < 1.0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), failed)
        .await
        .expect("a look fails");
    assert!(server.metric("highwater_watcher_lag_seconds").await.unwrap() > 0.0);
}
