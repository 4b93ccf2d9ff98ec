//! `doctor` on roles, on what others do at this moment, on settings, and as a program.

use std::time::Duration;

use highwater_server::admin;
use highwater_server::doctor::{self, DoctorOptions, Finding, Severity};
use highwater_testbed::{Cluster, Profile, until};
use sqlx::{Connection as _, PgConnection};

use crate::program::output;
use crate::rig::{Rig, run};

const PRODUCT: &str = "create table product (id int primary key, tenant_id int not null default 1);
    insert into product select g, g % 3 from generate_series(1, 20) g";

/// A role of a test's own, which goes with the database.
async fn role(rig: &Rig, suffix: &str) -> String {
    let role = format!("role_{suffix}_{}", rig.database.name());
    rig.run(&format!("create role \"{role}\" login")).await;
    role
}

async fn drop_role(rig: &Rig, role: &str) {
    rig.run(&format!("drop owned by \"{role}\"; drop role \"{role}\""))
        .await;
}

async fn found(rig: &Rig, options: &DoctorOptions) -> Vec<Finding> {
    let mut connection = rig.database.connect().await.unwrap();
    let report = doctor::examine(&mut connection, options).await.unwrap();
    let other = |finding: &Finding| finding.check != "setting";
    report.findings.into_iter().filter(other).collect()
}

fn of(role: &str) -> DoctorOptions {
    DoctorOptions {
        role: Some(role.to_owned()),
        ..DoctorOptions::default()
    }
}

fn checks(findings: &[Finding]) -> Vec<(&str, Severity)> {
    findings
        .iter()
        .map(|finding| (finding.check, finding.severity))
        .collect()
}

#[tokio::test]
async fn a_role_may_read_what_it_serves_and_write_nothing() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let reader = role(&rig, "reader").await;
    let findings = found(&rig, &of(&reader)).await;
    assert!(
        findings.len() > 3
            && findings
                .iter()
                .all(|finding| finding.check.starts_with("rights_")),
        "{findings:?}"
    );
    let mut connection = rig.database.connect().await.unwrap();
    // The remedy, as printed.
    assert!(findings[0].remedy.contains("grants --role"));
    rig.run(&admin::grants(&mut connection, &reader).await.unwrap())
        .await;
    assert_eq!(found(&rig, &of(&reader)).await, []);
    rig.run(&format!(
        "revoke select on highwater.truncation from \"{reader}\""
    ))
    .await;
    let findings = found(&rig, &of(&reader)).await;
    assert_eq!(checks(&findings), [("rights_missing", Severity::Serious)]);
    assert!(findings[0].what.contains("highwater.truncation"));
    rig.run(&format!(
        "grant select on highwater.truncation to \"{reader}\"; revoke select on highwater.purged from \"{reader}\""
    ))
    .await;
    let findings = found(&rig, &of(&reader)).await;
    assert_eq!(checks(&findings), [("rights_purged", Severity::Note)]);
    rig.run(&format!(
        "grant select on highwater.purged to \"{reader}\"; grant update (tenant_id) on product to \"{reader}\""
    ))
    .await;
    let findings = found(&rig, &of(&reader)).await;
    assert_eq!(checks(&findings), [("rights_write", Severity::Warning)]);
    assert!(findings[0].what.contains("public.product"));
    drop_role(&rig, &reader).await;

    assert_eq!(
        checks(&found(&rig, &of("nosuch")).await),
        [("role_missing", Severity::Serious)]
    );
    assert_eq!(
        checks(&found(&rig, &of("postgres")).await),
        [("rights_superuser", Severity::Warning)]
    );
    // Who is connected need not be who serves.
    let findings = found(&rig, &DoctorOptions::default()).await;
    assert_eq!(checks(&findings), [("rights_superuser", Severity::Note)]);
}

/// The serving role can run it itself, and sees less.
#[tokio::test]
async fn the_role_that_serves_can_ask_for_itself() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let reader = role(&rig, "self").await;
    let mut connection = rig.database.connect().await.unwrap();
    let examined = async || {
        let mut connection = rig.database.connect().await.unwrap();
        run(&mut connection, &format!("set role \"{reader}\"")).await;
        let report = doctor::examine(&mut connection, &DoctorOptions::default())
            .await
            .unwrap();
        assert_eq!(report.role, reader);
        let other = |finding: &Finding| finding.check != "setting";
        report.findings.into_iter().filter(other).collect::<Vec<_>>()
    };
    let hidden = ("activity_hidden", Severity::Note);
    assert_eq!(
        checks(&examined().await),
        [("rights_missing", Severity::Serious), hidden]
    );
    rig.run(&admin::grants(&mut connection, &reader).await.unwrap())
        .await;
    assert_eq!(checks(&examined().await), [hidden]);
    rig.run(&format!("grant pg_read_all_stats to \"{reader}\"")).await;
    assert_eq!(examined().await, []);
    drop_role(&rig, &reader).await;
}

