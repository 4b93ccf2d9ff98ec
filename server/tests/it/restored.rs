//! A dump that was marked before it was taken: who has nothing that is not in it goes on.

use std::time::Duration;

use highwater_server::admin::{self, Rebased};
use highwater_server::doctor::{self, DoctorOptions};
use highwater_shared::EntityName;
use highwater_testbed::{Cluster, Profile, caught_up, until_told};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::identity::refusal;
use crate::rig::{Copy, Pull as _, Served, cluster, pool, run, source};
use crate::{digests, why};

/// More entities, of every kind that a dump numbers anew.
const MORE: &str = "create table place (id int primary key, gone int, shop text not null, name text);
    alter table place drop column gone;
    insert into place select g, 'shop' || g % 2, 'p' || g from generate_series(1, 20) g;
    create table visit (id int, year int, note text, primary key (year, id)) partition by range (year);
    create table visit_2025 partition of visit for values from (2025) to (2026);
    create table visit_2026 partition of visit for values from (2026) to (2027);
    insert into visit select g, 2025 + g % 2, 'n' from generate_series(1, 20) g;
    select highwater.enable('place', scope => 'shop');
    select highwater.enable('visit')";
const TABLES: [(&str, &str); 3] = [("product", "id"), ("place", "id"), ("visit", "year, id")];

/// A database that is dumped, and what is made of it.
struct Dumped {
    cluster: Cluster,
    pool: PgPool,
    restored: usize,
}

impl Dumped {
    async fn start() -> Self {
        let (cluster, pool) = cluster(&[]).await;
        run(&pool, MORE).await;
        Self {
            cluster,
            pool,
            restored: 0,
        }
    }

    async fn mark(&self) {
        admin::mark(&mut self.pool.acquire().await.unwrap())
            .await
            .unwrap();
    }

    /// Restores a dump of `from` into a database of its own, runs statements there, and rebases it.
    async fn restored(&mut self, from: &str, written_before: &str) -> (String, PgPool, Rebased) {
        let dump = self.cluster.dump(from).unwrap();
        self.restore(&dump, written_before).await
    }

    async fn restore(&mut self, dump: &[u8], written_before: &str) -> (String, PgPool, Rebased) {
        self.restored += 1;
        let name = format!("restored_{}", self.restored);
        self.cluster.restore(&name, dump).unwrap();
        let restored = pool(&self.cluster.url(&name)).await;
        run(&restored, written_before).await;
        let rebased = admin::rebase(&mut restored.acquire().await.unwrap(), false).await;
        (name, restored, rebased.unwrap())
    }
}

/// A copy that is up to date.
async fn pulled(pool: &PgPool) -> Copy {
    let mut copy = Copy::default();
    copy.pull(&Served::start(pool).await, 0).await;
    copy
}

/// The 410 that a cursor gets; `None` where it is served.
async fn refused(server: &Served, copy: &Copy) -> Option<Value> {
    let since = copy.since.as_deref().unwrap();
    let response = server.get(&format!("/changes?since={since}")).await;
    match response.status().as_u16() {
        200 => None,
        410 => Some(response.json().await.unwrap()),
        other => panic!("{other}"),
    }
}

async fn assert_equal(copy: &Copy, pool: &PgPool) {
    for (table, key) in TABLES {
        assert_eq!(copy.rows(table), source(pool, table, key).await, "{table}");
    }
}

fn names(rebased: &Rebased) -> Vec<&str> {
    rebased.anew.iter().map(EntityName::as_str).collect()
}

