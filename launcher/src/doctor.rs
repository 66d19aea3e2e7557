//! `adrastea doctor`: what this node can do, and what it lacks, each with the
//! fix. Looks and never changes anything.

use std::{fs, path::Path, process::ExitCode};

use crate::{
    boot,
    config::Config,
    home,
    host::{cgroups::Hierarchy, commands, users},
    launch::failure::chain,
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Fine,
    Note,
    Problem,
}

struct Finding {
    severity: Severity,
    what: String,
    fix: String,
}

fn fine(what: impl Into<String>) -> Finding {
    Finding { severity: Severity::Fine, what: what.into(), fix: String::new() }
}

fn note(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { severity: Severity::Note, what: what.into(), fix: fix.into() }
}

fn problem(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { severity: Severity::Problem, what: what.into(), fix: fix.into() }
}

/// Prints every finding; fails if one of them is a problem.
pub fn print(path: &Path) -> ExitCode {
    let findings = findings(path);
    for finding in &findings {
        let mark = match finding.severity {
            Severity::Fine => "ok     ",
            Severity::Note => "note   ",
            Severity::Problem => "PROBLEM",
        };
        println!("{mark} {}", finding.what);
        if !finding.fix.is_empty() {
            println!("        → {}", finding.fix);
        }
    }
    if findings.iter().any(|finding| finding.severity == Severity::Problem) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn findings(path: &Path) -> Vec<Finding> {
    let mut findings = vec![kernel(), cgroups(), seccomp(), user_namespaces()];
    findings.extend(lsm());
    findings.push(command("nft", "install nftables"));
    match Config::load(path, true) {
        Ok(config) => {
            findings.push(fine(format!("configuration {}", path.display())));
            findings.extend(configured(&config));
        }
        Err(error) => findings.push(problem(chain(&error), error.hint().unwrap_or_default())),
    }
    findings
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // Idmapped mounts of ext4 came with 5.12, of overlay's layers with 5.19.
    if version >= (5, 19) {
        fine(format!("kernel {release}"))
    } else {
        problem(
            format!("kernel {release} cannot idmap the layers of an overlay"),
            "use Linux 5.19 or newer",
        )
    }
}

fn cgroups() -> Finding {
    let hierarchy = Hierarchy::detect();
    match &hierarchy {
        Hierarchy::V2(_) => note(
            "control groups version 2",
            "supported by the reader, not yet tried on a live host of this kind",
        ),
        Hierarchy::V1(controllers) if controllers.is_empty() => {
            problem("no control groups are mounted", "mount cgroup2 on /sys/fs/cgroup")
        }
        Hierarchy::V1(_) => fine("control groups version 1"),
    }
}

fn seccomp() -> Finding {
    if fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
        .is_ok_and(|actions| actions.contains("kill_process"))
    {
        fine("seccomp filters")
    } else {
        problem("the kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER")
    }
}

fn user_namespaces() -> Finding {
    let most: u64 = fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    if most > 0 {
        fine(format!("user namespaces (up to {most})"))
    } else {
        problem("user namespaces are switched off", "sysctl user.max_user_namespaces=65536")
    }
}

fn lsm() -> Vec<Finding> {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    vec![if modules.is_empty() {
        note(
            "which security modules are active cannot be seen",
            "mount securityfs on /sys/kernel/security to see",
        )
    } else {
        fine(format!("security modules: {}", modules.trim()))
    }]
}

fn command(name: &str, fix: &str) -> Finding {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file());
    match found.map(|path| commands::output(&path, &["--version"])) {
        Some(Ok(version)) => fine(format!("{name}: {}", version.trim())),
        Some(Err(error)) => problem(chain(&error), fix),
        None => problem(format!("the command {name} is missing"), fix),
    }
}

fn configured(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let layout = boot::layout(config);
    for (name, runtime) in &config.runtimes {
        findings.push(match boot::runtime_state(name, runtime, &layout) {
            Ok(settings) if runtime.accept_vulnerable.is_empty() => {
                fine(format!("runtime {name}: {}", settings.binary.display()))
            }
            Ok(settings) => note(
                format!(
                    "runtime {name}: {} has known ways out that the configuration accepts: {}",
                    settings.binary.display(),
                    runtime.accept_vulnerable.join(", ")
                ),
                "install a fixed version and empty accept_vulnerable",
            ),
            Err(failure) => problem(failure.message, failure.hint),
        });
    }
    if let Some(managed) = boot::managed_settings(config, &layout) {
        findings.push(match commands::output(&managed.binary, &["--version"]) {
            Ok(version) => fine(format!("managed containerd: {}", version.trim())),
            Err(error) => problem(chain(&error), "install containerd, or set containerd.binary"),
        });
    } else if config.containerd.socket.exists() {
        findings
            .push(fine(format!("existing containerd at {}", config.containerd.socket.display())));
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
