//! Sandboxes: at most one live one per server (a unique index, not a promise),
//! with the leases it holds: a range of run ids and an address.

use adrastea_runtimes::plan::{IDS_PER_SANDBOX, SandboxId};
use rusqlite::{OptionalExtension as _, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::{Cached as _, InQuery as _, Store, StoreError};
use crate::names::{RequestId, ServerKey};

/// Where a sandbox is in its life, as far as a restart must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    Starting,
    Running,
    /// Ended; the row is kept for the answer to "what happened?".
    Gone,
}

impl SandboxState {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Gone => "gone",
        }
    }
}

/// What is known of a sandbox when it is recorded.
#[derive(Clone, Debug)]
pub struct NewSandbox {
    pub id: SandboxId,
    pub key: ServerKey,
    pub request_id: RequestId,
    pub request_hash: [u8; 32],
    pub facts: Facts,
}

/// What policy decided and a restart must know. Kept as JSON: it only grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub profile: String,
    pub runtime: String,
    /// The driver behind that name; empty where it is the name itself.
    #[serde(default)]
    pub runtime_kind: String,
    pub image_reference: String,
    pub image_digest: String,
    pub egress: String,
    pub uid_inside: u32,
    pub gid_inside: u32,
    pub home_inside: std::path::PathBuf,
    pub disk_uid: u32,
    pub disk_gid: u32,
    pub memory_bytes: u64,
    pub cpu_millis: u64,
    pub processes: u32,
    pub open_files: u64,
    pub tmp_bytes: u64,
    pub shm_bytes: u64,
    pub log_bytes: u64,
    /// What the user has configured is covered.
    #[serde(default)]
    pub ignore_user_config: bool,
    /// Made before its user was known: the id inside lies in the run range, and the home is
    /// attached by a mount that maps it to the user's number on disk.
    #[serde(default)]
    pub home_mapped: bool,
    pub started_at: u64,
}

impl Facts {
    /// The driver, by its name.
    pub fn driver_name(&self) -> &str {
        if self.runtime_kind.is_empty() { &self.runtime } else { &self.runtime_kind }
    }
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// One of the wire's causes, by number.
    pub cause: i32,
    pub code: i32,
    pub signal: i32,
    pub message: String,
    pub log_tail: String,
}

/// A sandbox as the store has it.
#[derive(Clone, Debug)]
pub struct SandboxRecord {
    pub id: SandboxId,
    pub key: ServerKey,
    pub generation: u64,
    pub request_id: String,
    pub request_hash: Vec<u8>,
    pub state: SandboxState,
    pub facts: Facts,
    /// The first id of the leased run range; 0 once given back.
    pub run_range_first: u32,
    /// The leased address, counted from the subnet's first; 0 once given back.
    pub address_index: u32,
    pub exit: Option<ExitRecord>,
}

impl SandboxRecord {
    /// Whether its leases are not given back yet.
    pub const fn holds_leases(&self) -> bool {
        self.run_range_first != 0
    }
}

/// The pools that leases come from.
#[derive(Clone, Copy, Debug)]
pub struct Pools {
    pub first_run_id: u32,
    pub last_run_id: u32,
    /// Addresses are counted from here …
    pub first_address: u32,
    /// … to here.
    pub last_address: u32,
}

