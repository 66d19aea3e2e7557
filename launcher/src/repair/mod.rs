//! `adrastea repair`: looks at the ledger, the homes and what is left of sandboxes,
//! says row by row what is wrong and what would be done, and does it when told to.
//!
//! ```text
//! lock ─ examine (changes nothing) ─ plan ─ told ─ confirmed? ─ carry out
//! ```
//! Must never touch a home or a sandbox, never delete a ledger, and never work while
//! a launcher runs.

pub mod plan;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};

use crate::{
    boot,
    config::Config,
    home,
    host::lock::InstanceLock,
    launch::sandbox::Layout,
    store::{Store, StoreError, examine, now, rebuild, schema},
};
use plan::{Found, Plan};

/// A repair that may go on: nobody else does anything to this instance.
pub struct Repair {
    layout: Layout,
    plan: Plan,
    /// An earlier repair was interrupted after it had written everything.
    unfinished: bool,
    _lock: InstanceLock,
}

impl Repair {
    /// Looks at everything; changes nothing.
    pub fn examine(config: &Config) -> anyhow::Result<Self> {
        let layout = boot::layout(config);
        if !layout.state.is_dir() {
            return Err(anyhow!("there is no state directory `{}`", layout.state.display()));
        }
        let lock = InstanceLock::take(&layout.lock(), Duration::ZERO)?;
        let path = layout.store();
        let examined = match examine::examine(&path) {
            Ok(examined) if examined.version > schema::VERSION => {
                return Err(StoreError::Newer { path, found: examined.version }.into());
            }
            Ok(examined) => Some(examined),
            Err(StoreError::Copy { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => return Err(error.into()),
        };
        let driver = home::driver(&config.home.driver)
            .ok_or_else(|| anyhow!("there is no home driver `{}`", config.home.driver))?;
        let root = config.home_root();
        // Without the homes nobody's number can be known for sure: that is no time to mend.
        let homes = if config.home.root.is_none() && !root.exists() {
            Vec::new()
        } else {
            driver.owners(&root).context("the homes cannot be looked at; mount them first")?
        };
        let found = Found {
            examined,
            homes,
            present: names_in(&layout.sandboxes()),
            ids: config.identity.first_disk_id..=config.identity.last_disk_id,
            now: now(),
        };
        let unfinished = rebuild::rebuilt_path(&path).exists();
        Ok(Self { plan: Plan::of(found), layout, unfinished, _lock: lock })
    }

    /// Whether there is something to mend.
    pub fn is_needed(&self) -> bool {
        self.unfinished || self.plan.is_needed()
    }

    /// What was found, and what will be done, for people.
    pub fn lines(&self) -> Vec<String> {
        let path = self.layout.store();
        let mut lines = vec![format!("ledger {}", path.display())];
        if self.unfinished {
            lines.push("  an earlier repair was interrupted; what it had written is whole and will be put in place".into());
            return lines;
        }
        lines.extend(self.plan.lines().into_iter().map(|line| format!("  {line}")));
        lines
    }

    /// Does what [`Self::lines`] said; returns where the old ledger lies now, if it was moved.
    pub fn carry_out(self) -> anyhow::Result<Option<PathBuf>> {
        let path = self.layout.store();
        if !self.unfinished {
            match &self.plan {
                Plan { rebuild: None, adopted, .. } => {
                    let store = Store::open(&path)?;
                    for home in adopted {
                        store.adopt_identity(&home.name_on_disk, home.uid)?;
                    }
                    return Ok(None);
                }
                Plan { rebuild: Some(content), .. } => rebuild::write(&path, content)?,
            }
        }
        let quarantine = rebuild::quarantine_path(&path, now());
        let was_there = Store::is_there(&path) || path.exists();
        rebuild::put_in_place(&path, &quarantine)?;
        // The proof of the mending: it is opened as a launcher would.
        Store::open(&path).context("the new ledger cannot be opened")?;
        Ok(was_there.then_some(quarantine))
    }
}

/// The names in a directory that may be absent: after a reboot nothing runs.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
