//! Devices: making nodes, opening what a host has, the contents of /dev (E5).
//!
//! Nothing is read or written. Devices that act when opened (a watchdog) are not here.

use std::fs;

use crate::{
    check::{
        Argument::{Number, Text},
        Check,
    },
    sys,
};

const CHARACTER: i64 = 0o020_666;
const BLOCK: i64 = 0o060_666;
const FIFO: i64 = 0o010_666;

pub const CHECKS: &[Check] = &[
    Check::function("mknod.null", || mknod(CHARACTER, 0x103)),
    Check::function("mknod.mem", || mknod(CHARACTER, 0x101)),
    Check::function("mknod.disk", || mknod(BLOCK, 0x800)),
    Check::function("mknod.fuse", || mknod(CHARACTER, 0xae5)),
    Check::function("mknod.fifo", || mknod(FIFO, 0)),
    Check::function("mknod.upper-half", || mknod(CHARACTER | 1 << 40, 0x103)),
    Check::read("dev.mem", c"/dev/mem"),
    Check::read("dev.kmem", c"/dev/kmem"),
    Check::read("dev.port", c"/dev/port"),
    Check::read("dev.kmsg", c"/dev/kmsg"),
    Check::read("dev.kvm", c"/dev/kvm"),
    Check::read("dev.fuse", c"/dev/fuse"),
    Check::read("dev.tun", c"/dev/net/tun"),
    Check::read("dev.vda", c"/dev/vda"),
    Check::read("dev.sda", c"/dev/sda"),
    Check::read("dev.nvme", c"/dev/nvme0n1"),
    Check::read("dev.loop-control", c"/dev/loop-control"),
    Check::read("dev.mapper", c"/dev/mapper/control"),
    Check::read("dev.vsock", c"/dev/vsock"),
    Check::read("dev.vhost-net", c"/dev/vhost-net"),
    Check::read("dev.vhost-vsock", c"/dev/vhost-vsock"),
    Check::read("dev.uinput", c"/dev/uinput"),
    Check::read("dev.userfaultfd", c"/dev/userfaultfd"),
    Check::read("dev.tty0", c"/dev/tty0"),
    Check::read("dev.tty1", c"/dev/tty1"),
    Check::read("dev.ttyS0", c"/dev/ttyS0"),
    Check::read("dev.console", c"/dev/console"),
    Check::read("dev.rtc", c"/dev/rtc0"),
    Check::read("dev.hpet", c"/dev/hpet"),
    Check::read("dev.cpu-msr", c"/dev/cpu/0/msr"),
    Check::read("dev.null", c"/dev/null"),
    Check::write("dev.null-write", c"/dev/null"),
    Check::read("dev.urandom", c"/dev/urandom"),
    Check::read("dev.ptmx", c"/dev/ptmx"),
    Check::function("dev.list", listing),
];

fn mknod(mode: i64, device: i64) -> String {
    const PATH: &str = "/tmp/adrastea-probe-node";
    let arguments = [
        Number(i64::from(libc::AT_FDCWD)),
        Text(c"/tmp/adrastea-probe-node"),
        Number(mode),
        Number(device),
    ];
    let result = sys::outcome(sys::call(libc::SYS_mknodat, &arguments));
    let _ = fs::remove_file(PATH);
    result
}

fn listing() -> String {
    let Ok(entries) = fs::read_dir("/dev") else { return "unreadable".to_owned() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.join(" ")
}
