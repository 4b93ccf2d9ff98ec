//! The page at `/`, in a browser: wide and narrow, light and dark, and by keyboard alone.

use std::io::Write as _;
use std::path::PathBuf;

use highwater_server::ServeOptions;
use highwater_server::auth::{self, AuthOptions, NewKey};
use highwater_server::caller::Grant;
use highwater_testbed::{Chromium, Process, Screen};
use sqlx::Connection as _;

use crate::rig::{Rig, client};

const TABLES: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 1200) g;
    create table customer (id int primary key);
    create table stock_of_a_warehouse_with_a_long_name (id int primary key)";

const ENTITIES: [&str; 3] = ["product", "customer", "stock_of_a_warehouse_with_a_long_name"];

/// What would be markup if it were not text.
const MARKUP: &str =
    "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">";

/// Where pictures of the page are left for people; nowhere where the variable is not set.
const PICTURES: &str = "HIGHWATER_PICTURES";

const WIDE: u32 = 1280;
const NARROW: u32 = 390;

fn screen(width: u32, is_dark: bool) -> Screen {
    Screen {
        width,
        height: 844,
        is_dark,
    }
}

/// Asks as a device that would like to be more than text.
async fn ask(server: &str, path: &str, device: &str) {
    let request = reqwest::Client::new().get(format!("{server}{path}"));
    request.header("highwater-client", device).send().await.unwrap();
}

/// Runs what speaks to the browser where it holds up nothing else.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn open(url: String) -> Option<Chromium> {
    let browser = apart(move || Chromium::open(&url).unwrap()).await;
    if browser.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "left out: there is no Chromium, and none can be fetched"
        );
    }
    browser
}

/// A picture for people, where somebody wants to look.
fn picture(browser: &mut Chromium, name: &str) {
    if let Some(folder) = std::env::var_os(PICTURES).map(PathBuf::from) {
        browser.picture(&folder.join(format!("{name}.png"))).unwrap();
    }
}

fn text(browser: &mut Chromium, expression: &str) -> String {
    let found = browser.evaluate(expression).unwrap();
    found
        .as_str()
        .unwrap_or_else(|| panic!("{expression}: {found}"))
        .to_owned()
}

/// Whether nothing is wider than the page, and how it stands out where something is.
fn fits(browser: &mut Chromium) {
    let wide = "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
        && getComputedStyle(one).position !== 'absolute').map(one => one.outerHTML.slice(0, 80)).join('; ')";
    assert_eq!(text(browser, wide), "", "wider than the page");
}

