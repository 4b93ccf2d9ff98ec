//! What a caller may see changes: it is told by rows, or begins anew.

use highwater_testbed::Copy;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::rig::Served;
use crate::scopes::{Tenants, caller, of};

#[tokio::test]
async fn what_a_caller_may_see_changes_and_its_copy_with_it() {
    let tenants = Tenants::start().await;
    let mut copy = Copy::default();
    assert!(!tenants.pull(&mut copy, &of(&[1, 2]), 1000).await);
    // The same in other words is no change.
    assert!(
        !tenants
            .pull(
                &mut copy,
                &caller(&json!({"tenant": ["2", "1"], "entities": ["product", "news"]})),
                1000
            )
            .await
    );
    for seen in [&[1][..], &[1, 3], &[], &[2]] {
        assert!(tenants.pull(&mut copy, &of(seen), 1000).await, "{seen:?}");
        assert_eq!(copy.rows("product"), tenants.products(seen).await, "{seen:?}");
        assert!(!tenants.pull(&mut copy, &of(seen), 1000).await);
    }
    let without = caller(&json!({"tenant": 2, "entities": ["news"]}));
    assert!(
        tenants.pull(&mut copy, &without, 1000).await,
        "an entity was taken back"
    );
    let forged = tenants
        .get(
            &format!("entity=product&since={}", copy.since.clone().unwrap()),
            &without,
        )
        .await;
    assert_eq!(forged.status(), StatusCode::FORBIDDEN);
    tenants.pull(&mut copy, &of(&[2]), 1000).await;
    assert_eq!(copy.rows("product"), tenants.products(&[2]).await);
}

/// A page in blocks for whoever takes rows where what it may see has changed: its status, the values of `within` blocks, the
/// tenants of the rows that came, and where it goes on.
struct Rescoped {
    status: StatusCode,
    within: Vec<Value>,
    tenants: Vec<String>,
    trailer: Value,
}

/// Asks a server for blocks.
async fn asked(server: &Served, query: &str, caller: Option<&str>) -> reqwest::Response {
    let mut request = reqwest::Client::new()
        .get(format!("http://{}/changes?{query}", server.address))
        .header("accept", "application/vnd.highwater.copy");
    if let Some(caller) = caller {
        request = request.header("authorization", caller);
    }
    request.send().await.unwrap()
}

async fn rescoped(tenants: &Tenants, query: &str, caller: &str) -> Rescoped {
    let response = asked(&tenants.server, query, Some(caller)).await;
    let status = response.status();
    let body = response.text().await.unwrap();
    let (mut within, mut rows, mut trailer) = (Vec::new(), Vec::new(), Value::Null);
    for line in body.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(line) if line["kind"] == "within" => within.push(line["values"].clone()),
            Ok(line) if line["kind"].is_null() => trailer = line,
            Ok(_) => {}
            Err(_) => {
                let fields: Vec<&str> = line.split('\t').collect();
                if let [_, tenant, _, _] = fields[..] {
                    rows.push(tenant.to_owned());
                }
            }
        }
    }
    Rescoped {
        status,
        within,
        tenants: rows,
        trailer,
    }
}

#[tokio::test]
async fn who_may_see_other_rows_than_before_is_told_of_these_alone() {
    let tenants = Tenants::start().await;
    let (before, after) = (of(&[1, 2]), of(&[2, 3]));
    let mut copy = Copy::default();
    tenants.pull(&mut copy, &before, 1000).await;
    let since = format!("since={}", copy.since.unwrap());
    // 3 leaves the first tenant for the third, and 6 is gone with what may be seen no longer.
    tenants
        .rig
        .run("update product set tenant = 3 where id = 3; delete from product where id = 6")
        .await;
    for limit in [3, 1000] {
        let mut query = format!("{since}&rescoped=rows&limit={limit}");
        let (mut within, mut came) = (Vec::new(), Vec::new());
        loop {
            let page = rescoped(&tenants, &query, &after).await;
            assert_eq!(page.status, StatusCode::OK);
            within.extend(page.within);
            came.extend(page.tenants);
            let next = format!("since={}", page.trailer["next"].as_str().unwrap());
            query = format!("{next}&rescoped=rows&limit={limit}");
            if page.trailer["more"] == false {
                // And from there on as ever.
                let last = tenants.page(&next, &after).await;
                assert_eq!((&last["changes"], &last["more"]), (&json!([]), &json!(false)));
                break;
            }
            if came.len() > limit {
                continue;
            }
            // One change at a time, and to its end.
            for (query, caller) in [(&next, &after), (&query, &before), (&query, &of(&[3]))] {
                let refused = rescoped(&tenants, query, caller).await;
                assert_eq!(refused.status, StatusCode::GONE, "{query}");
            }
        }
        assert_eq!(within, [json!(["2", "3"])], "{limit}");
        assert_eq!(came, vec!["3"; 11], "{limit}");
    }
    // Who loses all keeps none, and who gains some loses none.
    let none = rescoped(&tenants, &format!("{since}&rescoped=rows"), &of(&[])).await;
    assert_eq!((none.status, none.tenants.len()), (StatusCode::OK, 0));
    assert_eq!(none.within, [Value::Null]);
    let more = rescoped(&tenants, &format!("{since}&rescoped=rows"), &of(&[1, 2, 3])).await;
    assert_eq!(
        (more.status, more.tenants.len(), more.within.len()),
        (StatusCode::OK, 11, 0)
    );
}

