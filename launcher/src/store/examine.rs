//! Looks at every page and every row of a ledger, and tells what can be read and
//! what cannot be trusted. Changes nothing.
//!
//! Rows are read one by one from both ends of a table, so that a broken page costs
//! its own rows and no others.

use std::{collections::BTreeMap, fs, path::Path};

use rusqlite::{Connection, OpenFlags, Row, config::DbConfig, params};

use super::{RetiredHome, Step, StoreError, retired, sandboxes, sandboxes::SandboxRecord, schema};
use crate::names::{Owner, ServerKey};

/// Something that cannot be trusted, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: a table and what identifies the row, or the file.
    pub at: String,
    pub problem: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.at, self.problem)
    }
}

/// A disk identity; the owner's name is unknown where only the home told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRow {
    pub on_disk: String,
    pub owner: Option<(String, String)>,
    pub id: u32,
    pub created_at: i64,
}

/// How often a server was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationRow {
    pub key: ServerKey,
    pub last: u64,
}

/// A sandbox, with its leases as numbers of their pools.
#[derive(Clone, Debug)]
pub struct SandboxRow {
    pub record: SandboxRecord,
    pub run_range: Option<u32>,
    pub address_index: Option<u32>,
}

/// Everything that could be read.
#[derive(Debug, Default)]
pub struct Examined {
    pub version: u32,
    pub identities: Vec<IdentityRow>,
    pub generations: Vec<GenerationRow>,
    pub sandboxes: Vec<SandboxRow>,
    pub steps: Vec<(String, Step)>,
    pub counters: Vec<(String, u64)>,
    pub retired: Vec<RetiredHome>,
    pub findings: Vec<Finding>,
}

/// How many problems SQLite may list; the first ones tell enough.
const LISTED: u32 = 20;

/// A file that is read and never written, not even by SQLite's own tidying up.
pub fn examine(path: &Path) -> Result<Examined, StoreError> {
    let length = fs::metadata(path).map(|metadata| metadata.len());
    let broken = |problem: String| Examined {
        findings: vec![Finding { at: path.display().to_string(), problem }],
        ..Examined::default()
    };
    match length {
        // SQLite would take it for a new one, and delete the log of changes beside it.
        Ok(0) => return Ok(broken("the file is empty".into())),
        Ok(_) => {}
        Err(source) => return Err(StoreError::Copy { path: path.into(), source }),
    }
    let opened = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|connection| keep_log(&connection, true).map(|()| connection));
    match opened {
        Ok(connection) => examine_open(&connection).map_err(|source| StoreError::File {
            verb: "read",
            path: path.into(),
            source,
        }),
        Err(error) => Ok(broken(error.to_string())),
    }
}

/// Whether an error tells of the machine (no room, no memory, somebody else's lock)
/// and says nothing of what the file holds.
fn is_of_the_machine(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied,
        ReadOnly, SystemIoFailure,
    };
    let extended = error.sqlite_error().map(|error| error.extended_code);
    match error.sqlite_error_code() {
        // A part of the disk that cannot be read is a part of the ledger that is lost.
        Some(SystemIoFailure) => extended != Some(rusqlite::ffi::SQLITE_IOERR_READ),
        Some(
            CannotOpen | DatabaseBusy | DatabaseLocked | DiskFull | OutOfMemory | PermissionDenied
            | ReadOnly,
        ) => true,
        _ => false,
    }
}

/// The log of changes beside a file that is not trusted must not be merged into it.
pub fn keep_log(connection: &Connection, keep: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map(|_| ())
}

