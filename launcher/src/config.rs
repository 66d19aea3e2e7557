//! The configuration: one root-owned TOML file with strict keys.
//!
//! Reads and checks, and must never have an effect on the host. An unknown key
//! is an error with a suggestion, so that a typing mistake never silently
//! weakens a policy. Every key and its default is documented in
//! `docs/configure.md`.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    config_images::ImageStoreConfig,
    config_metrics::MetricsConfig,
    config_pool::{PoolConfig, ProfilePool},
    config_runtimes::RuntimeConfig,
    quantity::{ByteSize, Cpus},
};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file it was read from.
    #[serde(skip)]
    pub source: PathBuf,
    /// The format of this file; 1.
    pub version: u32,
    #[serde(default = "defaults::instance")]
    pub instance: String,
    #[serde(default)]
    pub paths: Paths,
    pub access: Access,
    #[serde(default)]
    pub containerd: Containerd,
    #[serde(default)]
    pub network: NetworkConfig,
    #[serde(default)]
    pub identity: IdentityConfig,
    #[serde(default)]
    pub home: HomeConfig,
    #[serde(default)]
    pub audit: AuditConfig,
    #[serde(default)]
    pub image_store: ImageStoreConfig,
    #[serde(default)]
    pub metrics: MetricsConfig,
    #[serde(default)]
    pub limits: NodeLimits,
    #[serde(default)]
    pub pool: PoolConfig,
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// Who gets nothing weaker, whatever a profile allows.
    #[serde(default)]
    pub runtime_floors: Vec<RuntimeFloor>,
    /// Groups of users, for floors; beside those of the node's own database.
    #[serde(default)]
    pub groups: BTreeMap<String, Vec<String>>,
    pub images: BTreeMap<String, ImageConfig>,
    pub profiles: BTreeMap<String, Profile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// What must survive a reboot. Default `/var/lib/<instance>`.
    pub state: Option<PathBuf>,
    /// What must not. Default `/run/<instance>`.
    pub run: Option<PathBuf>,
    /// The static init that becomes PID 1. Default: beside the launcher's binary, then `/usr/lib/adrastea`.
    pub init: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The group of the socket.
    pub group: String,
    /// Host users whose processes may call; root always may.
    pub hub_users: Vec<String>,
    /// Host users that may connect to servers' ports: hub and proxy. Default: `hub_users`.
    pub server_users: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerdMode {
    #[default]
    Managed,
    Existing,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Containerd {
    pub mode: ContainerdMode,
    pub binary: PathBuf,
    pub socket: PathBuf,
    /// CVEs this node accepts in a containerd below the version floor, by name.
    pub accept_vulnerable: Vec<String>,
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            mode: ContainerdMode::Managed,
            binary: "/usr/bin/containerd".into(),
            socket: "/run/containerd/containerd.sock".into(),
            accept_vulnerable: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    pub subnet: String,
    pub hub_port: u16,
    pub server_port: u16,
    pub uplink: Option<String>,
    pub resolvers: Vec<Ipv4Addr>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            subnet: "10.88.0.0/16".into(),
            hub_port: 8081,
            server_port: 8888,
            uplink: None,
            resolvers: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    pub first_disk_id: u32,
    pub last_disk_id: u32,
    pub first_run_id: u32,
    pub last_run_id: u32,
}

impl Default for IdentityConfig {
    /// The ids that systemd's UIDS-GIDS.md lists as unused, 1879048192 to 2147483647, in two halves.
    fn default() -> Self {
        Self {
            first_disk_id: 1_879_048_192,
            last_disk_id: 2_013_265_919,
            first_run_id: 2_013_265_920,
            last_run_id: 2_147_483_647,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HomeConfig {
    pub driver: String,
    /// Default `<state>/homes`.
    pub root: Option<PathBuf>,
    pub on_delete: OnDelete,
    /// Days until a home that was set aside is purged. Default: 30 for `purge`, never for `archive`.
    pub retention_days: Option<u32>,
}

/// Who asked for what, and what was decided.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    pub enabled: bool,
    /// Default `<state>/audit/audit.jsonl`.
    pub path: Option<PathBuf>,
    /// A file that would become larger is renamed.
    pub max_size: ByteSize,
    /// How many renamed files are kept; 0: the launcher renames none.
    pub keep: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { enabled: true, path: None, max_size: ByteSize::mebibytes(64), keep: 8 }
    }
}

/// What becomes of the home of a user whom the hub has deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// It stays, for a user of the same name.
    #[default]
    Keep,
    /// It is set aside, and stays there.
    Archive,
    /// It is set aside, and purged after a while.
    Purge,
}

impl HomeConfig {
    /// Seconds after which a home that is set aside now is purged; nothing: never.
    pub fn retention(&self) -> Option<u64> {
        const DAY: u64 = 24 * 60 * 60;
        match self.on_delete {
            OnDelete::Keep => None,
            OnDelete::Archive => self.retention_days.map(|days| u64::from(days) * DAY),
            OnDelete::Purge => Some(u64::from(self.retention_days.unwrap_or(30)) * DAY),
        }
    }
}

impl Default for HomeConfig {
    fn default() -> Self {
        Self {
            driver: "directory".into(),
            root: None,
            on_delete: OnDelete::Keep,
            retention_days: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeLimits {
    /// Live sandboxes on this node.
    pub sandboxes: u32,
    /// Running servers of one user, over all profiles. Default: no limit but the profiles'.
    pub servers_per_user: Option<u32>,
    /// Starts prepared at once; the others wait in a queue.
    pub concurrent_starts: usize,
    /// Those, and servers that have been started and did not answer yet. Default: by the processors.
    pub starting_servers: Option<usize>,
    /// Sandboxes containerd is asked to make at once.
    pub concurrent_creates: usize,
    /// Seconds a server has until it answers.
    pub ready_timeout: u64,
    /// Seconds between SIGTERM and SIGKILL.
    pub stop_grace: u64,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            sandboxes: 1000,
            servers_per_user: None,
            concurrent_starts: 8,
            starting_servers: None,
            concurrent_creates: 4,
            ready_timeout: 120,
            stop_grace: 5,
        }
    }
}

impl NodeLimits {
    /// Servers that load at once share the processors, and all of them have to be in time.
    pub fn starting_servers(&self) -> usize {
        self.starting_servers.unwrap_or_else(|| {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            (processors * 4).max(16).max(self.concurrent_starts)
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeFloor {
    /// A runtime's name: this one, or a stronger one.
    pub least: String,
    /// Of `[groups]`, or of the node's database.
    #[serde(default)]
    pub groups: Vec<String>,
    /// `*` is everybody.
    #[serde(default)]
    pub users: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    pub reference: String,
    /// The manifest's digest; another image under the same name is refused.
    pub digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub display_name: String,
    #[serde(default)]
    pub description: String,
    pub image: String,
    /// Further images a user may choose.
    #[serde(default)]
    pub images: Vec<String>,
    /// The first one is the default.
    pub runtimes: Vec<String>,
    pub egress: String,
    pub command: Vec<String>,
    pub user: ProfileUser,
    /// Users who may use it; `*` is everybody.
    pub users: Vec<String>,
    /// Environment of every server of this profile.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Names the hub may set beside `JUPYTERHUB_*`; a final `*` is a wildcard.
    #[serde(default = "defaults::environment_allowed")]
    pub environment_allowed: Vec<String>,
    #[serde(default)]
    pub user_config: UserConfig,
    #[serde(default)]
    pub limits: ProfileLimits,
    /// Sandboxes that wait for their user. Default: `pool.each_profile`.
    pub pool: Option<ProfilePool>,
}

/// Whether servers use what their user has configured in the home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserConfig {
    /// Unless the hub says otherwise.
    #[default]
    Own,
    /// Whatever the hub says.
    Ignored,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileUser {
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileLimits {
    pub memory: ByteSize,
    /// The most a hub may ask for. Default: `memory`.
    pub memory_ceiling: Option<ByteSize>,
    pub cpu: Cpus,
    pub cpu_ceiling: Option<Cpus>,
    pub processes: u32,
    pub open_files: u64,
    pub tmp: ByteSize,
    pub shm: ByteSize,
    /// Bytes of a server's output that are kept.
    pub log: ByteSize,
    /// Running servers of one user with this profile.
    pub servers_per_user: u32,
}

impl Default for ProfileLimits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mebibytes(1024),
            memory_ceiling: None,
            cpu: Cpus::from_millis(1000),
            cpu_ceiling: None,
            processes: 512,
            open_files: 4096,
            tmp: ByteSize::mebibytes(256),
            shm: ByteSize::mebibytes(64),
            log: ByteSize::mebibytes(1),
            servers_per_user: 8,
        }
    }
}

mod defaults {
    pub(super) fn environment_allowed() -> Vec<String> {
        ["MEM_*", "CPU_*"].map(str::to_owned).into()
    }

    pub(super) fn instance() -> String {
        "adrastea".into()
    }
}

/// Why a configuration is refused, with what to do about it as data beside the text.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{path}` is not safe: {why}")]
    Unsafe { path: PathBuf, why: String },
    #[error("`{path}` is no valid configuration: {message}")]
    Syntax { path: PathBuf, message: String, suggestion: Option<String> },
    #[error("`{path}` contradicts itself: {}", problems.join("; "))]
    Invalid { path: PathBuf, problems: Vec<String> },
}

impl ConfigError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => {
                Some("name the file with --config, or write /etc/adrastea/adrastea.toml".into())
            }
            Self::Unsafe { path, .. } => {
                Some(format!("chown root:root {0} && chmod go-w {0}", path.display()))
            }
            Self::Syntax { suggestion, .. } => suggestion.clone(),
            Self::Invalid { .. } => None,
        }
    }
}

