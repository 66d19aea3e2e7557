//! Control groups of both versions behind one reader. The OCI runtime writes
//! the limits; this module makes and removes groups and reads what holds.
//!
//! Version 2 if and only if `/sys/fs/cgroup/cgroup.controllers` exists
//! (cgroups(7)). It must never touch a group outside the path it is given.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Attempt as _, HostError, read_kernel_file};

const ROOT: &str = "/sys/fs/cgroup";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// One directory per controller below the root.
    V1(Vec<PathBuf>),
    V2(PathBuf),
}

/// What a group's memory controller counted and limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub limit_bytes: Option<u64>,
    /// Memory and swap together.
    pub with_swap_bytes: Option<u64>,
    pub used_bytes: u64,
    /// Times the kernel killed in this group for want of memory.
    pub kills: u64,
}

impl Hierarchy {
    pub fn detect() -> Self {
        Self::detect_at(Path::new(ROOT))
    }

    /// For fixture trees: the same below another root.
    pub fn detect_at(root: &Path) -> Self {
        if root.join("cgroup.controllers").exists() {
            return Self::V2(root.into());
        }
        let mut controllers: Vec<PathBuf> = fs::read_dir(root)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.is_dir() && !path.is_symlink() && path.join("cgroup.procs").exists()
            })
            .collect();
        controllers.sort();
        Self::V1(controllers)
    }

    pub fn version(&self) -> u32 {
        match self {
            Self::V1(_) => 1,
            Self::V2(_) => 2,
        }
    }

    /// Every directory of one group: one per controller in version 1.
    pub fn directories(&self, group: &str) -> Vec<PathBuf> {
        let relative = group.trim_start_matches('/');
        match self {
            Self::V1(controllers) => {
                controllers.iter().map(|controller| controller.join(relative)).collect()
            }
            Self::V2(root) => vec![root.join(relative)],
        }
    }

    pub(super) fn controller(&self, name: &str, group: &str) -> PathBuf {
        let relative = group.trim_start_matches('/');
        match self {
            // A controller can be mounted together with another: `cpu,cpuacct`.
            Self::V1(controllers) => controllers
                .iter()
                .find(|path| {
                    path.file_name().is_some_and(|folder| {
                        folder.to_string_lossy().split(',').any(|part| part == name)
                    })
                })
                .map_or_else(
                    || Path::new(ROOT).join(name).join(relative),
                    |path| path.join(relative),
                ),
            Self::V2(root) => root.join(relative),
        }
    }

    pub fn memory(&self, group: &str) -> Result<Memory, HostError> {
        let folder = self.controller("memory", group);
        let (limit, used, events, key) = match self {
            Self::V1(_) => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "memory.oom_control",
                "oom_kill ",
            ),
            Self::V2(_) => ("memory.max", "memory.current", "memory.events", "oom_kill "),
        };
        let read = |file: &str| {
            let path = folder.join(file);
            read_kernel_file(&path).attempt("read", &path)
        };
        let kills = read(events)?
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            .unwrap_or(0);
        let limit_bytes = read(limit)?.trim().parse().ok();
        let number = |file: &str| read(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let with_swap_bytes = match self {
            // A kernel that does not count swap per group bounds it only by having none.
            Self::V1(_) => {
                number("memory.memsw.limit_in_bytes").or(limit_bytes.filter(|_| !has_swap()))
            }
            Self::V2(_) => number("memory.swap.max")
                .or((!has_swap()).then_some(0))
                .zip(limit_bytes)
                .map(|(swap, memory): (u64, u64)| memory.saturating_add(swap)),
        };
        Ok(Memory {
            limit_bytes,
            with_swap_bytes,
            used_bytes: read(used)?.trim().parse().unwrap_or(0),
            kills,
        })
    }

    /// Bytes in use but for file pages that nobody has used lately, which the kernel gives back at once.
    pub fn working_set(&self, group: &str) -> Result<u64, HostError> {
        let path = self.controller("memory", group).join("memory.stat");
        let key = match self {
            Self::V1(_) => "total_inactive_file ",
            Self::V2(_) => "inactive_file ",
        };
        let stat = read_kernel_file(&path).attempt("read", &path)?;
        let idle = stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        Ok(self.memory(group)?.used_bytes.saturating_sub(idle.unwrap_or(0)))
    }

    pub fn process_limit(&self, group: &str) -> Result<Option<u64>, HostError> {
        let path = self.controller("pids", group).join("pids.max");
        Ok(read_kernel_file(&path).attempt("read", &path)?.trim().parse().ok())
    }

    /// How often a process or thread could not be made for the group's limit.
    pub fn refused_processes(&self, group: &str) -> Result<u64, HostError> {
        let path = self.controller("pids", group).join("pids.events");
        let events = read_kernel_file(&path).attempt("read", &path)?;
        let count = events.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok());
        Ok(count.unwrap_or(0))
    }

    /// Thousandths of one CPU, or none if unlimited.
    pub fn cpu_millis(&self, group: &str) -> Result<Option<u64>, HostError> {
        let folder = self.controller("cpu", group);
        let read = |file: &str| {
            let path = folder.join(file);
            read_kernel_file(&path).attempt("read", &path)
        };
        let (quota, period) = match self {
            Self::V1(_) => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
            Self::V2(_) => {
                let text = read("cpu.max")?;
                let (quota, period) =
                    text.trim().split_once(' ').unwrap_or((text.trim(), "100000"));
                (quota.to_owned(), period.to_owned())
            }
        };
        let (quota, period) =
            (quota.trim().parse::<i64>().unwrap_or(-1), period.trim().parse::<i64>().unwrap_or(0));
        Ok(u64::try_from(quota)
            .ok()
            .filter(|_| period > 0)
            .map(|quota| quota * 1000 / period.unsigned_abs()))
    }

    /// What a group gets of the processors where others want them too, as the kernel writes it.
    pub fn weight(&self, group: &str) -> Result<String, HostError> {
        let path = self.weight_file(group);
        Ok(read_kernel_file(&path).attempt("read", &path)?.trim().to_owned())
    }

    pub fn set_weight(&self, group: &str, weight: &str) -> Result<(), HostError> {
        let path = self.weight_file(group);
        fs::write(&path, weight).attempt("write", path)
    }

    fn weight_file(&self, group: &str) -> PathBuf {
        self.controller("cpu", group).join(match self {
            Self::V1(_) => "cpu.shares",
            Self::V2(_) => "cpu.weight",
        })
    }

    /// The least weight there is.
    pub fn least_weight(&self) -> &'static str {
        match self {
            Self::V1(_) => "2",
            Self::V2(_) => "1",
        }
    }

    /// Microseconds of processor time that a group has used since it exists.
    pub fn cpu_used(&self, group: &str) -> Result<u64, HostError> {
        let (path, key) = match self {
            Self::V1(_) => (self.controller("cpuacct", group).join("cpuacct.usage"), None),
            Self::V2(root) => {
                (root.join(group.trim_start_matches('/')).join("cpu.stat"), Some("usage_usec "))
            }
        };
        let text = read_kernel_file(&path).attempt("read", &path)?;
        Ok(match key {
            None => text.trim().parse::<u64>().unwrap_or(0) / 1000,
            Some(key) => text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
                .unwrap_or(0),
        })
    }

    /// Makes the parent of an instance's sandboxes.
    pub fn make(&self, group: &str) -> Result<(), HostError> {
        for directory in self.directories(group) {
            // A cpuset is born empty in version 1; the OCI runtime copies it from the parent.
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(HostError::new("create", directory, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every process of a group, in whichever controller's tree it is listed.
    pub fn processes(&self, group: &str) -> BTreeSet<u32> {
        let directories = self.directories(group);
        let all = directories.iter().flat_map(|directory| processes(directory));
        all.filter_map(|pid| u32::try_from(pid).ok()).collect()
    }

    /// Kills everything in a group, for what a dying runtime left behind.
    pub fn kill(&self, group: &str) {
        for directory in self.directories(group) {
            if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
                return;
            }
            for pid in processes_below(&directory) {
                // The process may end by itself meanwhile; then there is nothing to do.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }

    /// Removes a group with what is below it. Absence is success; a busy one is an error.
    pub fn remove(&self, group: &str) -> Result<(), HostError> {
        for directory in self.directories(group) {
            remove_tree(&directory)?;
        }
        Ok(())
    }

    /// The names of the groups directly below `group`, over all controllers.
    pub fn children(&self, group: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .directories(group)
            .iter()
            .flat_map(|directory| fs::read_dir(directory).into_iter().flatten())
            // By the kind in the listing: a group has dozens of files, and each look costs.
            .filter_map(|entry| {
                entry.ok().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            })
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Whether this node can swap anything at all; what cannot be read counts as yes.
fn has_swap() -> bool {
    read_kernel_file("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}

fn processes(directory: &Path) -> Vec<i32> {
    read_kernel_file(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 1)
        .collect()
}

/// Of a group and all that are below it.
fn processes_below(directory: &Path) -> Vec<i32> {
    let inner = fs::read_dir(directory).into_iter().flatten().flatten();
    let inner = inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut all = processes(directory);
    all.extend(inner.flat_map(|entry| processes_below(&entry.path())));
    all
}

/// Groups are removed with rmdir, deepest first; their files are not files.
fn remove_tree(directory: &Path) -> Result<(), HostError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(HostError::new("read", directory, error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    super::tolerate_absence(fs::remove_dir(directory)).attempt("remove", directory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn version_2_is_read_from_a_fixture_tree() {
        let tree = tempfile::tempdir().unwrap();
        write(&tree.path().join("cgroup.controllers"), "cpu memory pids\n");
        let group = tree.path().join("adrastea/s1");
        for (file, content) in [
            ("memory.max", "1073741824\n"),
            ("memory.swap.max", "0\n"),
            ("memory.current", "4096\n"),
            ("memory.stat", "anon 1000\ninactive_file 96\nactive_file 4\n"),
            ("cgroup.procs", "7\n9\n"),
            ("memory.events", "low 0\noom 3\noom_kill 2\n"),
            ("pids.max", "512\n"),
            ("pids.events", "max 7\n"),
            ("cpu.max", "150000 100000\n"),
            ("cpu.weight", "100\n"),
            ("cpu.stat", "usage_usec 7\nuser_usec 5\n"),
        ] {
            write(&group.join(file), content);
        }
        let hierarchy = Hierarchy::detect_at(tree.path());
        assert_eq!(hierarchy.version(), 2);
        let expected = Memory {
            limit_bytes: Some(1 << 30),
            with_swap_bytes: Some(1 << 30),
            used_bytes: 4096,
            kills: 2,
        };
        assert_eq!(hierarchy.processes("/adrastea/s1"), BTreeSet::from([7, 9]));
        assert_eq!(hierarchy.memory("/adrastea/s1").unwrap(), expected);
        assert_eq!(hierarchy.working_set("/adrastea/s1").unwrap(), 4000);
        assert_eq!(hierarchy.process_limit("/adrastea/s1").unwrap(), Some(512));
        assert_eq!(hierarchy.refused_processes("/adrastea/s1").unwrap(), 7);
        assert_eq!(hierarchy.cpu_millis("/adrastea/s1").unwrap(), Some(1500));
        assert_eq!(hierarchy.children("/adrastea"), ["s1"]);
        assert_eq!(hierarchy.cpu_used("/adrastea/s1").unwrap(), 7);
        assert_eq!(hierarchy.weight("/adrastea/s1").unwrap(), "100");
        hierarchy.set_weight("/adrastea/s1", hierarchy.least_weight()).unwrap();
        assert_eq!(hierarchy.weight("/adrastea/s1").unwrap(), "1");
    }

    #[test]
    fn version_1_is_read_from_a_fixture_tree() {
        let tree = tempfile::tempdir().unwrap();
        for controller in ["memory", "pids", "cpu,cpuacct"] {
            write(&tree.path().join(controller).join("cgroup.procs"), "");
        }
        for (file, content) in [
            ("memory/a/s1/memory.limit_in_bytes", "67108864\n"),
            ("memory/a/s1/memory.memsw.limit_in_bytes", "134217728\n"),
            ("memory/a/s1/memory.usage_in_bytes", "1000\n"),
            ("memory/a/s1/memory.stat", "inactive_file 7\ntotal_inactive_file 100\n"),
            ("memory/a/s1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            ("pids/a/s1/pids.max", "max\n"),
            ("pids/a/s1/pids.events", "max 0\n"),
            ("cpu,cpuacct/a/s1/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/a/s1/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/a/s1/cpu.shares", "1024\n"),
            ("cpu,cpuacct/a/s1/cpuacct.usage", "9000\n"),
        ] {
            write(&tree.path().join(file), content);
        }
        let hierarchy = Hierarchy::detect_at(tree.path());
        assert_eq!(hierarchy.version(), 1);
        assert_eq!(hierarchy.memory("/a/s1").unwrap().kills, 1);
        assert_eq!(hierarchy.memory("/a/s1").unwrap().with_swap_bytes, Some(128 << 20));
        assert_eq!(hierarchy.working_set("/a/s1").unwrap(), 900);
        assert_eq!(hierarchy.process_limit("/a/s1").unwrap(), None);
        assert_eq!(hierarchy.refused_processes("/a/s1").unwrap(), 0);
        assert_eq!(hierarchy.cpu_millis("/a/s1").unwrap(), None);
        assert_eq!(hierarchy.cpu_used("/a/s1").unwrap(), 9);
        assert_eq!(hierarchy.weight("/a/s1").unwrap(), "1024");
    }
}
