//! Where a store stood before, and which rows were written since.

use tokio::sync::mpsc;

use super::*;
use crate::pull::Writing;
use crate::store::{Mending, MendingPiece, MovesFrom, Standing, write_image};
use crate::sync_helper::Cursor;

/// The cursors, the latest first, each with the keys of the products that were written after it.
fn past(store: &Store) -> Vec<(String, String)> {
    let past = store.past().expect("a past").into_iter();
    past.map(|past| {
        let keys: Vec<String> = past.keys.into_values().flatten().collect();
        (past.cursor.as_str().to_owned(), keys.join(" "))
    })
    .collect()
}

fn of(past: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(cursor, keys): &(&str, &str)| ((*cursor).to_owned(), (*keys).to_owned());
    past.iter().map(owned).collect()
}

fn first() -> Bytes {
    Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table", "3 Lamp"])
        .end("c1", false)
}

/// The first page where there is another entity too.
fn of_two() -> Bytes {
    Page::new()
        .reset()
        .upsert(&["1 Chair"])
        .reset_of("tax")
        .end_covering("c1", false, BOTH)
}

fn upserts(rows: &[&str], next: &str) -> Bytes {
    Page::new().upsert(rows).end(next, false)
}

/// A store that stood at `c1` and at `c2`, and stands at `c3`.
async fn grown(place: &Place) -> Store {
    let store = place.open();
    let second = Page::new()
        .delete(&["3"], "deleted")
        .upsert(&["2 Desk"])
        .end("c2", false);
    for page in [first(), second, upserts(&["4 Shelf", "2 Stool"], "c3")] {
        pull(&store, [page]).await.report();
    }
    store
}

fn rows(place: &Place) -> Vec<String> {
    place.query("select id || ' ' || name from product order by id")
}

#[tokio::test]
async fn what_pages_write_is_remembered_with_the_cursor_before_it() {
    let place = Place::new();
    let store = grown(&place).await;
    assert_eq!(past(&store), of(&[("c3", ""), ("c2", "2 4"), ("c1", "2 3")]));
    // Where nothing was written, the earlier cursor is worth more.
    pull(&store, [Page::new().end("c4", false)]).await.report();
    assert_eq!(
        past(&store).first().map(|(cursor, _)| cursor.as_str()),
        Some("c3")
    );
    let two_pages = [
        Page::new().upsert(&["5 Bed"]).end("m1", true),
        upserts(&["6 Sofa"], "c5"),
    ];
    pull(&store, two_pages).await.report();
    assert_eq!(past(&store)[..2], of(&[("c5", ""), ("c3", "5 6")]));
    drop(store);
    assert_eq!(past(&place.open()).len(), 4);
}

#[tokio::test]
async fn a_page_that_fails_leaves_it_as_it_was() {
    let place = Place::new();
    let store = grown(&place).await;
    let before = past(&store);
    let cut = upserts(&["9 Bed"], "c4");
    let cut = cut.slice(..cut.len() - 5);
    assert!(pull(&store, [cut]).await.outcome.is_err());
    assert_eq!(past(&store), before);
}

#[tokio::test]
async fn it_ends_where_rows_are_written_over_that_nobody_names() {
    let place = Place::new();
    let store = grown(&place).await;
    pull(&store, [Page::new().reset().upsert(&["1 Bed"]).end("n1", false)])
        .await
        .report();
    assert_eq!(past(&store), of(&[("n1", "")]), "begun anew");
    pull(&store, [upserts(&["1 Sofa"], "n2")]).await.report();
    store.reset(&[]).expect("a reset");
    assert_eq!(past(&store), []);
    pull_with(&store, [first()], keep()).await.report();
    assert_eq!(past(&store), [], "deleted rows that are kept are at no cursor");
    let image = place.folder.path().join("image.db");
    let other = Place::new();
    drop(grown(&other).await);
    write_image(&other.path(), &image).expect("an image");
    let of_seed = Connection::open(&image).expect("the image");
    assert_eq!(query(&of_seed, "select count(*) from highwater_past"), ["0"]);
}

#[tokio::test]
async fn only_a_cursor_that_the_whole_store_stands_at_is_one_of_it() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [of_two()]).await.report();
    let page = upserts(&["1 Stool"], "p2");
    pull_with(&store, [page], only("product")).await.report();
    assert_eq!(past(&store), of(&[("c1", "1")]), "tax stands elsewhere");
    let covers = &store.past().expect("a past")[0].covers;
    assert_eq!(*covers, ["product", "tax"].map(EntityName::new));
    let joined = Page::new()
        .upsert_of("tax", &["7 High"])
        .end_covering("c3", false, BOTH);
    pull(&store, [joined]).await.report();
    assert_eq!(past(&store), of(&[("c3", ""), ("c1", "1 7")]));
}

async fn moved(store: &Store, from: MovesFrom) {
    let mending = Mending {
        extra: Vec::new(),
        writing: Writing::InPlace,
        standing: Standing::MovesTo {
            cursor: Cursor::new("n1"),
            entities: vec![EntityName::new("product")],
            source: SourceId::new("source-1"),
            from,
        },
    };
    let (sender, receiver) = mpsc::channel(1);
    sender.send(MendingPiece::All).await.expect("room");
    store.mend(mending, receiver).await.expect("moved");
}