#[tokio::test]
async fn a_role_that_row_security_limits_is_told_of_in_each_state() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let reader = role(&rig, "limited").await;
    let mut connection = rig.database.connect().await.unwrap();
    rig.run(&admin::grants(&mut connection, &reader).await.unwrap())
        .await;
    rig.run(&format!(
        "alter table product enable row level security;
         create policy own on product for select to \"{reader}\" using (tenant_id = 1)"
    ))
    .await;
    assert_eq!(
        checks(&found(&rig, &of(&reader)).await),
        [("row_security_scope", Severity::Serious)]
    );
    rig.enable_scoped("product", "tenant_id").await;
    assert_eq!(
        checks(&found(&rig, &of(&reader)).await),
        [("row_security_tombstones", Severity::Serious)]
    );
    rig.run(&format!(
        "alter table highwater.tombstone enable row level security;
         create policy own on highwater.tombstone for select to \"{reader}\" using (scope = '1' or scope is null)"
    ))
    .await;
    assert_eq!(
        checks(&found(&rig, &of(&reader)).await),
        [("row_security", Severity::Note)]
    );
    rig.run("alter table highwater.tombstone force row level security")
        .await;
    let findings = found(&rig, &of(&reader)).await;
    assert_eq!(
        checks(&findings),
        [
            ("row_security_forced", Severity::Serious),
            ("row_security", Severity::Note)
        ]
    );
    rig.run(&findings[0].remedy).await;
    assert_eq!(
        checks(&found(&rig, &of(&reader)).await),
        [("row_security", Severity::Note)]
    );
    drop_role(&rig, &reader).await;
}

#[tokio::test]
async fn who_holds_back_dates_is_named() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let long = DoctorOptions {
        long_transaction: Duration::ZERO,
        long_prepared: Duration::ZERO,
        ..DoctorOptions::default()
    };
    let mut writers = Vec::new();
    for id in 1..=3 {
        let mut writer = rig.database.connect().await.unwrap();
        run(
            &mut writer,
            &format!("begin; update product set tenant_id = 7 where id = {id}"),
        )
        .await;
        writers.push(writer);
    }
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut writers[0])
        .await
        .unwrap();
    // Other tests write as well, on the same cluster.
    let of_writer = |findings: &[Finding]| {
        let subject = format!("pid {pid}");
        findings
            .iter()
            .find(|finding| finding.subject.as_ref() == Some(&subject))
            .cloned()
    };
    let finding = of_writer(&found(&rig, &long).await).expect("a finding");
    assert_eq!(
        (finding.check, finding.severity),
        ("long_transaction", Severity::Warning)
    );
    assert!(
        finding.what.contains("idle in transaction") && finding.what.contains(rig.database.name()),
        "{finding:?}"
    );
    // The threshold is that of the options.
    assert_eq!(of_writer(&found(&rig, &DoctorOptions::default()).await), None);

    let many = |in_flight_told_min| DoctorOptions {
        in_flight_told_min,
        ..DoctorOptions::default()
    };
    let in_flight =
        |findings: Vec<Finding>| findings.into_iter().find(|finding| finding.check == "in_flight");
    assert!(in_flight(found(&rig, &many(3)).await).is_some());
    assert_eq!(in_flight(found(&rig, &DoctorOptions::default()).await), None);

    rig.run(&finding.remedy).await;
    until(
        &rig.pool,
        &format!("select not exists (select from pg_stat_activity where pid = {pid})"),
    )
    .await;
    assert_eq!(of_writer(&found(&rig, &long).await), None);

    let gid = format!("it's forgotten in {}", rig.database.name());
    let quoted = gid.replace('\'', "''");
    run(&mut writers[1], &format!("prepare transaction '{quoted}'")).await;
    let of_gid = |findings: Vec<Finding>| {
        findings
            .into_iter()
            .find(|finding| finding.subject.as_ref() == Some(&gid))
    };
    let finding = of_gid(found(&rig, &long).await).expect("a finding");
    assert_eq!(
        (finding.check, finding.severity),
        ("prepared_transaction", Severity::Warning)
    );
    assert_eq!(
        of_gid(found(&rig, &DoctorOptions::default()).await),
        None,
        "not before a minute"
    );
    rig.run(&finding.remedy).await;
    assert_eq!(of_gid(found(&rig, &long).await), None);
}

/// And the program ends with 0 where nothing is serious, with 1 where something is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_lose_commits_are_told_and_the_exit_says_how_bad_it_is() {
    let off = [
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
    ];
    let cluster = Cluster::start_with(Profile::Fast, &off).unwrap();
    let url = cluster.url("postgres");
    let pool = crate::rig::pool(&url).await;
    let (code, said, _) = output(&["doctor", "--database-url", &url]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("SERIOUS: highwater: the schema highwater is missing"),
        "{said}"
    );
    assert!(said.contains("-> highwater-server migrate"), "{said}");
    assert_eq!(output(&["migrate", "--database-url", &url]).0, Some(0));

    let settings = async || {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let report = doctor::examine(&mut connection, &DoctorOptions::default())
            .await
            .unwrap();
        let setting = |finding: &Finding| finding.check == "setting";
        report.findings.into_iter().filter(setting).collect::<Vec<_>>()
    };
    let findings = settings().await;
    let severities: Vec<_> = findings
        .iter()
        .map(|f| (f.subject.as_deref().unwrap(), f.severity))
        .collect();
    assert_eq!(
        severities,
        [
            ("fsync", Severity::Serious),
            ("full_page_writes", Severity::Warning),
            ("synchronous_commit", Severity::Note)
        ]
    );
    for finding in findings {
        for statement in finding.remedy.split_terminator(';') {
            run(&pool, statement).await;
        }
        let name = finding.subject.unwrap();
        until(&pool, &format!("select current_setting('{name}') = 'on'")).await;
    }
    assert_eq!(settings().await, []);

    let (code, said, _) = output(&["doctor", "--json", "--database-url", &url]);
    assert_eq!(code, Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["findings"][0]["severity"], "note", "{report}");
    run(&pool, "create role reader login").await;
    let (_, grants, _) = output(&["grants", "--role", "reader", "--database-url", &url]);
    run(&pool, &grants).await;
    let (code, said, _) = output(&["doctor", "--role", "reader", "--database-url", &url]);
    assert_eq!((code, said.contains("all is well")), (Some(0), true), "{said}");
}
