//! The journal: before a step changes the host, its intent is written; after
//! its undo, it is crossed out. What is written here and not crossed out may
//! exist, and nothing else can.

use rusqlite::params;

use super::{Cached as _, InQuery as _, Store, StoreError};
use adrastea_runtimes::plan::SandboxId;

/// The changes to the host that make a sandbox, in the order they are made.
/// Everything a step makes is named after the sandbox's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The run directory with the FIFOs of the channel, and the log file.
    Directory,
    /// The pinned user and network namespaces.
    Namespaces,
    /// The link, its addresses and routes, the elements in the rules.
    Network,
    /// The idmapped layers and the overlay over them.
    Rootfs,
    /// The engine's container and task, and the control group with it.
    Container,
}

impl Step {
    pub const ALL: [Self; 5] =
        [Self::Directory, Self::Namespaces, Self::Network, Self::Rootfs, Self::Container];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Namespaces => "namespaces",
            Self::Network => "network",
            Self::Rootfs => "rootfs",
            Self::Container => "container",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }
}

impl Store {
    /// Writes the intent of a step. Must return before the host is touched.
    pub fn intend(&self, id: &SandboxId, step: Step) -> Result<(), StoreError> {
        self.connection()
            .execute_cached(
                "INSERT INTO steps (sandbox, sequence, step) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![id.as_str(), step as u32, step.name()],
            )
            .doing("journal a step")
            .map(|_| ())
    }

    /// Crosses out a step whose undo has succeeded.
    pub fn cross_out(&self, id: &SandboxId, step: Step) -> Result<(), StoreError> {
        self.connection()
            .execute_cached(
                "DELETE FROM steps WHERE sandbox = ?1 AND step = ?2",
                params![id.as_str(), step.name()],
            )
            .doing("cross out a step")
            .map(|_| ())
    }

    /// The steps that may have happened, newest first: the order of undoing.
    pub fn steps(&self, id: &SandboxId) -> Result<Vec<Step>, StoreError> {
        const VERB: &str = "read the journal";
        let connection = self.connection();
        let mut query = connection
            .prepare_cached("SELECT step FROM steps WHERE sandbox = ?1 ORDER BY sequence DESC")
            .doing(VERB)?;
        let names =
            query.query_map(params![id.as_str()], |row| row.get::<_, String>(0)).doing(VERB)?;
        let mut steps = Vec::new();
        for name in names {
            let name = name.doing(VERB)?;
            steps.push(Step::parse(&name).ok_or_else(|| StoreError::Content {
                what: format!("step {name}"),
                source: "unknown step".into(),
            })?);
        }
        Ok(steps)
    }
}