/// Restored again and again, in places whose ids are lower and higher than those in the rows.
#[tokio::test]
async fn who_has_nothing_that_a_dump_lacks_goes_on_with_what_was_restored() {
    let mut dumped = Dumped::start().await;
    let lagging = pulled(&dumped.pool).await;
    run(
        &dumped.pool,
        "update product set name = 'seen' where id = 1; delete from product where id = 2;
         update visit set note = 'seen' where id = 1; update place set deleted = true where id = 3",
    )
    .await;
    let mut level = pulled(&dumped.pool).await;
    dumped.mark().await;
    run(
        &dumped.pool,
        "update product set name = 'dumped' where id = 4; update place set shop = 'shop7' where id = 5;
         delete from visit where id = 6; insert into visit values (66, 2026, 'dumped')",
    )
    .await;
    let beyond = pulled(&dumped.pool).await;
    let dump = dumped.cluster.dump("postgres").unwrap();
    run(&dumped.pool, "update product set name = 'lost' where id = 7").await;
    let lost = pulled(&dumped.pool).await;

    let elsewhere = Cluster::start(Profile::Fast).unwrap();
    elsewhere.restore("postgres", &dump).unwrap();
    let fresh = pool(&elsewhere.url("postgres")).await;
    let rebased = admin::rebase(
        &mut PgConnection::connect(&elsewhere.url("postgres")).await.unwrap(),
        false,
    )
    .await
    .unwrap();
    assert!(rebased.is_marked && rebased.anew.is_empty(), "{rebased:?}");
    let (name, beside, rebased) = dumped.restore(&dump, "").await;
    assert!(rebased.is_marked && rebased.anew.is_empty(), "{rebased:?}");

    for restored in [&fresh, &beside] {
        let server = Served::start(restored).await;
        let mut went_on = Vec::new();
        for (copy, changes) in [(&level, 4), (&lagging, 8)] {
            let mut copy = copy.clone();
            copy.recount();
            assert!(refused(&server, &copy).await.is_none());
            copy.pull(&server, 0).await;
            assert_equal(&copy, restored).await;
            assert_eq!((copy.resets, copy.upserts + copy.deletes), (0, changes));
            went_on.push(copy);
        }
        // From here on it is a cursor of this database.
        run(
            restored,
            "update product set name = name || '+' where id = 9; delete from visit where id = 9;
             insert into visit values (9, 2025, 'again'); truncate place; insert into place values (1, 'shop0', 'new')",
        )
        .await;
        for mut copy in went_on {
            copy.recount();
            copy.pull(&server, 0).await;
            assert_equal(&copy, restored).await;
            assert_eq!(copy.resets, 1, "the truncated one");
            copy.recount();
            copy.pull(&server, 0).await;
            assert_eq!(copy.upserts + copy.deletes, 0, "nothing is sent twice");
        }
        for copy in [&beyond, &lost] {
            let problem = refused(&server, copy).await.expect("a 410");
            assert_eq!(problem["reason"], "source_changed", "{problem}");
            assert_eq!(problem["earlier"], true, "{problem}");
        }
    }

    // And restored once more: what went on here goes on there; who is two restores behind does not.
    let server = Served::start(&beside).await;
    level.pull(&server, 0).await;
    admin::mark(&mut beside.acquire().await.unwrap()).await.unwrap();
    run(&beside, "update product set name = 'third' where id = 10").await;
    let (_, third, rebased) = dumped.restored(&name, "").await;
    assert!(rebased.is_marked && rebased.anew.is_empty(), "{rebased:?}");
    let server = Served::start(&third).await;
    level.recount();
    assert!(refused(&server, &level).await.is_none());
    level.pull(&server, 0).await;
    assert_equal(&level, &third).await;
    assert_eq!((level.resets, level.upserts + level.deletes), (0, 1));
    assert!(refused(&server, &lagging).await.is_some());
}