/// The least contrast of any text with what is behind it (WCAG 2).
const CONTRAST: &str = "(() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => channels(colour).slice(0, 3).map((one) => one / 255)
        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
        .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
    const ground = (one) => {
        for (; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if ((channels(colour)[3] ?? 1) > 0) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility()
        && [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
    const contrasts = texts.map((one) => {
        const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
    return Math.min(...contrasts);
})()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_entities_and_devices_as_text_on_every_screen() {
    let rig = Rig::start(TABLES, &ENTITIES).await;
    let server = rig.url();
    let mut process = client("run", &rig.store("till.db"));
    process.args(["--quiet", "--server", &server, "--device", "till-7"]);
    let _process = Process::spawn(process).unwrap();
    let markup = MARKUP.replace('\\', "\\\\").replace('"', "\\\"");
    ask(
        &server,
        "/changes?entity=nosuch",
        &format!("\"{markup}\"; version=\"0.1.0\""),
    )
    .await;
    ask(
        &server,
        "/changes?entity=product&since=2026-01-01T00:00:00Z",
        "\"kiosk in the entrance hall\"",
    )
    .await;
    ask(
        &server,
        "/entities",
        "\"edge-box\"; version=\"0.1.0\"; failed=disk_full",
    )
    .await;
    let mut writer = rig.database.connect().await.unwrap();
    sqlx::raw_sql("set application_name = 'a long report'; begin; insert into customer values (7)")
        .execute(&mut writer)
        .await
        .unwrap();
    let Some(mut browser) = open(server).await else {
        return;
    };
    apart(move || {
        browser
            .until("document.querySelectorAll('#devices tbody tr').length === 4")
            .unwrap();
        browser
            .until("document.querySelectorAll('#entities tbody tr').length === 3")
            .unwrap();
        browser
            .until("document.body.innerText.includes('● live')")
            .unwrap();
        browser
            .until("document.getElementById('writer').textContent.includes('a long report')")
            .unwrap();
        // Why a row is not there, by what the server knows of the device.
        for (field, value) in [("device", "till-7"), ("entity", "product"), ("key", "5000")] {
            browser
                .evaluate(&format!(
                    "document.getElementById('why-{field}').value = '{value}'"
                ))
                .unwrap();
        }
        browser
            .evaluate("document.getElementById('ask').requestSubmit()")
            .unwrap();
        browser
            .until("document.getElementById('answer').innerText.includes('→')")
            .unwrap();
        let answer = text(&mut browser, "document.getElementById('answer').innerText");
        assert!(answer.contains("There is no such row"), "{answer}");
        // Two looks, so that there are lines to draw.
        browser
            .until("document.querySelector('#requests strong').textContent > 0")
            .unwrap();
        browser
            .until("document.querySelector('#waiting polyline').getAttribute('points').split(' ').length > 2")
            .unwrap();
        // By its own name, and not what that would do.
        let names = "[...document.querySelectorAll('#devices tbody th')].map(one => one.innerText).join('|')";
        assert!(text(&mut browser, names).contains(MARKUP));
        assert!(text(&mut browser, "document.title").starts_with("2 failing"));
        assert_eq!(
            browser
                .evaluate("document.querySelectorAll('main img, main script').length")
                .unwrap(),
            0
        );
        // Who fails stands first.
        let first = text(
            &mut browser,
            "document.querySelector('#devices tbody tr').innerText",
        );
        assert!(first.contains("✕ failing"), "{first}");
        for (width, is_dark) in [(WIDE, false), (WIDE, true), (NARROW, false), (NARROW, true)] {
            browser.show(screen(width, is_dark)).unwrap();
            browser.until(&format!("innerWidth === {width}")).unwrap();
            let what = format!("{width}-{}", if is_dark { "dark" } else { "light" });
            picture(&mut browser, &what);
            fits(&mut browser);
            let contrast = browser.evaluate(CONTRAST).unwrap().as_f64().unwrap();
            assert!(contrast >= 4.5, "{what}: {contrast}");
        }
        // Whoever cannot see it finds names for all of it.
        let unnamed = "[...document.querySelectorAll('table')].filter(one => !one.caption).length
            + [...document.querySelectorAll('input:not([hidden])')].filter(one => !one.labels.length).length
            + [...document.querySelectorAll('thead th')].filter(one => one.scope !== 'col').length";
        assert_eq!(browser.evaluate(unnamed).unwrap(), 0);
    })
    .await;
    writer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_keyboard_alone_devices_are_searched_and_sorted() {
    let rig = Rig::start(TABLES, &ENTITIES).await;
    let server = rig.url();
    for number in 0..250 {
        ask(&server, "/entities", &format!("\"till-{number:03}\"")).await;
    }
    let Some(mut browser) = open(server).await else {
        return;
    };
    apart(move || {
        browser.show(screen(WIDE, false)).unwrap();
        browser.until("document.querySelectorAll('#devices tbody tr').length === 200").unwrap();
        assert!(text(&mut browser, "document.getElementById('shown').innerText").contains("200 of 250"));
        let focus = "(document.activeElement.dataset.sort ?? document.activeElement.id) || document.activeElement.className";
        let mut passed = Vec::new();
        for _ in 0..4 {
            browser.press("Tab").unwrap();
            passed.push(text(&mut browser, focus));
            let outline = "getComputedStyle(document.activeElement).outlineStyle";
            assert_eq!(text(&mut browser, outline), "solid", "{passed:?}");
        }
        assert_eq!(passed, ["skip", "text", "device", "state"]);
        // Back to the first of the buttons: by name, and the other way.
        browser.evaluate("document.querySelector('[data-sort=device]').focus()").unwrap();
        let first = "document.querySelector('#devices tbody th').innerText";
        browser.press("Enter").unwrap();
        assert_eq!(text(&mut browser, first), "till-000");
        assert_eq!(text(&mut browser, "document.querySelector('#devices th').ariaSort"), "ascending");
        let last = text(&mut browser, "[...document.querySelectorAll('#devices tbody th')].at(-1).innerText");
        browser.press("Enter").unwrap();
        assert_eq!(text(&mut browser, first), last);
        assert_eq!(text(&mut browser, "document.querySelector('#devices th').ariaSort"), "descending");
        browser.evaluate("document.getElementById('text').focus()").unwrap();
        browser.write("TILL-24").unwrap();
        browser.until("document.querySelectorAll('#devices tbody tr').length === 10").unwrap();
        assert_eq!(text(&mut browser, focus), "text", "the focus stays");
        picture(&mut browser, "search");
        browser.write("x").unwrap();
        browser.until("document.getElementById('shown').innerText === 'No device matches.'").unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_server_says_what_to_do_and_one_that_is_gone_that_it_is() {
    let rig = Rig::start("create table product (id int primary key)", &[]).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = highwater_server::serve(listener, rig.pool.clone(), ServeOptions::default(), stop.clone());
    let serving = tokio::spawn(serving);
    let Some(mut browser) = open(url).await else {
        return;
    };
    let mut browser = apart(move || {
        browser.show(screen(NARROW, false)).unwrap();
        browser
            .until("document.getElementById('no-entities').checkVisibility()")
            .unwrap();
        browser
            .until("document.getElementById('no-devices').checkVisibility()")
            .unwrap();
        let told = text(&mut browser, "document.body.innerText");
        assert!(told.contains("highwater-server enable <table>"), "{told}");
        let shown = "['entities', 'devices', 'search', 'why'].filter(one => document.getElementById(one).checkVisibility())";
        assert_eq!(browser.evaluate(shown).unwrap(), serde_json::json!([]));
        picture(&mut browser, "empty");
        fits(&mut browser);
        browser
    })
    .await;
    stop.cancel();
    serving.await.unwrap().unwrap();
    apart(move || {
        browser
            .until("document.getElementById('alert').innerText.includes('cannot be reached')")
            .unwrap();
        picture(&mut browser, "gone");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_an_operator_opens_the_page_until_it_is_taken_back() {
    let rig = Rig::start(TABLES, &ENTITIES).await;
    let file = rig.store("keys");
    let grant = Grant {
        name: "anna".to_owned(),
        is_operator: true,
        ..Grant::default()
    };
    let key = auth::add_key(&file, &NewKey { grant, expires: None }).unwrap();
    let callers = AuthOptions {
        api_keys: Some(file.clone()),
        tokens: None,
    };
    let url = rig
        .serve_asking(callers)
        .await
        .replace("http://", &format!("http://anna:{key}@"));
    let Some(mut browser) = open(url).await else {
        return;
    };
    let mut browser = apart(move || {
        browser
            .until("document.querySelectorAll('#entities tbody tr').length === 3")
            .unwrap();
        browser
    })
    .await;
    std::fs::write(&file, "").unwrap();
    apart(move || {
        browser
            .until("document.getElementById('alert').innerText.includes('key was refused')")
            .unwrap();
        picture(&mut browser, "refused");
    })
    .await;
}
