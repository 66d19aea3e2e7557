//! What of /proc and /sys a tenant must not read, and what it must not write.
//!
//! /proc is one tree for all of the kernel: most files are the node's, not the
//! sandbox's. A path that a kernel does not have is skipped by the runtime. Each
//! mask costs about a millisecond at every start, so what only root may open
//! anyway (mode 0400: kpagecount, slabinfo, vmallocinfo …) is not here, nor what
//! is empty in a /sys of one's own (cgroup, debug, tracing, bpf).

/// Empty for the tenant. Each group with the reason.
const MASKED: &[(&str, &[&str])] = &[
    (
        "moby's and containerd's default list",
        &[
            "/proc/acpi",
            "/proc/asound",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ],
    ),
    (
        "kernel addresses, or figures that tell what neighbours do",
        &[
            "/proc/diskstats",
            "/proc/kallsyms",
            "/proc/modules",
            "/proc/pressure",
            "/proc/schedstat",
            "/proc/softirqs",
            "/sys/kernel/notes",
            "/sys/kernel/vmcoreinfo",
        ],
    ),
    (
        "the node's boot parameters and serial numbers",
        &["/proc/cmdline", "/sys/devices/virtual/dmi"],
    ),
];

/// Readable, as programs expect, but never writable whatever its mode says.
const READONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub fn masked() -> Vec<String> {
    MASKED.iter().flat_map(|(_, paths)| paths.iter()).map(ToString::to_string).collect()
}

pub fn readonly() -> Vec<String> {
    READONLY.iter().map(ToString::to_string).collect()
}
