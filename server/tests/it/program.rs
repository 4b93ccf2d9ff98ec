//! The program itself: its commands, its messages, its end.

use std::process::{Command, Output};
use std::time::Duration;

use highwater_testbed::Process;
use highwater_testbed::process::Signal;

use crate::rig::{Rig, migrated};

pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-server"));
    command
        .args(arguments)
        .env_remove("DATABASE_URL")
        .env_remove("RUST_LOG");
    command
}

/// What the program says, and with which code it ends. A server of the test goes on meanwhile, on a thread of its own: where it
/// stands still in a transaction, the program may wait for that.
pub(crate) fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::task::block_in_place(|| program(arguments).output());
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("the program runs");
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_do_what_they_say() {
    let rig = Rig::start("create table \"Odd Name\" (id int primary key, gone date)").await;
    let url = rig.database.url();
    assert_eq!(output(&["migrate", "--database-url", &url]).0, Some(0));
    let (code, said, _) = output(&["entities", "--database-url", &url]);
    assert_eq!((code, said.contains("no entities yet")), (Some(0), true));
    assert_eq!(
        output(&[
            "enable",
            "\"Odd Name\"",
            "--name",
            "odd",
            "--deleted-column",
            "gone",
            "--database-url",
            &url
        ])
        .0,
        Some(0)
    );
    let (_, listed, _) = output(&["entities", "--json", "--database-url", &url]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], "odd");
    assert_eq!(listed[0]["indexed"], true);
    assert_eq!(listed[0]["deletedColumn"], "gone");
    assert_eq!(
        output(&[
            "disable",
            "\"Odd Name\"",
            "--drop-columns",
            "--database-url",
            &url
        ])
        .0,
        Some(0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_said_with_the_remedy() {
    let rig = Rig::start("create table product (id int primary key)").await;
    let url = rig.database.url();
    let (code, _, said) = output(&["enable", "nosuch", "--database-url", &url]);
    assert_eq!((code, said.contains("nosuch")), (Some(1), true), "{said}");
    let (code, _, said) = output(&["serve", "--listen", "0.0.0.0:0", "--database-url", &url]);
    assert_eq!((code, said.contains("--insecure")), (Some(1), true), "{said}");
    let (code, _, said) = output(&["migrate"]);
    assert_eq!((code, said.contains("--database-url")), (Some(2), true), "{said}");
    assert_eq!(output(&["frobnicate"]).0, Some(2));
    // The server writes nothing, so it has no retention either.
    let (code, _, said) = output(&["serve", "--retention", "90d", "--database-url", &url]);
    assert_eq!((code, said.contains("--retention")), (Some(2), true), "{said}");

    let bare = highwater_testbed::Database::create("bare").await.unwrap();
    for command in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["enable", "pg_class"],
        &["entities"],
    ] {
        let (code, _, said) = output(&[command, &["--database-url", &bare.url()]].concat());
        assert_eq!(
            (code, said.contains("highwater-server migrate")),
            (Some(1), true),
            "{said}"
        );
    }
}

#[test]
fn a_database_that_is_not_there_is_said_once() {
    // Port 1 is nobody's.
    let url = "postgres://nobody@127.0.0.1:1/shop";
    for command in [&["serve"][..], &["entities"], &["migrate"]] {
        let (code, _, error) = output(&[command, &["--database-url", url]].concat());
        assert_eq!(code, Some(1), "{error}");
        assert_eq!(error.matches("Connection refused").count(), 1, "{error}");
        assert!(error.contains("cannot connect to the database"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslmode_in_the_url_is_obeyed() {
    let database = migrated().await;
    let (code, _, said) = output(&[
        "entities",
        "--database-url",
        &format!("{}?sslmode=require", database.url()),
    ]);
    assert_eq!(code, Some(1), "a server without TLS must be refused: {said}");
    assert!(
        said.to_lowercase().contains("tls") || said.to_lowercase().contains("ssl"),
        "{said}"
    );
    assert_eq!(
        output(&[
            "entities",
            "--database-url",
            &format!("{}?sslmode=disable", database.url())
        ])
        .0,
        Some(0)
    );
}

/// On SIGTERM a running response ends whole, a new connection is refused, and the program ends
/// with 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_running_responses_end() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};

    let rig = Rig::start("create table product (id int primary key, name text); insert into product select g, repeat('x', 1000) from generate_series(1, 20000) g").await;
    rig.enable(&["product"]).await;
    let mut serve = program(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--database-url",
        &rig.database.url(),
    ]);
    serve.stderr(std::process::Stdio::piped());
    let mut process = Process::spawn(serve).unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let address = loop {
        let line: serde_json::Value =
            serde_json::from_str(&log.next().unwrap().unwrap()).expect("a JSON line");
        if line["fields"]["message"] == "serving" {
            break line["fields"]["address"].as_str().unwrap().to_owned();
        }
    };
    // A reader that has begun and then stands still, while the server is told to stop.
    let mut reader = std::net::TcpStream::connect(&address).unwrap();
    reader
        .write_all(b"GET /changes?limit=20000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut body = vec![0; 1];
    reader.read_exact(&mut body).unwrap();
    process.signal(Signal::Terminate).unwrap();
    assert!(log.any(|line| line.is_ok_and(|line| line.contains("stopping"))));
    let refused = async {
        while std::net::TcpStream::connect(&address).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused)
        .await
        .expect("new connections are refused");
    reader.read_to_end(&mut body).unwrap();
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("\"more\":"), "the running response ended whole");
    let status = process.wait_up_to(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

/// A caller that waits is answered at once when the program is told to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_waits_with_an_empty_page() {
    use std::io::{BufRead as _, BufReader};

    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    let since = rig.server.page("").await["next"].as_str().unwrap().to_owned();
    let url = rig.database.url();
    let mut serve = program(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--database-url",
        &url,
    ]);
    serve.stderr(std::process::Stdio::piped());
    let mut process = Process::spawn(serve).unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let address = loop {
        let line: serde_json::Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
        if line["fields"]["message"] == "serving" {
            break line["fields"]["address"].as_str().unwrap().to_owned();
        }
    };
    let began = std::time::Instant::now();
    let held = tokio::spawn(async move {
        let response = reqwest::get(format!("http://{address}/changes?since={since}&wait=60"))
            .await
            .unwrap();
        response.json::<serde_json::Value>().await.unwrap()
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    process.signal(Signal::Terminate).unwrap();
    let page = held.await.unwrap();
    assert_eq!(page["changes"], serde_json::json!([]));
    let status = process.wait_up_to(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15));
}

/// Starts the program, and gives its address and what it logs, line by line.
pub(crate) fn serve(arguments: &[&str]) -> (Process, String, impl Iterator<Item = String> + use<>) {
    use std::io::{BufRead as _, BufReader};

    let mut serve = program(
        &[
            &["serve", "--listen", "127.0.0.1:0", "--log-format", "json"],
            arguments,
        ]
        .concat(),
    );
    serve.stderr(std::process::Stdio::piped());
    let mut process = Process::spawn(serve).unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let address = loop {
        let line: serde_json::Value = serde_json::from_str(&log.next().unwrap()).unwrap();
        if line["fields"]["message"] == "serving" {
            break line["fields"]["address"].as_str().unwrap().to_owned();
        }
    };
    (process, address, log)
}

/// A key is made and printed once, lets its holder in, and shows nowhere else; SIGHUP has the file
/// read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lets_in_and_shows_nowhere() {
    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let file = file.to_str().unwrap();
    let new = [
        "key",
        "new",
        "--api-keys",
        file,
        "--name",
        "till-7",
        "--expires",
        "90d",
    ];
    let grants = [
        "--entity",
        "product",
        "--scope",
        "tenant_id=7",
        "--scope",
        "tenant_id=8",
    ];
    let (code, key, said) = output(&[&new[..], &grants].concat());
    assert_eq!(code, Some(0), "{said}");
    let key = key.trim_end();
    let secret = key.splitn(3, '_').nth(2).unwrap();
    assert!(
        key.starts_with("hw_") && !key.contains(char::is_whitespace),
        "{key}"
    );
    assert!(said.contains("till-7") && !said.contains(secret), "{said}");
    let kept = std::fs::read_to_string(file).unwrap();
    assert!(
        kept.contains("\"tenant_id\":[\"7\",\"8\"]") && !kept.contains(secret),
        "{kept}"
    );

    let (mut process, address, mut log) = serve(&["--database-url", &rig.database.url(), "--api-keys", file]);
    let http = reqwest::Client::new();
    let ask = async |key: &str| {
        let request = http.get(format!("http://{address}/changes"));
        request.bearer_auth(key).send().await.unwrap().status()
    };
    assert_eq!(ask(key).await, 200);
    let forged = format!("{}AAAA", &key[..key.len() - 4]);
    assert_eq!(ask(&forged).await, 401);
    assert_eq!(ask("hw_0123456789abcdef_forged").await, 401);
    process.signal(Signal::Hangup).unwrap();
    let mut logged: Vec<String> = Vec::new();
    while logged
        .last()
        .is_none_or(|line| !line.contains("\"message\":\"read again\""))
    {
        logged.push(log.next().unwrap());
    }
    assert_eq!(ask(key).await, 200);
    process.signal(Signal::Terminate).unwrap();
    logged.extend(log);
    let logged = logged.join("\n");
    assert!(
        logged.contains("\"reason\":\"the secret is not that of the key"),
        "{logged}"
    );
    assert!(logged.contains("\"caller\":\"till-7\""), "{logged}");
    for hidden in [secret, &forged[20..], "forged"] {
        assert!(!logged.contains(hidden), "{logged}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_serves_others_without_saying_who_may_call() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let path = file.to_str().unwrap();
    // Without a Postgres: what is asked before is what matters here.
    let nowhere = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--database-url",
        "postgres://nobody@127.0.0.1:1/x",
    ];
    let serve = |more: &[&str]| {
        let (code, _, said) = output(&[&nowhere[..], more].concat());
        assert_eq!(code, Some(1), "{said}");
        said
    };
    let said = serve(&[]);
    assert!(
        said.contains("--api-keys") && said.contains("--insecure"),
        "{said}"
    );
    let said = serve(&["--insecure"]);
    assert!(
        said.contains("reads every entity") && said.contains("cannot connect"),
        "{said}"
    );
    std::fs::write(&file, "# none yet\n").unwrap();
    let said = serve(&["--api-keys", path]);
    assert!(
        said.contains("cannot connect") && !said.contains("--insecure"),
        "{said}"
    );
    std::fs::write(&file, "# none yet\n{\"id\": 7}\n").unwrap();
    let said = serve(&["--api-keys", path]);
    assert!(
        said.contains("line 2: ") && !said.contains("cannot connect"),
        "{said}"
    );
    std::fs::write(&file, "short").unwrap();
    let said = serve(&["--jwt-secret-file", path]);
    assert!(said.contains("line 1: ") && !said.contains("short"), "{said}");
    let said = serve(&["--jwt-secret-file", path, "--jwt-algorithm", "RS256"]);
    assert!(said.contains("HS256 goes with"), "{said}");
    let said = serve(&["--jwt-jwks", "http://issuer.example/keys"]);
    assert!(said.contains("only https"), "{said}");
}

#[test]
fn an_address_that_leads_to_no_database_is_named() {
    let said = |url: &str| {
        let (code, _, error) = output(&["entities", "--database-url", url]);
        assert_eq!(code, Some(1), "{error}");
        error
    };
    for url in ["mysql://root@127.0.0.1/shop", "shop", "", "host=127.0.0.1"] {
        assert!(said(url).contains("postgres://"), "{url}: {}", said(url));
    }
    let nobody = said("postgres://postgres@127.0.0.1:1/shop");
    assert!(nobody.contains("127.0.0.1:1"), "{nobody}");
}

/// In words that lead on, and not with a line of Postgres' own source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_or_a_table_that_is_not_there_is_told() {
    let rig = Rig::start("").await;
    let url = rig.database.url();
    let (code, _, error) = output(&["entities", "--database-url", &format!("{url}_gone")]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("does not exist") && !error.contains("at line"),
        "{error}"
    );
    for table in ["nope", "two words"] {
        let (code, _, error) = output(&["enable", table, "--database-url", &url]);
        assert_eq!(code, Some(1), "{table}");
        assert!(error.contains("shop.product"), "{table}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_enables_a_table_hears_which_role_may_not_read_it() {
    let rig =
        Rig::start("create table product (id int primary key); create table part (id int primary key)").await;
    let role = format!("serves_{}", rig.database.name());
    rig.run(&format!("create role \"{role}\" login")).await;
    let url = rig.database.url();
    let (_, grants, _) = output(&["grants", "--role", &role, "--database-url", &url]);
    rig.run(&grants).await;
    let enable = |table: &str| output(&["enable", table, "--database-url", &url]).1;
    let said = enable("product");
    assert!(
        said.starts_with("product is an entity\n") && said.contains(&role),
        "{said}"
    );
    assert!(said.contains("highwater-server grants"), "{said}");
    let (_, grants, _) = output(&["grants", "--role", &role, "--database-url", &url]);
    rig.run(&grants).await;
    let again = enable("product");
    assert!(!again.contains(&role), "{again}");
    rig.run(&format!("drop owned by \"{role}\"; drop role \"{role}\""))
        .await;
}
