//! `enable` and `disable`: what they add, refuse and leave alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_server::admin::{self, EnableOptions};
use sqlx::AssertSqlSafe;

use crate::rig::{Copy, Pull as _, Rig, run};

async fn refusal(rig: &Rig, table: &str, options: EnableOptions) -> String {
    let mut connection = rig.database.connect().await.unwrap();
    match admin::enable(&mut connection, table, &options).await {
        Ok(()) => panic!("{table} was enabled"),
        Err(error) => error.to_string(),
    }
}

async fn one<T>(rig: &Rig, sql: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&rig.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_with_the_remedy() {
    let rig = Rig::start(
        "create table nokey (a int);
         create view looks as select 1 as a;
         create unlogged table unlogged (a int primary key);
         create table floating (k float8 primary key);
         create table arrays (k numeric[] primary key);
         create table unscaled (k numeric primary key);
         create table spans (k interval primary key);
         create table document (k jsonb primary key);
         create table search (k tsquery[] primary key);
         create table renamed (k regclass primary key);
         create table unordered (id int primary key, x xml, p point);
         -- A Postgres without ICU has no such collations.
         do $$ begin
             create collation loose (provider = icu, locale = 'und', deterministic = false);
             create table collated (k text collate loose primary key);
             create type within as (t text collate loose); create table composed (k within primary key);
         exception when feature_not_supported then null; end $$;
         create table cased (id int primary key, \"ID\" int);
         create table flagged (id int primary key, deleted int);
         create table parent (id int primary key); create table child (primary key (id)) inherits (parent);
         create table cut (id int primary key) partition by list (id); create table cut_1 partition of cut for values in (1);
         create table sync_helper (id int primary key);
         create table good (id int primary key, b int);
         create table other (id int primary key);
         create function late() returns trigger language plpgsql as 'begin return new; end';
         create table late (id int primary key);
         create trigger \"~~~\" before update on late for each row execute function late()",
    )
    .await;
    let cases = [
        ("nokey", "no primary key", "add primary key"),
        ("looks", "is a view", "tables beneath"),
        ("unlogged", "unlogged", "set logged"),
        ("floating", "two ways", "bigint, text or uuid"),
        ("arrays", "without a fixed scale", "bigint, text or uuid"),
        ("unscaled", "without a fixed scale", "bigint, text or uuid"),
        ("spans", "two ways", "bigint, text or uuid"),
        ("document", "two ways", "bigint, text or uuid"),
        ("search", "two ways", "bigint, text or uuid"),
        ("renamed", "may be renamed", "bigint, text or uuid"),
        ("cased", "differ only by case", "exclude or rename"),
        ("flagged", "of type integer", "rename column"),
        ("child", "inheritance", "without inheritance"),
        ("parent", "inheritance", "without inheritance"),
        ("cut_1", "is a partition", "partitioned table"),
        ("sync_helper", "reserved", "--name"),
        ("late", "fires after", "rename"),
        ("nosuch", "does not exist", ""),
        ("highwater.entity", "cannot be entities", ""),
        ("pg_class", "cannot be entities", ""),
    ];
    let has_icu: bool = one(&rig, "select to_regclass('collated') is not null").await;
    let collated = ["collated", "composed"].map(|table| (table, "nondeterministic", "bigint, text or uuid"));
    let cases = cases.into_iter().chain(collated.into_iter().filter(|_| has_icu));
    for (table, reason, remedy) in cases {
        let said = refusal(&rig, table, EnableOptions::default()).await;
        assert!(said.contains(reason) && said.contains(remedy), "{table}: {said}");
    }

    for column in ["x", "p"] {
        let scoped = EnableOptions {
            scope: Some(column.to_owned()),
            ..EnableOptions::default()
        };
        assert!(refusal(&rig, "unordered", scoped).await.contains("no order"));
    }
    assert_eq!(one::<i64>(&rig, "select count(*) from highwater.entity").await, 0);

    rig.enable(&["other"]).await;
    let named = |name: &str| EnableOptions {
        name: Some(name.to_owned()),
        ..EnableOptions::default()
    };
    assert!(
        refusal(&rig, "good", named("OTHER"))
            .await
            .contains("is taken by")
    );
    assert!(
        refusal(&rig, "good", named("sqlite_stat"))
            .await
            .contains("reserved")
    );
    assert!(
        refusal(&rig, "good", named("a,b"))
            .await
            .contains("cannot be called")
    );
    let hidden = EnableOptions {
        exclude: Some(vec!["id".to_owned()]),
        ..EnableOptions::default()
    };
    assert!(refusal(&rig, "good", hidden).await.contains("must be published"));
    let misspelt = EnableOptions {
        columns: Some(vec!["id".to_owned(), "c".to_owned()]),
        ..EnableOptions::default()
    };
    assert!(refusal(&rig, "good", misspelt).await.contains("has no column c"));
    let left = "select count(*) from pg_attribute a join pg_class c on c.oid = a.attrelid
        where a.attname = 'changed_xid' and c.relkind = 'r' and c.relnamespace <> 'highwater'::regnamespace and c.relname <> 'other'";
    let left: i64 = one(&rig, left).await;
    assert_eq!(left, 0, "a refused table is left as it was");
}

#[tokio::test]
async fn nothing_is_rewritten() {
    let rig = Rig::start("create table product (id int primary key, name text); insert into product select g, 'p' from generate_series(1, 1000) g").await;
    let before: i64 = one(&rig, "select pg_relation_filenode('product')::bigint").await;
    rig.enable(&["product"]).await;
    let after: i64 = one(&rig, "select pg_relation_filenode('product')::bigint").await;
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_second_enable_changes_nothing() {
    let rig = Rig::start(
        "create table product (id int primary key, secret text); insert into product values (1, 's')",
    )
    .await;
    let mut connection = rig.database.connect().await.unwrap();
    let options = EnableOptions {
        exclude: Some(vec!["secret".to_owned()]),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "product", &options).await.unwrap();
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.enable(&["product"]).await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.resets, copy.upserts), (0, 0));
    assert_eq!(
        copy.rows("product")[r#"{"id":1}"#],
        serde_json::json!({"id": 1}),
        "and what was hidden stays hidden"
    );
}

#[tokio::test]
async fn a_hidden_column_neither_travels_nor_stamps() {
    let rig = Rig::start(
        "create table product (id int primary key, name text, secret text, shout text generated always as (upper(name)) stored);
         insert into product (id, name, secret) values (1, 'a', 's')",
    )
    .await;
    let mut connection = rig.database.connect().await.unwrap();
    let options = EnableOptions {
        exclude: Some(vec!["secret".to_owned()]),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "product", &options).await.unwrap();
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    assert_eq!(
        copy.rows("product")[r#"{"id":1}"#],
        serde_json::json!({"id": 1, "name": "a", "shout": "A"})
    );
    copy.recount();
    rig.run("update product set secret = 't'; update product set name = name")
        .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.upserts, 0);
    rig.run("update product set name = 'b'").await;
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.upserts, copy.deletes), (1, 0));
    let buried: i64 = one(&rig, "select count(*) from highwater.tombstone").await;
    assert_eq!(buried, 0, "a row that keeps its key is not buried");

    // A hidden column that is renamed must not thereby be published.
    rig.run("alter table product rename column secret to token; update product set name = 'c'")
        .await;
    assert_eq!(rig.server.get("/changes?entity=product").await.status(), 503);
}

