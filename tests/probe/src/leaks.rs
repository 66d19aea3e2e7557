//! What of the node can be read (E13): each `empty`, an error, or a number of bytes.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::OpenOptionsExt,
};

use crate::{check::Check, sys};

macro_rules! read {
    ($name:literal, $path:literal) => {
        Check::function($name, || amount($path))
    };
}

pub const CHECKS: &[Check] = &[
    read!("leak.kcore", "/proc/kcore"),
    read!("leak.kallsyms", "/proc/kallsyms"),
    read!("leak.kmsg", "/proc/kmsg"),
    read!("leak.keys", "/proc/keys"),
    read!("leak.timer_list", "/proc/timer_list"),
    read!("leak.sched_debug", "/proc/sched_debug"),
    read!("leak.schedstat", "/proc/schedstat"),
    read!("leak.interrupts", "/proc/interrupts"),
    read!("leak.softirqs", "/proc/softirqs"),
    read!("leak.modules", "/proc/modules"),
    read!("leak.slabinfo", "/proc/slabinfo"),
    read!("leak.vmallocinfo", "/proc/vmallocinfo"),
    read!("leak.pagetypeinfo", "/proc/pagetypeinfo"),
    read!("leak.kpagecount", "/proc/kpagecount"),
    Check::function("leak.iomem", || addresses("/proc/iomem")),
    Check::function("leak.ioports", || addresses("/proc/ioports")),
    read!("leak.cmdline", "/proc/cmdline"),
    read!("leak.diskstats", "/proc/diskstats"),
    read!("leak.pressure", "/proc/pressure/memory"),
    read!("leak.vmcoreinfo", "/sys/kernel/vmcoreinfo"),
    read!("leak.notes", "/sys/kernel/notes"),
    read!("leak.dmi-serial", "/sys/devices/virtual/dmi/id/product_uuid"),
    read!("leak.dmi-vendor", "/sys/devices/virtual/dmi/id/sys_vendor"),
    read!("leak.firmware", "/sys/firmware"),
    read!("leak.powercap", "/sys/devices/virtual/powercap"),
    read!("leak.acpi", "/proc/acpi"),
    read!("leak.scsi", "/proc/scsi"),
    Check::function("leak.other-processes", processes),
    Check::function("leak.host-root", || sys::io_outcome(fs::read_dir("/proc/1/root"))),
    Check::function("leak.shadow", || amount("/etc/shadow")),
];

fn amount(path: &str) -> String {
    if let Ok(entries) = fs::read_dir(path) {
        return match entries.count() {
            0 => "empty".to_owned(),
            count => format!("{count} entries"),
        };
    }
    let mut bytes = [0; 4096];
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    match opened.and_then(|mut file| file.read(&mut bytes)) {
        Ok(0) => "empty".to_owned(),
        Ok(count) => format!("{count} bytes"),
        Err(error) => sys::io_error_name(&error),
    }
}

/// Whether physical addresses are shown, or zeros in their place.
fn addresses(path: &str) -> String {
    let text = sys::text_of(path);
    let shown = text.lines().any(|line| {
        let range = line.trim().split(' ').next().unwrap_or_default();
        range.bytes().any(|byte| byte.is_ascii_digit() && byte != b'0')
    });
    if shown { "addresses".to_owned() } else { "no addresses".to_owned() }
}

/// Processes of anybody else: visible ids that are not ours to begin with.
fn processes() -> String {
    let Ok(entries) = fs::read_dir("/proc") else { return "unreadable".to_owned() };
    let own = sys::own_uid();
    let foreign = entries
        .flatten()
        .filter(|entry| {
            entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())
        })
        .filter(|entry| {
            let status = sys::text_of(&format!("{}/status", entry.path().display()));
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            uid.and_then(|ids| ids.split_whitespace().next()?.parse::<u32>().ok())
                .is_some_and(|uid| uid != own)
        })
        .count();
    if foreign == 0 { "none".to_owned() } else { format!("{foreign} processes") }
}
