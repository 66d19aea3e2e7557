//! Decides what a request gets: the smallest of what was asked and what
//! root-owned configuration allows.
//!
//! Pure, but that groups which the configuration does not list are asked of the node's
//! own user database. What is beyond policy is denied with the name of the rule; nothing is
//! ever cut silently, downgraded, or taken from the hub's word where the
//! configuration has one.

use std::collections::BTreeMap;

use adrastea_proto::v1;
use adrastea_runtimes::{Runtime, Strength};

use crate::{
    config::{Config, ImageConfig, Profile, ProfileUser, UserConfig},
    config_check::{FORBIDDEN_ENVIRONMENT, matches_any},
    host::users,
    names::{NameError, RequestId, ServerKey},
};

/// The longest command line plus environment, in bytes.
pub const LARGEST_REQUEST: usize = 256 << 10;

/// What a server will be, decided in full.
#[derive(Clone, PartialEq, Eq)]
pub struct Decision {
    pub key: ServerKey,
    pub request_id: RequestId,
    pub profile: String,
    pub runtime: String,
    /// The driver behind that name.
    pub runtime_kind: String,
    pub image: PinnedImage,
    pub egress: String,
    pub user: ProfileUser,
    pub command: Vec<String>,
    /// For the server's process alone; holds secrets.
    pub environment: BTreeMap<String, String>,
    pub ready_path: String,
    /// What the user has configured in the home is covered.
    pub ignore_user_config: bool,
    pub memory_bytes: u64,
    pub cpu_millis: u64,
    pub processes: u32,
    pub open_files: u64,
    pub tmp_bytes: u64,
    pub shm_bytes: u64,
    pub log_bytes: u64,
    pub servers_per_user: u32,
}

/// An image as policy pins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedImage {
    pub name: String,
    pub reference: String,
    pub digest: String,
}

impl std::fmt::Debug for Decision {
    /// Without command and environment: they may hold secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Decision")
            .field("key", &self.key)
            .field("profile", &self.profile)
            .field("runtime", &self.runtime)
            .field("image", &self.image.name)
            .field("egress", &self.egress)
            .field("memory_bytes", &self.memory_bytes)
            .field("cpu_millis", &self.cpu_millis)
            .finish_non_exhaustive()
    }
}

/// Why a request gets nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Name(#[from] NameError),
    /// Policy says no; `rule` is the key in the configuration that decided.
    #[error("{what} is not allowed (rule {rule})")]
    Denied { what: String, rule: String },
}

fn denied(what: impl Into<String>, rule: impl Into<String>) -> Refusal {
    Refusal::Denied { what: what.into(), rule: rule.into() }
}

/// Whether this user may use this profile.
fn may_use(profile: &Profile, user: &str) -> bool {
    profile.users.iter().any(|allowed| allowed == "*" || allowed == user)
}

/// The profiles this user may choose from.
pub fn offers<'config>(
    config: &'config Config,
    user: &str,
) -> Vec<(&'config String, &'config Profile)> {
    config.profiles.iter().filter(|(_, profile)| may_use(profile, user)).collect()
}

/// The runtimes of this profile that the user may have, in the profile's order.
pub fn runtimes<'config>(
    config: &Config,
    profile: &'config Profile,
    user: &str,
) -> Vec<&'config String> {
    let floor = floor_of(config, user);
    let stands = |name: &&String| {
        floor.as_ref().is_none_or(|floor| strength(config, name) >= Some(floor.strength))
    };
    profile.runtimes.iter().filter(stands).collect()
}

/// The weakest runtime that a user may have, and the rule that says so.
struct Floor<'config> {
    least: &'config str,
    strength: Strength,
    rule: String,
}

/// The highest floor under which a user is. Which groups a user is in is the word of root: of
/// the configuration, or of the node's own user database; never the hub's.
fn floor_of<'config>(config: &'config Config, user: &str) -> Option<Floor<'config>> {
    let is_in = |group: &String| match config.groups.get(group) {
        Some(members) => members.iter().any(|member| member == user),
        // Where the database cannot be asked, the stricter answer holds.
        None => users::is_member(user, group).unwrap_or(true),
    };
    let applying = config.runtime_floors.iter().enumerate().filter(|(_, floor)| {
        floor.users.iter().any(|one| one == "*" || one == user) || floor.groups.iter().any(is_in)
    });
    applying
        .filter_map(|(number, floor)| {
            let rule = format!("runtime_floors[{number}]");
            Some(Floor { least: &floor.least, strength: strength(config, &floor.least)?, rule })
        })
        .max_by_key(|floor| floor.strength)
}

