//! Rows that a comparison has found are replaced, all in one transaction, as of a cursor that they go with.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::applied::EntityApplied;
use crate::pull::Writing;
use crate::store::{Mending, MendingPiece, MovesFrom, Standing};
use crate::sync_helper::Cursor;

/// What is written, and what the store is told besides.
struct Mend<'a> {
    /// Keys of products that are too much.
    extra: &'a [&'a str],
    writing: Writing,
    standing: Standing,
    pieces: Vec<MendingPiece>,
}

impl Default for Mend<'_> {
    fn default() -> Self {
        Self {
            extra: &[],
            writing: Writing::InPlace,
            standing: at("c1"),
            pieces: Vec::new(),
        }
    }
}

impl Mend<'_> {
    /// A whole answer.
    fn answer(mut self, page: &Bytes) -> Self {
        let (told, _) = oneshot::channel();
        self.pieces
            .extend([MendingPiece::Chunk(page.clone()), MendingPiece::End(told)]);
        self
    }

    async fn done(mut self, store: &Store) -> Result<Vec<EntityApplied>, Error> {
        self.pieces.push(MendingPiece::All);
        self.broken_off(store).await
    }

    async fn broken_off(self, store: &Store) -> Result<Vec<EntityApplied>, Error> {
        let extra = self.extra.iter().map(|key| key.as_bytes().to_vec());
        let mending = Mending {
            extra: vec![(product(), extra.collect())],
            writing: self.writing,
            standing: self.standing,
        };
        let (sender, receiver) = mpsc::channel(self.pieces.len().max(1));
        for piece in self.pieces {
            sender.send(piece).await.expect("room");
        }
        drop(sender);
        store.mend(mending, receiver).await
    }
}

fn product() -> EntityName {
    EntityName::new("product")
}

fn at(cursor: &str) -> Standing {
    Standing::At(vec![(product(), Cursor::new(cursor))])
}

/// A store with three products at the cursor `c1`.
async fn filled(place: &Place) -> Store {
    let store = place.open();
    let page = Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table", "3 Lamp"])
        .end("c1", false);
    pull(&store, [page]).await.report();
    store
}

fn rows(place: &Place) -> Vec<String> {
    place.query("select id || ' ' || name from product order by id")
}

#[tokio::test]
async fn what_is_extra_goes_and_what_comes_is_written_at_the_cursor_that_was_there() {
    let place = Place::new();
    let store = filled(&place).await;
    let before = helper(&store, "product");
    let come = Page::new().upsert(&["2 Desk", "4 Shelf"]).end("c9", false);
    let mend = Mend {
        extra: &["3", "7"],
        ..Mend::default()
    };
    let changed = mend.answer(&come).done(&store).await.expect("mended");
    let counts: Vec<(&str, u64, u64)> = changed
        .iter()
        .map(|entity| (entity.entity.as_str(), entity.upserts, entity.deletes))
        .collect();
    // There was no row 7.
    assert_eq!(counts, [("product", 2, 1)]);
    assert_eq!(rows(&place), ["1 Chair", "2 Desk", "4 Shelf"]);
    assert_eq!(helper(&store, "product"), before);
}

#[tokio::test]
async fn only_what_readers_can_see_is_told() {
    let place = Place::new();
    let store = filled(&place).await;
    let gone = || Mend {
        extra: &["3"],
        ..Mend::default()
    };
    let told = |changed: &[EntityApplied]| {
        changed
            .iter()
            .map(|of| (of.upserts, of.deletes))
            .collect::<Vec<_>>()
    };
    let changed = gone().done(&store).await.expect("mended");
    assert_eq!(told(&changed), [(0, 1)]);
    let changed = gone().done(&store).await.expect("nothing to mend");
    assert_eq!(told(&changed), []);
    let come = Page::new().upsert(&["3 Lamp"]).end("c9", false);
    let changed = Mend::default().answer(&come).done(&store).await.expect("mended");
    assert_eq!(told(&changed), [(1, 0)]);
}

#[tokio::test]
async fn a_store_that_was_pulled_meanwhile_is_left_alone() {
    let place = Place::new();
    let store = filled(&place).await;
    let mend = Mend {
        extra: &["3"],
        standing: at("c0"),
        ..Mend::default()
    };
    let error = mend.done(&store).await.expect_err("another cursor");
    assert!(matches!(error, Error::PullFirst { .. }), "{error}");
    assert_eq!(rows(&place), ["1 Chair", "2 Table", "3 Lamp"]);
}

#[tokio::test]
async fn nothing_is_kept_without_the_word_that_all_has_come() {
    let place = Place::new();
    let store = filled(&place).await;
    let come = Page::new().upsert(&["2 Desk"]).end("c9", false);
    let mend = Mend {
        extra: &["3"],
        ..Mend::default()
    };
    let error = mend.answer(&come).broken_off(&store).await.expect_err("no end");
    assert!(matches!(error, Error::Incomplete), "{error}");
    assert_eq!(rows(&place), ["1 Chair", "2 Table", "3 Lamp"]);
}