#[tokio::test]
async fn no_column_type_or_name_is_in_the_way() {
    let rig = Rig::start(
        r"create type pair as (a int, b point);
          create table odd (id int primary key, j json, p point, x xml, c pair, m money, t tsvector, u int, l int, r int, xid int, hidden json, g text generated always as ('x') stored);
          insert into odd values (1, '{}', '(1,2)', null, '(1,)', 1, 'a', 1, 2, 3, 4, '1'); insert into odd (id, j) values (2, '{}')",
    )
    .await;
    let mut connection = rig.database.connect().await.unwrap();
    let options = EnableOptions {
        exclude: Some(vec!["hidden".to_owned()]),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "odd", &options).await.unwrap();
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(r#"update odd set j = '"\u0000"' where id = 2; delete from odd where id = 2; update odd set p = '(3,4)', j = '[1]'"#).await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!((copy.upserts, copy.deletes), (1, 1));
}

/// Transactions older and newer than `enable` write while it happens, and nothing of theirs is
/// lost.
#[tokio::test]
async fn a_table_in_use_can_be_enabled() {
    let rig = Rig::start("create table product (id int primary key, name text); insert into product select g, 'p' from generate_series(1, 200) g").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (pool, stop) = (rig.pool.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let id = writer * 50 + 1 + round % 50;
                    run(&pool, &format!("begin; update product set name = 'w{round}' where id = {id}; select pg_sleep(0.01); commit")).await;
                }
            })
        })
        .collect();
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    for _ in 0..20 {
        copy.pull(&rig.server, 30).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    copy.pull(&rig.server, 30).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    let valid: i64 = one(
        &rig,
        "select count(*) from pg_index where indrelid = 'product'::regclass and indisvalid",
    )
    .await;
    assert_eq!(valid, 4);
}