/// As [`examine`], of a ledger that is open.
pub fn examine_open(connection: &Connection) -> rusqlite::Result<Examined> {
    let mut examined = Examined::default();
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    match schema::version(connection) {
        Ok(version) => examined.version = version,
        Err(error) if is_of_the_machine(&error) => return Err(error),
        Err(error) => {
            examined.note("the file", &error.to_string());
            return Ok(examined);
        }
    }
    if examined.version == 0 || examined.version > schema::VERSION {
        examined.note("the file", &format!("its schema has the number {}", examined.version));
    }
    let pages = pragma(connection, &format!("PRAGMA integrity_check({LISTED})"), |row| row.get(0));
    for problem in pages.iter().flat_map(|problem| problem.lines()) {
        if problem != "ok" && !problem.starts_with("***") {
            examined.note("the file", problem.trim());
        }
    }
    examined.read_identities(connection)?;
    examined.read_generations(connection)?;
    examined.read_sandboxes(connection)?;
    examined.read_steps(connection)?;
    examined.read_counters(connection)?;
    examined.read_retired(connection)?;
    Ok(examined)
}

/// What a pragma lists; an error is a line as well.
fn pragma(
    connection: &Connection,
    text: &str,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
) -> Vec<String> {
    let listed = (|| {
        let mut query = connection.prepare(text)?;
        let lines = query.query_map([], |row| read(row))?;
        Ok::<_, rusqlite::Error>(
            lines.map(|line| line.unwrap_or_else(|error| error.to_string())).collect(),
        )
    })();
    listed.unwrap_or_else(|error| vec![error.to_string()])
}

/// A problem with a row's content, and what the row calls itself.
type RowProblem = (String, String);