/// They lie above all that were given out here, and belong to what all rows of a scope belong to.
#[tokio::test]
async fn ids_of_another_cluster_cost_no_row_of_a_scope() {
    let tenants = Tenants::start().await;
    let rig = &tenants.rig;
    rig.run(
        "create table part (id int, tenant int, name text, primary key (id, tenant)) partition by list (tenant);
         create table part_1 partition of part for values in (1); insert into part values (1, 1), (2, 1), (3, 1)",
    )
    .await;
    rig.enable_scoped("part", "tenant").await;
    let rows = "(id, tenant) select g, 3 from generate_series(11, 16) g";
    rig.attach_foreign("part", rows, "in (3)").await;
    let (one, both) = (of(&[1]), of(&[1, 3]));
    let mut copy = Copy::default();
    tenants.pull(&mut copy, &of(&[3]), 2).await;
    assert_eq!(copy.rows("part").len(), 6);
    let first = tenants.page("entity=part", &one).await;
    let (mut since, mut came) = (first["next"].clone(), Vec::new());
    loop {
        let query = format!(
            "entity=part&since={}&rescoped=rows&limit=2",
            since.as_str().unwrap()
        );
        let page = rescoped(&tenants, &query, &both).await;
        came.extend(page.tenants);
        since = page.trailer["next"].clone();
        if page.trailer["more"] == false {
            break;
        }
    }
    assert_eq!(came, vec!["3"; 6]);
}

#[tokio::test]
async fn a_change_that_rows_cannot_tell_is_a_resync() {
    let tenants = Tenants::start().await;
    let (before, after) = (of(&[1, 2]), of(&[2, 3]));
    let mut copy = Copy::default();
    tenants.pull(&mut copy, &before, 1000).await;
    let since = format!("since={}", copy.since.unwrap());
    let told = format!("{since}&rescoped=rows");
    let gone = async |query: &str, caller: &str| {
        assert_eq!(
            rescoped(&tenants, query, caller).await.status,
            StatusCode::GONE,
            "{query}"
        );
    };
    gone(&since, &after).await;
    gone(&format!("{since}&rescoped=resync"), &after).await;
    // JSON has no words for it.
    assert_eq!(tenants.get(&told, &after).await.status(), StatusCode::GONE);
    // Of an entity that is withheld no rows are told.
    gone(&told, &caller(&json!({"tenant": [2, 3], "entities": ["news"]}))).await;
    let wrong = rescoped(&tenants, &format!("{since}&rescoped=all"), &after).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    // The store could not tell which rows are left.
    tenants
        .rig
        .run("select highwater.enable('product', exclude => '{tenant}')")
        .await;
    let mut copy = Copy::default();
    tenants.pull(&mut copy, &before, 1000).await;
    gone(&format!("since={}&rescoped=rows", copy.since.unwrap()), &after).await;
}

/// A caller with more values than a cursor remembers, and then one that may see everything: nobody knows any more what it lacks.
#[tokio::test]
async fn who_had_more_values_than_are_remembered_is_told_nothing_by_rows() {
    let tenants = Tenants::start().await;
    let many: Vec<i32> = (1..=2).chain(100..200).collect();
    let mut copy = Copy::default();
    tenants.pull(&mut copy, &of(&many), 1000).await;
    let since = copy.since.unwrap();
    assert_eq!(
        rescoped(&tenants, &format!("since={since}"), &of(&many))
            .await
            .status,
        StatusCode::OK
    );
    let told = format!("since={since}&rescoped=rows");
    assert_eq!(
        rescoped(&tenants, &told, &of(&[1, 2])).await.status,
        StatusCode::GONE
    );
    let open = Served::start(&tenants.rig.pool).await;
    assert_eq!(asked(&open, &told, None).await.status(), StatusCode::GONE);
}

/// What becomes of one entity is nothing to those that are asked for beside it, or without it.
#[tokio::test]
async fn an_entity_that_goes_takes_no_other_with_it() {
    let tenants = Tenants::start().await;
    tenants
        .rig
        .run("create table bill (id int primary key, tenant int); insert into bill values (1, 1), (2, 2)")
        .await;
    tenants.rig.enable_scoped("bill", "tenant").await;
    let first = of(&[1]);
    let mut copy = Copy::default();
    tenants.pull(&mut copy, &first, 1000).await;
    let since = format!("since={}", copy.since.unwrap());
    // Who asks for what is the same for all may see what it likes of the others.
    let news = tenants.page(&format!("{since}&entity=news"), &of(&[2])).await;
    assert_eq!((&news["changes"], &news["more"]), (&json!([]), &json!(false)));
    assert_eq!(tenants.get(&since, &of(&[2])).await.status(), StatusCode::GONE);
    tenants.rig.run("select highwater.disable('bill')").await;
    tenants
        .rig
        .run("update product set name = 'of today' where id = 3")
        .await;
    let page = tenants.page(&since, &first).await;
    assert_eq!(page["entities"], json!(["product", "news"]));
    assert_eq!(page["changes"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["changes"][0]["row"]["name"], "of today");
}