#[tokio::test]
async fn who_goes_back_keeps_what_was_written_since_and_goes_on() {
    let place = Place::new();
    let store = grown(&place).await;
    let mut earlier = store.past().expect("a past").swap_remove(2);
    earlier.covers = vec![EntityName::new("product"), EntityName::new("tax")];
    moved(&store, MovesFrom::Past(earlier.clone())).await;
    assert_eq!(past(&store), of(&[("c1", "2 3 4")]));
    let stands = helper(&store, "product");
    assert_eq!(stands.cursor, Some(Cursor::new("n1")));
    assert_eq!(
        *stands.covers, *earlier.covers,
        "the cursor covers what it covered"
    );
    assert_eq!(stands.state, State::Pulling);
    let goes_on = upserts(&["1 Bed"], "n2");
    pull_with(&store, [goes_on], only("product")).await.report();
    assert_eq!(past(&store), of(&[("n2", ""), ("c1", "1 2 3 4")]));
    assert_eq!(rows(&place), ["1 Bed", "2 Stool", "4 Shelf"]);
    moved(&store, MovesFrom::Now).await;
    assert_eq!(
        past(&store),
        [],
        "what it was brought to does not follow from what it was"
    );
}

#[tokio::test]
async fn many_pulls_leave_few_cursors_further_and_further_apart() {
    let place = Place::new();
    let store = grown(&place).await;
    let pulls: u32 = 600;
    for number in 4..=pulls {
        pull(
            &store,
            [upserts(&[&format!("{} Bed", number % 9)], &format!("c{number}"))],
        )
        .await
        .report();
    }
    let kept = past(&store);
    let ages: Vec<u32> = kept
        .iter()
        .map(|(cursor, _)| pulls - cursor[1..].parse::<u32>().expect("a number"))
        .collect();
    assert_eq!(ages.len(), 16);
    assert_eq!((ages[0], ages[1], ages[15]), (0, 1, pulls - 1));
    let far_apart = ages.windows(2).filter(|pair| pair[1] > 3 * pair[0] + 2);
    assert_eq!(far_apart.count(), 0, "{ages:?}");
    // A row that is written again and again is named once.
    let (_, keys) = kept.last().expect("the oldest");
    assert!(keys.len() <= "0 1 2 3 4 5 6 7 8".len(), "{keys}");
    let named: usize = kept.iter().map(|(_, keys)| keys.split_whitespace().count()).sum();
    assert!(named >= 9, "{kept:?}");
}

#[tokio::test]
async fn what_is_oldest_goes_where_many_rows_are_written_and_all_where_too_many_are() {
    let place = Place::new();
    let store = grown(&place).await;
    let many = |from: u32, next: &str| {
        let rows: Vec<String> = (from..from + 10_000).map(|id| format!("{id} Bed")).collect();
        upserts(&rows.iter().map(String::as_str).collect::<Vec<_>>(), next)
    };
    // 140,000 bytes each: two of them are too much.
    pull(&store, [many(10_000, "c4")]).await.report();
    assert_eq!(past(&store).len(), 4);
    pull(&store, [many(20_000, "c5")]).await.report();
    let cursors: Vec<String> = past(&store).into_iter().map(|(cursor, _)| cursor).collect();
    assert_eq!(cursors, ["c5", "c4"]);
    let both = [
        many(30_000, "m6").slice(..),
        many(40_000, "c6"),
        upserts(&["1 Sofa"], "c7"),
    ];
    let [one, other, last] = both;
    let one = Bytes::from(
        String::from_utf8(one.to_vec())
            .expect("text")
            .replace("false", "true"),
    );
    pull(&store, [one, other]).await.report();
    assert_eq!(past(&store), of(&[("c6", "")]));
    pull(&store, [last]).await.report();
    assert_eq!(past(&store), of(&[("c7", ""), ("c6", "1")]));
}

#[tokio::test]
async fn a_store_that_stays_apart_remembers_no_more_than_others_do() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [of_two()]).await.report();
    // Each 140 kB of keys.
    let rows: Vec<String> = (10_000..20_000).map(|id| format!("{id} Bed")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    pull_with(&store, [upserts(&rows, "p1")], only("product"))
        .await
        .report();
    assert_eq!(past(&store).len(), 1);
    pull_with(&store, [upserts(&rows, "p2")], only("product"))
        .await
        .report();
    assert_eq!(past(&store), of(&[]));
}

#[tokio::test]
async fn any_entity_and_any_key_is_remembered_as_it_is() {
    let place = Place::new();
    let store = place.open();
    let columns = r#"[{"name":"note","type":"text"},{"name":"b","type":"text","role":"key","place":2},{"name":"a","type":"text","role":"key","place":1},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}]"#;
    let entity = r"odd\\name";
    let covers = r#"["odd\\name"]"#;
    let row = format!("n\tb\\tb\ta\\\\a\t{DATE}");
    let reset = Page::new().block(entity, "reset", columns, &[]);
    pull(&store, [reset.end_covering("c1", false, covers)])
        .await
        .report();
    let upsert = Page::new().block(entity, "upsert", columns, &[&row]);
    pull(&store, [upsert.end_covering("c2", false, covers)])
        .await
        .report();
    let past = store.past().expect("a past");
    let keys: Vec<(&str, Vec<&str>)> = past[1]
        .keys
        .iter()
        .map(|(entity, keys)| (entity.as_str(), keys.iter().map(String::as_str).collect()))
        .collect();
    // In the order of the key.
    assert_eq!(keys, [(r"odd\name", vec!["a\\\\a\tb\\tb"])]);
}
