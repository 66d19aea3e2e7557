//! Writes a ledger anew from what could be saved, and puts it in the place of the
//! one that is not trusted any more.
//!
//! The old file is moved aside, never deleted. The new one is whole on disk before
//! anything is moved; a repair that dies in between is taken up where it was.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, params};

use super::{
    RetiredHome, SandboxState, Step, StoreError, beside,
    examine::{GenerationRow, IdentityRow, SandboxRow},
    retired, schema,
};

/// What goes into a new ledger.
#[derive(Debug, Default)]
pub struct Content {
    pub identities: Vec<IdentityRow>,
    pub generations: Vec<GenerationRow>,
    pub sandboxes: Vec<SandboxRow>,
    pub counters: Vec<(String, u64)>,
    pub retired: Vec<RetiredHome>,
}

/// Where a new ledger lies until it is in place.
pub fn rebuilt_path(path: &Path) -> PathBuf {
    beside(path, ".rebuilt")
}

fn at(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Copy { path: path.clone(), source }
}

/// Writes the new ledger beside the old one; whole, or not at all.
pub fn write(path: &Path, content: &Content) -> Result<(), StoreError> {
    let rebuilt = rebuilt_path(path);
    let unfinished = beside(&rebuilt, ".unfinished");
    for ending in ["", "-wal", "-shm", "-journal"] {
        let file = beside(&unfinished, ending);
        crate::host::tolerate_absence(fs::remove_file(&file)).map_err(at(&file))?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(at(&unfinished))?;
    let sqlite = |source| StoreError::File { verb: "write", path: unfinished.clone(), source };
    let mut connection = Connection::open(&unfinished).map_err(sqlite)?;
    schema::shape(&connection).map_err(sqlite)?;
    schema::migrate(&mut connection, &unfinished)?;
    let transaction = connection.transaction().map_err(sqlite)?;
    insert(&transaction, content).map_err(sqlite)?;
    transaction.commit().map_err(sqlite)?;
    connection.close().map_err(|(_, source)| sqlite(source))?;
    File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&unfinished, &rebuilt))
        .map_err(at(&rebuilt))?;
    sync_directory(path)
}

fn insert(ledger: &Connection, content: &Content) -> rusqlite::Result<()> {
    for row in &content.identities {
        let (hub, user) = row.owner.clone().unzip();
        ledger.execute(
            "INSERT INTO disk_identities (on_disk, hub, user, id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![row.on_disk, hub, user, row.id, row.created_at],
        )?;
    }
    for row in &content.generations {
        ledger.execute(
            "INSERT INTO generations (hub, user, server, last) VALUES (?1, ?2, ?3, ?4)",
            params![row.key.hub, row.key.user.as_str(), row.key.server, row.last],
        )?;
    }
    for home in &content.retired {
        ledger.execute(
            &format!(
                "INSERT INTO retired_homes ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                retired::COLUMNS
            ),
            params![
                home.number,
                home.hub,
                home.user,
                home.on_disk,
                home.id,
                home.owned_since,
                home.retired_at,
                home.purge_at,
                home.state.name()
            ],
        )?;
    }
    for (name, value) in &content.counters {
        ledger
            .execute("INSERT INTO counters (name, value) VALUES (?1, ?2)", params![name, value])?;
    }
    for row in &content.sandboxes {
        let record = &row.record;
        let json = |error: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
        let facts = serde_json::to_string(&record.facts).map_err(json)?;
        let exit = record.exit.as_ref().map(serde_json::to_string).transpose().map_err(json)?;
        ledger.execute(
            "INSERT INTO sandboxes (id, hub, user, server, generation, request_id, request_hash, state, facts, run_range, address_index, exit)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                record.id.as_str(),
                record.key.hub,
                record.key.user.as_str(),
                record.key.server,
                record.generation,
                record.request_id,
                record.request_hash,
                record.state.name(),
                facts,
                row.run_range,
                row.address_index,
                exit
            ],
        )?;
        // Which steps were made is not trusted: each is undone, and absence is tolerated.
        if record.state != SandboxState::Gone || row.run_range.is_some() {
            for step in Step::ALL {
                ledger.execute(
                    "INSERT INTO steps (sandbox, sequence, step) VALUES (?1, ?2, ?3)",
                    params![record.id.as_str(), step as u32, step.name()],
                )?;
            }
        }
    }
    Ok(())
}

/// A free name for what is moved aside.
pub fn quarantine_path(path: &Path, seconds: u64) -> PathBuf {
    (seconds..seconds + 1000)
        .map(|number| beside(path, &format!(".damaged-{number}")))
        .find(|name| ["", "-wal", "-shm"].iter().all(|ending| !beside(name, ending).exists()))
        .unwrap_or_else(|| beside(path, ".damaged"))
}

/// Moves the old ledger with all that belongs to it aside, and the new one in its place.
pub fn put_in_place(path: &Path, quarantine: &Path) -> Result<(), StoreError> {
    // The log of changes first: it must never be taken for one of the new ledger.
    for ending in ["-wal", "-shm", "-journal", ""] {
        let (from, to) = (beside(path, ending), beside(quarantine, ending));
        crate::host::tolerate_absence(fs::rename(&from, &to)).map_err(at(&from))?;
    }
    sync_directory(path)?;
    let rebuilt = rebuilt_path(path);
    fs::rename(&rebuilt, path).map_err(at(&rebuilt))?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(at(parent))
}