fn strength(config: &Config, runtime: &str) -> Option<Strength> {
    config.driver(runtime).map(Runtime::strength)
}

/// Decides on a request. Changes nothing.
pub fn decide(config: &Config, request: &v1::StartRequest) -> Result<Decision, Refusal> {
    let key = request
        .key
        .as_ref()
        .ok_or_else(|| Refusal::Invalid("the request names no server (key)".into()))?;
    let key = ServerKey::new(&key.hub, &key.user, &key.server)?;
    let request_id = RequestId::new(&request.request_id)?;
    let user = key.user.as_str();

    let (name, profile) = if request.profile.is_empty() {
        offers(config, user)
            .into_iter()
            .next()
            .ok_or_else(|| denied(format!("a server for user `{user}`"), "profiles.*.users"))?
    } else {
        config
            .profiles
            .get_key_value(&request.profile)
            .filter(|(_, profile)| may_use(profile, user))
            // One answer for "unknown" and "not yours": it tells nothing about others.
            .ok_or_else(|| {
                denied(format!("profile `{}`", shorten(&request.profile)), "profiles.*.users")
            })?
    };
    let rule = |key: &str| format!("profiles.{name}.{key}");

    let runtime = decide_runtime(config, profile, user, &request.runtime, &rule)?;
    let image = if request.image.is_empty() { &profile.image } else { &request.image };
    if *image != profile.image && !profile.images.contains(image) {
        return Err(denied(format!("image `{}`", shorten(image)), rule("images")));
    }
    let ImageConfig { reference, digest } = config
        .images
        .get(image)
        .cloned()
        .ok_or_else(|| Refusal::Invalid(format!("image `{image}` is not configured")))?;

    let image = PinnedImage { name: image.clone(), reference, digest };
    grant(config, name, runtime, image, request, key, request_id)
}

/// The rest of a decision, once profile, runtime and image are decided.
pub fn grant(
    config: &Config,
    name: &str,
    runtime: String,
    image: PinnedImage,
    request: &v1::StartRequest,
    key: ServerKey,
    request_id: RequestId,
) -> Result<Decision, Refusal> {
    let rule = |key: &str| format!("profiles.{name}.{key}");
    let profile = config
        .profiles
        .get(name)
        .ok_or_else(|| Refusal::Invalid(format!("profile `{name}` is not configured")))?;
    let limits = &profile.limits;
    let asked = request.limits.unwrap_or_default();
    let memory_bytes = asked.memory_bytes.unwrap_or(limits.memory.bytes());
    let memory_ceiling = limits.memory_ceiling.unwrap_or(limits.memory).bytes();
    if memory_bytes > memory_ceiling {
        return Err(denied(
            format!(
                "{} of memory; the most is {}",
                crate::quantity::display_bytes(memory_bytes),
                crate::quantity::display_bytes(memory_ceiling)
            ),
            rule("limits.memory_ceiling"),
        ));
    }
    if memory_bytes < SMALLEST_MEMORY {
        return Err(Refusal::Invalid(format!(
            "{memory_bytes} bytes of memory start no server; the least is {SMALLEST_MEMORY}"
        )));
    }
    let cpu_millis = asked.cpu_millis.unwrap_or(limits.cpu.millis());
    let cpu_ceiling = limits.cpu_ceiling.unwrap_or(limits.cpu).millis();
    if cpu_millis > cpu_ceiling {
        return Err(denied(
            format!("{cpu_millis} thousandths of a CPU; the most is {cpu_ceiling}"),
            rule("limits.cpu_ceiling"),
        ));
    }
    if cpu_millis < 10 {
        return Err(Refusal::Invalid("less than 10 thousandths of a CPU start no server".into()));
    }

    let ignore_user_config =
        request.disable_user_config || profile.user_config == UserConfig::Ignored;
    let holds_covers = config.driver(&runtime).is_none_or(Runtime::holds_covers);
    if ignore_user_config && !holds_covers {
        let what = format!("a server under `{runtime}` that ignores the user's configuration");
        return Err(denied(what, rule("user_config")));
    }
    let mut environment = environment(profile, request, &rule)?;
    if ignore_user_config {
        for (name, value) in WITHOUT_USER_CONFIG {
            if !profile.environment.contains_key(*name) {
                environment.insert((*name).into(), (*value).into());
            }
        }
        for name in ["JUPYTERHUB_DISABLE_USER_CONFIG", "PYTHONNOUSERSITE"] {
            environment.insert(name.into(), "1".into());
        }
    }
    // What libraries and the user's page read; the truth, whatever the hub believed.
    environment.insert("MEM_LIMIT".into(), memory_bytes.to_string());
    environment
        .insert("CPU_LIMIT".into(), format!("{}.{:03}", cpu_millis / 1000, cpu_millis % 1000));
    let mut command = profile.command.clone();
    command.extend(request.arguments.iter().cloned());
    if command.iter().any(|argument| argument.contains('\0')) {
        return Err(Refusal::Invalid("an argument holds a NUL character".into()));
    }
    let size = command.iter().map(String::len).sum::<usize>()
        + environment.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if size > LARGEST_REQUEST {
        return Err(Refusal::Invalid(format!(
            "arguments and environment have {size} bytes; {LARGEST_REQUEST} are allowed"
        )));
    }
    let ready_path = request.ready_path.clone();
    let is_path = ready_path.starts_with('/')
        && ready_path.len() <= 2048
        && ready_path.bytes().all(|byte| byte.is_ascii_graphic());
    if !ready_path.is_empty() && !is_path {
        return Err(Refusal::Invalid("ready_path is no absolute, percent-encoded URL path".into()));
    }

    Ok(Decision {
        profile: name.to_owned(),
        runtime_kind: config.runtime_kind(&runtime).to_owned(),
        runtime,
        image,
        egress: profile.egress.clone(),
        user: profile.user.clone(),
        command,
        environment,
        ready_path,
        ignore_user_config,
        memory_bytes,
        cpu_millis,
        processes: limits.processes,
        open_files: limits.open_files,
        tmp_bytes: limits.tmp.bytes(),
        shm_bytes: limits.shm.bytes(),
        log_bytes: limits.log.bytes(),
        servers_per_user: limits.servers_per_user,
        key,
        request_id,
    })
}

