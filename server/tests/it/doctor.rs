//! `doctor`: each check is broken for real, seen, and mended by its remedy.

use chrono::{DateTime, TimeDelta, Utc};
use highwater_server::admin::{self, EnableOptions, PurgeOptions};
use highwater_server::doctor::{self, DoctorOptions, Finding, Report, Severity};
use sqlx::PgConnection;

use crate::rig::{Rig, run};

const PRODUCT: &str = "create type mood as enum ('calm', 'wild');
    create table product (id int primary key, tenant_id int not null default 1, name text, mood mood);
    insert into product select g, g % 3, 'p' || g, 'calm' from generate_series(1, 20) g";

async fn examine(rig: &Rig, options: &DoctorOptions) -> Report {
    let mut connection = rig.database.connect().await.unwrap();
    doctor::examine(&mut connection, options).await.unwrap()
}

/// What the checks find, less what is so on every cluster of tests: it flushes nothing, and who is connected is a
/// superuser.
async fn found(rig: &Rig) -> Vec<Finding> {
    let report = examine(rig, &DoctorOptions::default()).await;
    let other_than_here = |finding: &Finding| !["setting", "rights_superuser"].contains(&finding.check);
    report.findings.into_iter().filter(other_than_here).collect()
}

fn checks(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.check).collect()
}

/// Does what a remedy says, line by line: commands as the program would, the rest as SQL.
async fn follow(rig: &Rig, remedy: &str) {
    let mut connection = rig.database.connect().await.unwrap();
    for line in remedy.lines() {
        let line = line.split("    ").next().unwrap().trim();
        let words: Vec<&str> = line.split('\'').collect();
        match words.as_slice() {
            ["highwater-server enable ", table, ""] => {
                admin::enable(&mut connection, table, &EnableOptions::default())
                    .await
                    .unwrap();
            }
            ["highwater-server disable ", entity, ""] => {
                assert!(admin::disable(&mut connection, entity, false).await.unwrap());
            }
            ["highwater-server touch ", table, ""] => {
                assert!(admin::touch(&mut connection, table).await.unwrap());
            }
            ["highwater-server rebase"] => drop(admin::rebase(&mut connection, false).await.unwrap()),
            ["highwater-server migrate"] => admin::migrate(&mut connection).await.unwrap(),
            _ if line.starts_with("highwater-server rebase --new-id") => {}
            _ => run(&rig.pool, line).await,
        }
    }
}

/// Breaks something, sees that this is found and nothing else, and that the remedy mends it.
async fn breaks(rig: &Rig, sql: &str, check: &str, severity: Severity) -> Vec<Finding> {
    assert_eq!(found(rig).await, [], "before {sql}");
    rig.run(sql).await;
    let findings = found(rig).await;
    assert!(!findings.is_empty(), "{sql}");
    for finding in &findings {
        assert_eq!(
            (finding.check, finding.severity),
            (check, severity),
            "{sql}: {finding:?}"
        );
        assert!(!finding.what.is_empty() && !finding.why.is_empty() && !finding.remedy.is_empty());
        follow(rig, &finding.remedy).await;
    }
    assert_eq!(found(rig).await, [], "after {:?}", findings[0].remedy);
    findings
}

#[tokio::test]
async fn nothing_is_found_where_all_is_well() {
    let rig = Rig::start(
        "create table \"Odd Name\" (\"Id\" int primary key, \"gone At\" date);
         create table part (id int, region int, primary key (id, region)) partition by list (region);
         create table part_1 partition of part for values in (1) partition by range (id);
         create table part_1_1 partition of part_1 for values from (0) to (1000);
         create table part_2 partition of part for values in (2)",
    )
    .await;
    rig.run(PRODUCT).await;
    let mut connection = rig.database.connect().await.unwrap();
    let enable = async |connection: &mut PgConnection, table: &str, options: EnableOptions| {
        admin::enable(connection, table, &options).await.unwrap();
    };
    let odd = EnableOptions {
        deleted_column: Some("gone At".to_owned()),
        ..EnableOptions::default()
    };
    enable(&mut connection, "\"Odd Name\"", odd).await;
    let scoped = EnableOptions {
        scope: Some("tenant_id".to_owned()),
        exclude: Some(vec!["name".to_owned()]),
        ..EnableOptions::default()
    };
    enable(&mut connection, "product", scoped).await;
    enable(&mut connection, "part", EnableOptions::default()).await;
    // Partitions that come later are as good, also when the table is enabled again.
    rig.run("create table part_3 partition of part for values in (3)")
        .await;
    assert_eq!(found(&rig).await, []);
    enable(&mut connection, "part", EnableOptions::default()).await;
    rig.run("alter type mood add value 'sad'").await;
    rig.run("vacuum full product").await;
    assert_eq!(found(&rig).await, []);
    let report = examine(&rig, &DoctorOptions::default()).await;
    assert_eq!(report.entities, ["Odd Name", "part", "product"]);
}

