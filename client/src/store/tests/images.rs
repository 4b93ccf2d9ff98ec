//! The file of a store as it goes into a seed, and what comes out of one.

use std::fs;
use std::path::Path;

use super::*;
use crate::store::{SeedImage, Vacant, check_image, write_image};

/// A page of two entities.
fn both() -> Bytes {
    Page::new()
        .reset()
        .upsert(&["1 Chair", "2 Table"])
        .reset_of("tax")
        .end_covering("c1", false, BOTH)
}

fn image_of(place: &Place) -> PathBuf {
    place.folder.path().join("image.db")
}

fn query_image(image: &Path, sql: &str) -> Vec<String> {
    query(&Connection::open(image).expect("the image"), sql)
}

#[tokio::test]
async fn it_holds_the_entities_and_nothing_of_the_users() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [both()]).await.report();
    place
        .execute("create table diary (x); create view v as select 1; create index by_name on product (name)");
    let image = image_of(&place);
    let contents = write_image(&place.path(), &image).expect("an image");
    let entities: Vec<(&str, u64)> = contents
        .entities
        .iter()
        .map(|(entity, rows)| (entity.as_str(), *rows))
        .collect();
    assert_eq!(entities, [("product", 2), ("tax", 0)]);
    assert_eq!(contents.source.as_str(), "source-1");
    assert_eq!(contents.pulled_at, Some(NoTime.now()));
    check_image(&image).expect("a good image");
    assert_eq!(
        query_image(&image, "select name from product order by id"),
        ["Chair", "Table"]
    );
    let mine = "select count(*) from sqlite_schema where name in ('diary', 'v', 'by_name')";
    assert_eq!(query_image(&image, mine), ["0"]);
}

#[tokio::test]
async fn what_is_withdrawn_or_kept_though_deleted_stays_behind() {
    let place = Place::new();
    let store = place.open();
    pull_with(&store, [both()], keep()).await.report();
    let page = Page::new().delete(&["1"], "deleted").end("c2", false);
    pull_with(&store, [page], keep()).await.report();
    assert_eq!(helper(&store, "tax").state, State::Withdrawn);
    let image = image_of(&place);
    write_image(&place.path(), &image).expect("an image");
    check_image(&image).expect("a good image");
    assert_eq!(query_image(&image, "select name from product"), ["Table"]);
    let columns = "select name from pragma_table_info('product') order by cid";
    assert_eq!(query_image(&image, columns), ["id", "name", "changed_date"]);
    assert_eq!(query_image(&image, "select entity from sync_helper"), ["product"]);
}

#[test]
fn a_store_without_anything_makes_none() {
    let place = Place::new();
    drop(place.open());
    let error = write_image(&place.path(), &image_of(&place))
        .err()
        .expect("nothing");
    assert!(
        error.to_string().contains("nothing was pulled into it yet"),
        "{error}"
    );
}

#[tokio::test]
async fn an_image_from_elsewhere_is_looked_at_before_it_is_used() {
    let place = Place::new();
    let store = place.open();
    pull(&store, [both()]).await.report();
    let good = image_of(&place);
    write_image(&place.path(), &good).expect("an image");
    let (no_store, newer, other) = (
        "it does not hold a store",
        "it was written by a newer highwater",
        "it holds other tables than those of its entities",
    );
    for (spoil, reason) in [
        ("pragma application_id = 7", no_store),
        ("pragma user_version = 999", newer),
        ("create view v as select 1", other),
        ("create table tax_2 (x)", other),
        (
            "create trigger t after delete on product begin select 1; end",
            other,
        ),
        (
            "drop table product; create table product (id integer primary key, name, changed_date)",
            other,
        ),
    ] {
        let bad = place.folder.path().join("bad.db");
        fs::copy(&good, &bad).expect("a copy");
        let spoilt = Connection::open(&bad).expect("the copy");
        spoilt.execute_batch(spoil).expect(spoil);
        drop(spoilt);
        assert_eq!(check_image(&bad), Err(reason.to_owned()), "{spoil}");
    }
    let torn = place.folder.path().join("torn.db");
    fs::write(
        &torn,
        "no database, but a text that is longer than a header of one".repeat(2),
    )
    .expect("a file");
    let reason = check_image(&torn).expect_err("no database");
    assert!(reason.starts_with("it cannot be opened"), "{reason}");
}

#[test]
fn only_where_nothing_is_there_is_room_for_one() {
    let place = Place::new();
    let vacant = Vacant::at(&place.path())
        .expect("a look")
        .expect("nothing is there");
    let locked = Vacant::at(&place.path()).err().expect("two at once");
    assert!(matches!(locked, Error::Locked { .. }), "{locked}");
    drop(vacant);
    fs::write(place.path(), "").expect("an empty file");
    assert!(Vacant::at(&place.path()).expect("a look").is_some());
    drop(place.open());
    assert!(Vacant::at(&place.path()).expect("a look").is_none());
}

#[test]
fn an_image_goes_into_its_place_or_away() {
    let place = Place::new();
    let folder = place.folder.path();
    let files = || {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("the folder")
            .map(|file| file.expect("a file").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    for left_behind in [
        "store.db.seeding",
        "store.db.seeding-wal",
        "store.db.seeding.lock",
    ] {
        fs::write(folder.join(left_behind), "of an earlier run").expect("a file");
    }
    let image = SeedImage::new(&place.path());
    assert_eq!(files(), Vec::<String>::new());
    fs::write(image.path(), "half of it").expect("a file");
    drop(image);
    assert_eq!(files(), Vec::<String>::new());
    let image = SeedImage::new(&place.path());
    fs::write(image.path(), "all of it").expect("a file");
    fs::write(folder.join("store.db.seeding-wal"), "somebody writes to it").expect("a file");
    let error = image.install(&place.path()).expect_err("in use");
    assert!(
        error.to_string().contains("another program has it open"),
        "{error}"
    );
    let image = SeedImage::new(&place.path());
    fs::write(image.path(), "all of it").expect("a file");
    image.install(&place.path()).expect("in its place");
    assert_eq!(files(), ["store.db"]);
    assert_eq!(fs::read_to_string(place.path()).expect("the store"), "all of it");
}
