//! What docs/scripting.md says of `--json` holds: each member that it names is printed, and no other.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use highwater_server::admin::{self, PurgeOptions};
use serde_json::Value;

use crate::rig::{Rig, client, output, run};

const PAGE: &str = include_str!("../../../docs/scripting.md");

/// The members that the page names below a heading.
fn named(command: &str) -> BTreeSet<String> {
    let heading = format!("`{command} --json`\n");
    let section = PAGE.split("\n## ").find(|section| section.starts_with(&heading));
    let rows = section.unwrap().lines().filter(|line| line.starts_with("| `"));
    let members = rows.flat_map(|row| row.split(" | ").next().unwrap().split('`').skip(1).step_by(2));
    members.map(str::to_owned).collect()
}

/// The members of an answer, with the place in which they stand.
fn printed(answer: &Value) -> BTreeSet<String> {
    let below = |place: &str, value: &Value| {
        printed(value)
            .into_iter()
            .map(|member| format!("{place}{member}"))
            .collect()
    };
    match answer {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| {
                let deeper: BTreeSet<String> = match value {
                    Value::Object(_) => below(&format!("{name}."), value),
                    Value::Array(_) => below(name, value),
                    _ => BTreeSet::new(),
                };
                // A list is spoken of by what is in it.
                let is_list = value.is_array() && !deeper.is_empty();
                deeper.into_iter().chain((!is_list).then(|| name.clone()))
            })
            .collect(),
        Value::Array(values) => values
            .iter()
            .filter(|value| value.is_object())
            .flat_map(|value| -> BTreeSet<String> { below("[].", value) })
            .collect(),
        _ => BTreeSet::new(),
    }
}

async fn json(mut command: Command) -> Value {
    command.arg("--json");
    let output = output(command).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_stands_on_the_page() {
    let rig = Rig::start(
        "create table category (id int primary key);
         create table product (id int primary key, category int references category);
         insert into category values (1);
         insert into product values (1, 1), (2, 1), (3, 1)",
        &["category", "product"],
    )
    .await;
    let (store, seed) = (rig.store("shop.db"), rig.store("shop.seed"));
    let first = json(rig.pull(&store, &[])).await;
    let status = json(client("status", &store)).await;
    let mut seeding = client("seed", &store);
    seeding.arg("--out").arg(&seed);
    let seeding = json(seeding).await;
    let begun = ["--seed", seed.to_str().unwrap()];
    let begun = json(rig.pull(&rig.store("begun.db"), &begun)).await;
    let no_seed = rig.store("no.seed");
    std::fs::write(&no_seed, "no seed").unwrap();
    let refused = ["--seed", no_seed.to_str().unwrap()];
    let refused = json(rig.pull(&rig.store("refused.db"), &refused)).await;
    let pulled = [first, begun, refused].iter().flat_map(printed).collect();
    assert_eq!(named("highwater pull"), pulled);
    assert_eq!(printed(&status), named("highwater status"));
    assert_eq!(printed(&seeding), named("highwater seed"));

    let mut connection = rig.database.connect().await.unwrap();
    let listed = admin::entities(&mut connection).await.unwrap();
    let listed = serde_json::to_value(listed).unwrap();
    assert_eq!(printed(&listed), named("highwater-server entities"));
    // A category that a product still refers to has to stay.
    run(&rig.pool, "update category set deleted = true").await;
    let purge = PurgeOptions::older_than(Duration::ZERO);
    let purged = admin::purge(&mut connection, &purge).await.unwrap();
    let purged = serde_json::to_value(purged).unwrap();
    assert_eq!(printed(&purged), named("highwater-server purge"));
}
