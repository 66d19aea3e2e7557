//! The values beside those that the filter allows: each must be refused by the filter
//! itself (EPERM), not by a kernel that happens to lack the thing.

use std::os::fd::AsRawFd;

use crate::{
    check::Check,
    sys::{self, Raw, raw, socket},
};

pub const CHECKS: &[Check] = &[
    Check::function("neighbour.families", || {
        let tried = (0..64).filter(|family| ![1, 2, 10, 16].contains(family));
        refused(tried.flat_map(|family| (1..6).map(move |kind| (family, socket(family, kind, 0)))))
    }),
    Check::function("neighbour.pairs", || {
        let mut ends = [0_i32; 2];
        refused((0..64).filter(|family| *family != 1).map(|family| {
            let place = sys::address(ends.as_mut_ptr());
            (family, raw(libc::SYS_socketpair, [family as u64, 1, 0, place, 0, 0]))
        }))
    }),
    Check::function("neighbour.types", || {
        let kinds = (0..16).filter(|kind| ![1, 2].contains(kind));
        refused(kinds.flat_map(|kind| [2, 10].map(|family| (kind, socket(family, kind, 0)))))
    }),
    Check::function("neighbour.protocols", || {
        let numbers = (1..300).flat_map(|protocol| [(1, 6, protocol), (2, 17, protocol)]);
        let tried = numbers.filter(|(_, own, protocol)| own != protocol);
        refused(tried.map(|(kind, _, protocol)| (protocol, socket(2, kind, protocol))))
    }),
    Check::function("neighbour.netlink", || {
        refused((1..64).map(|protocol| (protocol, socket(16, 3, protocol))))
    }),
    Check::function("neighbour.levels", || {
        let levels = (2..400).filter(|level| ![6, 17, 41, 270].contains(level));
        options(levels.map(|level| (level, 1)).collect())
    }),
    Check::function("neighbour.options", || {
        let socket = (26..128).filter(|one| ![29, 35, 40, 46, 47, 76].contains(one));
        let tcp = (31..128).filter(|one| ![36, 37].contains(one));
        let udp = (2..128).filter(|one| ![103, 104].contains(one));
        let all = socket.map(|one| (1, one)).chain(tcp.map(|one| (6, one)));
        options(all.chain(udp.map(|one| (17, one))).collect())
    }),
    Check::function("neighbour.personalities", || {
        let allowed = [0, 8, 0x2_0000, 0x2_0008];
        let tried = (0..0x40).chain((16..32).map(|bit| 1 << bit));
        refused(tried.filter(|one| !allowed.contains(one)).map(|one: i64| {
            (one as i32, raw(libc::SYS_personality, [one.cast_unsigned(), 0, 0, 0, 0, 0]))
        }))
    }),
    Check::function("neighbour.futexes", || {
        let word = 0_u32;
        let tried = [2, 11, 12].into_iter().chain(14..128);
        refused(tried.map(|command: i32| {
            let place = sys::address(&raw const word);
            (command, raw(libc::SYS_futex, [place, command as u64, 0, 0, 0, 0]))
        }))
    }),
    Check::function("neighbour.namespaces", || {
        let flags = [17, 25, 26, 27, 28, 29, 30];
        refused(flags.into_iter().map(|bit: i32| {
            (bit, raw(libc::SYS_clone, [1 << bit | libc::SIGCHLD as u64, 0, 0, 0, 0, 0]))
        }))
    }),
    Check::function("neighbour.file-types", || {
        let name = c"/tmp/neighbour";
        let kinds = (0..16).filter(|kind| ![0, 1, 8, 12].contains(kind));
        refused(kinds.map(|kind: i32| {
            let arguments = [
                libc::AT_FDCWD as u64,
                sys::address(name.as_ptr()),
                (kind as u64) << 12 | 0o600,
                0,
                0,
                0,
            ];
            (kind, raw(libc::SYS_mknodat, arguments))
        }))
    }),
];

/// `all refused`, or the values with another answer.
fn refused(tried: impl Iterator<Item = (i32, Raw)>) -> String {
    let mut others: Vec<String> = tried
        .filter(|(_, result)| *result != Err(libc::EPERM))
        .map(|(value, result)| format!("{value}:{}", sys::outcome(result)))
        .collect();
    if others.is_empty() {
        return "all refused".to_owned();
    }
    others.truncate(6);
    format!("not {}", others.join(" "))
}

/// The same for options of a TCP socket: level and option.
fn options(tried: Vec<(i32, i32)>) -> String {
    let Ok(opened) = std::net::TcpListener::bind("127.0.0.1:0") else { return "no socket".into() };
    let value = 1_i32;
    refused(tried.into_iter().map(|(level, option)| {
        let arguments = [
            opened.as_raw_fd() as u64,
            level as u64,
            option as u64,
            sys::address(&raw const value),
            4,
            0,
        ];
        (level * 1000 + option, raw(libc::SYS_setsockopt, arguments))
    }))
}
