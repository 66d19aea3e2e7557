//! The validated input from which a sandbox is built: everything a runtime may
//! know of one sandbox, and nothing of users, homes, egress or the wire.
//!
//! A `Plan` holds finished facts (one rootfs path, pinned namespaces, numbers).
//! It must never hold a secret, and must never be built from a request without
//! policy in between.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

/// The name of one sandbox on this node; every resource of it is named after it.
///
/// Twelve characters of `[a-z0-9]`, the first a letter: short enough for a
/// network interface's name (15 bytes with a prefix).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(String);

/// Why a text is no sandbox id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no sandbox id: it takes 12 characters of [a-z0-9], the first a letter")]
pub struct InvalidSandboxId(String);

impl SandboxId {
    pub const LENGTH: usize = 12;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = InvalidSandboxId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = text.len() == Self::LENGTH
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSandboxId(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One line of a uid or gid map: `length` ids from `inside` are `outside` on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    pub inside: u32,
    pub outside: u32,
    pub length: u32,
}

/// How many ids one sandbox sees: 0 to 65,535, as images expect.
pub const IDS_PER_SANDBOX: u32 = 65_536;

/// A complete id map of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap(Vec<IdMapping>);

impl IdMap {
    /// All ids into the run range, but `user` (the image's own user) straight
    /// to `disk` (the user's number on disk): a hole in the range. Numbers that make no sense
    /// give a map that [`Plan::validate`] refuses.
    pub fn with_hole(range_first: u32, user: u32, disk: u32) -> Self {
        let mut mappings = Vec::with_capacity(3);
        if user > 0 {
            mappings.push(IdMapping { inside: 0, outside: range_first, length: user });
        }
        mappings.push(IdMapping { inside: user, outside: disk, length: 1 });
        if user < IDS_PER_SANDBOX - 1 {
            mappings.push(IdMapping {
                inside: user + 1,
                outside: range_first.saturating_add(user + 1),
                length: IDS_PER_SANDBOX - user - 1,
            });
        }
        Self(mappings)
    }

    pub fn mappings(&self) -> &[IdMapping] {
        &self.0
    }

    /// The host's id for an id inside, if it is mapped.
    pub fn to_host(&self, inside: u32) -> Option<u32> {
        self.0
            .iter()
            .find(|mapping| (mapping.inside..mapping.inside + mapping.length).contains(&inside))
            .map(|mapping| mapping.outside + (inside - mapping.inside))
    }

    /// As `/proc/PID/uid_map` takes it (user_namespaces(7)).
    pub fn to_proc_text(&self) -> String {
        self.0.iter().fold(String::new(), |text, mapping| {
            text + &format!("{} {} {}\n", mapping.inside, mapping.outside, mapping.length)
        })
    }
}

/// The image's own user, from the profile: never from the image's USER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

/// What a sandbox may use; every one of them is always set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpu_millis: u64,
    pub processes: u32,
    pub open_files: u64,
    pub tmp_bytes: u64,
    pub shm_bytes: u64,
}

/// One sandbox, ready to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub id: SandboxId,
    pub hostname: String,
    /// One finished, mounted root file system.
    pub rootfs: PathBuf,
    /// The init's path inside the rootfs.
    pub init: PathBuf,
    /// Pinned namespaces, made before the sandbox; the network namespace is owned by the user namespace.
    pub user_namespace: PathBuf,
    pub network_namespace: PathBuf,
    pub uid_map: IdMap,
    pub gid_map: IdMap,
    pub user: ImageUser,
    /// The cgroup, below the instance's parent: `/<instance>/<id>`.
    pub cgroup: String,
    /// The AppArmor profile, on a node that has it.
    pub apparmor_profile: Option<&'static str>,
    pub limits: Limits,
}

/// The highest host id in use: beyond it lie numbers that some kernel interfaces take as signed
/// (CVE-2024-40635).
const HIGHEST_HOST_ID: u32 = i32::MAX.cast_unsigned();

/// The lowest host id of a sandbox: below are the host's own users.
const LOWEST_HOST_ID: u32 = IDS_PER_SANDBOX;

/// The least memory in which init and interpreter come up.
const LEAST_MEMORY: u64 = 16 << 20;

/// The longest label of a host name (RFC 1123).
const LONGEST_HOSTNAME: usize = 63;