impl Store {
    /// Records a new sandbox, with its leases and its generation, in one transaction.
    pub fn record_sandbox(
        &self,
        new: &NewSandbox,
        pools: Pools,
    ) -> Result<SandboxRecord, StoreError> {
        const VERB: &str = "record a sandbox";
        let key = &new.key;
        let facts = serde_json::to_string(&new.facts).map_err(|source| StoreError::Content {
            what: new.id.to_string(),
            source: source.into(),
        })?;
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(VERB)?;
        let generation = if key.is_slot() {
            super::slots::forget_gone(&transaction)?;
            0
        } else {
            next_generation(&transaction, key)?
        };
        let ranges = (pools.last_run_id - pools.first_run_id + 1) / IDS_PER_SANDBOX;
        let range = lease(&transaction, "run_range", 0, ranges, "range of run ids")?;
        let address = lease(
            &transaction,
            "address_index",
            pools.first_address,
            pools.last_address + 1,
            "address",
        )?;
        transaction
            .execute_cached(
                "INSERT INTO sandboxes (id, hub, user, server, generation, request_id, request_hash, state, facts, run_range, address_index)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'starting', ?8, ?9, ?10)",
                params![
                    new.id.as_str(),
                    key.hub,
                    key.user.as_str(),
                    key.server,
                    generation,
                    new.request_id.as_str(),
                    new.request_hash.as_slice(),
                    facts,
                    range,
                    address
                ],
            )
            .map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::ConstraintViolation) => StoreError::AlreadyLive,
                _ => StoreError::Query { verb: VERB, source: error },
            })?;
        transaction.commit().doing(VERB)?;
        Ok(SandboxRecord {
            id: new.id.clone(),
            key: key.clone(),
            generation,
            request_id: new.request_id.as_str().to_owned(),
            request_hash: new.request_hash.to_vec(),
            state: SandboxState::Starting,
            facts: new.facts.clone(),
            run_range_first: pools.first_run_id + range * IDS_PER_SANDBOX,
            address_index: address,
            exit: None,
        })
    }

    pub fn set_state(&self, id: &SandboxId, state: SandboxState) -> Result<(), StoreError> {
        self.connection()
            .execute_cached(
                "UPDATE sandboxes SET state = ?2 WHERE id = ?1",
                params![id.as_str(), state.name()],
            )
            .doing("record a sandbox's state")
            .map(|_| ())
    }

    /// Records the end. The leases stay until [`Store::give_back`].
    pub fn record_exit(&self, id: &SandboxId, exit: &ExitRecord) -> Result<(), StoreError> {
        let exit = serde_json::to_string(exit).map_err(|source| StoreError::Content {
            what: id.to_string(),
            source: source.into(),
        })?;
        self.connection()
            .execute_cached(
                "UPDATE sandboxes SET state = 'gone', exit = ?2 WHERE id = ?1",
                params![id.as_str(), exit],
            )
            .doing("record a sandbox's end")
            .map(|_| ())
    }

    /// Gives the leases back: only when nothing of the sandbox is left.
    pub fn give_back(&self, id: &SandboxId) -> Result<(), StoreError> {
        self.connection()
            .execute_cached(
                "UPDATE sandboxes SET run_range = NULL, address_index = NULL WHERE id = ?1",
                params![id.as_str()],
            )
            .doing("give leases back")
            .map(|_| ())
    }

    /// Every sandbox, live or not yet forgotten.
    pub fn sandboxes(&self, first_run_id: u32) -> Result<Vec<SandboxRecord>, StoreError> {
        const VERB: &str = "read the sandboxes";
        let connection = self.connection();
        let mut query = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM sandboxes ORDER BY generation"))
            .doing(VERB)?;
        let rows = query.query_map([], |row| Ok(read(row, first_run_id))).doing(VERB)?;
        rows.map(|row| row.doing(VERB)?).collect()
    }
}

/// The number of a server's next start, which fences the ones before it.
pub(super) fn next_generation(
    transaction: &rusqlite::Transaction<'_>,
    key: &ServerKey,
) -> Result<u64, StoreError> {
    const VERB: &str = "count a start";
    let names = params![key.hub, key.user.as_str(), key.server];
    // The answer to "what happened?" is kept until the next start.
    transaction
        .execute_cached(
            "DELETE FROM sandboxes WHERE hub = ?1 AND user = ?2 AND server = ?3 AND state = 'gone'
             AND run_range IS NULL AND NOT EXISTS (SELECT 1 FROM steps WHERE sandbox = id)",
            names,
        )
        .doing(VERB)?;
    transaction
        .query_row_cached(
            "INSERT INTO generations (hub, user, server, last)
             VALUES (?1, ?2, ?3, coalesce((SELECT value FROM counters WHERE name = 'first_generation'), 1))
             ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last",
            names,
            |row| row.get(0),
        )
        .doing(VERB)
}

/// The next free number after the one leased last, so that a number rests before it is used again.
fn lease(
    transaction: &rusqlite::Transaction<'_>,
    column: &'static str,
    first: u32,
    end: u32,
    what: &'static str,
) -> Result<u32, StoreError> {
    const VERB: &str = "lease a number";
    let last: Option<u32> = transaction
        .query_row_cached("SELECT value FROM counters WHERE name = ?1", params![column], |row| {
            row.get(0)
        })
        .optional()
        .doing(VERB)?;
    let start = last.map_or(first, |last| last + 1).clamp(first, end);
    // The next one is nearly always free, and its index says so at once.
    let held = format!("SELECT EXISTS (SELECT 1 FROM sandboxes WHERE {column} = ?1)");
    let mut is_held = transaction.prepare_cached(&held).doing(VERB)?;
    let mut is_free = |number: u32| {
        is_held.query_row(params![number], |row| row.get::<_, bool>(0)).map(|held| !held)
    };
    let mut free = None;
    for number in (start..end).chain(first..start) {
        if is_free(number).doing(VERB)? {
            free = Some(number);
            break;
        }
    }
    let number = free.ok_or(StoreError::Exhausted { what, total: end - first })?;
    transaction
        .execute_cached("INSERT INTO counters (name, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2", params![column, number])
        .doing(VERB)?;
    Ok(number)
}

/// The columns as [`read`] takes them.
pub(super) const COLUMNS: &str = "id, hub, user, server, generation, request_id, request_hash, state, facts, run_range, address_index, exit";