#[tokio::test]
async fn triggers_that_are_passed_by_are_serious() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let before: Vec<(String, i64)> = incarnations(&rig).await;
    for (sql, check) in [
        ("drop trigger \"~~highwater_update\" on product", "trigger_missing"),
        ("drop trigger \"~~highwater_truncate\" on product", "trigger_missing"),
        ("alter table product disable trigger \"~~highwater_delete\"", "trigger_disabled"),
        ("alter table product enable trigger \"~~highwater_insert\"", "trigger_not_always"),
        (
            "drop trigger \"~~highwater_update\" on product;
             create trigger \"~~highwater_update\" before update on product for each row execute function highwater.stamp_insert();
             alter table product enable always trigger \"~~highwater_update\"",
            "trigger_function",
        ),
        (
            "create function late() returns trigger language plpgsql as 'begin new.name := 1; return new; end';
             create trigger \"~~~late\" before update on product for each row execute function late()",
            "trigger_order",
        ),
        // All of them at once.
        ("alter table product disable trigger all", "trigger_disabled"),
    ] {
        // The last one is found with a trigger of each kind, and of the application's nobody speaks.
        breaks(&rig, sql, check, Severity::Serious).await;
    }
    assert_ne!(
        incarnations(&rig).await,
        before,
        "what went unstamped is fetched anew"
    );
}

#[tokio::test]
async fn a_partition_without_a_trigger_is_serious() {
    let rig = Rig::start(
        "create table part (id int primary key) partition by range (id);
         create table part_1 partition of part for values from (0) to (100)",
    )
    .await;
    rig.enable(&["part"]).await;
    let findings = breaks(
        &rig,
        "alter table part_1 disable trigger \"~~highwater_update\"",
        "trigger_disabled",
        Severity::Serious,
    )
    .await;
    assert!(findings[0].what.contains("public.part_1"), "{findings:?}");
}

#[tokio::test]
async fn functions_that_enable_would_write_otherwise_are_told() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let generated = "alter table product add column twice int generated always as (id * 2) stored";
    rig.run(generated).await;
    let findings = found(&rig).await;
    // A rewrite that alters no column seen is none of doctor's business.
    assert_eq!(checks(&findings), ["trigger_function_outdated"]);
    follow(&rig, &findings[0].remedy).await;
    breaks(
        &rig,
        "create or replace function highwater.stamp_1() returns trigger language plpgsql as 'begin return new; end'",
        "trigger_function_outdated",
        Severity::Warning,
    )
    .await;
}