/// Why a plan cannot be built. Each names the field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPlan {
    #[error("`{0}` is no host name")]
    Hostname(String),
    #[error("{field} `{path}` is not an absolute path without `..`")]
    Path { field: &'static str, path: PathBuf },
    #[error("user and network namespace are both `{0}`")]
    SameNamespace(PathBuf),
    #[error("the home `{0}` would hide a part of the system")]
    Home(PathBuf),
    #[error("the user inside must not be root")]
    Root,
    #[error("the {0} map does not map each id from 0 to 65535 once")]
    MapInside(&'static str),
    #[error("the {0} map reaches host ids outside of 65536 to 2147483647, or one of them twice")]
    MapOutside(&'static str),
    #[error("cgroup `{0}` is not `/<instance>/<sandbox id>`")]
    Cgroup(String),
    #[error("limit {name} is {value}, it takes {least} to {most}")]
    Limit { name: &'static str, value: u64, least: u64, most: u64 },
}

impl Plan {
    /// Whether a sandbox may be built from it. Looks at nothing but the plan.
    pub fn validate(&self) -> Result<(), InvalidPlan> {
        if !is_label(&self.hostname) || self.hostname.len() > LONGEST_HOSTNAME {
            return Err(InvalidPlan::Hostname(self.hostname.chars().take(64).collect()));
        }
        for (field, path) in [
            ("rootfs", &self.rootfs),
            ("init", &self.init),
            ("user namespace", &self.user_namespace),
            ("network namespace", &self.network_namespace),
            ("home", &self.user.home),
        ] {
            if !is_plain_absolute(path) {
                return Err(InvalidPlan::Path { field, path: path.clone() });
            }
        }
        if self.user_namespace == self.network_namespace {
            return Err(InvalidPlan::SameNamespace(self.user_namespace.clone()));
        }
        self.validate_home()?;
        if self.user.uid == 0 {
            return Err(InvalidPlan::Root);
        }
        self.uid_map.validate("uid", self.user.uid)?;
        self.gid_map.validate("gid", self.user.gid)?;
        self.validate_cgroup()?;
        self.limits.validate()
    }

    /// The directory above the home; none where that is the root.
    pub fn above_home(&self) -> Option<&Path> {
        self.user.home.parent().filter(|above| above.parent().is_some())
    }

    /// The group of a machine's processes, below the one that has the limits.
    pub fn machine_cgroup(&self) -> String {
        format!("{}/machine", self.cgroup)
    }

    /// Beside the root file system: where the home is on the node, for a runtime that binds it
    /// before the start.
    pub fn bound_home(&self) -> PathBuf {
        self.rootfs.with_file_name("home")
    }

    /// The home is mounted late, over whatever is there.
    fn validate_home(&self) -> Result<(), InvalidPlan> {
        const RESERVED: [&str; 14] = [
            ".adrastea",
            "bin",
            "boot",
            "dev",
            "etc",
            "lib",
            "lib64",
            "proc",
            "run",
            "sbin",
            "sys",
            "tmp",
            "usr",
            "var",
        ];
        let mut components = self.user.home.components().skip(1);
        let top = components.next().map(|component| component.as_os_str().to_os_string());
        match top {
            Some(top) if !RESERVED.iter().any(|reserved| top == *reserved) => Ok(()),
            _ => Err(InvalidPlan::Home(self.user.home.clone())),
        }
    }

    fn validate_cgroup(&self) -> Result<(), InvalidPlan> {
        let instance = self
            .cgroup
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix(self.id.as_str()))
            .and_then(|rest| rest.strip_suffix('/'));
        match instance {
            Some(instance) if is_label(instance) => Ok(()),
            _ => Err(InvalidPlan::Cgroup(self.cgroup.chars().take(128).collect())),
        }
    }
}

impl IdMap {
    fn validate(&self, kind: &'static str, user: u32) -> Result<(), InvalidPlan> {
        let mut next = 0_u32;
        for mapping in &self.0 {
            if mapping.inside != next || mapping.length == 0 {
                return Err(InvalidPlan::MapInside(kind));
            }
            next = next.checked_add(mapping.length).ok_or(InvalidPlan::MapInside(kind))?;
        }
        if next != IDS_PER_SANDBOX || user >= IDS_PER_SANDBOX {
            return Err(InvalidPlan::MapInside(kind));
        }

        let mut outside: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for mapping in &self.0 {
            let last = mapping.outside.checked_add(mapping.length - 1);
            match last {
                Some(last) if mapping.outside >= LOWEST_HOST_ID && last <= HIGHEST_HOST_ID => {
                    outside.push((mapping.outside, last));
                }
                _ => return Err(InvalidPlan::MapOutside(kind)),
            }
        }
        outside.sort_unstable();
        let overlapping = outside.windows(2).any(|pair| pair[0].1 >= pair[1].0);
        if overlapping { Err(InvalidPlan::MapOutside(kind)) } else { Ok(()) }
    }
}

impl Limits {
    fn validate(&self) -> Result<(), InvalidPlan> {
        let most_bytes = 1 << 50;
        for (name, value, least, most) in [
            ("memory", self.memory_bytes, LEAST_MEMORY, most_bytes),
            ("cpu", self.cpu_millis, 10, 1_000_000),
            ("processes", u64::from(self.processes), 4, 1 << 20),
            ("open files", self.open_files, 32, 1 << 20),
            ("tmp", self.tmp_bytes, 4096, most_bytes),
            ("shm", self.shm_bytes, 4096, most_bytes),
        ] {
            if !(least..=most).contains(&value) {
                return Err(InvalidPlan::Limit { name, value, least, most });
            }
        }
        Ok(())
    }
}

/// Letters, digits and `-`, neither first nor last a `-`.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_plain_absolute(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.contains('\0'))
        && path.is_absolute()
        && path
            .components()
            .all(|component| matches!(component, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// A plan as a launcher makes it.
    pub(crate) fn example() -> Plan {
        Plan {
            id: "sabcdefghij0".parse().unwrap(),
            hostname: "sabcdefghij0".into(),
            rootfs: "/run/adrastea/sandboxes/sabcdefghij0/rootfs".into(),
            init: "/.adrastea/init".into(),
            user_namespace: "/run/adrastea/sandboxes/sabcdefghij0/user.ns".into(),
            network_namespace: "/run/adrastea/sandboxes/sabcdefghij0/network.ns".into(),
            uid_map: IdMap::with_hole(1_900_000_000, 1000, 1_879_048_200),
            gid_map: IdMap::with_hole(1_900_000_000, 100, 1_879_048_200),
            user: ImageUser { uid: 1000, gid: 100, home: "/home/jovyan".into() },
            cgroup: "/adrastea/sabcdefghij0".into(),
            apparmor_profile: None,
            limits: Limits {
                memory_bytes: 1 << 30,
                cpu_millis: 1500,
                processes: 512,
                open_files: 4096,
                tmp_bytes: 256 << 20,
                shm_bytes: 64 << 20,
            },
        }
    }

    #[test]
    fn an_id_is_twelve_plain_characters() {
        assert!("sabcdefghij0".parse::<SandboxId>().is_ok());
        for bad in ["", "short", "0abcdefghij0", "Sabcdefghij0", "sabcdefghij/", "sabcdefghij00"] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_good_plan_passes() {
        assert_eq!(example().validate(), Ok(()));
    }

    #[test]
    fn each_field_is_checked() {
        type Change = fn(&mut Plan);
        let changes: [(&str, Change); 20] = [
            ("hostname", |plan| plan.hostname = "a b".into()),
            ("long hostname", |plan| plan.hostname = "a".repeat(64)),
            ("relative rootfs", |plan| plan.rootfs = "rootfs".into()),
            ("rootfs with ..", |plan| plan.rootfs = "/run/../etc".into()),
            ("init with NUL", |plan| plan.init = "/a\0b".into()),
            ("empty namespace", |plan| plan.user_namespace = PathBuf::new()),
            ("same namespace", |plan| plan.user_namespace = plan.network_namespace.clone()),
            ("home /", |plan| plan.user.home = "/".into()),
            ("home in /proc", |plan| plan.user.home = "/proc/1".into()),
            ("home in /etc", |plan| plan.user.home = "/etc".into()),
            ("root", |plan| plan.user.uid = 0),
            ("uid not mapped", |plan| plan.user.uid = IDS_PER_SANDBOX),
            ("host's root", |plan| plan.uid_map = IdMap::with_hole(0, 1000, 1_879_048_200)),
            ("user is a host user", |plan| plan.uid_map = IdMap::with_hole(1 << 30, 1000, 1000)),
            ("beyond 2^31", |plan| plan.gid_map = IdMap::with_hole(1 << 31, 100, 1 << 30)),
            ("hole within the range", |plan| {
                plan.uid_map = IdMap::with_hole(1 << 30, 1000, (1 << 30) + 5);
            }),
            ("overflow", |plan| plan.uid_map = IdMap::with_hole(u32::MAX, 1000, 1 << 30)),
            ("another cgroup", |plan| plan.cgroup = "/adrastea/../sabcdefghij0".into()),
            ("no memory", |plan| plan.limits.memory_bytes = 0),
            ("endless memory", |plan| plan.limits.memory_bytes = u64::MAX),
        ];
        for (what, change) in changes {
            let mut plan = example();
            change(&mut plan);
            assert!(plan.validate().is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn no_numbers_make_a_map_panic(range: u32, user: u32, disk: u32) {
            let mut plan = example();
            plan.uid_map = IdMap::with_hole(range, user, disk);
            plan.user.uid = user;
            if plan.validate().is_ok() {
                prop_assert_eq!(plan.uid_map.to_host(user), Some(disk));
                prop_assert!(plan.uid_map.to_host(0).is_some());
                prop_assert_eq!(plan.uid_map.to_host(IDS_PER_SANDBOX), None);
            }
        }
    }
}
