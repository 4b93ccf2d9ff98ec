//! What `purge` removes, and what that means to those who have not seen it.

use std::time::Duration;

use highwater_server::admin::{self, EnableOptions, PurgeOptions};
use highwater_testbed::until;

use crate::rig::{Copy, Pull as _, Rig, run};

const PRODUCT: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

const FAMILY: &str = "create table parent (id int primary key); insert into parent values (1), (2);
    create table child (id int primary key, parent int references parent); insert into child values (1, 1), (2, 2);
    create table other (id int primary key); insert into other values (1), (2), (3)";

async fn purge(rig: &Rig, older_than: Duration, dry_run: bool) -> u64 {
    purge_with(
        rig,
        PurgeOptions {
            dry_run,
            ..PurgeOptions::older_than(older_than)
        },
    )
    .await
}

/// Purges all, and keeps so many keys.
async fn purge_keeping(rig: &Rig, keys_max: u32) -> u64 {
    purge_with(
        rig,
        PurgeOptions {
            keys_max,
            ..PurgeOptions::older_than(Duration::ZERO)
        },
    )
    .await
}

/// How many keys of what was purged are kept.
async fn keys_kept(rig: &Rig) -> i64 {
    let kept = "select coalesce(sum(deletions), 0)::bigint from highwater.purged";
    sqlx::query_scalar(kept).fetch_one(&rig.pool).await.unwrap()
}

async fn purge_with(rig: &Rig, options: PurgeOptions) -> u64 {
    let mut connection = rig.database.connect().await.unwrap();
    let purged = admin::purge(&mut connection, &options).await.unwrap();
    purged.iter().map(|purged| purged.removed).sum()
}

/// Waits until so many writers are in flight that are older than the deletions: writers of other tests count as some that
/// whoever pulls has not seen.
async fn until_seen(rig: &Rig, older: usize) {
    let is_seen = format!(
        "select count(*) = {older} from pg_snapshot_xip(highwater.current_snapshot()) x
         where x < (select max(changed_xid::text::bigint)::text::xid8 from highwater.tombstone)"
    );
    until(&rig.pool, &is_seen).await;
}

/// Waits until whoever pulls has seen all that was purged.
async fn until_purges_are_seen(rig: &Rig) {
    let are_seen = "select count(*) = 0 from pg_snapshot_xip(highwater.current_snapshot()) x
         where x <= (select max(purged_xid::text::bigint)::text::xid8 from highwater.entity)";
    until(&rig.pool, are_seen).await;
}

/// A copy that lacks the deletion of three products, which whoever pulls now sees.
async fn lacking_three() -> (Rig, Copy) {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut behind = Copy::default();
    behind.pull(&rig.server, 0).await;
    rig.run("delete from product where id <= 3").await;
    until_seen(&rig, 0).await;
    (rig, behind)
}

#[tokio::test]
async fn what_is_old_goes_and_leaves_no_tombstone() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    rig.run("delete from product where id <= 3; update product set deleted = true where id in (4, 5)")
        .await;
    assert_eq!(
        purge(&rig, Duration::from_hours(1), false).await,
        0,
        "nothing is that old"
    );
    assert_eq!(purge(&rig, Duration::ZERO, true).await, 5);
    assert_eq!(purge(&rig, Duration::ZERO, false).await, 5);
    assert_eq!(purge(&rig, Duration::ZERO, false).await, 0);
    let left: i64 = sqlx::query_scalar(
        "select (select count(*) from highwater.tombstone) + (select count(*) from product where deleted)",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn who_has_seen_the_deletions_goes_on_and_who_has_not_begins_anew() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let (mut ahead, mut behind) = (Copy::default(), Copy::default());
    behind.pull(&rig.server, 0).await;
    rig.run("delete from product where id = 1; update product set deleted = true where id = 2")
        .await;
    until_seen(&rig, 0).await;
    ahead.pull(&rig.server, 0).await;
    purge(&rig, Duration::ZERO, false).await;
    for (copy, resets) in [(&mut ahead, 0), (&mut behind, 1)] {
        copy.recount();
        copy.pull(&rig.server, 0).await;
        assert_eq!(copy.resets, resets);
        assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    }
}