/// Ids that were given out in the new place before the rebase mean nothing to the cursors of the old one.
#[tokio::test]
async fn what_was_written_before_the_rebase_begins_anew() {
    let mut dumped = Dumped::start().await;
    let copy = pulled(&dumped.pool).await;
    dumped.mark().await;
    let dump = dumped.cluster.dump("postgres").unwrap();
    for (written, anew) in [
        ("update product set name = 'early' where id = 1", "product"),
        ("insert into place values (77, 'shop1', 'early')", "place"),
        ("delete from product where id = 1", "product"),
        ("truncate visit_2025", "visit"),
        ("delete from visit where id = 1", "visit"),
        (
            "update place set deleted = true where id = 1; select highwater.purge(2, now() + interval '1 hour', 10, 0)",
            "place",
        ),
        ("select highwater.touch('product')", "product"),
        (
            "select highwater.enable('place', exclude => array['name'])",
            "place",
        ),
        ("alter table product add column size int default 7", "product"),
        (
            "alter table product alter column name type text using upper(name)",
            "product",
        ),
        (
            "update product set name = 'early' where id = 1; alter table product drop constraint product_pkey, add primary key (id)",
            "product",
        ),
        (
            "alter table product drop column name, add column name text default 'other'",
            "product",
        ),
        (
            "alter table visit detach partition visit_2025; delete from visit_2025; alter table visit attach partition visit_2025 for values from (2025) to (2026)",
            "visit",
        ),
    ] {
        let (_, restored, rebased) = dumped.restore(&dump, written).await;
        // A column that was added has changed no row; its shape tells that it is another.
        if !written.contains("add column size") {
            assert_eq!(names(&rebased), [anew], "{written}");
        }
        let server = Served::start(&restored).await;
        let mut copy = copy.clone();
        copy.recount();
        assert!(refused(&server, &copy).await.is_none(), "{written}");
        copy.pull(&server, 0).await;
        assert_eq!(copy.resets, 1, "{written}");
        if !written.contains("exclude") {
            assert_equal(&copy, &restored).await;
        }
    }
}

/// Between the mark and the dump.
#[tokio::test]
async fn what_became_another_entity_after_the_mark_begins_anew() {
    let mut dumped = Dumped::start().await;
    let mut copy = pulled(&dumped.pool).await;
    dumped.mark().await;
    run(
        &dumped.pool,
        "select highwater.touch('product'); create table visit_2027 partition of visit for values from (2027) to (2028)",
    )
    .await;
    let (_, restored, rebased) = dumped.restored("postgres", "").await;
    assert!(rebased.anew.is_empty() && rebased.is_marked, "{rebased:?}");
    let mut with_place = copy.clone();
    with_place.recount();
    with_place.pull(&Served::start(&restored).await, 0).await;
    assert_equal(&with_place, &restored).await;
    assert_eq!(with_place.resets, 2);

    run(
        &dumped.pool,
        "select highwater.enable('place', exclude => array['name'])",
    )
    .await;
    let (_, restored, rebased) = dumped.restored("postgres", "").await;
    assert!(rebased.anew.is_empty() && !rebased.is_marked, "{rebased:?}");
    let server = Served::start(&restored).await;
    let problem = refused(&server, &copy).await.expect("a 410");
    assert_eq!(problem.get("earlier"), None, "no mark is left: {problem}");
    copy.since = None;
    copy.pull(&server, 0).await;
    assert_eq!(copy.rows("product"), source(&restored, "product", "id").await);
}

