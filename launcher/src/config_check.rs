//! What a configuration must satisfy beyond its syntax: names that exist,
//! defaults below ceilings, ranges that do not overlap. Pure; reports every
//! problem, not only the first.

use adrastea_runtimes::plan::IDS_PER_SANDBOX;

use crate::{
    config::{Config, ContainerdMode, Profile},
    home,
    network::{NetworkSettings, Subnet, rules},
};

/// Environment names no configuration and no hub may ever set: they change what
/// the server's interpreter or loader runs.
pub const FORBIDDEN_ENVIRONMENT: &[&str] = &["LD_*", "PYTHON*", "JUPYTER_CONFIG*", "BASH_ENV", "ENV", "GCONV_PATH", "NODE_OPTIONS"];

/// Everything that is wrong with it, in words; empty if nothing is.
pub fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if config.version != 1 {
        problems.push(format!("version is {}; this launcher reads version 1", config.version));
    }
    if !is_instance_name(&config.instance) {
        problems.push(format!("instance `{}` is no name of the form [a-z][a-z0-9-]{{0,14}}", config.instance));
    }
    for path in [&config.paths.state, &config.paths.run, &config.paths.init, &config.home.root].into_iter().flatten() {
        if !path.is_absolute() {
            problems.push(format!("path `{}` is not absolute", path.display()));
        }
    }
    if config.containerd.mode == ContainerdMode::Existing && !config.containerd.socket.is_absolute() {
        problems.push("containerd.socket is not an absolute path".into());
    }
    check_identity(config, &mut problems);
    match config.network.subnet.parse::<Subnet>() {
        Err(problem) => problems.push(format!("network.subnet: {problem}")),
        Ok(subnet) => {
            if let Err(problem) = network_settings(config, subnet, Vec::new()).check() {
                problems.push(problem.to_string());
            }
        }
    }
    if home::driver(&config.home.driver).is_none() {
        problems.push(format!("home.driver `{}` does not exist; there is: {}", config.home.driver, home::DRIVERS.join(", ")));
    }
    if config.limits.concurrent_starts == 0 {
        problems.push("limits.concurrent_starts is 0: nothing could ever start".into());
    }
    for name in config.runtimes.keys() {
        if adrastea_runtimes::by_name(name).is_none() {
            let known: Vec<_> = adrastea_runtimes::all().iter().map(|runtime| runtime.name()).collect();
            problems.push(format!("runtimes.{name} is no runtime; there is: {}", known.join(", ")));
        }
    }
    for (name, image) in &config.images {
        let digest = image.digest.strip_prefix("sha256:").unwrap_or_default();
        if digest.len() != 64 || !digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            problems.push(format!("images.{name}.digest is not `sha256:` and 64 hexadecimal digits"));
        }
    }
    if config.profiles.is_empty() {
        problems.push("there is no profile: nobody could start anything".into());
    }
    for (name, profile) in &config.profiles {
        check_profile(config, name, profile, &mut problems);
    }
    problems
}

/// What the network module is told.
pub fn network_settings(config: &Config, subnet: Subnet, server_uids: Vec<u32>) -> NetworkSettings {
    NetworkSettings {
        instance: config.instance.clone(),
        subnet,
        hub_port: config.network.hub_port,
        server_port: config.network.server_port,
        uplink: config.network.uplink.clone(),
        resolvers: config.network.resolvers.clone(),
        server_uids,
    }
}

fn is_instance_name(name: &str) -> bool {
    name.len() <= 15
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn check_identity(config: &Config, problems: &mut Vec<String>) {
    let ids = &config.identity;
    let (disk, run) = ((ids.first_disk_id, ids.last_disk_id), (ids.first_run_id, ids.last_run_id));
    for (what, (first, last)) in [("disk", disk), ("run", run)] {
        if first >= last {
            problems.push(format!("identity: the {what} ids end before they begin"));
        }
        // Below 2^31, because signed ids went wrong before (CVE-2024-40635).
        if first < 65_536 || last > i32::MAX.unsigned_abs() {
            problems.push(format!("identity: the {what} ids must lie between 65536 and 2147483647"));
        }
    }
    if disk.0 <= run.1 && run.0 <= disk.1 {
        problems.push("identity: disk ids and run ids overlap".into());
    }
    if run.1.saturating_sub(run.0) < IDS_PER_SANDBOX - 1 {
        problems.push("identity: the run ids do not hold one sandbox (65536)".into());
    }
}

fn check_profile(config: &Config, name: &str, profile: &Profile, problems: &mut Vec<String>) {
    let mut say = |problem: String| problems.push(format!("profiles.{name}: {problem}"));
    for image in std::iter::once(&profile.image).chain(&profile.images) {
        if !config.images.contains_key(image) {
            say(format!("image `{image}` is not under [images]"));
        }
    }
    if profile.runtimes.is_empty() {
        say("it names no runtime".into());
    }
    for runtime in &profile.runtimes {
        if !config.runtimes.contains_key(runtime) {
            say(format!("runtime `{runtime}` is not under [runtimes]"));
        }
    }
    match rules::by_name(&profile.egress) {
        None => say(format!("egress `{}` does not exist", profile.egress)),
        Some(egress) if egress.needs_uplink() && config.network.uplink.is_none() => {
            say(format!("egress `{}` needs network.uplink", profile.egress));
        }
        Some(_) => {}
    }
    if profile.command.first().is_none_or(String::is_empty) {
        say("the command is empty".into());
    }
    let user = &profile.user;
    if user.uid == 0 || user.gid == 0 || user.uid >= IDS_PER_SANDBOX || user.gid >= IDS_PER_SANDBOX {
        say("user.uid and user.gid must be from 1 to 65535; a server never runs as root".into());
    }
    let plain = user.home.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
    if !user.home.is_absolute() || !plain || user.home.components().count() < 2 {
        say("user.home must be an absolute path without `.` and `..`".into());
    }
    if ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/usr", "/bin", "/lib", "/.adrastea"].iter().any(|taken| user.home.starts_with(taken)) {
        say(format!("user.home `{}` lies in a directory that the sandbox needs itself", user.home.display()));
    }
    let limits = &profile.limits;
    if limits.memory_ceiling.is_some_and(|ceiling| ceiling < limits.memory) {
        say("limits.memory is above limits.memory_ceiling".into());
    }
    if limits.cpu_ceiling.is_some_and(|ceiling| ceiling < limits.cpu) {
        say("limits.cpu is above limits.cpu_ceiling".into());
    }
    if limits.processes < 16 {
        say("limits.processes below 16 starts no server".into());
    }
    for variable in profile.environment.keys() {
        if matches_any(variable, &["LD_*"]) {
            say(format!("environment.{variable} may not be set: it changes what the loader runs"));
        }
    }
}

/// Whether `name` equals one of the patterns, or begins with one that ends in `*`.
pub fn matches_any<S: AsRef<str>>(name: &str, patterns: &[S]) -> bool {
    patterns.iter().any(|pattern| {
        let pattern = pattern.as_ref();
        pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix))
    })
}