#[tokio::test]
async fn columns_are_as_enable_left_them() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let serious = Severity::Serious;
    breaks(
        &rig,
        "alter table product alter column changed_xid drop not null;
         alter table product disable trigger \"~~highwater_update\"; update product set changed_xid = null where id = 1;
         alter table product enable always trigger \"~~highwater_update\"",
        "own_column_nullable",
        serious,
    )
    .await;
    breaks(
        &rig,
        "alter table product alter column deleted drop default",
        "own_column_default",
        Severity::Warning,
    )
    .await;
    breaks(
        &rig,
        "alter table product drop constraint product_pkey, add primary key (id, tenant_id)",
        "key_changed",
        serious,
    )
    .await;
    rig.run("alter table product drop column changed_date cascade")
        .await;
    let findings = found(&rig).await;
    assert!(checks(&findings).contains(&"own_column_missing"), "{findings:?}");
    let missing = findings
        .iter()
        .find(|finding| finding.check == "own_column_missing")
        .unwrap();
    follow(&rig, &missing.remedy).await;
    assert_eq!(found(&rig).await, []);

    let mut connection = rig.database.connect().await.unwrap();
    let hiding = EnableOptions {
        exclude: Some(vec!["name".to_owned()]),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "product", &hiding).await.unwrap();
    rig.run("alter table product rename column name to title").await;
    let findings = found(&rig).await;
    assert!(checks(&findings).contains(&"column_lost"), "{findings:?}");
    let hiding = EnableOptions {
        exclude: Some(vec!["title".to_owned()]),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "product", &hiding).await.unwrap();
    assert_eq!(found(&rig).await, []);

    breaks(&rig, "alter table product set unlogged", "unlogged", serious).await;
    for (make, check, unmake) in [
        (
            "create table heir () inherits (product)",
            "inherited",
            "drop table heir",
        ),
        (
            "alter table product add column \"TENANT_ID\" int",
            "columns_alike",
            "alter table product drop column \"TENANT_ID\"",
        ),
    ] {
        rig.run(make).await;
        let findings = found(&rig).await;
        assert!(checks(&findings).contains(&check), "{findings:?}");
        rig.run(unmake).await;
        assert_eq!(found(&rig).await, []);
    }

    rig.run("delete from product where id = 1; drop table product")
        .await;
    let findings = found(&rig).await;
    assert_eq!(checks(&findings), ["table_missing"]);
    // The table that is there is meant where it is an entity under another name.
    rig.run("create table product (id int primary key)").await;
    let mut connection = rig.database.connect().await.unwrap();
    let other = EnableOptions {
        name: Some("article".to_owned()),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "product", &other).await.unwrap();
    assert!(admin::disable(&mut connection, "product", false).await.unwrap());
    assert_eq!(checks(&found(&rig).await), ["table_missing"]);
    let plan = admin::plan_disable(&mut connection, "product", false)
        .await
        .unwrap();
    assert!(plan.contains("highwater.forget(E'product')"), "{plan}");
    let forget = findings[0].remedy.lines().nth(1).unwrap();
    follow(&rig, forget).await;
    assert_eq!(found(&rig).await, []);
    let left: i64 = sqlx::query_scalar(
        "select (select count(*) from pg_proc where pronamespace = 'highwater'::regnamespace and proname like '%\\_1')
             + (select count(*) from highwater.tombstone)",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert_eq!(left, 0, "nothing of it is left");
}

#[tokio::test]
async fn values_that_changed_without_a_write_are_told() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let findings = breaks(
        &rig,
        "alter type mood rename value 'calm' to 'quiet'",
        "values_changed",
        Severity::Serious,
    )
    .await;
    assert!(findings[0].what.contains("calm is now quiet"), "{findings:?}");
    let findings = breaks(
        &rig,
        "alter table product alter column name type text using upper(name)",
        "values_rewritten",
        Severity::Warning,
    )
    .await;
    assert!(findings[0].what.contains("name"), "{findings:?}");
    rig.run("create type size as (width int, depth int); alter table product add column sizes size[]; update product set sizes = null")
        .await;
    follow(&rig, "highwater-server touch 'product'").await;
    let findings = breaks(
        &rig,
        "alter type size add attribute height int",
        "values_changed",
        Severity::Serious,
    )
    .await;
    assert!(
        findings[0]
            .what
            .contains("size is now (width integer, depth integer, height integer)"),
        "{findings:?}"
    );
    // To enable again is no remedy: the clients would not hear of it.
    rig.run("alter type mood rename value 'wild' to 'loud'").await;
    rig.enable(&["product"]).await;
    assert_eq!(checks(&found(&rig).await), ["values_changed"]);
}

/// Its new owner may not make triggers that call what the former one has enabled.
#[tokio::test]
async fn a_partitioned_table_that_was_given_away_is_told() {
    let rig = Rig::start("create table part (id int primary key) partition by range (id)").await;
    rig.enable(&["part"]).await;
    let owner = format!("owner_{}", rig.database.name());
    let create = format!(
        "set role \"{owner}\"; create table part_1 partition of part for values from (1) to (2); reset role"
    );
    let give = format!(
        "create role \"{owner}\"; grant create on schema public to \"{owner}\"; alter table part owner to \"{owner}\""
    );
    breaks(&rig, &give, "trigger_owner", Severity::Warning).await;
    rig.run(&create).await;
    rig.run(&format!("drop owned by \"{owner}\"; drop role \"{owner}\""))
        .await;
}

