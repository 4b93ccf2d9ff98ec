//! A server whose role is limited by row security: it serves the rows that it may read and no others, and
//! what it could not serve exactly it does not serve.

use std::time::Duration;

use highwater_server::admin::{self, PurgeOptions};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::rig::{Copy, Pull as _, Rig, Served, acting_as};
use crate::why::ask_of;

const TABLES: &str = "create table product (id int primary key, tenant_id int not null, name text);
    insert into product select g, 7 + g % 2, 'p' || g from generate_series(1, 20) g;
    create table news (id int primary key); insert into news values (1);
    alter table product enable row level security";

/// A database with an entity whose rows belong to tenants, and a role for each of two servers.
struct Tenants {
    rig: Rig,
    roles: [String; 2],
}

impl Tenants {
    async fn start(scope: Option<&str>) -> Self {
        let rig = Rig::start(TABLES).await;
        rig.enable(&["news"]).await;
        match scope {
            Some(column) => rig.enable_scoped("product", column).await,
            None => rig.enable(&["product"]).await,
        }
        let roles = [7, 8].map(|tenant| format!("tenant_{tenant}_{}", rig.database.name()));
        for (role, tenant) in roles.iter().zip([7, 8]) {
            rig.run(&format!(
                "create role \"{role}\"; grant usage on schema highwater to \"{role}\";
                 grant select on all tables in schema highwater, public to \"{role}\";
                 create policy \"{role}\" on product for select to \"{role}\" using (tenant_id = {tenant})"
            ))
            .await;
        }
        Self { rig, roles }
    }

    /// Limits the tombstones as the rows are; those of entities without a scope are for all.
    async fn limit_tombstones(&self) {
        for (role, tenant) in self.roles.iter().zip([7, 8]) {
            self.rig
                .run(&format!(
                    "create policy \"{role}\" on highwater.tombstone for select to \"{role}\"
                         using (scope = '{tenant}' or scope is null)"
                ))
                .await;
        }
        self.rig
            .run("alter table highwater.tombstone enable row level security")
            .await;
    }

    async fn pool(&self, place: usize) -> PgPool {
        acting_as(&self.rig.database, &self.roles[place]).await
    }

    async fn serve(&self, place: usize) -> Served {
        Served::start(&self.pool(place).await).await
    }

    /// What a copy should hold: the rows that the role sees.
    async fn assert_holds(&self, copy: &Copy, tenant: i32) {
        let all = self.rig.source("product", "id").await;
        let own = all.into_iter().filter(|(_, row)| row["tenant_id"] == tenant);
        assert_eq!(copy.rows("product"), own.collect());
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        // Roles are the cluster's, and would stay. Here nothing may wait, so a thread does.
        let (url, roles) = (self.rig.database.url(), self.roles.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let pool = PgPool::connect(&url).await.unwrap();
                for role in roles {
                    crate::rig::run(&pool, &format!("drop owned by \"{role}\"; drop role \"{role}\"")).await;
                }
                pool.close().await;
            });
        });
        let _ = dropped.join();
    }
}

async fn changes(server: &Served, since: &str) -> Vec<Value> {
    let page = server.page(&format!("since={since}&entity=product")).await;
    page["changes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_role_that_sees_some_rows_serves_exactly_these() {
    let tenants = Tenants::start(Some("tenant_id")).await;
    tenants.limit_tombstones().await;
    let (seven, eight) = (tenants.serve(0).await, tenants.serve(1).await);
    let (mut of_seven, mut of_eight) = (Copy::default(), Copy::default());
    of_seven.pull(&seven, 3).await;
    of_eight.pull(&eight, 0).await;
    tenants.assert_holds(&of_seven, 7).await;
    for change in [
        "insert into product values (21, 7, 'new'), (22, 8, 'new')",
        "update product set name = 'both' where id in (1, 2)",
        // Out of one view and into the other.
        "update product set tenant_id = 15 - tenant_id where id in (3, 4)",
        "update product set deleted = true where id in (5, 6)",
        "delete from product where id in (7, 8)",
        "update product set id = id + 100 where id in (9, 10)",
        "update product set tenant_id = 7 where id = 12; delete from product where id = 12",
        "delete from news",
    ] {
        tenants.rig.run(change).await;
        of_seven.pull(&seven, 2).await;
        of_eight.pull(&eight, 0).await;
        tenants.assert_holds(&of_seven, 7).await;
        tenants.assert_holds(&of_eight, 8).await;
    }
    assert!(
        of_seven.rows("news").is_empty(),
        "what is for all is deleted for all"
    );
    tenants.rig.run("truncate product").await;
    of_seven.pull(&seven, 0).await;
    assert!(of_seven.rows("product").is_empty());
}

#[tokio::test]
async fn what_others_do_shows_neither_keys_nor_counts() {
    let tenants = Tenants::start(Some("tenant_id")).await;
    tenants.limit_tombstones().await;
    let seven = tenants.serve(0).await;
    let since = seven.page("").await["next"].as_str().unwrap().to_owned();
    tenants
        .rig
        .run("delete from product where tenant_id = 8; analyze product, highwater.tombstone")
        .await;
    assert_eq!(changes(&seven, &since).await, Vec::<Value>::new());
    tenants.rig.run("delete from product where id = 2").await;
    let found = changes(&seven, &since).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["key"]["id"], 2);
    let list: Value = seven.get("/entities").await.json().await.unwrap();
    let product = list["entities"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entity| entity["name"] == "product");
    assert_eq!(product.unwrap()["estimatedRows"], json!(null));
    assert_eq!(
        seven.metric("highwater_tombstones{entity=\"product\"}").await,
        None
    );
}

