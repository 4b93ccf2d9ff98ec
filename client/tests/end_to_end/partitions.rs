//! A partitioned table is one entity, whatever happens to its partitions.

use crate::exact::Both;
use crate::json::By;
use crate::rig::{Rig, run};

/// Steps, with a pull after each.
const STEPS: &[(&str, &str)] = &[
    ("a first pull", ""),
    (
        "rows that move between partitions",
        "update sale set area = 'south' where id in (1, 2); update sale set area = 'north', note = 'moved' where id = 12;
         update sale set id = id + 100, area = 'west' where id = 3; update sale set deleted = true where id = 4",
    ),
    (
        "rows that move back",
        "update sale set area = 'north' where id in (1, 2); delete from sale where id = 5",
    ),
    (
        "rows written to a partition by its own name",
        "insert into sale_south values (40, 'south', 'direct'); update sale_south set note = 'direct' where id = 14;
         delete from sale_south where id = 15",
    ),
    ("a partition truncated", "truncate sale_south_old"),
    ("a partition of partitions truncated", "truncate sale_south"),
    (
        "rows after these",
        "insert into sale select g, 'south', 'again' from generate_series(10, 30) g",
    ),
    (
        "a partition attached",
        "create table sale_east (like sale including all);
         insert into sale_east select g, 'east', 'before' from generate_series(60, 66) g;
         alter table sale attach partition sale_east for values in ('east')",
    ),
    (
        "rows written to the one attached",
        "update sale set note = 'after' where id = 61; delete from sale where id = 62;
         update sale set area = 'east' where id = 7; insert into sale values (67, 'east', 'new')",
    ),
    (
        "a partition made",
        "create table sale_far partition of sale for values in ('far');
         insert into sale select g, 'far', 'new' from generate_series(70, 75) g",
    ),
    (
        "a row moved into the one made",
        "update sale set area = 'far' where id = 8; update sale set area = 'north' where id = 70",
    ),
    ("the one made truncated", "truncate sale_far"),
    (
        "the one attached truncated",
        "insert into sale values (76, 'far', 'next'); truncate sale_east",
    ),
    (
        "rows after these too",
        "insert into sale select g, (array['far', 'east'])[1 + g % 2], 'after' from generate_series(80, 89) g",
    ),
    (
        "a partition detached",
        "alter table sale detach partition sale_north",
    ),
    (
        "the one detached written to",
        "update sale_north set note = 'outside'; delete from sale_north where id = 9",
    ),
    (
        "the one detached attached again",
        "alter table sale attach partition sale_north for values in ('north')",
    ),
    ("a partition dropped", "drop table sale_far"),
    ("all truncated", "truncate sale"),
    (
        "rows after all",
        "insert into sale values (1, 'north', 'first'), (10, 'south', 'second')",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_partitions_reaches_the_store() {
    let rig = Rig::start(
        "create table sale (id int, area text, note text, primary key (area, id)) partition by list (area);
         create table sale_north partition of sale for values in ('north', 'northwest');
         create table sale_south partition of sale for values in ('south') partition by range (id);
         create table sale_south_old partition of sale_south for values from (minvalue) to (20);
         create table sale_south_new partition of sale_south for values from (20) to (maxvalue);
         create table sale_other partition of sale default;
         insert into sale select g, (array['north', 'south', 'west'])[1 + g / 10], 'n' || g from generate_series(1, 29) g",
        &["sale"],
    )
    .await;
    let mut both = Both::new(&rig, "partitions.db", By::Cursor);
    for (what, sql) in STEPS {
        run(&rig.pool, sql).await;
        both.follow(&["sale"], 5, what).await;
    }
}
