//! What a configuration must satisfy beyond its syntax: names that exist,
//! defaults below ceilings, ranges that do not overlap. Pure; reports every
//! problem, not only the first.

use adrastea_runtimes::plan::{IDS_PER_SANDBOX, IdMap, ImageUser, Limits, Plan, SandboxId};

use crate::{
    config::{Config, ContainerdMode, OnDelete, Profile},
    home,
    network::{NetworkSettings, Subnet, rules},
};

/// Environment names no configuration and no hub may ever set: they change what
/// the server's interpreter or loader runs.
pub const FORBIDDEN_ENVIRONMENT: &[&str] =
    &["LD_*", "PYTHON*", "JUPYTER_CONFIG*", "BASH_ENV", "ENV", "GCONV_PATH", "NODE_OPTIONS"];

/// Everything that is wrong with it, in words; empty if nothing is.
pub fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if config.version != 1 {
        problems.push(format!("version is {}; this launcher reads version 1", config.version));
    }
    if !is_instance_name(&config.instance) {
        problems.push(format!(
            "instance `{}` is no name of the form [a-z][a-z0-9-]{{0,14}} that does not end in `-`",
            config.instance
        ));
    }
    for path in [
        &config.paths.state,
        &config.paths.run,
        &config.paths.init,
        &config.home.root,
        &config.audit.path,
    ]
    .into_iter()
    .flatten()
    {
        if !path.is_absolute() {
            problems.push(format!("path `{}` is not absolute", path.display()));
        }
    }
    if config.containerd.mode == ContainerdMode::Existing && !config.containerd.socket.is_absolute()
    {
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
    problems.extend(config.metrics.problem(config.network.subnet.parse().ok()));
    if home::driver(&config.home.driver).is_none() {
        problems.push(format!(
            "home.driver `{}` does not exist; there is: {}",
            config.home.driver,
            home::DRIVERS.join(", ")
        ));
    }
    if config.home.on_delete == OnDelete::Keep && config.home.retention_days.is_some() {
        problems.push(
            "home.retention_days says when homes are purged, but home.on_delete keeps them".into(),
        );
    }
    if config.audit.keep > 0 && config.audit.max_size.bytes() < 64 << 10 {
        problems.push("audit.max_size is below 64KiB: it would be renamed all the time".into());
    }
    if config.limits.servers_per_user == Some(0) {
        problems.push("limits.servers_per_user is 0: nobody could start anything".into());
    }
    if config.limits.concurrent_starts == 0 {
        problems.push("limits.concurrent_starts is 0: nothing could ever start".into());
    }
    if config.limits.concurrent_creates == 0 {
        problems.push("limits.concurrent_creates is 0: nothing could ever start".into());
    }
    if config.limits.starting_servers() < config.limits.concurrent_starts {
        problems.push("limits.starting_servers is below limits.concurrent_starts".into());
    }
    problems.extend(config.runtime_problems());
    for (number, floor) in config.runtime_floors.iter().enumerate() {
        if config.driver(&floor.least).is_none() {
            problems.push(format!("runtime_floors[{number}].least is no runtime: {}", floor.least));
        }
        if floor.groups.is_empty() && floor.users.is_empty() {
            problems.push(format!("runtime_floors[{number}] names neither groups nor users"));
        }
    }
    for (name, image) in &config.images {
        let digest = image.digest.strip_prefix("sha256:").unwrap_or_default();
        if digest.len() != 64
            || !digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            problems
                .push(format!("images.{name}.digest is not `sha256:` and 64 hexadecimal digits"));
        }
    }
    problems.extend(config.image_store.problems());
    problems.extend(config.pool.problem());
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
        run: config.run_directory(),
    }
}

