//! `GET /why` and `highwater-server why` where rows have scopes: a caller is told nothing of what is not its own, an
//! operator all of it.

use highwater_server::caller::{Caller, Grant};
use highwater_server::node::Node;
use highwater_server::page::Since;
use highwater_server::why::{self, AskedKey, Hearer, Question};
use highwater_shared::{EntityName, NextPull, Outcome, Why};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::program::output;
use crate::rig::Rig;
use crate::scopes::{Tenants, caller, of};
use crate::why::{is, path};

/// Asks as a caller with a token.
async fn ask_by(tenants: &Tenants, since: Option<&str>, id: i32, by: &str) -> String {
    let path = path(since, "product", &id.to_string());
    let response = tenants.server.get_by(&path, by).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.text().await.unwrap()
}

/// Asks as the operator, about a device that sees these tenants.
async fn tell(rig: &Rig, since: Option<&str>, id: i32, tenants: &[i32]) -> Why {
    let values = tenants.iter().map(ToString::to_string).collect();
    let question = Question {
        since: since.map(|since| Since::read(since).unwrap()),
        caller: Caller::with(Grant {
            scopes: [("tenant".to_owned(), values)].into(),
            ..Grant::default()
        }),
        hearer: Hearer::Operator,
        entity: EntityName::new("product"),
        key: AskedKey::Value(id.to_string()),
    };
    why::why(&Node::new(rig.pool.clone()), question).await.unwrap()
}

/// To a caller a row of another scope is one that does not exist, byte for byte, whatever became of it, and
/// whoever is writing; an operator is told all.
#[tokio::test]
async fn rows_of_other_scopes_answer_as_rows_that_do_not_exist() {
    let tenants = Tenants::start().await;
    let by = of(&[1]);
    let before = tenants.page("", &by).await["next"].as_str().unwrap().to_owned();
    let midway = tenants.page("limit=2", &by).await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    // All of them are of the tenants 2 and 3: live, changed, flagged, removed, moved, and being written.
    tenants
        .rig
        .run(
            "update product set name = 'secret' where id = 11; update product set deleted = true where id = 13;
             delete from product where id = 14; update product set tenant = 3 where id = 16;
             update product set id = 31 where id = 17",
        )
        .await;
    let mut writer = PgConnection::connect(&tenants.rig.database.url()).await.unwrap();
    sqlx::raw_sql("begin; update product set name = 'secret' where id = 19")
        .execute(&mut writer)
        .await
        .unwrap();
    let after = tenants.page("", &by).await["next"].as_str().unwrap().to_owned();
    let other = tenants.page("", &of(&[2])).await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    let dates = ["1970-01-01T00:00:00Z", "2020-01-01T00:00:00Z"];
    let sinces = [&before, &midway, &after, &other].map(String::as_str);
    for since in sinces.into_iter().chain(dates).map(Some).chain([None]) {
        let nothing = ask_by(&tenants, since, 99, &by).await;
        for id in [10, 11, 13, 14, 16, 17, 19, 31] {
            let answer = ask_by(&tenants, since, id, &by).await;
            assert_eq!(
                answer.replace(&format!("{{\"id\":{id}}}"), "{\"id\":99}"),
                nothing,
                "{since:?}"
            );
        }
        assert!(
            !nothing.contains("scope\":") && !nothing.contains("writing to the table since"),
            "{nothing}"
        );
    }
    let known: Value = serde_json::from_str(&ask_by(&tenants, Some(&after), 99, &by).await).unwrap();
    is(&known, "no_such_row", "nothing");
    for (id, scope, said) in [
        (10, "2", "in scope 2; the device sees 1"),
        (13, "2", "deleted by its flag"),
        (14, "3", "was in scope 3"),
        (16, "3", "in scope 3; the device sees 1"),
        (31, "3", "in scope 3"),
    ] {
        let told = tell(&tenants.rig, Some(&after), id, &[1]).await;
        assert_eq!(
            (told.outcome, told.scope.as_deref()),
            (Outcome::OtherScope, Some(scope)),
            "{told:?}"
        );
        assert!(told.what.contains(said), "{told:?}");
    }
    assert!(tell(&tenants.rig, Some(&after), 99, &[1]).await.writing.is_some());
}