/// What a caller that takes keys of purged deletions is told of them, and what it costs the others.
#[tokio::test]
async fn keys_of_what_was_purged_come_as_those_of_other_deletions() {
    let rig = Rig::start(
        "create table \"Odd table\" (\"a b\" text, n int, name text, primary key (\"a b\", n));
         insert into \"Odd table\" select 'it''s, {\"' || g, g, 'p' from generate_series(1, 30) g",
    )
    .await;
    rig.enable(&["\"Odd table\""]).await;
    let mut behind = Copy::default();
    behind.pull(&rig.server, 0).await;
    let mut plain = behind.clone();
    rig.run(
        "delete from \"Odd table\" where n <= 5; update \"Odd table\" set deleted = true where n in (6, 7)",
    )
    .await;
    // Once more, by another one, which has seen what the first has taken.
    assert_eq!(purge_keeping(&rig, 100).await, 7);
    rig.run(
        "delete from \"Odd table\" where n = 8;
         insert into \"Odd table\" select 'it''s, {\"' || g, g, 'again' from generate_series(3, 4) g;
         update \"Odd table\" set name = 'other' where n = 20",
    )
    .await;
    assert_eq!(purge_keeping(&rig, 100).await, 1);
    until_purges_are_seen(&rig).await;
    for limit in [0, 2] {
        let mut copy = behind.clone();
        copy.recount();
        copy.pull_with_keys(&rig.server, limit).await;
        assert_eq!((copy.resets, copy.deletes, copy.upserts), (0, 6, 3), "{limit}");
        assert_eq!(
            copy.rows("Odd table"),
            rig.source("\"Odd table\"", "\"a b\", n").await
        );
        copy.recount();
        copy.pull_with_keys(&rig.server, limit).await;
        assert_eq!((copy.deletes, copy.upserts), (0, 0), "it has seen them");
    }
    plain.recount();
    plain.pull(&rig.server, 0).await;
    assert_eq!(plain.resets, 1, "who does not ask for keys begins anew");
}

#[tokio::test]
async fn who_waits_is_told_at_once_of_keys_that_were_purged_before() {
    let (rig, behind) = lacking_three().await;
    assert_eq!(purge_keeping(&rig, 100).await, 3);
    until_purges_are_seen(&rig).await;
    let since = behind.since.clone().unwrap();
    let query = format!("since={since}&purged=keys&wait=60");
    let told = tokio::time::timeout(Duration::from_secs(30), rig.server.page(&query)).await;
    let told = told.expect("there is something to tell");
    assert_eq!(told["changes"].as_array().unwrap().len(), 3, "{told}");
}

#[tokio::test]
async fn whoever_lacks_a_key_that_was_not_kept_begins_anew() {
    let (rig, mut behind) = lacking_three().await;
    let mut nearer = behind.clone();
    nearer.pull(&rig.server, 0).await;
    assert_eq!(purge_keeping(&rig, 3).await, 3);
    rig.run("delete from product where id = 4").await;
    // The latest stay.
    assert_eq!(purge_keeping(&rig, 3).await, 1);
    for (copy, resets) in [(&mut nearer, 0), (&mut behind, 1)] {
        copy.recount();
        copy.pull_with_keys(&rig.server, 0).await;
        assert_eq!(copy.resets, resets);
        assert_eq!(copy.rows("product"), rig.source("product", "id").await);
    }
    assert_eq!(keys_kept(&rig).await, 1);
    // None at all.
    rig.run("delete from product where id = 5").await;
    assert_eq!(purge_keeping(&rig, 0).await, 1);
    nearer.recount();
    nearer.pull_with_keys(&rig.server, 0).await;
    assert_eq!(nearer.resets, 1);
    assert_eq!(nearer.rows("product"), rig.source("product", "id").await);
}