#[tokio::test]
async fn an_answer_that_comes_again_counts_once() {
    let place = Place::new();
    let store = filled(&place).await;
    let first = Page::new().upsert(&["1 Stool"]).end("c8", false);
    let second = Page::new().upsert(&["2 Desk", "4 Shelf"]).end("c9", false);
    let cut = second.slice(..second.len() - 10);
    let (told, ended) = oneshot::channel();
    let mut mend = Mend::default().answer(&first);
    mend.pieces.extend([
        MendingPiece::Chunk(cut),
        MendingPiece::End(told),
        MendingPiece::Again,
    ]);
    let changed = mend.answer(&second).done(&store).await.expect("mended");
    assert_eq!(ended.await, Ok(None), "the end of the answer had not come");
    assert_eq!(changed.iter().map(|of| of.upserts).collect::<Vec<_>>(), [3]);
    assert_eq!(rows(&place), ["1 Stool", "2 Desk", "3 Lamp", "4 Shelf"]);
}

#[tokio::test]
async fn a_store_moves_to_the_cursor_of_the_last_answer_and_goes_on_from_there() {
    let place = Place::new();
    let store = filled(&place).await;
    let before = helper(&store, "product");
    let moves = || Mend {
        standing: Standing::MovesTo {
            cursor: Cursor::new("n0"),
            entities: vec![product(), EntityName::new("unknown")],
            source: SourceId::new("source-2"),
            from: MovesFrom::Now,
        },
        ..Mend::default()
    };
    moves().done(&store).await.expect("moved");
    assert_eq!(helper(&store, "product").cursor, Some(Cursor::new("n0")));
    let one = Page::new().upsert(&["2 Desk"]).end("n1", false);
    let other = Page::new().upsert(&["4 Shelf"]).end("n2", false);
    moves()
        .answer(&one)
        .answer(&other)
        .done(&store)
        .await
        .expect("moved");
    let after = helper(&store, "product");
    assert_eq!(
        after,
        SyncHelper {
            cursor: Some(Cursor::new("n2")),
            covers: Arc::from([product(), EntityName::new("unknown")]),
            // In the middle of a pull, whose rows are of two pages by now.
            state: State::Pulling,
            sequence: before.sequence + 2,
            began: before.sequence + 2,
            source: Some(SourceId::new("source-2")),
            ..before
        }
    );
}

#[tokio::test]
async fn rows_that_trade_a_unique_value_are_replaced_where_deletes_go_first() {
    let place = Place::new();
    let store = filled(&place).await;
    place.execute("create unique index one_name on product (name)");
    let trade = || Mend::default().answer(&Page::new().upsert(&["1 Table", "2 Chair"]).end("c9", false));
    let error = trade().done(&store).await.expect_err("each in place");
    assert!(matches!(error, Error::UniqueIndex { .. }), "{error}");
    let deletes_first = Mend {
        writing: Writing::DeletesFirst,
        ..trade()
    };
    deletes_first.done(&store).await.expect("mended");
    assert_eq!(rows(&place), ["1 Table", "2 Chair", "3 Lamp"]);
}

#[tokio::test]
async fn what_changed_since_is_passed_over_and_anything_but_rows_is_refused() {
    let place = Place::new();
    let store = filled(&place).await;
    let keys = r#"[{"name":"id","type":"bigint","role":"key"}]"#;
    let changed = Page::new()
        .block("product", "changed", keys, &["1"])
        .upsert(&["2 Desk"])
        .end("c9", false);
    Mend::default()
        .answer(&changed)
        .done(&store)
        .await
        .expect("mended");
    assert_eq!(rows(&place), ["1 Chair", "2 Desk", "3 Lamp"]);
    let pull_first = [
        Page::new().reset(),
        Page::new().fingerprint("f2").upsert(&["1 Stool"]),
    ];
    for page in pull_first {
        let error = Mend::default().answer(&page.end("c9", false)).done(&store).await;
        assert!(matches!(error, Err(Error::PullFirst { .. })), "{error:?}");
    }
    let deletions = Page::new().delete(&["1"], "deleted").end("c9", false);
    let error = Mend::default().answer(&deletions).done(&store).await;
    assert!(matches!(error, Err(Error::Malformed(_))), "{error:?}");
    assert_eq!(rows(&place), ["1 Chair", "2 Desk", "3 Lamp"]);
}

/// The server may think for minutes, and others have tables of their own in the file.
#[tokio::test]
async fn nobody_waits_for_a_mend_before_something_comes() {
    let place = Place::new();
    let store = filled(&place).await;
    let mending = Mending {
        extra: Vec::new(),
        writing: Writing::InPlace,
        standing: at("c1"),
    };
    let (sender, receiver) = mpsc::channel(1);
    let mended = tokio::spawn(async move { store.mend(mending, receiver).await });
    // Nothing tells that it waits; one that locks the file has done so by then.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let other = place.reader();
    other.busy_timeout(Duration::ZERO).expect("a reader");
    other.execute_batch("create table mine (x)").expect("no lock");
    sender.send(MendingPiece::All).await.expect("it listens");
    mended.await.expect("a task").expect("mended");
}
