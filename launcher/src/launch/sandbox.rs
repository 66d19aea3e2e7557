//! One sandbox's facts and the names of everything that belongs to it. All
//! names come from its id, so that whatever is found on the host can be told
//! to be somebody's or nobody's.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use adrastea_runtimes::{
    Runtime,
    plan::{IdMap, ImageUser, Limits, Plan, SandboxId},
};

use crate::{
    host::{HostError, confinement, covers::HomeOwner, directories, namespaces::Shown},
    image,
    store::SandboxRecord,
};

/// Where a launcher keeps things: the same for all its sandboxes.
#[derive(Clone, Debug)]
pub struct Layout {
    pub instance: String,
    pub state: PathBuf,
    pub run: PathBuf,
}

impl Layout {
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("sandboxes")
    }

    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub fn skeletons(&self) -> PathBuf {
        self.state.join("skeleton")
    }

    /// A directory in which nothing ever is.
    pub fn empty(&self) -> PathBuf {
        self.state.join("empty")
    }

    /// Where the runtime of this name keeps its state. The operator's own names are apart, so
    /// that none is that of anything else there.
    pub fn runtime_root(&self, name: &str) -> PathBuf {
        match adrastea_runtimes::by_name(name) {
            Some(_) => self.run.join(name),
            None => self.named_runtimes().join(name),
        }
    }

    fn named_runtimes(&self) -> PathBuf {
        self.run.join("runtimes")
    }

    /// Where each runtime keeps what it knows of our containers (`<root>/<namespace>`); also
    /// those that no configuration names any more.
    pub fn runtime_states(&self) -> Result<Vec<PathBuf>, HostError> {
        let drivers = adrastea_runtimes::all().iter().map(|runtime| self.run.join(runtime.name()));
        let named = self.named_runtimes();
        let others = directories::names(&named)?.into_iter().map(|name| named.join(name));
        Ok(drivers.chain(others).map(|root| root.join(&self.instance)).collect())
    }

    /// What pulls have fetched so far.
    pub fn downloads(&self) -> PathBuf {
        self.state.join("downloads")
    }

    /// For how long which image has been unused.
    pub fn image_ages(&self) -> PathBuf {
        self.state.join("unused-images.json")
    }

    pub fn store(&self) -> PathBuf {
        self.state.join("launcher.sqlite")
    }

    /// Held by whoever may change the ledger: one launcher, or one repair.
    pub fn lock(&self) -> PathBuf {
        self.state.join("launcher.lock")
    }

    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.instance)
    }

    pub fn sandbox_directory(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }
}

/// The file that a runtime reads for the sandbox of this directory alone.
pub fn configuration(directory: &Path) -> PathBuf {
    directory.join("runtime.toml")
}

/// One sandbox: its record, and where its parts are.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub record: SandboxRecord,
    pub address: Ipv4Addr,
    pub directory: PathBuf,
    pub log: PathBuf,
    pub cgroup: String,
}

impl Sandbox {
    pub fn new(record: SandboxRecord, address: Ipv4Addr, layout: &Layout) -> Self {
        let id = record.id.as_str();
        Self {
            directory: layout.sandbox_directory(id),
            log: layout.logs().join(format!("{id}.log")),
            cgroup: format!("{}/{id}", layout.cgroup_parent()),
            address,
            record,
        }
    }

    pub fn id(&self) -> &SandboxId {
        &self.record.id
    }

    pub fn channel_directory(&self) -> PathBuf {
        self.directory.join("io")
    }

    pub fn stdin(&self) -> PathBuf {
        self.channel_directory().join("stdin")
    }

    pub fn stdout(&self) -> PathBuf {
        self.channel_directory().join("stdout")
    }

    pub fn user_namespace(&self) -> PathBuf {
        self.directory.join("user.ns")
    }

    pub fn network_namespace(&self) -> PathBuf {
        self.directory.join("network.ns")
    }

    /// The file that a runtime reads for this sandbox alone.
    pub fn configuration(&self) -> PathBuf {
        configuration(&self.directory)
    }

    pub fn uid_map(&self) -> IdMap {
        let facts = &self.record.facts;
        self.map(facts.uid_inside, facts.disk_uid)
    }

    pub fn gid_map(&self) -> IdMap {
        let facts = &self.record.facts;
        self.map(facts.gid_inside, facts.disk_gid)
    }

    /// The user's own id leads straight to the number on disk, or, where that was not known when
    /// the sandbox was made, into the range as every other.
    fn map(&self, inside: u32, disk: u32) -> IdMap {
        let first = self.record.run_range_first;
        let outside = if self.record.facts.home_mapped { first + inside } else { disk };
        IdMap::with_hole(first, inside, outside)
    }

    /// The host's numbers of whoever writes into the home from inside.
    pub fn host_owner(&self) -> HomeOwner {
        let facts = &self.record.facts;
        HomeOwner {
            uid: self.uid_map().to_host(facts.uid_inside).unwrap_or(facts.disk_uid),
            gid: self.gid_map().to_host(facts.gid_inside).unwrap_or(facts.disk_gid),
        }
    }

    /// What a mapped home shows of the numbers on its disk, uids and gids: the user's own, and no
    /// other that a file could keep.
    pub fn home_ids(&self) -> (Vec<Shown>, Vec<Shown>) {
        let (facts, seen) = (&self.record.facts, self.host_owner());
        let shown = |on_disk: u32, seen: u32, map: &IdMap| {
            let mut shown = vec![Shown { on_disk, seen }];
            // New files are root's of this sandbox until they are the user's, as in a cold start.
            let root = self.runtime().is_some_and(Runtime::makes_files_as_root);
            let root = map.to_host(0).filter(|number| root && *number != seen);
            shown.extend(root.map(|number| Shown { on_disk: number, seen: number }));
            shown
        };
        (
            shown(facts.disk_uid, seen.uid, &self.uid_map()),
            shown(facts.disk_gid, seen.gid, &self.gid_map()),
        )
    }

    pub fn home_inside(&self) -> &Path {
        &self.record.facts.home_inside
    }

    /// The driver it runs under; none for one that this launcher no longer knows.
    pub fn runtime(&self) -> Option<&'static dyn Runtime> {
        adrastea_runtimes::by_name(self.record.facts.driver_name())
    }

    /// What the runtimes get to know of it.
    pub fn plan(&self) -> Plan {
        let facts = &self.record.facts;
        Plan {
            id: self.id().clone(),
            hostname: "sandbox".into(),
            rootfs: self.directory.join("rootfs"),
            init: image::INIT.into(),
            user_namespace: self.user_namespace(),
            network_namespace: self.network_namespace(),
            uid_map: self.uid_map(),
            gid_map: self.gid_map(),
            user: ImageUser {
                uid: facts.uid_inside,
                gid: facts.gid_inside,
                home: facts.home_inside.clone(),
            },
            cgroup: self.cgroup.clone(),
            apparmor_profile: confinement::apparmor_profile(),
            limits: Limits {
                memory_bytes: facts.memory_bytes,
                cpu_millis: facts.cpu_millis,
                processes: self
                    .runtime()
                    .map_or(facts.processes, |runtime| runtime.host_processes(facts.processes)),
                open_files: facts.open_files,
                tmp_bytes: facts.tmp_bytes,
                shm_bytes: facts.shm_bytes,
            },
        }
    }
}
