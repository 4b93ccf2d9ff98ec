//! The arithmetic of snapshots against Postgres' own.

use highwater_server::snapshot::{Snapshot, Xid};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::rig::migrated;

#[tokio::test]
async fn seen_is_what_pg_visible_in_snapshot_says() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let database = migrated().await;
    let mut connection = database.connect().await.unwrap();
    for _ in 0..200 {
        let base = random.random_range(3..u64::from(u32::MAX) * 4);
        let in_flight: Vec<Xid> = (0..random.random_range(0..12))
            .map(|_| Xid(base + random.random_range(0..40)))
            .collect();
        let snapshot = Snapshot::new(Xid(base + random.random_range(0..45)), in_flight);
        let asked: Vec<u64> = (base.saturating_sub(3)..base + 50).collect();
        let visible: Vec<bool> = sqlx::query_scalar(
            "select pg_visible_in_snapshot(x::text::xid8, $1::text::pg_snapshot) from unnest($2::bigint[]) with ordinality u (x, n) order by n",
        )
        .bind(snapshot.to_string())
        .bind(asked.iter().map(|xid| xid.cast_signed()).collect::<Vec<i64>>())
        .fetch_all(&mut connection)
        .await
        .unwrap();
        for (xid, visible) in asked.iter().zip(visible) {
            assert_eq!(
                snapshot.sees(Xid(*xid)),
                visible,
                "{xid} in {snapshot}, seed {seed}"
            );
        }
    }
}

#[tokio::test]
async fn what_postgres_prints_comes_back_the_same() {
    let database = migrated().await;
    let mut connection = database.connect().await.unwrap();
    let text: String = sqlx::query_scalar("select pg_current_snapshot()::text")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
}