/// Whoever enables or touches a table has it first, and then its entity.
#[tokio::test]
async fn a_purge_waits_for_a_table_without_holding_its_entity() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    rig.run("delete from product where id = 1").await;
    let mut other = rig.database.connect().await.unwrap();
    run(
        &mut other,
        "begin; lock table product in share row exclusive mode",
    )
    .await;
    let (purged, ()) = tokio::join!(purge_keeping(&rig, 100), async {
        let waits =
            "select exists (select from pg_locks where relation = 'product'::regclass and not granted)";
        until(&rig.pool, waits).await;
        run(&mut other, "update highwater.entity set name = name; commit").await;
    });
    assert_eq!(purged, 1);
}

/// Keys that must not be remembered are forgotten also where nothing is left to be purged.
#[tokio::test]
async fn kept_keys_are_forgotten_by_a_purge_that_removes_nothing() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("delete from product where id in (1, 2)").await;
    assert_eq!(purge_keeping(&rig, 100).await, 2);
    assert_eq!(keys_kept(&rig).await, 2);
    for _ in 0..2 {
        assert_eq!(purge_keeping(&rig, 0).await, 0);
        assert_eq!(keys_kept(&rig).await, 0);
    }
    copy.recount();
    copy.pull_with_keys(&rig.server, 0).await;
    assert_eq!((copy.resets, copy.deletes), (1, 0));
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

/// Keys that are forgotten, or purged, while a page of them is under way.
#[tokio::test]
async fn a_purge_in_the_middle_of_keys_loses_none() {
    for keys_max in [100, 0] {
        let rig = Rig::start(PRODUCT).await;
        rig.enable(&["product"]).await;
        let mut copy = Copy::default();
        copy.pull(&rig.server, 0).await;
        rig.run("delete from product where id <= 4").await;
        purge_keeping(&rig, 100).await;
        rig.run(
            "delete from product where id in (5, 6); update product set deleted = true where id in (7, 8)",
        )
        .await;
        for _ in 0..3 {
            assert!(copy.pull_page_with_keys(&rig.server, 2).await);
            purge_keeping(&rig, keys_max).await;
        }
        copy.pull_with_keys(&rig.server, 2).await;
        assert_eq!(
            copy.rows("product"),
            rig.source("product", "id").await,
            "{keys_max}"
        );
    }
}

/// Of keys that print otherwise in other sessions, and of what a foreign key has taken along, none are kept.
#[tokio::test]
async fn what_cannot_be_told_by_its_key_begins_anew() {
    let rig = Rig::start(
        "create table day (day date primary key); insert into day select date '2026-01-01' + g from generate_series(1, 9) g;
         create table parent (id int primary key, above int references parent on delete cascade);
         insert into parent values (1, null), (2, 1), (3, null); create table other (id int primary key); insert into other values (1), (2)",
    )
    .await;
    rig.enable(&["day", "parent", "other"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run(
        "update day set deleted = true where day = '2026-01-03'; delete from other where id = 1;
         update parent set deleted = true where id <= 2",
    )
    .await;
    // The first of two rows, and the other with it.
    rig.run(
        "select highwater.purge(number, now() + interval '1 day', 1, 100) from highwater.entity where name = 'parent'",
    )
    .await;
    assert_eq!(purge_keeping(&rig, 100).await, 2);
    until_purges_are_seen(&rig).await;
    copy.recount();
    copy.pull_with_keys(&rig.server, 0).await;
    assert_eq!(copy.resets, 2, "of days and parents");
    for (table, key) in [("day", "day"), ("parent", "id"), ("other", "id")] {
        assert_eq!(copy.rows(table), rig.source(table, key).await, "{table}");
    }
    // A tombstone has its key as all sessions print it.
    rig.run("set datestyle = 'German'; delete from day where day = '2026-01-05'; set datestyle = default; delete from parent")
        .await;
    purge_keeping(&rig, 100).await;
    copy.recount();
    copy.pull_with_keys(&rig.server, 0).await;
    assert_eq!((copy.resets, copy.deletes), (0, 2));
    assert_eq!(copy.rows("day"), rig.source("day", "day").await);
}

#[tokio::test]
async fn a_writer_that_is_older_than_a_purged_deletion_has_nobody_begin_anew() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut writer = rig.pool.begin().await.unwrap();
    sqlx::raw_sql("delete from product where id = 10")
        .execute(&mut *writer)
        .await
        .unwrap();
    rig.run("delete from product where id = 1").await;
    let mut copy = Copy::default();
    until_seen(&rig, 1).await;
    copy.pull(&rig.server, 0).await;
    purge(&rig, Duration::ZERO, false).await;
    copy.recount();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.resets, 0, "while the writer is in flight");
    let mut unseen = copy.clone();
    writer.commit().await.unwrap();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.resets, 0, "when it has ended");
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);

    // Its own deletion is removed before the other copy has seen it.
    assert_eq!(purge(&rig, Duration::ZERO, false).await, 1);
    // It asks for other pages than `copy` did: those that were kept would still be served.
    unseen.pull(&rig.server, 7).await;
    assert_eq!(unseen.resets, 1);
    assert_eq!(unseen.rows("product"), rig.source("product", "id").await);
}