impl Examined {
    fn note(&mut self, at: &str, problem: &str) {
        let finding = Finding { at: at.into(), problem: problem.into() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Reads a table from its beginning, and, where that breaks off, from its end.
    fn rows<T>(
        &mut self,
        connection: &Connection,
        table: &str,
        columns: &str,
        read: impl Fn(&Row<'_>) -> Result<T, RowProblem>,
    ) -> rusqlite::Result<Vec<T>> {
        let mut rows: BTreeMap<i64, Result<T, RowProblem>> = BTreeMap::new();
        for order in ["ASC", "DESC"] {
            let text =
                format!("SELECT {columns}, rowid FROM {table} NOT INDEXED ORDER BY rowid {order}");
            let mut pass = || {
                let mut query = connection.prepare(&text)?;
                let last = query.column_count() - 1;
                let mut found = query.query([])?;
                while let Some(row) = found.next()? {
                    rows.insert(row.get(last)?, read(row));
                }
                Ok::<_, rusqlite::Error>(())
            };
            match pass() {
                Ok(()) => break,
                Err(error) if is_of_the_machine(&error) => return Err(error),
                Err(error) => self.note(table, &format!("rows cannot be read ({error})")),
            }
        }
        let mut good = Vec::with_capacity(rows.len());
        for (rowid, row) in rows {
            match row {
                Ok(row) => good.push(row),
                Err((name, problem)) => {
                    let name = if name.is_empty() { format!("row {rowid}") } else { name };
                    self.note(&format!("{table}, {name}"), &problem);
                }
            }
        }
        Ok(good)
    }

    fn read_identities(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let old = self.version == 1;
        let columns = if old {
            "NULL, hub, user, id, created_at"
        } else {
            "on_disk, hub, user, id, created_at"
        };
        let rows = self.rows(connection, "disk_identities", columns, |row| {
            let name: (Option<String>, Option<String>) = (column(row, 1, "")?, column(row, 2, "")?);
            let shown = format!(
                "{}/{}",
                name.0.as_deref().unwrap_or("?"),
                name.1.as_deref().unwrap_or("?")
            );
            let id: u32 = column(row, 3, &shown)?;
            let created_at = column(row, 4, &shown)?;
            let stored: Option<String> = column(row, 0, &shown)?;
            let (owner, mut problem) = match name {
                (Some(hub), Some(user)) => match ServerKey::new(&hub, &user, "") {
                    Ok(key) => (Some(key.owner()), None),
                    Err(error) => (None, Some(format!("the name is damaged: {error}"))),
                },
                _ => (None, None),
            };
            let hashed = owner.as_ref().map(Owner::on_disk);
            let mut owner = owner.map(|owner| (owner.hub, owner.user.as_str().to_owned()));
            if let (Some(stored), Some(hashed)) = (&stored, &hashed)
                && stored != hashed
            {
                problem =
                    Some(format!("its name on disk is {stored}, but the name gives {hashed}"));
                owner = None;
            }
            let shown = format!("{shown} (id {id})");
            let Some(on_disk) = stored.or(hashed) else {
                return Err((shown, problem.unwrap_or_else(|| "it has no name".into())));
            };
            Ok((IdentityRow { on_disk, owner, id, created_at }, problem.map(|text| (shown, text))))
        })?;
        for (row, problem) in rows {
            if let Some((name, problem)) = problem {
                self.note(&format!("disk_identities, {name}"), &problem);
            }
            // One whose name is doubtful keeps its number, so that nobody else gets it.
            self.identities.push(row);
        }
        Ok(())
    }

    fn read_generations(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.generations =
            self.rows(connection, "generations", "hub, user, server, last", |row| {
                let key = read_key(row, 0)?;
                let last = column(row, 3, &key.to_string())?;
                Ok(GenerationRow { key, last })
            })?;
        Ok(())
    }

    fn read_sandboxes(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.sandboxes = self.rows(connection, "sandboxes", sandboxes::COLUMNS, |row| {
            let id: String = column(row, 0, "")?;
            let key = read_key(row, 1).map_err(|(_, problem)| (id.clone(), problem))?;
            let record = sandboxes::read(row, 0)
                .map_err(|error| (format!("{id} of {key}"), innermost(&error)))?;
            Ok(SandboxRow {
                record,
                run_range: column(row, 9, &id)?,
                address_index: column(row, 10, &id)?,
            })
        })?;
        Ok(())
    }

    fn read_steps(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let rows = self.rows(connection, "steps", "sandbox, step", |row| {
            let sandbox: String = column(row, 0, "")?;
            let step: String = column(row, 1, &sandbox)?;
            let known = Step::parse(&step)
                .ok_or_else(|| (sandbox.clone(), format!("`{step}` is no step")))?;
            Ok((sandbox, known))
        })?;
        for (sandbox, step) in rows {
            let owned = connection.query_row(
                "SELECT 1 FROM sandboxes WHERE id = ?1",
                params![sandbox],
                |_| Ok(()),
            );
            if owned.is_err() {
                self.note(&format!("steps, {sandbox}"), "there is no such sandbox");
            }
            self.steps.push((sandbox, step));
        }
        Ok(())
    }

    fn read_retired(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.version >= 3 {
            self.retired = self.rows(connection, "retired_homes", retired::COLUMNS, |row| {
                let number: i64 = column(row, 0, "")?;
                retired::read(row).map_err(|error| (number.to_string(), error.to_string()))
            })?;
        }
        Ok(())
    }

    fn read_counters(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.counters = self.rows(connection, "counters", "name, value", |row| {
            let name: String = column(row, 0, "")?;
            let value = column(row, 1, &name)?;
            Ok((name, value))
        })?;
        Ok(())
    }
}

fn innermost(error: &StoreError) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn column<T: rusqlite::types::FromSql>(
    row: &Row<'_>,
    index: usize,
    name: &str,
) -> Result<T, RowProblem> {
    row.get(index).map_err(|error| (name.to_owned(), error.to_string()))
}

fn read_key(row: &Row<'_>, first: usize) -> Result<ServerKey, RowProblem> {
    let texts: [String; 3] =
        [column(row, first, "")?, column(row, first + 1, "")?, column(row, first + 2, "")?];
    let [hub, user, server] = &texts;
    ServerKey::recorded(hub, user, server).map_err(|error| (texts.join("/"), error.to_string()))
}