#[tokio::test]
async fn a_row_that_left_the_scope_is_told_so_and_where_it_is_now_to_operators_only() {
    let tenants = Tenants::start().await;
    let by = of(&[1]);
    let before = tenants.page("", &by).await["next"].as_str().unwrap().to_owned();
    tenants
        .rig
        .run("update product set tenant = 2 where id = 3")
        .await;
    let after = tenants.page("", &by).await["next"].as_str().unwrap().to_owned();
    for (since, next) in [(&before, "deletion"), (&after, "nothing")] {
        let left: Value = serde_json::from_str(&ask_by(&tenants, Some(since), 3, &by).await).unwrap();
        is(&left, "out_of_scope", next);
        assert!(
            left["changedDate"].is_string() && left.get("scope").is_none(),
            "{left}"
        );
        assert!(
            !left["what"].as_str().unwrap().contains('2'.to_string().as_str())
                || !left["what"].as_str().unwrap().contains("scope 2"),
            "{left}"
        );
        let told = tell(&tenants.rig, Some(since), 3, &[1]).await;
        assert_eq!(
            (told.outcome, told.scope.as_deref()),
            (Outcome::OutOfScope, Some("2"))
        );
        assert!(told.what.contains("It is in scope 2 now"), "{told:?}");
    }
    // What becomes of it there changes nothing here.
    let answer = ask_by(&tenants, Some(&after), 3, &by).await;
    tenants.rig.run("delete from product where id = 3").await;
    assert_eq!(ask_by(&tenants, Some(&after), 3, &by).await, answer);
    is(
        &serde_json::from_str(&ask_by(&tenants, Some(&after), 3, &of(&[1, 2])).await).unwrap(),
        "scope_changed",
        "nothing",
    );
}

#[tokio::test]
async fn what_a_caller_may_not_read_is_refused_and_an_operator_is_told_that() {
    let tenants = Tenants::start().await;
    let by = caller(&json!({"tenant": 1, "entities": ["news"]}));
    for entity in ["product", "nosuch"] {
        let response = tenants.server.get_by(&path(None, entity, "7"), &by).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
    assert_eq!(
        tenants.server.get(&path(None, "news", "1")).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let question = Question {
        since: Some(Since::Nothing),
        caller: Caller::with(Grant {
            entities: Some(std::sync::Arc::new([EntityName::new("news")].into())),
            ..Grant::default()
        }),
        hearer: Hearer::Operator,
        entity: EntityName::new("product"),
        key: AskedKey::Value("3".to_owned()),
    };
    let told = why::why(&Node::new(tenants.rig.pool.clone()), question)
        .await
        .unwrap();
    assert_eq!(
        (told.outcome, told.next_pull),
        (Outcome::EntityForbidden, Some(NextPull::Nothing))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_answers_by_entity_and_by_table() {
    let tenants = Tenants::start().await;
    let since = tenants.page("", &of(&[1])).await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    tenants.rig.run("create schema shop; create table shop.\"Odd Name\" (a int, b text, primary key (a, b)); insert into shop.\"Odd Name\" values (-1, 'x')").await;
    tenants.rig.enable(&["shop.\"Odd Name\""]).await;
    let url = tenants.rig.database.url();
    let ask = |arguments: &[&str]| output(&[&["why"], arguments, &["--database-url", &url]].concat());
    let (code, said, _) = ask(&["product", "3", "--since", &since, "--scope", "tenant=1"]);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("product {\"id\":3}: The row is there")
            && said.contains("Nothing stands in the way"),
        "{said}"
    );
    let (code, said, _) = ask(&["product", "4", "--since", &since, "--scope", "tenant=1"]);
    assert_eq!(
        (code, said.contains("is in scope 2; the device sees 1")),
        (Some(0), true),
        "{said}"
    );
    let (code, said, _) = ask(&["public.product", "4", "--since", &since]);
    assert_eq!((code, said.contains("--scope")), (Some(0), true), "{said}");
    let (code, said, _) = ask(&["shop.\"Odd Name\"", "{\"a\": -1, \"b\": \"x\"}", "--json"]);
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &told["outcome"]), (Some(0), &json!("live")));
    for (arguments, code, what) in [
        (&["nosuch", "3"][..], 1, "is no entity"),
        (&["Odd Name", "-1"], 1, "a (integer), b (text)"),
        (&["product", "three"], 1, "id (integer)"),
        (&["product", "{three"], 2, "JSON object"),
        (&["product", "3", "--since", "soon"], 2, "not a cursor"),
        (&["product", "3", "--scope", "7"], 2, "COLUMN=VALUE"),
    ] {
        let (found, _, said) = ask(arguments);
        assert_eq!(
            (found, said.contains(what)),
            (Some(code), true),
            "{arguments:?}: {said}"
        );
    }
}