/// The runtime that was asked for, or the profile's first that the user may have. What is below
/// a floor is denied, never replaced.
fn decide_runtime(
    config: &Config,
    profile: &Profile,
    user: &str,
    asked: &str,
    rule: &dyn Fn(&str) -> String,
) -> Result<String, Refusal> {
    if !asked.is_empty() && !profile.runtimes.iter().any(|name| name == asked) {
        return Err(denied(format!("runtime `{}`", shorten(asked)), rule("runtimes")));
    }
    let may_have = runtimes(config, profile, user);
    let found = if asked.is_empty() {
        may_have.first()
    } else {
        may_have.iter().find(|name| name.as_str() == asked)
    };
    if let Some(found) = found {
        return Ok((*found).clone());
    }
    let wanted = if asked.is_empty() {
        "any runtime of this profile".to_owned()
    } else {
        format!("runtime `{}`", shorten(asked))
    };
    Err(match floor_of(config, user) {
        Some(floor) => denied(format!("{wanted}, weaker than `{}`,", floor.least), floor.rule),
        None => denied(wanted, rule("runtimes")),
    })
}

/// Where Jupyter may write once its places in the home are covered: gone with the
/// server. A profile's own word counts more, a hub's less.
const WITHOUT_USER_CONFIG: &[(&str, &str)] = &[
    ("IPYTHONDIR", "/tmp/jupyter/ipython"),
    ("JUPYTER_DATA_DIR", "/tmp/jupyter/data"),
    ("JUPYTER_RUNTIME_DIR", "/tmp/jupyter/runtime"),
    ("JUPYTERLAB_SETTINGS_DIR", "/tmp/jupyter/lab/user-settings"),
    ("JUPYTERLAB_WORKSPACES_DIR", "/tmp/jupyter/lab/workspaces"),
];

/// A Python interpreter alone needs more.
const SMALLEST_MEMORY: u64 = 16 << 20;

fn environment(
    profile: &Profile,
    request: &v1::StartRequest,
    rule: &dyn Fn(&str) -> String,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut environment = profile.environment.clone();
    for (name, value) in request.environment.iter().chain(&request.secret_environment) {
        let well_formed = !name.is_empty()
            && name.len() <= 255
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.as_bytes()[0].is_ascii_digit();
        if !well_formed {
            return Err(Refusal::Invalid(format!(
                "`{}` is no name of an environment variable",
                shorten(name)
            )));
        }
        if value.contains('\0') {
            return Err(Refusal::Invalid(format!("the value of {name} holds a NUL character")));
        }
        let allowed =
            name.starts_with("JUPYTERHUB_") || matches_any(name, &profile.environment_allowed);
        if !allowed || matches_any(name, FORBIDDEN_ENVIRONMENT) {
            return Err(denied(
                format!("environment variable {name}"),
                rule("environment_allowed"),
            ));
        }
        environment.insert(name.clone(), value.clone());
    }
    // Constant inside every sandbox of the profile, so no request can bend them.
    environment.insert("HOME".into(), profile.user.home.display().to_string());
    environment.insert("USER".into(), profile.user.name.clone());
    environment.insert("LOGNAME".into(), profile.user.name.clone());
    Ok(environment)
}