/// In the middle of a pull, and by dates.
#[tokio::test]
async fn a_pull_that_was_under_way_goes_on_and_dates_begin_anew() {
    let mut dumped = Dumped::start().await;
    let server = Served::start(&dumped.pool).await;
    let page: Value = server.get("/changes?limit=25").await.json().await.unwrap();
    let mut midway = Copy::default();
    assert!(midway.apply(&page));
    let by_date = pulled(&dumped.pool).await.last_sync_date;
    drop(server);
    dumped.mark().await;
    run(
        &dumped.pool,
        "update product set name = 'dumped' where id < 3; update visit set note = 'dumped' where id < 3",
    )
    .await;
    let (_, restored, _) = dumped.restored("postgres", "").await;
    run(&restored, "update place set name = 'after' where id < 3").await;
    let server = Served::start(&restored).await;
    midway.recount();
    midway.pull(&server, 10).await;
    assert_equal(&midway, &restored).await;
    // What was restored may have been changed later than its dates say.
    let page: Value = server
        .get(&format!("/changes?since={by_date}"))
        .await
        .json()
        .await
        .unwrap();
    let resets = page["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["reason"] == "reset");
    assert_eq!(resets.count(), 3);
    // Ids are higher than Postgres' own here, for the history that makes dates safe as well.
    let changed = "select to_json(max(changed_date) at time zone 'UTC') #>> '{}' from product";
    run(&restored, "update product set name = 'later' where id = 9").await;
    let changed: String = sqlx::query_scalar(changed).fetch_one(&restored).await.unwrap();
    let wait = async || {
        let page: Value = server.get("/changes?limit=1000").await.json().await.unwrap();
        page["lastSyncDate"].as_str().unwrap().to_owned()
    };
    until_told(wait, |date| date.starts_with(&changed)).await;
}

/// A standby claims what it has seen in ids of its own, too.
#[tokio::test]
async fn a_standby_of_what_was_restored_goes_on_as_well() {
    let mut dumped = Dumped::start().await;
    let standby = dumped.cluster.start_standby(Profile::Fast, &[]).unwrap();
    let mut copy = pulled(&dumped.pool).await;
    dumped.mark().await;
    run(&dumped.pool, "update product set name = 'dumped' where id = 4").await;
    let (name, restored, _) = dumped.restored("postgres", "").await;
    let mut writer = restored.begin().await.unwrap();
    sqlx::raw_sql("update product set name = 'late' where id = 5")
        .execute(&mut *writer)
        .await
        .unwrap();
    run(&restored, "update place set name = 'soon' where id = 6").await;
    caught_up(&restored, &pool(&standby.url("postgres")).await).await;
    let replayed = pool(&standby.url(&name)).await;
    let server = Served::start(&replayed).await;
    copy.recount();
    assert!(refused(&server, &copy).await.is_none());
    copy.pull(&server, 0).await;
    assert_equal(&copy, &replayed).await;
    assert_eq!((copy.resets, copy.upserts), (0, 2));
    writer.commit().await.unwrap();
    caught_up(&restored, &replayed).await;
    copy.pull(&server, 0).await;
    assert_equal(&copy, &restored).await;
    assert_eq!(copy.upserts, 3);
    // And the primary goes on from there.
    copy.pull(&Served::start(&restored).await, 0).await;
    assert_eq!((copy.resets, copy.upserts), (0, 3));
}

/// What else a cursor is sent with.
#[tokio::test]
async fn digests_and_why_know_a_cursor_of_the_database_that_was_dumped() {
    let mut dumped = Dumped::start().await;
    let mut copy = pulled(&dumped.pool).await;
    let since = copy.since.clone().unwrap();
    let digests = |since: &str| json!({"since": since, "entities": [{"entity": "place", "bits": 1}]});
    dumped.mark().await;
    run(&dumped.pool, "update place set name = 'dumped' where id = 4").await;
    // Where it leads to was seen after the mark.
    let (_, later) = digests::asked(&Served::start(&dumped.pool).await, &digests(&since)).await;
    let (_, restored, _) = dumped.restored("postgres", "").await;
    let server = Served::start(&restored).await;
    let (lines, trailer) = digests::asked(&server, &digests(&since)).await;
    assert_eq!(digests::of(&lines, "Changed"), ["4"]);
    assert!(!digests::of(&lines, "Part").is_empty());
    let page: Value = server.page(&format!("since={}", trailer.next)).await;
    assert_eq!(page["changes"].as_array().unwrap().len(), 1, "{page}");
    let refused = server
        .post("/digests", digests(later.next.as_str()).to_string(), None)
        .await;
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(
        (&problem["status"], &problem["earlier"]),
        (&json!(410), &json!(true)),
        "{problem}"
    );

    why::is(
        &why::ask_of(&server, Some(&since), "place", 4).await,
        "changed_since",
        "row",
    );
    why::is(
        &why::ask_of(&server, Some(&since), "place", 7).await,
        "seen",
        "nothing",
    );

    // What became another entity after the rebase begins anew all the same.
    admin::mark(&mut restored.acquire().await.unwrap()).await.unwrap();
    run(&restored, "select highwater.touch('place')").await;
    copy.recount();
    copy.pull(&server, 0).await;
    assert_equal(&copy, &restored).await;
    assert_eq!(copy.resets, 1);
    // A mark of this database says nothing against a later cursor of its own.
    digests::asked(&server, &digests(copy.since.as_deref().unwrap())).await;
}

/// The same cluster and the same database: only the schema is another. Ids that were given out since the dump must not
/// be taken for those that come.
#[tokio::test]
async fn a_dump_that_is_read_into_its_own_database_is_not_served_before_a_rebase() {
    let dumped = Dumped::start().await;
    let mut kept = pulled(&dumped.pool).await;
    dumped.mark().await;
    let dump = dumped.cluster.dump("postgres").unwrap();
    run(
        &dumped.pool,
        "update product set name = 'lost' where id = 7; delete from place where id = 8",
    )
    .await;
    let lost = pulled(&dumped.pool).await;
    run(
        &dumped.pool,
        "drop schema highwater cascade; drop table product, place, visit",
    )
    .await;
    dumped.cluster.restore("postgres", &dump).unwrap();
    assert!(refusal(&dumped.pool).await.contains("highwater-server rebase"));
    let mut connection = dumped.pool.acquire().await.unwrap();
    let marked = admin::mark(&mut connection).await.unwrap_err();
    assert!(marked.to_string().contains("rebase"), "{marked}");
    let rebased = admin::rebase(&mut connection, false).await.unwrap();
    assert!(rebased.is_marked && rebased.anew.is_empty(), "{rebased:?}");
    run(&dumped.pool, "update product set name = 'new' where id = 9").await;
    let server = Served::start(&dumped.pool).await;
    let problem = refused(&server, &lost).await.expect("a 410");
    assert_eq!(problem["earlier"], true, "{problem}");
    kept.recount();
    kept.pull(&server, 0).await;
    assert_equal(&kept, &dumped.pool).await;
    assert_eq!((kept.resets, kept.upserts), (0, 1));
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_what_was_restored() {
    let mut dumped = Dumped::start().await;
    let (_, restored, _) = dumped.restored("postgres", "").await;
    let mut connection = restored.acquire().await.unwrap();
    let report = doctor::examine(&mut connection, &DoctorOptions::default())
        .await
        .unwrap();
    let of_entities: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| {
            finding
                .subject
                .as_deref()
                .is_some_and(|subject| TABLES.iter().any(|(table, _)| *table == subject))
        })
        .collect();
    assert!(of_entities.is_empty(), "{of_entities:?}");
}

/// Marks and dumps in the middle of writes, long ones among them. Whatever cursor is served must bring a copy to what
/// was restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_cursor_is_served_after_a_restore_under_writers_leads_to_what_was_restored() {
    let mut dumped = Dumped::start().await;
    let server = Served::start(&dumped.pool).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writers: Vec<_> = (1..=6)
        .map(|writer| {
            let (pool, stop) = (dumped.pool.clone(), stop.clone());
            tokio::spawn(async move {
                let mut round = 0_u64;
                while !stop.is_cancelled() {
                    round += 1;
                    let id = (round * 7 + writer * 3) % 20 + 1;
                    let pause = if round % 5 == writer % 5 { 0.15 } else { 0.002 };
                    let sql = format!(
                        "begin; update product set name = '{writer}.{round}' where id = {id}; select pg_sleep({pause});
                         update place set name = '{writer}.{round}' where id = {id}; delete from visit where id = {id};
                         insert into visit values ({id}, 2025 + {round} % 2, '{writer}.{round}') on conflict do nothing; commit"
                    );
                    run(&pool, &sql).await;
                }
            })
        })
        .collect();
    let mut copies = Vec::new();
    let (mut copy, mut dump) = (Copy::default(), None);
    for round in 0..60 {
        copy.pull(&server, 0).await;
        copies.push(copy.clone());
        match round {
            30 => dumped.mark().await,
            35 => dump = Some(dumped.cluster.dump("postgres").unwrap()),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    stop.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
    let (_, restored, rebased) = dumped.restore(&dump.unwrap(), "").await;
    assert!(rebased.is_marked && rebased.anew.is_empty(), "{rebased:?}");
    let server = Served::start(&restored).await;
    let mut gone_on = 0;
    for (place, mut copy) in copies.into_iter().enumerate() {
        if refused(&server, &copy).await.is_none() {
            gone_on += 1;
            copy.recount();
            copy.pull(&server, 0).await;
            assert_equal(&copy, &restored).await;
            assert_eq!(copy.resets, 0);
            assert!(place <= 30, "{place} may have seen more than the dump has");
        }
    }
    assert!(gone_on >= 20, "{gone_on} were served");
}
