//! Two tenants, two stores: each has its own rows, and a row that moves goes along.

use std::fs;
use std::process::Command;

use highwater_testbed::{Result, Stage};
use rusqlite::Connection;

const README: &str = include_str!("../README.md");
const SECRET: &str = "a secret of this test alone, which is long enough";

fn token(stage: &Stage, tenant: &str) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_highwater-example-tenants"))
        .current_dir(stage.folder())
        .args(["--secret-file", "secret", "--tenant", tenant, "--device", "till"])
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn held(stage: &Stage, store: &str) -> Result<Vec<(i64, i64)>> {
    let store = Connection::open(stage.folder().join(store))?;
    let mut orders = store.prepare("select id, tenant_id from orders order by id")?;
    let rows = orders.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_store_has_the_orders_of_its_tenant_and_no_others() -> Result<()> {
    let stage = Stage::start("tenants").await?;
    let pool = stage.database().pool().await?;
    let (_, sql) = README.split_once("```sql\n").expect("the table");
    let (sql, _) = sql.split_once("```").expect("its end");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(&pool)
        .await?;
    stage.admin(&["migrate"])?;
    stage.admin(&["enable", "orders", "--scope", "tenant_id"])?;
    fs::write(stage.folder().join("secret"), SECRET)?;
    let server = stage.serve(&["--jwt-secret-file", "secret"])?;
    let tokens = [token(&stage, "7")?, token(&stage, "8")?];
    let pull = |store: &str, token: Option<&str>| {
        stage.client(&["pull", "--server", &server.url, "--store", store], token)
    };

    pull("seven.db", Some(&tokens[0]))?;
    pull("eight.db", Some(&tokens[1]))?;
    assert_eq!(held(&stage, "seven.db")?, [(1, 7), (2, 7)]);
    assert_eq!(held(&stage, "eight.db")?, [(3, 8)]);

    let moved = "update orders set tenant_id = 8 where id = 2";
    assert!(
        README
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains(moved)
    );
    sqlx::raw_sql(moved).execute(&pool).await?;
    pull("seven.db", Some(&tokens[0]))?;
    pull("eight.db", Some(&tokens[1]))?;
    assert_eq!(held(&stage, "seven.db")?, [(1, 7)]);
    assert_eq!(held(&stage, "eight.db")?, [(2, 8), (3, 8)]);

    // With the token of another tenant a store becomes the other's.
    pull("seven.db", Some(&tokens[1]))?;
    assert_eq!(held(&stage, "seven.db")?, [(2, 8), (3, 8)]);
    // Nobody has anything without one, or with one that was signed by somebody else.
    fs::write(stage.folder().join("secret"), SECRET.to_uppercase())?;
    let forged = token(&stage, "7")?;
    fs::write(stage.folder().join("secret"), SECRET)?;
    for token in [None, Some(forged.as_str())] {
        let refused = pull("nobody.db", token).expect_err("refused").to_string();
        assert!(
            refused.contains("unauthenticated") || refused.contains("token"),
            "{refused}"
        );
    }
    Ok(())
}
