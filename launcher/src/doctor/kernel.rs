//! What the kernel can do.

use std::{fs, path::Path};

use super::{Finding, fine, note, problem};
use crate::{
    host::{cgroups::Hierarchy, commands, confinement},
    launch::failure::chain,
};

/// As the tables of the instance use them; checked by the kernel, never put in place.
const TABLE: &str = "table inet adrastea-doctor {
    map to { type ifname : verdict; }
    set who { typeof iifname . ip saddr . ether saddr; }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        limit rate 10/second accept
    }
    chain output { type filter hook output priority filter; meta skuid 0 accept; }
    chain after { type nat hook postrouting priority srcnat; masquerade; }
}";

pub fn findings() -> Vec<Finding> {
    let mut findings = vec![kernel(), cgroups(), seccomp(), user_namespaces(), overlay()];
    findings.extend(lsm());
    findings.extend(confinements());
    findings.extend(firewall());
    findings
}

fn overlay() -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        fine("overlay file systems")
    } else {
        note("no overlay file system is loaded", "modprobe overlay, if it is not built in")
    }
}

fn firewall() -> Vec<Finding> {
    let nft = command("nft", "install nftables");
    let usable = nft.severity == super::Severity::Fine;
    let mut findings = vec![nft];
    if usable && nix::unistd::geteuid().is_root() {
        let path = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
        let path = path.into_iter().map(Path::new).find(|path| path.is_file());
        let checked = path.map(|path| commands::output(path, &["--check", TABLE]));
        findings.push(match checked {
            Some(Err(error)) => problem(
                format!("the kernel refuses what the tables need: {}", chain(&error)),
                "load nf_tables, nft_ct, nft_limit, nft_masq and nft_fib, or use a kernel that has them",
            ),
            _ => fine("nftables: verdict maps, concatenations, connection tracking, limits, masquerading"),
        });
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

/// What the kernel offers besides namespaces and filters, and whether sandboxes get it.
fn confinements() -> Vec<Finding> {
    let landlock = match confinement::landlock() {
        0 => note(
            "no Landlock: files are kept by mounts alone",
            "boot with landlock in the kernel's lsm= list",
        ),
        version => fine(format!("Landlock, version {version}")),
    };
    let apparmor = match (confinement::has_apparmor(), confinement::apparmor_profile()) {
        (_, Some(profile)) => fine(format!("AppArmor, profile {profile}")),
        (true, None) => note(
            "AppArmor is there, its profile for sandboxes is not loaded",
            "apparmor_parser --replace /etc/apparmor.d/adrastea-sandbox (from packaging/apparmor)",
        ),
        (false, None) => note("no AppArmor in this kernel", "none needed; another wall is missing"),
    };
    let cores = if confinement::has_core_scheduling() {
        fine("core scheduling: no two users share a core's threads")
    } else {
        note(
            "no core scheduling: two users may share a core's threads",
            "without threads per core there is nothing to do; else switch them off (nosmt)",
        )
    };
    vec![landlock, apparmor, cores]
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
