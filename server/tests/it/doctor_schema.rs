//! `doctor` on the schema `highwater` itself: whether it is there, of this program, and of this database.

use highwater_server::admin;
use highwater_server::doctor::{self, DoctorOptions, Finding, Report};
use sqlx::{Connection as _, PgConnection};

use crate::rig::{migrated, run};

#[tokio::test]
async fn the_schema_is_there_and_of_this_program() {
    let bare = highwater_testbed::Database::create("doctor_bare").await.unwrap();
    let report = async |url: &str| {
        let mut connection = PgConnection::connect(url).await.unwrap();
        doctor::examine(&mut connection, &DoctorOptions::default())
            .await
            .unwrap()
    };
    let checks = |report: &Report| {
        let of_schema = |finding: &&Finding| finding.check.starts_with("schema_") || finding.check == "moved";
        report
            .findings
            .iter()
            .filter(of_schema)
            .map(|finding| finding.check)
            .collect::<Vec<_>>()
    };
    assert_eq!(checks(&report(&bare.url()).await), ["schema_missing"]);
    let mut connection = bare.connect().await.unwrap();
    admin::migrate(&mut connection).await.unwrap();
    assert!(checks(&report(&bare.url()).await).is_empty());

    let database = migrated().await;
    let pool = database.pool().await.unwrap();
    for (sql, check, undo) in [
        (
            "update highwater.migration set version = 9000 where version = 5",
            "schema_newer",
            "update highwater.migration set version = 5 where version = 9000",
        ),
        (
            "update highwater.migration set success = false where version = 5",
            "schema_older",
            "update highwater.migration set success = true where version = 5",
        ),
        (
            "update highwater.migration set checksum = checksum || '\\x00' where version = 5",
            "schema_other",
            "update highwater.migration set checksum = substr(checksum, 1, length(checksum) - 1) where version = 5",
        ),
        (
            "update highwater.source set system_identifier = 7",
            "moved",
            "select highwater.rebase()",
        ),
    ] {
        run(&pool, sql).await;
        assert_eq!(checks(&report(&database.url()).await), [check]);
        run(&pool, undo).await;
        assert!(checks(&report(&database.url()).await).is_empty());
    }
}