/// What was purged is in no policy, so that it is told of by a reset; also where the role may not read it.
#[tokio::test]
async fn keys_of_what_was_purged_are_told_to_no_limited_role() {
    let tenants = Tenants::start(Some("tenant_id")).await;
    tenants.limit_tombstones().await;
    let seven = tenants.serve(0).await;
    let mut copy = Copy::default();
    for may_not_read in [false, true] {
        if may_not_read {
            let role = &tenants.roles[0];
            tenants
                .rig
                .run(&format!("revoke select on highwater.purged from \"{role}\""))
                .await;
        }
        copy.pull(&seven, 0).await;
        tenants
            .rig
            .run("delete from product where id in (select min(id) from product group by tenant_id)")
            .await;
        let mut connection = tenants.rig.database.connect().await.unwrap();
        let purge = PurgeOptions::older_than(Duration::ZERO);
        admin::purge(&mut connection, &purge).await.unwrap();
        copy.recount();
        copy.pull_with_keys(&seven, 0).await;
        assert_eq!((copy.resets, copy.deletes), (1, 0));
        tenants.assert_holds(&copy, 7).await;
        for (id, of) in [(1, 8), (2, 7)] {
            let answer = ask_of(&seven, None, "product", id).await;
            assert_eq!(answer["outcome"], "no_such_row", "a row of {of}: {answer}");
        }
    }
}

/// Else their keys would be told to all, and rows that left would stay.
#[tokio::test]
async fn what_cannot_be_served_exactly_is_not_served() {
    let without_scope = Tenants::start(None).await;
    without_scope.limit_tombstones().await;
    let open_tombstones = Tenants::start(Some("tenant_id")).await;
    for (tenants, why) in [
        (&without_scope, "no scope"),
        (&open_tombstones, "highwater.tombstone"),
    ] {
        let server = tenants.serve(0).await;
        let refused = server.get("/changes?entity=product").await;
        assert_eq!(refused.status(), 503);
        let problem: Value = refused.json().await.unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(why) && detail.contains("docs/row-security.md"),
            "{detail}"
        );
        assert_eq!(server.page("").await["entities"], json!(["news"]));
        // Whom row security does not limit is served as ever.
        let all = tenants.rig.server.page("entity=product").await;
        assert_eq!(all["changes"].as_array().unwrap().len(), 21);
    }
    // Mended, it is served without a restart.
    open_tombstones.limit_tombstones().await;
    assert_eq!(
        open_tombstones
            .serve(0)
            .await
            .get("/changes?entity=product")
            .await
            .status(),
        200
    );
}

/// A cursor stands for what one role has seen under one set of policies.
#[tokio::test]
async fn another_role_and_other_policies_begin_anew() {
    let tenants = Tenants::start(Some("tenant_id")).await;
    tenants.limit_tombstones().await;
    let (seven, eight) = (tenants.serve(0).await, tenants.serve(1).await);
    let mut copy = Copy::default();
    copy.pull(&seven, 0).await;
    copy.pull(&eight, 0).await;
    tenants.assert_holds(&copy, 8).await;
    let role = &tenants.roles[1];
    tenants
        .rig
        .run(&format!(
            "alter policy \"{role}\" on product using (tenant_id = 7)"
        ))
        .await;
    copy.pull(&eight, 0).await;
    tenants.assert_holds(&copy, 7).await;
}

/// What a policy hangs on besides may change without a write to the row. `touch` is for that.
#[tokio::test]
async fn a_policy_that_hangs_on_more_than_the_scope_needs_touch() {
    let tenants = Tenants::start(Some("tenant_id")).await;
    tenants.limit_tombstones().await;
    let role = &tenants.roles[0];
    tenants
        .rig
        .run(&format!(
            "create table closed (tenant_id int); grant select on closed to \"{role}\";
             alter policy \"{role}\" on product
                 using (tenant_id = 7 and not exists (select from closed c where c.tenant_id = product.tenant_id))"
        ))
        .await;
    let seven = tenants.serve(0).await;
    let mut copy = Copy::default();
    copy.pull(&seven, 0).await;
    tenants.assert_holds(&copy, 7).await;
    tenants.rig.run("insert into closed values (7)").await;
    copy.pull(&seven, 0).await;
    assert_eq!(copy.rows("product").len(), 10, "no row was written");
    tenants.rig.run("select highwater.touch('product')").await;
    copy.pull(&seven, 0).await;
    assert!(copy.rows("product").is_empty());
}

/// The policy is checked of each row that an index leads to, and the index is entered where the change is.
#[tokio::test]
async fn policies_leave_the_indexes_to_the_statements() {
    let tenants = Tenants::start(Some("tenant_id")).await;
    tenants.limit_tombstones().await;
    let pool = tenants.pool(0).await;
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("set enable_seqscan = off; set enable_bitmapscan = off")
        .execute(&mut *connection)
        .await
        .unwrap();
    for (statement, bound) in [
        (
            "select * from product t where not t.deleted and t.changed_xid >= '5'::xid8
                 order by t.changed_xid, t.id limit 9",
            "changed_xid >=",
        ),
        (
            "select * from product t where not t.deleted and (t.changed_xid, t.id) > ('5'::xid8, 7)
                 order by t.changed_xid, t.id limit 9",
            "ROW(changed_xid, id) >",
        ),
        (
            "select * from highwater.tombstone t where t.entity = 1 and t.changed_xid >= '5'::xid8
                 order by t.changed_xid, t.number limit 9",
            "changed_xid >=",
        ),
    ] {
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("explain {statement}")))
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        let entered = plan
            .iter()
            .any(|line| line.contains("Index Cond") && line.contains(bound));
        assert!(entered, "{plan:#?}");
        assert!(plan.iter().all(|line| !line.contains("Sort")), "{plan:#?}");
    }
}