#[tokio::test]
async fn a_purge_in_the_middle_of_a_pull_loses_no_deletion() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    rig.run("delete from product where id <= 4; update product set deleted = true where id in (5, 6, 7)")
        .await;
    assert!(copy.pull_page(&rig.server, 2).await);
    purge(&rig, Duration::ZERO, false).await;
    copy.pull(&rig.server, 2).await;
    assert_eq!(copy.rows("product"), rig.source("product", "id").await);
}

#[tokio::test]
async fn a_date_from_before_a_purge_begins_anew() {
    let rig = Rig::start(PRODUCT).await;
    rig.enable(&["product"]).await;
    let date = rig.date("select clock_timestamp()").await;
    rig.run("delete from product where id = 1").await;
    let before = rig.server.page(&format!("since={date}")).await;
    assert_eq!(before["changes"].as_array().unwrap().len(), 1);
    purge(&rig, Duration::ZERO, false).await;
    let after = rig.server.page(&format!("since={date}")).await;
    assert_eq!(after["changes"][0]["reason"], "reset");
}

#[tokio::test]
async fn an_entity_that_is_touched_is_fetched_anew() {
    let rig = Rig::start(
        "create type size as enum ('s', 'm'); create table shirt (id int primary key, size size); insert into shirt values (1, 's')",
    )
    .await;
    rig.enable(&["shirt"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    // Values change, and no row is written.
    rig.run("alter type size rename value 's' to 'small'").await;
    copy.pull(&rig.server, 0).await;
    assert_ne!(copy.rows("shirt"), rig.source("shirt", "id").await);
    let mut connection = rig.database.connect().await.unwrap();
    assert!(admin::touch(&mut connection, "shirt").await.unwrap());
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("shirt"), rig.source("shirt", "id").await);
}

#[tokio::test]
async fn partitions_are_purged_too() {
    let rig = Rig::start(
        "create table part (id int, area text, primary key (id, area)) partition by list (area);
         create table part_a partition of part for values in ('a'); create table part_b partition of part for values in ('b');
         insert into part select g, case g % 2 when 0 then 'a' else 'b' end from generate_series(1, 10) g",
    )
    .await;
    rig.enable(&["part"]).await;
    rig.run("update part set deleted = true where id <= 4; delete from part where id = 5")
        .await;
    assert_eq!(purge(&rig, Duration::ZERO, false).await, 5);
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    assert_eq!(copy.rows("part"), rig.source("part", "id, area").await);
}

/// Parents are enabled before their children as a rule, and flagged rows refer to each other as live ones do.
#[tokio::test]
async fn rows_that_refer_to_others_are_purged_first() {
    let rig = Rig::start(FAMILY).await;
    rig.enable(&["parent", "child", "other"]).await;
    rig.run("update child set deleted = true where id = 1; update parent set deleted = true where id = 1")
        .await;
    assert_eq!(purge(&rig, Duration::ZERO, false).await, 2);
    let left = "select (select count(*) from parent) + (select count(*) from child)";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&rig.pool).await.unwrap();
    assert_eq!(left, 2);
}

