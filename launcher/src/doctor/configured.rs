//! What the configuration needs of this node: runtimes, containerd, users, homes, uplink.

use std::path::Path;

use adrastea_runtimes::RuntimeSettings;

use super::{Finding, fine, note, problem};
use crate::{
    boot,
    config::Config,
    config_runtimes::RuntimeConfig,
    home,
    host::{commands, users},
    launch::failure::chain,
    node_runtimes,
    self_test::Answer,
    tried,
};

/// What its version says about it: which known holes it has, and which of them are accepted.
fn containerd(config: &Config, what: &str, printed: &str) -> Finding {
    match boot::containerd_floor(config, printed) {
        Ok(checked) if checked.accepted.is_empty() => fine(format!("{what}: {}", printed.trim())),
        Ok(checked) => {
            let names: Vec<_> = checked.accepted.iter().map(|hole| hole.name).collect();
            note(
                format!(
                    "{what}: {} has known ways out that the configuration accepts: {}",
                    checked.version,
                    names.join(", ")
                ),
                "install a fixed version and empty containerd.accept_vulnerable",
            )
        }
        Err(error) => problem(
            format!("{what}: {}", chain(error.as_ref())),
            "install a fixed containerd; to accept the risk, name each hole in containerd.accept_vulnerable",
        ),
    }
}

fn version(name: &str, runtime: &RuntimeConfig, settings: &RuntimeSettings) -> Finding {
    let shim = settings.shim.as_ref();
    let shim = shim.map_or_else(String::new, |it| format!(" behind {}", it.program.display()));
    let binary = format!("{}{shim}", settings.binary.display());
    if runtime.accept_vulnerable.is_empty() {
        let version = commands::output(&settings.binary, &["--version"]).unwrap_or_default();
        let version = version.lines().next().unwrap_or_default().trim().to_owned();
        return fine(format!("runtime {name}: {binary}, {version}"));
    }
    note(
        format!(
            "runtime {name}: {binary} has known ways out that the configuration accepts: {}",
            runtime.accept_vulnerable.join(", ")
        ),
        "install a fixed version and empty accept_vulnerable",
    )
}

fn started(name: &str, answer: Answer) -> Finding {
    match answer {
        Answer::Starts(Some(took)) => fine(format!(
            "runtime {name} starts a sandbox here (just now, in {} ms)",
            took.as_millis()
        )),
        Answer::Starts(None) => {
            fine(format!("runtime {name} starts a sandbox here (since this boot, this program)"))
        }
        Answer::Cannot(reason) | Answer::Unknown(reason) => note(
            format!("runtime {name}: it was not tried whether it starts a sandbox here: {reason}"),
            "mend that, and look again as root",
        ),
    }
}

/// Whether sandboxes of it can wait for users, where that was or is to be tried.
fn waits(config: &Config, name: &str, settings: &RuntimeSettings) -> Option<Finding> {
    let driver = config.driver(name)?;
    if !driver.makes_files_as_root()
        || driver.refuses_to_wait(&settings.program, settings.version).is_some()
    {
        return None;
    }
    Some(match tried::waiting(config, name, settings) {
        Some(Ok(())) => fine(format!(
            "runtime {name}: homes can be attached to sandboxes that wait (tried since this boot, with this program)"
        )),
        Some(Err(reason)) => note(
            format!("runtime {name}: no server waits for its user: {reason}"),
            "use another version of it; until then its servers start without waiting ones",
        ),
        None => fine(format!(
            "runtime {name}: whether homes can be attached to sandboxes that wait is tried before the first one waits"
        )),
    })
}

pub async fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let layout = boot::layout(config);
    for (name, runtime) in &config.runtimes {
        let state = node_runtimes::installed(config, name, runtime)
            .and_then(|settings| node_runtimes::tried(config, name, settings));
        match state {
            Ok((settings, answer)) => {
                findings.push(version(name, runtime, &settings));
                findings.push(started(name, answer));
                findings.extend(waits(config, name, &settings));
            }
            Err(failure) => findings.push(problem(failure.message, failure.hint)),
        }
        let driver = config.driver(name);
        if let Some(why) = driver.and_then(adrastea_runtimes::Runtime::unproved) {
            findings.push(note(
                format!("runtime {name} is experimental: {why}"),
                "offer it to nobody whose servers need the strongest wall",
            ));
        }
        for limitation in driver.map(adrastea_runtimes::Runtime::limitations).unwrap_or_default() {
            findings.push(fine(format!(
                "runtime {name} cannot: {} ({})",
                limitation.what, limitation.why
            )));
        }
    }
    if let Some(managed) = boot::managed_settings(config, &layout) {
        findings.push(match commands::output(&managed.binary, &["--version"]) {
            Ok(version) => containerd(config, "managed containerd", &version),
            Err(error) => problem(chain(&error), "install containerd, or set containerd.binary"),
        });
    } else if config.containerd.socket.exists() {
        let what = format!("existing containerd at {}", config.containerd.socket.display());
        findings.push(match boot::existing_containerd_version(config).await {
            Ok(version) => containerd(config, &what, &version),
            Err(error) => problem(
                format!("{what}: {}", chain(error.as_ref())),
                "see whether it runs, and whether root may use its socket",
            ),
        });
    } else {
        findings.push(problem(
            format!("there is no containerd at {}", config.containerd.socket.display()),
            "start it, or set containerd.socket",
        ));
    }
    let init = config.init_binary();
    findings.push(if init.is_file() {
        fine(format!("init {}", init.display()))
    } else {
        problem(format!("the init {} is missing", init.display()), "set paths.init")
    });
    for (kind, result) in config
        .access
        .hub_users
        .iter()
        .chain(config.server_users())
        .map(|name| ("user", users::uid_of(name)))
        .chain(std::iter::once(("group", users::gid_of(&config.access.group))))
    {
        if let Err(error) = result {
            findings.push(problem(chain(&error), format!("create the {kind}, or change [access]")));
        }
    }
    let homes = config.home_root();
    if let Some(driver) = home::driver(&config.home.driver) {
        findings.push(match driver.check(&homes) {
            Ok(()) => fine(format!("homes in {}", homes.display())),
            Err(_) if config.home.root.is_none() => {
                fine(format!("homes in {} (made at the first start)", homes.display()))
            }
            Err(error) => problem(
                chain(&error),
                format!("mkdir -p {0} && chown root:root {0} && chmod 0711 {0}", homes.display()),
            ),
        });
    }
    if let Some(uplink) = &config.network.uplink {
        findings.push(if Path::new("/sys/class/net").join(uplink).exists() {
            fine(format!("uplink {uplink}"))
        } else {
            problem(
                format!("there is no link {uplink}"),
                "set network.uplink to one of `ip -br link`",
            )
        });
    }
    findings
}