pub(super) fn read(row: &Row<'_>, first_run_id: u32) -> Result<SandboxRecord, StoreError> {
    const VERB: &str = "read a sandbox";
    let id: String = row.get(0).doing(VERB)?;
    let content = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Content {
        what: id.clone(),
        source,
    };
    let text = |index: usize| row.get::<_, String>(index).doing(VERB);
    let state = match text(7)?.as_str() {
        "starting" => SandboxState::Starting,
        "running" => SandboxState::Running,
        "gone" => SandboxState::Gone,
        other => return Err(content(format!("`{other}` is no state").into())),
    };
    let exit: Option<String> = row.get(11).doing(VERB)?;
    let range: Option<u32> = row.get(9).doing(VERB)?;
    Ok(SandboxRecord {
        id: id.parse().map_err(|error| content(Box::new(error)))?,
        key: ServerKey::recorded(&text(1)?, &text(2)?, &text(3)?)
            .map_err(|error| content(Box::new(error)))?,
        generation: row.get(4).doing(VERB)?,
        request_id: text(5)?,
        request_hash: row.get(6).doing(VERB)?,
        state,
        facts: serde_json::from_str(&text(8)?).map_err(|error| content(error.into()))?,
        run_range_first: range.map_or(0, |range| first_run_id + range * IDS_PER_SANDBOX),
        address_index: row.get::<_, Option<u32>>(10).doing(VERB)?.unwrap_or(0),
        exit: exit
            .map(|exit| serde_json::from_str(&exit))
            .transpose()
            .map_err(|error| content(error.into()))?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::store::Step;

    pub(crate) const POOLS: Pools = Pools {
        first_run_id: 1_000_000,
        last_run_id: 1_000_000 + 3 * 65_536 - 1,
        first_address: 256,
        last_address: 300,
    };

    pub(crate) fn new(id: &str, user: &str) -> NewSandbox {
        NewSandbox {
            id: id.parse().unwrap(),
            key: ServerKey::new("hub", user, "").unwrap(),
            request_id: RequestId::new("r").unwrap(),
            request_hash: [0; 32],
            facts: Facts {
                profile: "p".into(),
                runtime: "runc".into(),
                runtime_kind: String::new(),
                image_reference: "i".into(),
                image_digest: "sha256:0".into(),
                egress: "hub".into(),
                uid_inside: 1000,
                gid_inside: 1000,
                home_inside: "/home/jovyan".into(),
                disk_uid: 70_000,
                disk_gid: 70_000,
                memory_bytes: 1,
                cpu_millis: 1,
                processes: 1,
                open_files: 1,
                tmp_bytes: 1,
                shm_bytes: 1,
                log_bytes: 1,
                ignore_user_config: false,
                home_mapped: false,
                started_at: 1,
            },
        }
    }

    #[test]
    fn one_live_sandbox_per_server_and_leases_rest_before_reuse() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite")).unwrap();
        let first = store.record_sandbox(&new("saaaaaaaaaaa", "ana"), POOLS).unwrap();
        assert_eq!(
            (first.generation, first.run_range_first, first.address_index),
            (1, 1_000_000, 256)
        );
        assert!(matches!(
            store.record_sandbox(&new("sbbbbbbbbbbb", "ana"), POOLS),
            Err(StoreError::AlreadyLive)
        ));
        store.intend(&first.id, Step::Network).unwrap();
        store.intend(&first.id, Step::Directory).unwrap();
        assert_eq!(store.steps(&first.id).unwrap(), [Step::Network, Step::Directory]);
        let exit = ExitRecord {
            cause: 1,
            code: 3,
            signal: 0,
            message: "m".into(),
            log_tail: String::new(),
        };
        store.record_exit(&first.id, &exit).unwrap();
        for step in Step::ALL {
            store.cross_out(&first.id, step).unwrap();
        }
        store.give_back(&first.id).unwrap();
        let second = store.record_sandbox(&new("sccccccccccc", "ana"), POOLS).unwrap();
        assert_eq!(
            (second.generation, second.run_range_first, second.address_index),
            (2, 1_000_000 + 65_536, 257)
        );
        assert_eq!(store.sandboxes(POOLS.first_run_id).unwrap().len(), 1);
    }

    #[test]
    fn an_exhausted_pool_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite")).unwrap();
        for index in 0..3 {
            store
                .record_sandbox(
                    &new(&format!("saaaaaaaaaa{index}"), &format!("user{index}")),
                    POOLS,
                )
                .unwrap();
        }
        assert!(matches!(
            store.record_sandbox(&new("sddddddddddd", "more"), POOLS),
            Err(StoreError::Exhausted { .. })
        ));
    }

    #[test]
    fn a_newer_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.sqlite");
        drop(Store::open(&path).unwrap());
        rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
    }
}