/// For error texts: never more of a hostile string than a line takes.
fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> Config {
        Config::parse(include_str!("../../docs/adrastea.example.toml"), Path::new("example"))
            .unwrap()
    }

    fn request() -> v1::StartRequest {
        v1::StartRequest {
            request_id: "r-1".into(),
            key: Some(v1::ServerKey {
                hub: "hub".into(),
                user: "ana".into(),
                server: String::new(),
            }),
            ready_path: "/user/ana/api".into(),
            ..Default::default()
        }
    }

    /// The rule that denies a changed request.
    fn rule_for(change: impl FnOnce(&mut v1::StartRequest)) -> String {
        let mut request = request();
        change(&mut request);
        match decide(&config(), &request) {
            Err(Refusal::Denied { rule, .. }) => rule,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn nobody_gets_less_than_the_floor() {
        let with = |floors: &str, runtimes: &str| {
            let text = include_str!("../../docs/adrastea.example.toml")
                .replace("runtimes = [\"runc\"]", runtimes)
                .replace("[runtimes.runc]", &format!("{floors}\n[runtimes.runc]"));
            Config::parse(&text, Path::new("example")).unwrap()
        };
        let both = "runtimes = [\"runc\", \"gvisor\"]";
        let floors = "[[runtime_floors]]\nleast = \"runc\"\nusers = [\"*\"]\n\
            [[runtime_floors]]\nleast = \"gvisor\"\ngroups = [\"guests\", \"root\"]\n\
            [groups]\nguests = [\"ana\"]\n[runtimes.gvisor]\nbinary = \"/usr/bin/runsc\"";
        let config = with(floors, both);
        let ask = |config: &Config, user: &str, runtime: &str| {
            let mut request = request();
            request.key.as_mut().unwrap().user = user.into();
            request.runtime = runtime.into();
            decide(config, &request).map(|decision| decision.runtime)
        };
        let denied_by = |result: Result<String, Refusal>| match result {
            Err(Refusal::Denied { rule, .. }) => rule,
            other => format!("{other:?}"),
        };
        assert_eq!(ask(&config, "ana", ""), Ok("gvisor".into()));
        assert_eq!(ask(&config, "ana", "gvisor"), Ok("gvisor".into()));
        assert_eq!(denied_by(ask(&config, "ana", "runc")), "runtime_floors[1]");
        assert_eq!(ask(&config, "ben", ""), Ok("runc".into()));
        assert_eq!(ask(&config, "ben", "gvisor"), Ok("gvisor".into()));
        // The node's own database: root is in the group of that name.
        assert_eq!(denied_by(ask(&config, "root", "runc")), "runtime_floors[1]");
        // A profile that has nothing strong enough gives nothing, never less.
        let weak = with(floors, "runtimes = [\"runc\"]");
        assert_eq!(denied_by(ask(&weak, "ana", "")), "runtime_floors[1]");
        assert!(ask(&weak, "ben", "").is_ok());
        let mut ignoring = request();
        ignoring.runtime = "gvisor".into();
        ignoring.disable_user_config = true;
        let denied = decide(&config, &ignoring).map(|decision| decision.runtime);
        assert_eq!(denied_by(denied), "profiles.standard.user_config");
        assert_eq!(denied_by(ask(&config, "ben", "kata")), "profiles.standard.runtimes");
        let profile = &config.profiles["standard"];
        assert_eq!(runtimes(&config, profile, "ana"), ["gvisor"]);
        assert_eq!(runtimes(&config, profile, "ben"), ["runc", "gvisor"]);
    }

    #[test]
    fn absent_values_are_the_profiles_defaults() {
        let decision = decide(&config(), &request()).unwrap();
        assert_eq!(decision.profile, "standard");
        assert_eq!(decision.runtime, "runc");
        assert_eq!(decision.memory_bytes, 1 << 30);
        assert_eq!(decision.environment["HOME"], "/home/jovyan");
    }

    #[test]
    fn what_is_beyond_policy_is_denied_by_name() {
        assert_eq!(rule_for(|request| request.profile = "root".into()), "profiles.*.users");
        assert_eq!(
            rule_for(|request| request.runtime = "kata".into()),
            "profiles.standard.runtimes"
        );
        assert_eq!(
            rule_for(|request| request.image = "docker.io/evil".into()),
            "profiles.standard.images"
        );
        let limits = |memory, cpu| v1::Limits { memory_bytes: memory, cpu_millis: cpu };
        assert_eq!(
            rule_for(|request| request.limits = Some(limits(Some((2 << 30) + 1), None))),
            "profiles.standard.limits.memory_ceiling"
        );
        assert_eq!(
            rule_for(|request| request.limits = Some(limits(None, Some(2001)))),
            "profiles.standard.limits.cpu_ceiling"
        );
        for name in ["LD_PRELOAD", "PATH", "PYTHONPATH", "JUPYTER_CONFIG_DIR", "HOME", "BASH_ENV"] {
            let rule = rule_for(|request| {
                request.environment.insert(name.into(), "x".into());
            });
            assert_eq!(rule, "profiles.standard.environment_allowed", "{name}");
        }
    }

    #[test]
    fn what_is_never_allowed_cannot_be_listed_either() {
        let text = include_str!("../../docs/adrastea.example.toml");
        let listed = "environment_allowed = [\"MEM_*\", \"CPU_*\", \"LANG\", \"TZ\"]";
        assert!(text.contains(listed));
        let text = text.replace(listed, "environment_allowed = [\"*\"]");
        let config = Config::parse(&text, Path::new("example")).unwrap();
        let with = |name: &str| {
            let mut request = request();
            request.environment.insert(name.into(), "x".into());
            decide(&config, &request)
        };
        assert_eq!(with("ANYTHING").unwrap().environment["ANYTHING"], "x");
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "PYTHONSTARTUP",
            "JUPYTER_CONFIG_PATH",
            "BASH_ENV",
            "ENV",
            "GCONV_PATH",
            "NODE_OPTIONS",
        ] {
            assert!(matches!(with(name), Err(Refusal::Denied { .. })), "{name}");
        }
        // Constant inside, whatever was asked.
        assert_eq!(with("HOME").unwrap().environment["HOME"], "/home/jovyan");
        assert_eq!(with("MEM_LIMIT").unwrap().environment["MEM_LIMIT"], (1_u64 << 30).to_string());
    }

    #[test]
    fn the_hub_or_the_profile_can_have_user_configuration_ignored() {
        let (mut config, mut asked) = (config(), request());
        let decision = decide(&config, &asked).unwrap();
        assert!(!decision.ignore_user_config && !decision.environment.contains_key("IPYTHONDIR"));
        asked.disable_user_config = true;
        let by_hub = decide(&config, &asked).unwrap();
        let profile = config.profiles.get_mut("standard").unwrap();
        profile.user_config = UserConfig::Ignored;
        profile.environment.insert("IPYTHONDIR".into(), "/admin".into());
        profile.environment_allowed.push("JUPYTER_DATA_DIR".into());
        asked.disable_user_config = false;
        asked.environment = [
            ("JUPYTER_DATA_DIR".into(), "/home/jovyan/evil".into()),
            ("JUPYTERHUB_DISABLE_USER_CONFIG".into(), String::new()),
        ]
        .into();
        let by_profile = decide(&config, &asked).unwrap();
        for (decision, ipython) in [(by_hub, "/tmp/jupyter/ipython"), (by_profile, "/admin")] {
            assert!(decision.ignore_user_config);
            for (name, value) in [
                ("JUPYTERHUB_DISABLE_USER_CONFIG", "1"),
                ("PYTHONNOUSERSITE", "1"),
                ("JUPYTER_DATA_DIR", "/tmp/jupyter/data"),
                ("IPYTHONDIR", ipython),
            ] {
                assert_eq!(decision.environment[name], value, "{name}");
            }
        }
    }

    #[test]
    fn nonsense_is_invalid() {
        for change in [
            (|request: &mut v1::StartRequest| request.key = None) as fn(&mut v1::StartRequest),
            |request| request.request_id = "a b".into(),
            |request| request.ready_path = "http://evil/".into(),
            |request| request.arguments = vec!["a\0b".into()],
            |request| request.limits = Some(v1::Limits { memory_bytes: Some(0), cpu_millis: None }),
            |request| {
                request.environment.insert("JUPYTERHUB_A=B".into(), String::new());
            },
        ] {
            let mut request = request();
            change(&mut request);
            assert!(matches!(
                decide(&config(), &request),
                Err(Refusal::Invalid(_) | Refusal::Name(_))
            ));
        }
    }

    #[test]
    fn a_decision_never_shows_secrets() {
        let mut request = request();
        request.secret_environment.insert("JUPYTERHUB_API_TOKEN".into(), "canary".into());
        let decision = decide(&config(), &request).unwrap();
        assert!(!format!("{decision:?} {request:?}").contains("canary"));
    }
}
