//! The launcher's memory: ids, leases, sandboxes and the journal of their steps,
//! in one SQLite file (WAL).
//!
//! Two kinds of durability. What must survive a power cut (an id is never given
//! to two users) is written with a full sync before use. The journal must only
//! survive the death of the launcher: after a power cut nothing of what it
//! describes exists any more. Never holds a secret: no environment, no command.

mod identities;
mod journal;
mod sandboxes;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::Connection;

pub use identities::DiskIdentity;
pub use journal::Step;
pub use sandboxes::{ExitRecord, Facts, NewSandbox, Pools, SandboxRecord, SandboxState};

/// The newest schema this launcher knows; it refuses newer files.
const SCHEMA_VERSION: u32 = 1;

const SCHEMA: &str = "
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

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("failed to {verb} `{path}`")]
    File {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error(
        "`{path}` was written by a newer launcher (schema {found}, this one knows {SCHEMA_VERSION})"
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("failed to {verb}")]
    Query {
        verb: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("failed to read what the store says of `{what}`")]
    Content {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("no {what} is free on this node (all {total} are in use)")]
    Exhausted { what: &'static str, total: u32 },
    #[error("a live sandbox of this server exists")]
    AlreadyLive,
}

trait InQuery<T> {
    fn doing(self, verb: &'static str) -> Result<T, StoreError>;
}

impl<T> InQuery<T> for rusqlite::Result<T> {
    fn doing(self, verb: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Query { verb, source })
    }
}

/// The open store.
pub struct Store {
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = |verb| move |source| StoreError::File { verb, path: path.into(), source };
        let connection = Connection::open(path).map_err(file("open"))?;
        // It names users; nobody but root has any business with it.
        let _ = std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600));
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;")
            .map_err(file("prepare"))?;
        let found: u32 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(file("read"))?;
        if found > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: path.into(), found });
        }
        if found == 0 {
            let create = format!(
                "BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            );
            connection.execute_batch(&create).map_err(file("create tables in"))?;
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves SQLite itself consistent: its transaction was rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Facts for tests of other modules.
#[cfg(test)]
pub(crate) fn test_facts() -> Facts {
    sandboxes::tests::new("saaaaaaaaaaa", "ana").facts
}
