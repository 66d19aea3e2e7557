//! The ledger's tables, and how an older ledger becomes today's: numbered steps,
//! each in one transaction, forward only.
//!
//! A step that was released is never changed. A new ledger goes through all of
//! them, so that there is one way only to today's tables. Before the first step
//! on a ledger that holds something, a whole copy of it is put beside it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::StoreError;
use crate::names::{Owner, UserName};

struct Migration {
    to: u32,
    what: &'static str,
    apply: fn(&Transaction<'_>) -> rusqlite::Result<()>,
}

const MIGRATIONS: [Migration; 3] = [
    Migration { to: 1, what: "the first tables", apply: |ledger| ledger.execute_batch(FIRST) },
    Migration {
        to: 2,
        what: "identities by their name on disk",
        apply: identities_by_name_on_disk,
    },
    Migration {
        to: 3,
        what: "homes of forgotten users",
        apply: |ledger| ledger.execute_batch(RETIRED_HOMES),
    },
];

/// The newest schema this launcher knows; it refuses newer files.
pub const VERSION: u32 = MIGRATIONS[MIGRATIONS.len() - 1].to;

const FIRST: &str = "
CREATE TABLE disk_identities (
    hub TEXT NOT NULL, user TEXT NOT NULL, id INTEGER NOT NULL UNIQUE, created_at INTEGER NOT NULL,
    PRIMARY KEY (hub, user)
) STRICT;
CREATE TABLE generations (
    hub TEXT NOT NULL, user TEXT NOT NULL, server TEXT NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (hub, user, server)
) STRICT;
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    hub TEXT NOT NULL, user TEXT NOT NULL, server TEXT NOT NULL, generation INTEGER NOT NULL,
    request_id TEXT NOT NULL, request_hash BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('starting', 'running', 'gone')),
    facts TEXT NOT NULL,
    run_range INTEGER UNIQUE, address_index INTEGER UNIQUE,
    exit TEXT
) STRICT;
CREATE UNIQUE INDEX one_live_sandbox ON sandboxes (hub, user, server) WHERE state != 'gone';
CREATE TABLE steps (
    sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE, sequence INTEGER NOT NULL, step TEXT NOT NULL,
    PRIMARY KEY (sandbox, sequence)
) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
";

const RETIRED_HOMES: &str = "
CREATE TABLE retired_homes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    hub TEXT NOT NULL, user TEXT NOT NULL, on_disk TEXT NOT NULL,
    id INTEGER NOT NULL UNIQUE, owned_since INTEGER NOT NULL, retired_at INTEGER NOT NULL, purge_at INTEGER,
    state TEXT NOT NULL CHECK (state IN ('moving', 'aside', 'purging', 'returning', 'gone'))
) STRICT;
";

/// A home's name on disk finds its owner's identity, also where nobody knows any
/// more whose name it is the hash of: a rebuilt ledger has only the homes to go by.
fn identities_by_name_on_disk(ledger: &Transaction<'_>) -> rusqlite::Result<()> {
    ledger.execute_batch(
        "ALTER TABLE disk_identities RENAME TO former_identities;
         CREATE TABLE disk_identities (
             on_disk TEXT PRIMARY KEY, hub TEXT, user TEXT,
             id INTEGER NOT NULL UNIQUE, created_at INTEGER NOT NULL,
             UNIQUE (hub, user), CHECK ((hub IS NULL) = (user IS NULL))
         ) STRICT;",
    )?;
    let mut rows = ledger.prepare("SELECT hub, user, id, created_at FROM former_identities")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (hub, user): (String, String) = (row.get(0)?, row.get(1)?);
        let name = UserName::new(&user)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let owner = Owner { hub, user: name };
        ledger.execute(
            "INSERT INTO disk_identities (on_disk, hub, user, id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![owner.on_disk(), owner.hub, user, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?],
        )?;
    }
    ledger.execute_batch("DROP TABLE former_identities")
}

/// The version of a ledger; 0 for one without tables.
pub fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Of a new ledger. What a start writes is a few rows in many places, and each page that holds one of
/// them is written whole; an older ledger keeps the size that it was made with.
const PAGE_BYTES: u32 = 1024;

/// What must be said to a new ledger before anything else is.
pub fn shape(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE_BYTES)
}

/// Brings a ledger to today's tables.
pub fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let file = |verb| move |source| StoreError::File { verb, path: path.into(), source };
    let found = version(connection).map_err(file("read"))?;
    if found > VERSION {
        return Err(StoreError::Newer { path: path.into(), found });
    }
    if found == VERSION {
        return Ok(());
    }
    if found > 0 {
        let copy = back_up(connection, path, found)?;
        tracing::warn!(from = found, to = VERSION, copy = %copy.display(), "bringing the ledger up to date; a copy of it as it was is beside it");
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(file("prepare"))?;
    for migration in &MIGRATIONS {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(file("migrate"))?;
        // Asked again inside: the step depends on it.
        if version(&transaction).map_err(file("read"))? + 1 != migration.to {
            continue;
        }
        (migration.apply)(&transaction)
            .and_then(|()| transaction.pragma_update(None, "user_version", migration.to))
            .and_then(|()| transaction.commit())
            .map_err(file("migrate"))?;
        if found > 0 {
            tracing::info!(version = migration.to, what = migration.what, "migrated the ledger");
        }
    }
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(file("prepare"))
}

/// Where the copy of a ledger of that version lies.
pub fn copy_path(path: &Path, version: u32) -> PathBuf {
    super::beside(path, &format!(".v{version}"))
}

/// A whole copy beside the ledger, made by SQLite, readable by root alone. One of an
/// earlier try is replaced: what it held is in the ledger still.
fn back_up(connection: &Connection, path: &Path, version: u32) -> Result<PathBuf, StoreError> {
    let copy = copy_path(path, version);
    let unfinished = super::beside(&copy, ".unfinished");
    let input_output = |source: io::Error| StoreError::Copy { path: copy.clone(), source };
    if let Err(error) = fs::remove_file(&unfinished)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(input_output(error));
    }
    // An empty file of ours, because SQLite's own would be readable by everybody.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(input_output)?;
    connection
        .execute("VACUUM INTO ?1", params![unfinished.display().to_string()])
        .map_err(|source| StoreError::File { verb: "copy", path: path.into(), source })?;
    File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&unfinished, &copy))
        .map_err(input_output)?;
    Ok(copy)
}