#[tokio::test]
async fn an_index_that_a_failed_attempt_left_behind_is_rebuilt() {
    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    rig.run("update pg_index set indisvalid = false where indexrelid = 'highwater_1_xid'::regclass")
        .await;
    rig.enable(&["product"]).await;
    let valid: bool = one(
        &rig,
        "select indisvalid from pg_index where indexrelid = 'highwater_1_xid'::regclass",
    )
    .await;
    assert!(valid);
}

#[tokio::test]
async fn a_name_that_comes_back_has_all_that_an_entity_has() {
    let rig =
        Rig::start("create table one (id int primary key); create table two (id int primary key)").await;
    let mut connection = rig.database.connect().await.unwrap();
    for (table, name) in [("one", "product"), ("one", "former"), ("two", "product")] {
        let named = EnableOptions {
            name: Some(name.to_owned()),
            ..EnableOptions::default()
        };
        rig.run("delete from one; insert into one values (1)").await;
        admin::enable(&mut connection, table, &named).await.unwrap();
    }
    let entities = admin::entities(&mut connection).await.unwrap();
    assert!(entities.iter().all(|entity| entity.indexed), "{entities:?}");
    let left = "select count(*) from pg_index i where i.indrelid = 'one'::regclass and i.indexrelid::regclass::text like '%highwater_1_%'";
    assert_eq!(one::<i64>(&rig, left).await, 0);
    let buried = "select count(*) from highwater.tombstone where entity = 1";
    assert_eq!(one::<i64>(&rig, buried).await, 0);
}

#[tokio::test]
async fn disabled_and_enabled_again_begins_anew() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product values (1, 'a'), (2, 'b')",
    )
    .await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    let mut connection = rig.database.connect().await.unwrap();
    assert!(admin::disable(&mut connection, "product", false).await.unwrap());
    assert!(!admin::disable(&mut connection, "product", false).await.unwrap());
    assert_eq!(rig.server.page("").await["entities"], serde_json::json!([]));
    // Unseen by any trigger.
    rig.run("delete from product where id = 1; update product set name = 'c' where id = 2")
        .await;
    rig.enable(&["product"]).await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);

    assert!(admin::disable(&mut connection, "product", true).await.unwrap());
    let columns: i64 = one(&rig, "select count(*) from pg_attribute where attrelid = 'product'::regclass and attnum > 0 and not attisdropped").await;
    assert_eq!(columns, 2);
}

#[tokio::test]
async fn a_table_dropped_and_made_again_begins_anew() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product values (1, 'a')",
    )
    .await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("drop table product; create table product (id int primary key, name text); insert into product values (2, 'b')").await;
    assert_eq!(rig.server.page("").await["entities"], serde_json::json!([]));
    rig.enable(&["product"]).await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

/// The writing role needs no right on the schema, and cannot lead the triggers astray.
#[tokio::test]
async fn a_writer_without_rights_on_the_schema_is_stamped() {
    let rig = Rig::start(
        "create table product (id int primary key, name text); insert into product values (1, 'a'), (2, 'b')",
    )
    .await;
    rig.enable(&["product"]).await;
    let role = format!("writer_{}", rig.database.name());
    rig.run(&format!("create role \"{role}\"; grant all on product to \"{role}\"; grant create on schema public to \"{role}\"")).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(&format!(
        "set role \"{role}\"; create function public.pg_current_xact_id() returns xid8 language sql as 'select ''1''::xid8';
         set search_path = public, pg_catalog;
         update product set name = 'x' where id = 1; delete from product where id = 2; insert into product values (3, 'c');
         reset search_path; truncate product; insert into product values (4, 'd'); drop function public.pg_current_xact_id(); reset role"
    ))
    .await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    rig.run(&format!("drop owned by \"{role}\"; drop role \"{role}\""))
        .await;
}

/// Another BEFORE trigger's changes are stamped, and replicated writes too.
#[tokio::test]
async fn what_other_triggers_and_replication_write_is_stamped() {
    let rig = Rig::start(
        "create table product (id int primary key, name text, tag text);
         create function tag() returns trigger language plpgsql as 'begin new.tag := md5(random()::text); return new; end';
         create trigger zzz before update on product for each row execute function tag();
         insert into product values (1, 'a')",
    )
    .await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("update product set name = name").await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    rig.run("set session_replication_role = replica; update product set name = 'r'; reset session_replication_role").await;
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}