#[tokio::test]
async fn indexes_are_there_valid_and_on_every_partition() {
    let rig = Rig::start(
        "create table part (id int primary key) partition by range (id);
         create table part_1 partition of part for values from (0) to (100)",
    )
    .await;
    rig.run(PRODUCT).await;
    rig.enable(&["product", "part"]).await;
    breaks(&rig, "drop index highwater_1_xid", "index", Severity::Serious).await;
    breaks(&rig, "drop index highwater_1_date", "index", Severity::Warning).await;
    let invalid = "update pg_index set indisvalid = false where indexrelid = 'highwater_1_xid'::regclass";
    breaks(&rig, invalid, "index", Severity::Serious).await;
    breaks(
        &rig,
        "drop index highwater_2_xid; create index highwater_2_xid on only part (changed_xid, id)",
        "index",
        Severity::Serious,
    )
    .await;
    breaks(
        &rig,
        "drop index highwater.tombstone_scope_xid",
        "index",
        Severity::Serious,
    )
    .await;
}

#[tokio::test]
async fn an_index_that_nobody_walks_is_noted() {
    let rig = Rig::start(
        "create table product (id int primary key); insert into product select generate_series(1, 2000)",
    )
    .await;
    rig.enable(&["product"]).await;
    rig.run("analyze product; update highwater.entity set began_date = began_date - interval '2 days'")
        .await;
    let findings = found(&rig).await;
    assert_eq!(checks(&findings), ["index_unused"]);
    assert_eq!(findings[0].severity, Severity::Note);
    rig.server.page("limit=10").await;
    rig.server.page("since=2026-01-01T00:00:00Z&limit=10").await;
    highwater_testbed::until(
        &rig.pool,
        "select exists (select from pg_stat_user_indexes where indexrelname like 'highwater%' and idx_scan > 0)",
    )
    .await;
    assert_eq!(found(&rig).await, []);
}

#[tokio::test]
async fn a_role_that_writes_past_other_triggers_is_noted() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let database = rig.database.name();
    breaks(
        &rig,
        &format!("alter database \"{database}\" set session_replication_role = replica"),
        "session_replication_role",
        Severity::Note,
    )
    .await;
}

async fn incarnations(rig: &Rig) -> Vec<(String, i64)> {
    sqlx::query_as("select name, incarnation from highwater.entity order by name")
        .fetch_all(&rig.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn clocks_that_differ_are_told() {
    let rig = Rig::start("").await;
    let at = |clock: fn() -> DateTime<Utc>| DoctorOptions {
        clock,
        ..DoctorOptions::default()
    };
    for (options, way) in [
        (at(|| Utc::now() - TimeDelta::seconds(5)), Some("ahead of")),
        (at(|| Utc::now() + TimeDelta::seconds(5)), Some("behind")),
        (at(Utc::now), None),
    ] {
        let report = examine(&rig, &options).await;
        let clock = report.findings.iter().find(|finding| finding.check == "clock");
        assert_eq!(clock.is_some(), way.is_some(), "{clock:?}");
        assert!(
            clock.is_none_or(|clock| clock.what.contains(way.unwrap())),
            "{clock:?}"
        );
    }
}

#[tokio::test]
async fn tombstones_that_nobody_purges_are_noted() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    rig.run("delete from product where id = 1").await;
    assert_eq!(found(&rig).await, []);
    rig.run("update highwater.tombstone set changed_date = changed_date - interval '200 days'")
        .await;
    assert_eq!(checks(&found(&rig).await), ["never_purged"]);
    let mut connection = rig.database.connect().await.unwrap();
    let age = std::time::Duration::from_hours(90 * 24);
    admin::purge(&mut connection, &PurgeOptions::older_than(age))
        .await
        .unwrap();
    assert_eq!(found(&rig).await, []);
}