/// A foreign key takes more along than a purge removes: what is younger, or of another entity, is told of as gone.
#[tokio::test]
async fn what_a_foreign_key_takes_along_is_gone_for_everybody() {
    let rig = Rig::start(
        "create table parent (id int primary key, above int references parent on delete cascade deferrable);
         create table child (id int primary key, parent int references parent on delete cascade);
         insert into parent values (1, null), (2, 1), (3, 2), (4, null); insert into child values (1, 1), (2, 4)",
    )
    .await;
    rig.enable(&["parent", "child"]).await;
    rig.run("update parent set deleted = true where id = 1").await;
    let mut behind = Copy::default();
    behind.pull(&rig.server, 0).await;
    let mut ahead = behind.clone();
    // A purge counts in seconds, by Postgres' clock: what was flagged is older than one, what follows is not.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    rig.run("update parent set deleted = true where id = 2; update child set deleted = true where id = 1")
        .await;
    ahead.pull(&rig.server, 0).await;
    assert_eq!(purge(&rig, Duration::from_secs(1), false).await, 1);
    for copy in [&mut ahead, &mut behind] {
        copy.pull(&rig.server, 7).await;
        for table in ["parent", "child"] {
            assert_eq!(copy.rows(table), rig.source(table, "id").await, "{table}");
        }
    }
    let left: i64 = sqlx::query_scalar("select count(*) from parent")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(left, 1);
}

/// Triggers of the application's find its tables as they do elsewhere; one that fails stops no other entity.
#[tokio::test]
async fn triggers_of_the_application_run_as_in_its_own_sessions() {
    let rig = Rig::start(
        "create table audit (what text); create table audited (id int primary key, gone_at date);
         create table zebra (id int primary key); insert into audited values (1, now()), (2, null); insert into zebra values (1);
         create function note() returns trigger language plpgsql as
             $$begin insert into audit values (tg_op); return null; end$$;
         create trigger note after update or delete on audited for each row execute function note()",
    )
    .await;
    let mut connection = rig.database.connect().await.unwrap();
    let gone = EnableOptions {
        deleted_column: Some("gone_at".to_owned()),
        ..EnableOptions::default()
    };
    admin::enable(&mut connection, "audited", &gone).await.unwrap();
    rig.enable(&["zebra"]).await;
    assert_eq!(purge(&rig, Duration::ZERO, false).await, 1);
    let noted: Vec<String> = sqlx::query_scalar("select what from audit")
        .fetch_all(&rig.pool)
        .await
        .unwrap();
    assert_eq!(noted, ["UPDATE", "DELETE"]);

    rig.run("alter table audited disable trigger note; update audited set gone_at = now(); alter table audited enable trigger note;
             delete from zebra; drop table audit")
        .await;
    let purged = admin::purge(&mut connection, &PurgeOptions::older_than(Duration::ZERO))
        .await
        .unwrap();
    let stopped: Vec<&str> = purged
        .iter()
        .filter_map(|purged| purged.stopped.as_deref())
        .collect();
    assert!(
        matches!(stopped[..], [why] if why.contains("audit") && why.contains("trigger")),
        "{stopped:?}"
    );
    assert_eq!(
        purged.iter().map(|purged| purged.removed).collect::<Vec<_>>(),
        [0, 1]
    );
}

#[tokio::test]
async fn what_live_rows_refer_to_is_named_and_stops_no_other_entity() {
    let rig = Rig::start(FAMILY).await;
    rig.enable(&["parent", "child", "other"]).await;
    rig.run("update parent set deleted = true where id = 1; delete from other")
        .await;
    let mut connection = rig.database.connect().await.unwrap();
    let purged = admin::purge(&mut connection, &PurgeOptions::older_than(Duration::ZERO))
        .await
        .unwrap();
    let found: Vec<_> = purged
        .iter()
        .map(|of| (of.entity.as_str(), of.removed, of.stopped.is_some()))
        .collect();
    assert_eq!(
        found,
        [("parent", 0, true), ("child", 0, false), ("other", 3, false)]
    );
    let reason = purged[0].stopped.as_ref().unwrap();
    assert!(reason.contains("on table \"child\""), "{reason}");
    // Once nothing refers to it any more.
    rig.run("update child set parent = 2 where parent = 1").await;
    let purged = admin::purge(&mut connection, &PurgeOptions::older_than(Duration::ZERO))
        .await
        .unwrap();
    assert_eq!((purged[0].removed, &purged[0].stopped), (1, &None));
}
