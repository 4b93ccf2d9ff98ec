//! Files that are not this program's, or cannot be written: it says so, and leaves no trace.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use highwater_testbed::bound_by_rights;
use rusqlite::Connection;

use crate::place::{COMMANDS, NOBODY, Place, arguments, run_by};
use crate::program::{err, text};
use crate::server::{Answer, Server};

/// Every command refuses the store with these words, and leaves its folder as it is.
async fn refused(place: &Place, commands: &[&str], words: &[&str]) {
    let before = place.contents();
    for command in commands {
        let said = place.fails(command, NOBODY).await;
        for word in words {
            assert!(said.contains(word), "{command}: {said}");
        }
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
        assert!(place.contents() == before, "{command} left a trace");
    }
}

#[tokio::test]
async fn what_is_not_sqlite_is_refused() {
    let place = Place::new();
    let letter = "Dear Sir or Madam, this is a letter. ".repeat(300);
    for content in ["x", "SQLite format 3", "SQLite format 2\0and more", &letter] {
        fs::write(place.store(), content).expect("a file");
        refused(&place, &COMMANDS, &["not an SQLite database", "another file"]).await;
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    for mode in ["delete", "wal"] {
        for made in [
            "create table mine (id integer); insert into mine values (1)",
            "pragma application_id = 7",
            "pragma user_version = 3",
        ] {
            let place = Place::new();
            place.execute(&format!("pragma journal_mode = {mode}; {made}"));
            refused(&place, &COMMANDS, &["another program", "another file"]).await;
        }
    }
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused() {
    let place = Place::filled(1).await;
    place.execute("pragma user_version = 999");
    let words = ["newer highwater", "999", "install"];
    refused(&place, &COMMANDS, &words).await;
    // Moved here without its lock, and damaged as well.
    fs::remove_file(place.file("store.db.lock")).expect("a lock");
    refused(&place, &COMMANDS, &words).await;
    let whole = fs::read(place.store()).expect("a store");
    fs::write(place.store(), &whole[..whole.len() / 2]).expect("half a store");
    refused(&place, &COMMANDS, &words).await;
}

#[tokio::test]
async fn a_newer_store_whose_writer_was_killed_keeps_what_its_log_holds() {
    let living = Place::filled(1).await;
    let writer = Connection::open(living.store()).expect("a writer");
    writer
        .execute_batch("pragma user_version = 999")
        .expect("a version");
    // What a kill leaves behind: the file knows nothing yet of the version that the log has.
    let place = Place::new();
    for file in ["store.db", "store.db-wal", "store.db-shm", "store.db.lock"] {
        fs::copy(living.file(file), place.file(file)).expect(file);
    }
    let data = || {
        let mut contents = place.contents();
        // Made of the log, and made again by whoever reads it.
        contents.remove("store.db-shm").expect("an index");
        contents
    };
    let before = data();
    for command in COMMANDS {
        let said = place.fails(command, NOBODY).await;
        assert!(said.contains("newer highwater"), "{command}: {said}");
        assert!(data() == before, "{command} left a trace");
    }
}

#[tokio::test]
async fn a_store_of_another_source_is_refused() {
    let place = Place::filled(1).await;
    let before = place.contents();
    for command in ["pull", "run"] {
        let other = Answer::page("c2", false, &["1 Stool"]).header("highwater-source", "source-2");
        let server = Server::start([other]).await;
        let said = place.fails(command, &server.address).await;
        for word in ["source-1", "source-2", "another store", "highwater reset"] {
            assert!(said.contains(word), "{command}: {said}");
        }
        assert!(place.contents() == before, "{command} left a trace");
    }
    place.succeeds("status", NOBODY).await;
}

#[tokio::test]
async fn what_is_no_file_and_a_missing_folder_are_refused() {
    let place = Place::new();
    fs::create_dir(place.store()).expect("a folder");
    refused(&place, &COMMANDS, &["it is a folder", "name a file in it"]).await;
    let place = Place::new();
    for command in COMMANDS {
        let store = place.file("no/where.db");
        let output = crate::program::run(&arguments(command, text(&store), NOBODY)).await;
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(
            err(&output).contains("create it first"),
            "{command}: {}",
            err(&output)
        );
    }
    assert!(place.contents().is_empty());
    let place = Place::new();
    let _listener = UnixListener::bind(place.store()).expect("a socket");
    refused(&place, &COMMANDS, &["name a file"]).await;
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    for command in ["pull", "reset"] {
        let place = Place::new();
        fs::write(place.store(), "").expect("a file");
        let server = Server::start([Answer::first_page("c1", false, &["1 Chair"])]).await;
        let said = place.fails("status", NOBODY).await;
        assert!(said.contains("highwater pull"), "{said}");
        place.succeeds(command, &server.address).await;
        place.succeeds("status", NOBODY).await;
        assert_eq!(place.query("store.db", "pragma application_id"), ["1214863201"]);
    }
}

#[tokio::test]
async fn a_look_leaves_no_trace() {
    let place = Place::filled(100).await;
    let before = place.contents();
    place.succeeds("status", NOBODY).await;
    assert!(place.contents() == before);
    // A name that would mean something else as an address.
    let name = place.file("100% ours? #1 ü.db");
    fs::rename(place.store(), &name).expect("another name");
    let before = place.contents();
    let output = crate::program::run(&arguments("status", text(&name), NOBODY)).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(place.contents() == before);
}

/// What a read-only store is good for: it can be looked at.
async fn read_only(by: impl Fn(std::process::Command) -> std::process::Command, store: &str) {
    for command in ["pull", "run", "reset"] {
        let output = run_by(&by, &arguments(command, store, NOBODY)).await;
        let said = err(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(
            said.contains("read-only") && said.contains("the right to write"),
            "{command}: {said}"
        );
    }
    let output = run_by(&by, &arguments("status", store, NOBODY)).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
}

#[tokio::test]
async fn a_read_only_file_and_a_read_only_folder_are_left_alone() {
    for (file, folder, has_lock) in [
        (0o444, 0o755, true),
        (0o444, 0o755, false),
        (0o644, 0o555, true),
        (0o644, 0o555, false),
    ] {
        let place = Place::filled(1).await;
        if !has_lock {
            fs::remove_file(place.file("store.db.lock")).expect("a lock");
        }
        let before = place.contents();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("rights");
        };
        set(&place.store(), file);
        set(place.folder(), folder);
        read_only(bound_by_rights, text(&place.store())).await;
        assert!(place.contents() == before, "{file:o} {folder:o} {has_lock}");
        set(place.folder(), 0o755);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_read_only_disk_is_left_alone() {
    let Some(disk) = highwater_testbed::Disk::new(1 << 20).expect("a disk") else {
        eprintln!("left out: it needs a disk");
        return;
    };
    let place = Place::filled(1).await;
    let copy = format!("mkdir folder && cp '{}'/* folder", place.folder().display());
    disk.shell(&copy).expect("a copy");
    disk.protect("folder/store.db").expect("a read-only file");
    let store = disk.path().join("folder/store.db");
    let by = |command| disk.command(&command);
    let sums = || disk.shell("cksum folder/*").expect("sums");
    let before = sums();
    read_only(by, text(&store)).await;
    assert_eq!(sums(), before);
    disk.protect("folder").expect("a read-only folder");
    read_only(by, text(&store)).await;
    assert_eq!(sums(), before);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_look_does_not_cost_the_writer_of_the_same_process_its_locks() {
    let place = Place::filled(1).await;
    let store = highwater_client::Store::open(place.store()).expect("a store");
    let locks = || {
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(place.store()).expect("a file"));
        let locks = fs::read_to_string("/proc/locks").expect("locks");
        let of_ours = locks
            .lines()
            .filter(|lock| lock.contains(&format!(":{inode} ")) && lock.contains("POSIX"));
        of_ours.count()
    };
    assert_eq!(locks(), 1, "a log is used");
    highwater_client::status(place.store()).expect("a status");
    assert_eq!(locks(), 1, "whoever closes the file last now takes the log away");
    assert!(highwater_client::Store::open(place.store()).is_err());
    assert_eq!(locks(), 1);
    drop(store);
}
