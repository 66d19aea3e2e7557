//! Ledgers of an earlier version, and ledgers that were damaged in every way.

use std::{fs, path::PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{examine::examine, *};
use crate::names::{Owner, ServerKey};

/// Written by the launcher of schema 1.
const VERSION_1: &[u8] = include_bytes!("fixtures/version-1.sqlite");

fn owner(hub: &str, user: &str) -> Owner {
    ServerKey::new(hub, user, "").unwrap().owner()
}

fn version_1() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("launcher.sqlite");
    fs::write(&path, VERSION_1).unwrap();
    (directory, path)
}

/// Every row of a table, as text.
fn rows(path: &Path, columns: &str, table: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut query =
        connection.prepare(&format!("SELECT {columns} FROM {table} ORDER BY rowid")).unwrap();
    let count = query.column_count();
    let rows = query
        .query_map([], |row| {
            let values: Vec<rusqlite::types::Value> =
                (0..count).map(|index| row.get(index)).collect::<rusqlite::Result<_>>()?;
            Ok(format!("{values:?}"))
        })
        .unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn a_ledger_of_version_1_is_migrated_row_by_row() {
    let (_directory, path) = version_1();
    let tables = [
        ("hub, user, id, created_at", "disk_identities"),
        ("*", "generations"),
        ("*", "sandboxes"),
        ("*", "steps"),
        ("*", "counters"),
    ];
    let before: Vec<_> =
        tables.iter().map(|(columns, table)| rows(&path, columns, table)).collect();
    assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), [6, 4, 4, 8, 3]);
    let store = Store::open(&path).unwrap();
    for (user, id) in [("ana", 70_010), ("名前", 70_011), ("../../etc", 70_012)] {
        let known = store.disk_identity(&owner("hub", user), 70_000..=80_000).unwrap();
        assert_eq!(known.uid, id, "{user}");
    }
    assert_eq!(store.disk_identity(&owner("other", "ana"), 70_000..=80_000).unwrap().uid, 70_015);
    assert_eq!(store.disk_identity(&owner("hub", "new"), 70_000..=80_000).unwrap().uid, 70_016);
    let running = store.sandboxes(1_000_000).unwrap();
    let running = running.iter().find(|row| row.state == SandboxState::Running).unwrap();
    assert_eq!(store.steps(&running.id).unwrap().len(), Step::ALL.len());
    drop(store);
    for ((columns, table), before) in tables.iter().zip(before) {
        let mut after = rows(&path, columns, table);
        after.truncate(before.len());
        assert_eq!(after, before, "{table}");
    }
    let on_disk = rows(&path, "on_disk", "disk_identities");
    assert!(on_disk[0].contains(&owner("hub", "ana").on_disk()), "{on_disk:?}");
}

/// A start writes small pages; what an older launcher made stays as it is.
#[test]
fn a_new_ledger_has_small_pages() {
    let size = |path: &Path| -> u32 {
        let connection = Connection::open(path).unwrap();
        connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap()
    };
    let (directory, old) = version_1();
    drop(Store::open(&old).unwrap());
    assert_eq!(size(&old), 4096);
    let new = directory.path().join("new.sqlite");
    drop(Store::open(&new).unwrap());
    assert_eq!(size(&new), 1024);
}

#[test]
fn before_a_migration_a_copy_is_put_beside_it() {
    let (directory, path) = version_1();
    drop(Store::open(&path).unwrap());
    let copy = schema::copy_path(&path, 1);
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600, "it names users");
    // The copy is the old ledger, whole: it can be migrated again.
    let again = directory.path().join("again.sqlite");
    fs::copy(&copy, &again).unwrap();
    assert_eq!(rows(&again, "*", "disk_identities").len(), 6);
    assert_eq!(schema::version(&Connection::open(&again).unwrap()).unwrap(), 1);
    let store = Store::open(&again).unwrap();
    assert_eq!(store.disk_identity(&owner("hub", "ana"), 70_000..=80_000).unwrap().uid, 70_010);
    // A ledger of today makes none.
    drop(Store::open(&path).unwrap());
    assert!(!schema::copy_path(&path, schema::VERSION).exists());
}

#[test]
fn a_migration_that_cannot_copy_changes_nothing() {
    let (_directory, path) = version_1();
    // What is in the way of the copy cannot be replaced.
    fs::create_dir_all(schema::copy_path(&path, 1).join("in the way")).unwrap();
    let Err(error) = Store::open(&path) else { panic!("it was migrated without a copy") };
    assert!(matches!(error, StoreError::Copy { .. }), "{error:?}");
    assert_eq!(schema::version(&Connection::open(&path).unwrap()).unwrap(), 1);
}

