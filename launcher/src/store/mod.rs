//! The launcher's memory: ids, leases, sandboxes and the journal of their steps,
//! in one SQLite file (WAL).
//!
//! Two kinds of durability. What must survive a power cut (an id is never given
//! to two users) is written with a full sync before use. The journal must only
//! survive the death of the launcher: after a power cut nothing of what it
//! describes exists any more. Never holds a secret: no environment, no command.

pub mod examine;
mod identities;
mod journal;
pub mod rebuild;
mod retired;
mod sandboxes;
pub mod schema;
mod slots;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, Params, Row};

pub use examine::Finding;
pub use identities::DiskIdentity;
pub use journal::Step;
pub use retired::{OwnedIdentity, RetiredHome, RetiredState};
pub use sandboxes::{ExitRecord, Facts, NewSandbox, Pools, SandboxRecord, SandboxState};

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
        "`{path}` was written by a newer launcher (schema {found}, this one knows {})",
        schema::VERSION
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("the ledger `{path}` is damaged: {}", listed(.findings))]
    Damaged { path: PathBuf, findings: Vec<Finding> },
    #[error("the ledger `{path}` is not there, but {homes} homes are in `{root}`")]
    Lost { path: PathBuf, homes: usize, root: PathBuf },
    #[error("a repair of the ledger was interrupted: `{path}` is there")]
    Unfinished { path: PathBuf },
    #[error("failed to copy or move `{path}`")]
    Copy {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
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

/// The first problems, and how many more there are.
fn listed(findings: &[Finding]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<_> = findings.iter().take(SHOWN).map(ToString::to_string).collect();
    if findings.len() > SHOWN {
        text.push(format!("and {} more", findings.len() - SHOWN));
    }
    text.join("; ")
}

impl StoreError {
    /// Whether there is no room on the ledger's disk.
    pub fn is_full(&self) -> bool {
        self.code() == Some(rusqlite::ErrorCode::DiskFull)
            || matches!(self, Self::Copy { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    /// Whether what was read makes no sense: the ledger cannot be trusted any more.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Lost { .. }
                | Self::Unfinished { .. }
                | Self::Content { .. }
        ) || matches!(
            self.code(),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
        )
    }

    fn code(&self) -> Option<rusqlite::ErrorCode> {
        match self {
            Self::File { source, .. } | Self::Query { source, .. } => source.sqlite_error_code(),
            _ => None,
        }
    }

    /// What an administrator can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Newer { .. } => Some(
                "start the newer launcher again, or stop all servers and put a copy of the ledger from before the upgrade in its place",
            ),
            _ if self.is_damage() => Some(
                "nothing was changed and running servers go on; `adrastea repair --dry-run` tells what is wrong and what can be saved, `adrastea repair` mends it",
            ),
            _ if self.is_full() => Some(
                "make room on the disk of the launcher's state directory; running servers go on",
            ),
            _ => None,
        }
    }
}

/// `path` with more at its end.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

trait InQuery<T> {
    fn doing(self, verb: &'static str) -> Result<T, StoreError>;
}

impl<T> InQuery<T> for rusqlite::Result<T> {
    fn doing(self, verb: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Query { verb, source })
    }
}

/// Statements that are parsed once, not at every start.
trait Cached {
    fn execute_cached(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize>;

    fn query_row_cached<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T>;
}

impl Cached for Connection {
    fn execute_cached(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    fn query_row_cached<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.prepare_cached(sql)?.query_row(params, read)
    }
}

/// More than there are statements in this folder.
const STATEMENTS: usize = 64;

/// The open store.
pub struct Store {
    connection: Mutex<Connection>,
}

impl Store {
    /// Whether a ledger is there that holds anything, be it damaged.
    pub fn is_there(path: &Path) -> bool {
        let holds = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
        holds(path) || holds(&beside(path, "-wal"))
    }

    /// Opens or creates the file. One that cannot be trusted in every page and row
    /// is an error and stays as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = |verb| move |source| StoreError::File { verb, path: path.into(), source };
        let unfinished = rebuild::rebuilt_path(path);
        if unfinished.exists() {
            return Err(StoreError::Unfinished { path: unfinished });
        }
        let damaged = |findings| StoreError::Damaged { path: path.into(), findings };
        let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
        if length == 0 && Self::is_there(path) {
            let problem = "the file is empty, but changes of it are beside it".into();
            return Err(damaged(vec![Finding { at: "the file".into(), problem }]));
        }
        let mut connection = Connection::open(path).map_err(file("open"))?;
        // It names users; nobody but root has any business with it.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
        examine::keep_log(&connection, true).map_err(file("open"))?;
        if length > 0 {
            let examined = examine::examine_open(&connection).map_err(file("read"))?;
            if examined.version > schema::VERSION {
                return Err(StoreError::Newer { path: path.into(), found: examined.version });
            }
            if !examined.findings.is_empty() {
                return Err(damaged(examined.findings));
            }
        } else {
            schema::shape(&connection).map_err(file("prepare"))?;
        }
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;")
            .map_err(file("prepare"))?;
        schema::migrate(&mut connection, path)?;
        examine::keep_log(&connection, false).map_err(file("prepare"))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
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