impl Config {
    /// Reads and checks the file. `must_be_root_owned` is off only for `check-config` of a draft.
    pub fn load(path: &Path, must_be_root_owned: bool) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        let metadata = fs::symlink_metadata(path).map_err(read)?;
        let refuse = |why: &str| ConfigError::Unsafe { path: path.into(), why: why.into() };
        if must_be_root_owned {
            if !metadata.is_file() {
                return Err(refuse("it is not a regular file"));
            }
            if metadata.uid() != 0 {
                return Err(refuse("it does not belong to root"));
            }
            if metadata.mode() & 0o022 != 0 {
                return Err(refuse("group or others may write it"));
            }
        }
        Self::parse(&fs::read_to_string(path).map_err(read)?, path)
    }

    /// Parses and checks a text; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.into(),
            suggestion: suggestion(error.message()),
            message: error.to_string().trim_end().to_owned(),
        })?;
        path.clone_into(&mut config.source);
        let problems = crate::config_check::problems(&config);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid { path: path.into(), problems })
        }
    }

    pub fn state_directory(&self) -> PathBuf {
        self.paths.state.clone().unwrap_or_else(|| Path::new("/var/lib").join(&self.instance))
    }

    pub fn run_directory(&self) -> PathBuf {
        self.paths.run.clone().unwrap_or_else(|| Path::new("/run").join(&self.instance))
    }

    pub fn home_root(&self) -> PathBuf {
        self.home.root.clone().unwrap_or_else(|| self.state_directory().join("homes"))
    }

    /// The last benchmark of this node.
    pub fn bench_report(&self) -> PathBuf {
        self.state_directory().join("bench-report.json")
    }

    pub fn audit_log(&self) -> PathBuf {
        self.audit.path.clone().unwrap_or_else(|| self.state_directory().join("audit/audit.jsonl"))
    }

    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("api/launcher.sock")
    }

    pub fn server_users(&self) -> &[String] {
        self.access.server_users.as_deref().unwrap_or(&self.access.hub_users)
    }

    pub fn init_binary(&self) -> PathBuf {
        self.paths.init.clone().unwrap_or_else(|| {
            let beside = std::env::current_exe()
                .ok()
                .and_then(|binary| binary.parent().map(|folder| folder.join("adrastea-init")));
            beside
                .filter(|path| path.is_file())
                .unwrap_or_else(|| "/usr/lib/adrastea/adrastea-init".into())
        })
    }
}

/// From serde's "unknown field `x`, expected one of `a`, `b`": the nearest known key.
fn suggestion(message: &str) -> Option<String> {
    let rest = message.split_once("unknown field `")?.1;
    let (unknown, expected) = rest.split_once('`')?;
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(4) / 2)
        .min()
        .map(|(_, known)| format!("did you mean `{known}`?"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    pub(crate) const EXAMPLE: &str = include_str!("../../docs/adrastea.example.toml");

    #[test]
    fn the_example_is_valid() {
        let config = Config::parse(EXAMPLE, Path::new("example")).unwrap();
        assert_eq!(config.instance, "adrastea");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let text = EXAMPLE.replace("hub_users", "hub_user");
        let error = Config::parse(&text, Path::new("example")).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean `hub_users`?"));
    }

    #[test]
    fn a_file_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("adrastea.toml");
        fs::write(&path, EXAMPLE).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(Config::load(&path, true), Err(ConfigError::Unsafe { .. })));
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Config::load(&link, true), Err(ConfigError::Unsafe { .. })));
    }
}