fn is_instance_name(name: &str) -> bool {
    name.len() <= 15
        && !name.ends_with('-')
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
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
            problems
                .push(format!("identity: the {what} ids must lie between 65536 and 2147483647"));
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
        let refusal =
            config.driver(runtime).and_then(|driver| driver.refuses_home(&profile.user.home));
        if let Some(reason) = refusal {
            let home = profile.user.home.display();
            say(format!("user.home `{home}` cannot be used under `{runtime}`: {reason}"));
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
    if let Some(problem) = profile.pool.and_then(|pool| pool.problem(&profile.command)) {
        say(problem);
    }
    let user = &profile.user;
    if user.uid == 0 || user.gid == 0 || user.uid >= IDS_PER_SANDBOX || user.gid >= IDS_PER_SANDBOX
    {
        say("user.uid and user.gid must be from 1 to 65535; a server never runs as root".into());
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
    // What every plan of this profile would be refused for, said now instead of at each start.
    let ids_are_fine = user.uid > 0 && user.gid > 0 && user.uid.max(user.gid) < IDS_PER_SANDBOX;
    for at_ceiling in [false, true].into_iter().filter(|_| ids_are_fine) {
        if let Some(problem) =
            sample_plan(profile, at_ceiling).and_then(|plan| plan.validate().err())
        {
            say(problem.to_string());
            break;
        }
    }
    for variable in profile.environment.keys() {
        if matches_any(variable, &["LD_*"]) {
            say(format!("environment.{variable} may not be set: it changes what the loader runs"));
        }
    }
}

/// A plan as a start with this profile would make it, with its defaults or at its ceilings.
fn sample_plan(profile: &Profile, at_ceiling: bool) -> Option<Plan> {
    let id: SandboxId = "sample000000".parse().ok()?;
    let limits = &profile.limits;
    let memory = limits.memory_ceiling.filter(|_| at_ceiling).unwrap_or(limits.memory);
    let cpu = limits.cpu_ceiling.filter(|_| at_ceiling).unwrap_or(limits.cpu);
    // Any ids that are allowed: what is looked at is the profile.
    let (range, disk) = (1_000_000_000, 1_100_000_000);
    Some(Plan {
        hostname: "sandbox".into(),
        rootfs: "/rootfs".into(),
        init: "/init".into(),
        user_namespace: "/user".into(),
        network_namespace: "/network".into(),
        uid_map: IdMap::with_hole(range, profile.user.uid, disk),
        gid_map: IdMap::with_hole(range, profile.user.gid, disk),
        user: ImageUser {
            uid: profile.user.uid,
            gid: profile.user.gid,
            home: profile.user.home.clone(),
        },
        cgroup: format!("/sample/{id}"),
        apparmor_profile: None,
        limits: Limits {
            memory_bytes: memory.bytes(),
            cpu_millis: cpu.millis(),
            processes: limits.processes,
            open_files: limits.open_files,
            tmp_bytes: limits.tmp.bytes(),
            shm_bytes: limits.shm.bytes(),
        },
        id,
    })
}

/// Whether `name` equals one of the patterns, or begins with one that ends in `*`.
pub fn matches_any<S: AsRef<str>>(name: &str, patterns: &[S]) -> bool {
    patterns.iter().any(|pattern| {
        let pattern = pattern.as_ref();
        pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    /// What is wrong with the example once one line of it is changed.
    fn problem(from: &str, to: &str) -> String {
        let example = include_str!("../../docs/adrastea.example.toml");
        assert!(example.contains(from), "{from}");
        Config::parse(&example.replace(from, to), Path::new("example")).unwrap_err().to_string()
    }

    #[test]
    fn contradictions_are_told() {
        for (from, to, told) in [
            ("instance = \"adrastea\"", "instance = \"../x\"", "no name of the form"),
            ("last_disk_id = 2013265919", "last_disk_id = 2013265999", "overlap"),
            ("last_run_id = 2147483647", "last_run_id = 4000000000", "between 65536"),
            ("subnet = \"10.88.0.0/16\"", "subnet = \"10.88.0.1/16\"", "no subnet"),
            ("driver = \"directory\"", "driver = \"nfs\"", "does not exist"),
            ("on_delete = \"keep\"", "on_delete = \"keep\"\nretention_days = 7", "keeps them"),
            ("max_size = \"64MiB\"", "max_size = \"1KiB\"", "all the time"),
            ("servers_per_user = 16", "servers_per_user = 0", "nobody could start"),
            ("[runtimes.runc]", "[runtimes.crun]", "is no runtime"),
            (
                "[runtimes.runc]",
                "[[runtime_floors]]\nleast = \"gvisorr\"\nusers = [\"*\"]\n[runtimes.runc]",
                "runtime_floors[0].least is no runtime",
            ),
            (
                "[runtimes.runc]",
                "[[runtime_floors]]\nleast = \"gvisor\"\n[runtimes.runc]",
                "neither groups nor users",
            ),
            ("digest = \"sha256:0", "digest = \"sha256:x", "64 hexadecimal"),
            ("image = \"singleuser\"", "image = \"other\"", "not under [images]"),
            ("egress = \"hub\"", "egress = \"all\"", "does not exist"),
            ("command = [\"jupyterhub-singleuser\"]", "command = []", "command is empty"),
            ("uid = 1000", "uid = 0", "never runs as root"),
            ("home = \"/home/jovyan\"", "home = \"/var/jovyan\"", "/var/jovyan"),
            ("home = \"/home/jovyan\"", "home = \"/home/../etc\"", "home"),
            (
                "memory_ceiling = \"2GiB\"",
                "memory_ceiling = \"1MiB\"",
                "above limits.memory_ceiling",
            ),
            ("open_files = 4096", "open_files = 1", "open files"),
            ("cpu_ceiling = 2.0", "cpu_ceiling = 4000.0", "cpu"),
            ("LANG = \"C.UTF-8\"", "LD_PRELOAD = \"x\"", "changes what the loader runs"),
            ("concurrent_starts = 8", "concurrent_starts = 0", "nothing could ever start"),
            (
                "# listen = \"127.0.0.1:9464\"",
                "listen = \"10.88.0.1:9464\"",
                "an address of network.subnet",
            ),
            ("concurrent_creates = 4", "concurrent_creates = 0", "nothing could ever start"),
            ("max_age = 3600", "max_age = 1", "made all the time"),
            (
                "# pool = { minimum = 2, maximum = 8 }",
                "pool = { minimum = 2, maximum = 1 }",
                "above pool.maximum",
            ),
            (
                "command = [\"jupyterhub-singleuser\"]",
                "command = [\"start-notebook.sh\"]\npool = { maximum = 1 }",
                "the command is another",
            ),
            (
                "concurrent_starts = 8",
                "concurrent_starts = 8\nstarting_servers = 7",
                "is below limits.concurrent_starts",
            ),
        ] {
            let problem = problem(from, to);
            assert!(problem.contains(told), "{from} → {to}: {problem}");
        }
    }

    #[test]
    fn a_home_that_a_runtime_of_the_profile_cannot_have_is_refused() {
        let example = include_str!("../../docs/adrastea.example.toml");
        let with = |runtimes: &str, home: &str| {
            let text = example
                .replace("[runtimes.runc]", "[runtimes.gvisor]\nbinary = \"/a\"\n[runtimes.runc]")
                .replace("runtimes = [\"runc\"]", &format!("runtimes = {runtimes}"))
                .replace("home = \"/home/jovyan\"", &format!("home = \"{home}\""));
            Config::parse(&text, Path::new("example")).map_err(|error| error.to_string())
        };
        let told = with("[\"runc\", \"gvisor\"]", "/jovyan").unwrap_err();
        assert!(told.contains("user.home `/jovyan` cannot be used under `gvisor`"), "{told}");
        with("[\"runc\"]", "/jovyan").unwrap();
        with("[\"runc\", \"gvisor\"]", "/home/jovyan").unwrap();
    }
}