#[test]
fn a_newer_ledger_is_refused_with_a_hint_and_stays_as_it_is() {
    let (_directory, path) = version_1();
    let newer = schema::VERSION + 1;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", newer).unwrap();
    let before = fs::read(&path).unwrap();
    let Err(error) = Store::open(&path) else { panic!("it was opened") };
    assert!(error.to_string().contains("newer launcher"), "{error}");
    assert!(error.hint().unwrap().contains("newer launcher"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

type Damage = Box<dyn Fn(&Path)>;

/// Each way to damage a ledger: it is refused in words, and stays as it is to the byte.
#[test]
fn a_damaged_ledger_is_refused_and_stays_as_it_is() {
    let sql = |text: &'static str| {
        move |path: &Path| {
            let connection = Connection::open(path).unwrap();
            connection
                .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;")
                .unwrap();
            connection.execute_batch(text).unwrap();
        }
    };
    let ways: Vec<(&str, Damage)> = vec![
        (
            "truncated",
            Box::new(|path| fs::write(path, &fs::read(path).unwrap()[..20_000]).unwrap()),
        ),
        ("half a page", Box::new(|path| fs::write(path, &fs::read(path).unwrap()[..100]).unwrap())),
        ("garbage", Box::new(|path| fs::write(path, [0x5a; 61_440]).unwrap())),
        ("zeros", Box::new(|path| fs::write(path, [0; 61_440]).unwrap())),
        (
            "a page",
            Box::new(|path| {
                let root: usize = Connection::open(path)
                    .unwrap()
                    .query_row(
                        "SELECT rootpage FROM sqlite_master WHERE name = 'sandboxes'",
                        [],
                        |row| row.get(0),
                    )
                    .unwrap();
                let mut bytes = fs::read(path).unwrap();
                bytes[(root - 1) * 4096..root * 4096].fill(0xa5);
                fs::write(path, bytes).unwrap();
            }),
        ),
        ("facts", Box::new(sql("UPDATE sandboxes SET facts = '{nonsense' WHERE user = 'ana'"))),
        ("a state", Box::new(sql("UPDATE sandboxes SET state = 'flying' WHERE user = 'ana'"))),
        ("a step", Box::new(sql("UPDATE steps SET step = 'dance' WHERE sequence = 0"))),
        ("an id", Box::new(sql("UPDATE disk_identities SET id = -4 WHERE user = 'gone'"))),
        ("a name", Box::new(sql("UPDATE disk_identities SET user = 'gune' WHERE user = 'gone'"))),
        ("a sandbox", Box::new(sql("DELETE FROM sandboxes WHERE user = 'ana'"))),
    ];
    for (way, damage) in ways {
        let (_directory, path) = version_1();
        drop(Store::open(&path).unwrap());
        damage(&path);
        let before = fs::read(&path).unwrap();
        let Err(error) = Store::open(&path) else { panic!("{way}: it was opened") };
        assert!(matches!(error, StoreError::Damaged { .. }), "{way}: {error:?}");
        assert!(error.is_damage() && error.hint().unwrap().contains("adrastea repair"), "{way}");
        assert_eq!(fs::read(&path).unwrap(), before, "{way}");
        assert!(!examine(&path).unwrap().findings.is_empty(), "{way}");
        assert_eq!(fs::read(&path).unwrap(), before, "{way}");
    }
}

#[test]
fn a_broken_page_costs_its_own_rows_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("launcher.sqlite");
    let store = Store::open(&path).unwrap();
    for user in 0..600 {
        store.disk_identity(&owner("hub", &format!("user-{user}")), 70_000..=80_000).unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    // A leaf of the table of identities in its middle.
    let needle = b"user-300";
    let page = (0..whole.len() / 4096)
        .find(|page| {
            let bytes = &whole[page * 4096..(page + 1) * 4096];
            // 0x0d: a leaf of a table.
            bytes[0] == 0x0d && bytes.windows(needle.len()).any(|window| window == needle)
        })
        .unwrap();
    let mut damaged = whole.clone();
    damaged[page * 4096..(page + 1) * 4096].fill(0);
    fs::write(&path, damaged).unwrap();
    let examined = examine(&path).unwrap();
    assert!(!examined.findings.is_empty());
    let saved = examined.identities.len();
    assert!((500..600).contains(&saved), "{saved} of 600 were saved");
    assert!(examined.identities.iter().any(|row| row.id == 70_000));
    assert!(examined.identities.iter().any(|row| row.id == 70_599));
}
