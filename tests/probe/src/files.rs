//! Files of the kernel that a host's root would write to (E9). Opened to write,
//! never written.

use std::fs;

use crate::check::Check;

pub const CHECKS: &[Check] = &[
    Check::write("write.core_pattern", c"/proc/sys/kernel/core_pattern"),
    Check::write("write.modprobe", c"/proc/sys/kernel/modprobe"),
    Check::write("write.hotplug", c"/proc/sys/kernel/hotplug"),
    Check::write("write.sysrq", c"/proc/sys/kernel/sysrq"),
    Check::write("write.sysrq-trigger", c"/proc/sysrq-trigger"),
    Check::write("write.panic", c"/proc/sys/kernel/panic"),
    Check::write("write.hostname", c"/proc/sys/kernel/hostname"),
    Check::write("write.ns_last_pid", c"/proc/sys/kernel/ns_last_pid"),
    Check::write("write.shmmax", c"/proc/sys/kernel/shmmax"),
    Check::write("write.yama", c"/proc/sys/kernel/yama/ptrace_scope"),
    Check::write("write.randomize", c"/proc/sys/kernel/randomize_va_space"),
    Check::write("write.unprivileged_bpf", c"/proc/sys/kernel/unprivileged_bpf_disabled"),
    Check::write("write.binfmt_misc", c"/proc/sys/fs/binfmt_misc/register"),
    Check::write("write.suid_dumpable", c"/proc/sys/fs/suid_dumpable"),
    Check::write("write.protected_symlinks", c"/proc/sys/fs/protected_symlinks"),
    Check::write("write.drop_caches", c"/proc/sys/vm/drop_caches"),
    Check::write("write.overcommit", c"/proc/sys/vm/overcommit_memory"),
    Check::write("write.ip_forward", c"/proc/sys/net/ipv4/ip_forward"),
    Check::write("write.rp_filter", c"/proc/sys/net/ipv4/conf/all/rp_filter"),
    Check::write("write.disable_ipv6", c"/proc/sys/net/ipv6/conf/all/disable_ipv6"),
    Check::write("write.uevent_helper", c"/sys/kernel/uevent_helper"),
    Check::write("write.sys-power", c"/sys/power/state"),
    Check::write("write.sys-smt", c"/sys/devices/system/cpu/smt/control"),
    Check::write("write.sys-thp", c"/sys/kernel/mm/transparent_hugepage/enabled"),
    Check::write("write.sys-lo-mtu", c"/sys/class/net/lo/mtu"),
    Check::write("write.irq", c"/proc/irq/default_smp_affinity"),
    Check::write("write.mtrr", c"/proc/mtrr"),
    // May be opened by its owner; a second map is refused when it is written.
    Check::function("write.uid_map", || {
        crate::sys::io_outcome(fs::write("/proc/self/uid_map", "0 0 1\n"))
    }),
    // Its own, and its owner's to write by mode: only Landlock says no.
    Check::write("write.own-name", c"/proc/self/comm"),
    Check::write("write.setgroups", c"/proc/self/setgroups"),
    Check::write("write.init", c"/.adrastea/init"),
    Check::write("write.passwd", c"/etc/passwd"),
    Check::write("write.resolv", c"/etc/resolv.conf"),
    Check::write("cgroup.release_agent", c"/sys/fs/cgroup/memory/release_agent"),
    Check::write("cgroup.devices-allow", c"/sys/fs/cgroup/devices/devices.allow"),
    Check::write("cgroup.procs-v1", c"/sys/fs/cgroup/memory/cgroup.procs"),
    Check::write("cgroup.procs-v2", c"/sys/fs/cgroup/cgroup.procs"),
    Check::write("cgroup.unified", c"/sys/fs/cgroup/unified/cgroup.procs"),
    Check::function("cgroup.tree", || count("/sys/fs/cgroup")),
    Check::function("sys.debug", || count("/sys/kernel/debug")),
    Check::function("sys.tracing", || count("/sys/kernel/tracing")),
    Check::function("sys.bpf", || count("/sys/fs/bpf")),
    Check::function("sys.security", || count("/sys/kernel/security")),
];

fn count(directory: &str) -> String {
    match fs::read_dir(directory).map(Iterator::count) {
        Ok(0) => "empty".to_owned(),
        Ok(count) => format!("{count} entries"),
        Err(error) => crate::sys::io_error_name(&error),
    }
}
