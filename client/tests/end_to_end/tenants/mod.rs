//! Random tenants: whatever is written, moved between them, granted and taken back while devices pull, no
//! store ever holds a row or a key that its device was never allowed to see, and at rest each holds what
//! it may see, exactly.

mod devices;
mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_testbed::seed;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use self::devices::{Follower, Puller, Reader, audit, check_audit, held};
use self::source::{Granted, Source, write};
use crate::rig::run;

/// How long the writers write.
const TIME: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_store_ever_holds_what_its_device_was_never_allowed_to_see() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let source = Source::start().await;
    let mut followers = Vec::new();
    for number in 0..2 {
        followers.push(Follower::start(&source, format!("follower{number}"), &mut random).await);
    }
    let mut pullers = Vec::new();
    for keeps_deleted in [false, true] {
        let store = source.rig.store(&format!("puller{keeps_deleted}.db"));
        let granted = Granted {
            now: [1].into(),
            ever: [1].into(),
        };
        let puller = Puller {
            store,
            granted,
            keeps_deleted,
        };
        puller.pull(&source, 1_000).await;
        audit(&puller.store);
        pullers.push(puller);
    }
    let mut readers = [Reader::default(), Reader::default()];
    for reader in &mut readers {
        reader.granted.change(&mut random);
    }

    let stop = Arc::new(AtomicBool::new(false));
    let writers = write(&source.rig.database.url(), seed, &stop);
    let until = tokio::time::Instant::now() + TIME;
    while tokio::time::Instant::now() < until {
        for follower in &mut followers {
            if random.random_bool(0.05) {
                follower.granted.change(&mut random);
                source.regrant(&follower.name, &follower.granted);
            }
        }
        for puller in &mut pullers {
            if random.random_bool(0.2) {
                puller.granted.change(&mut random);
            }
            // In pages of fewer rows a slow machine would never catch up with the writers.
            puller.pull(&source, random.random_range(10..40)).await;
        }
        for reader in &mut readers {
            if random.random_bool(0.1) {
                reader.granted.change(&mut random);
            }
            for _ in 0..random.random_range(1..6) {
                let wait = u32::from(random.random_bool(0.2));
                reader.read(&source, random.random_range(1..20), wait).await;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    // Wakes everybody, so that a right that was taken back meanwhile is looked at again.
    run(&source.rig.pool, "update news set title = 'at rest'").await;

    let pairs = source.pairs().await;
    for follower in &followers {
        let expected = source.seen(&follower.granted).await;
        follower.until_held(|rows| *rows == expected).await;
        check_audit(&follower.store, &follower.granted, &pairs, &follower.name);
    }
    for puller in &pullers {
        puller.pull(&source, 7).await;
        let expected = source.seen(&puller.granted).await;
        assert_eq!(held(&puller.store).unwrap(), expected, "{:?}", puller.granted);
        check_audit(&puller.store, &puller.granted, &pairs, "a device that pulls");
    }
    for reader in &mut readers {
        while reader.read(&source, 5, 0).await {}
        assert_eq!(reader.held(), source.seen(&reader.granted).await);
        for (id, tenants) in &reader.gone {
            let was_seen = tenants.iter().any(|tenant| pairs.contains(&(*id, Some(*tenant))));
            assert!(was_seen, "{id} is gone for {tenants:?}, and never was theirs");
        }
    }
}
