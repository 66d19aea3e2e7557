//! The seccomp filter: an allow-list for one ABI; all else is EPERM.
//!
//! Rules with arguments are written so that garbage in the upper half of a
//! register cannot slip past them: the kernel looks at 32 bits of an `int`, the
//! filter at 64, so "not equal" and "greater" are never used
//! (CVE-2019-10063 is that mistake). Only `==`, `<` and masked `==` allow.

use std::sync::OnceLock;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::{SpecError, syscalls};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const NETLINK_ROUTE: u64 = 0;

/// The type without SOCK_NONBLOCK and SOCK_CLOEXEC (socket(2)).
const SOCK_TYPE_MASK: u64 = 0xf;
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
const IPPROTO_IP: u64 = 0;
const IPPROTO_TCP: u64 = 6;
const IPPROTO_UDP: u64 = 17;

const SOL_IP: u64 = 0;
const SOL_SOCKET: u64 = 1;
const SOL_TCP: u64 = 6;
const SOL_UDP: u64 = 17;
const SOL_IPV6: u64 = 41;
const SOL_NETLINK: u64 = 270;

/// Terminal requests that reach beyond one's own terminal, or load a line discipline: TIOCSTI
/// (types for others, CVE-2017-5226), TIOCLINUX, TIOCCONS, TIOCSETD.
const FORBIDDEN_REQUESTS: [u32; 4] = [0x5412, 0x541c, 0x541d, 0x5423];

/// CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// PER_LINUX and PER_LINUX32, each with and without UNAME26, and asking.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// What futex(2) takes as an operation, without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
const FUTEX_COMMAND_MASK: u64 = 0xffff_fe7f;
/// All but FUTEX_FD (gone) and the two that requeue to a priority-inheriting futex, which no
/// current C library uses and which were the way of CVE-2014-3153.
const FUTEX_COMMANDS: [u64; 11] = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 13];

/// The type bits of a file's mode: regular (and 0, which means it), FIFO, socket; no device.
const FILE_TYPE_MASK: u64 = 0xf000;
const FILE_TYPES: [u64; 4] = [0x0000, 0x8000, 0x1000, 0xc000];

/// The ABI of this build, and no other: through a second one every rule on arguments could be
/// walked around (`int 0x80` knows `socketcall`). A call through any other kills the caller.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Arch = Arch::ScmpArchAarch64;

/// The filter for the machines of this build, made once.
pub fn profile() -> Result<&'static LinuxSeccomp, SpecError> {
    static PROFILE: OnceLock<LinuxSeccomp> = OnceLock::new();
    if let Some(profile) = PROFILE.get() {
        return Ok(profile);
    }
    let made = profile_for(ARCHITECTURE)?;
    Ok(PROFILE.get_or_init(|| made))
}

/// The filter for one ABI.
pub(super) fn profile_for(architecture: Arch) -> Result<LinuxSeccomp, SpecError> {
    let has = |name: &str| {
        architecture == Arch::ScmpArchX86_64
            || !syscalls::ONLY_X86_64.split_whitespace().any(|legacy| legacy == name)
    };
    let mut rules = Vec::new();
    for (_reason, names) in syscalls::GROUPS {
        let names: Vec<_> =
            names.split_whitespace().filter(|name| has(name)).map(str::to_owned).collect();
        rules.push(
            LinuxSyscallBuilder::default()
                .names(names)
                .action(LinuxSeccompAction::ScmpActAllow)
                .build()?,
        );
    }
    rules.extend(processes()?);
    rules.extend(files(has)?);
    rules.extend(sockets()?);
    rules.extend(socket_options()?);
    Ok(LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(vec![architecture])
        // Given and empty: where absent, runc adds SPEC_ALLOW, which lifts a mitigation.
        .flags(Vec::new())
        .syscalls(rules)
        .build()?)
}

fn processes() -> Result<Vec<LinuxSyscall>, SpecError> {
    let mut rules = vec![
        allow("clone", &[masked(0, NAMESPACE_FLAGS, 0)?])?,
        // Its flags are in memory, out of the filter's sight. "Not there" makes C libraries
        // fall back to clone.
        LinuxSyscallBuilder::default()
            .names(vec!["clone3".to_owned()])
            .action(LinuxSeccompAction::ScmpActErrno)
            .errno_ret(ENOSYS)
            .build()?,
    ];
    for personality in PERSONALITIES {
        rules.push(allow("personality", &[equal(0, personality)?])?);
    }
    for command in FUTEX_COMMANDS {
        rules.push(allow("futex", &[masked(1, FUTEX_COMMAND_MASK, command)?])?);
    }
    Ok(rules)
}

fn files(has: impl Fn(&str) -> bool) -> Result<Vec<LinuxSyscall>, SpecError> {
    let mut rules = Vec::new();
    for (name, mode) in [("mknod", 1), ("mknodat", 2)].into_iter().filter(|(name, _)| has(name)) {
        for file_type in FILE_TYPES {
            rules.push(allow(name, &[masked(mode, FILE_TYPE_MASK, file_type)?])?);
        }
    }
    for (mask, value) in all_but(&FORBIDDEN_REQUESTS) {
        rules.push(allow("ioctl", &[masked(1, mask, value)?])?);
    }
    Ok(rules)
}

/// Families, and for the internet ones type and protocol: no raw sockets, SCTP, MPTCP, DCCP.
fn sockets() -> Result<Vec<LinuxSyscall>, SpecError> {
    let mut rules = vec![
        allow("socket", &[equal(0, AF_UNIX)?])?,
        allow("socketpair", &[equal(0, AF_UNIX)?])?,
        allow("socket", &[equal(0, AF_NETLINK)?, equal(2, NETLINK_ROUTE)?])?,
    ];
    for family in [AF_INET, AF_INET6] {
        for (kind, own_protocol) in [(SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP)] {
            for protocol in [IPPROTO_IP, own_protocol] {
                let arguments =
                    [equal(0, family)?, masked(1, SOCK_TYPE_MASK, kind)?, equal(2, protocol)?];
                rules.push(allow("socket", &arguments)?);
            }
        }
    }
    Ok(rules)
}

/// Options by level. Absent on purpose: TCP_ULP (31: kernel TLS and ESP in TCP), UDP_ENCAP
/// (100: ESP in UDP), SO_ATTACH_FILTER (26) and the other ways to load BPF (50 to 52).
fn socket_options() -> Result<Vec<LinuxSyscall>, SpecError> {
    let mut rules = Vec::new();
    for level in [SOL_IP, SOL_IPV6, SOL_NETLINK] {
        rules.push(allow("setsockopt", &[equal(1, level)?])?);
    }
    // The level, the first option that is not allowed, and single ones after it.
    let ranges: [(u64, u64, &[u64]); 3] = [
        // SO_TIMESTAMP, SO_TIMESTAMPNS, SO_RXQ_OVFL, SO_BUSY_POLL, SO_MAX_PACING_RATE, SO_PASSPIDFD
        (SOL_SOCKET, 26, &[29, 35, 40, 46, 47, 76]),
        // TCP_INQ, TCP_TX_DELAY
        (SOL_TCP, 31, &[36, 37]),
        // UDP_CORK; then UDP_SEGMENT, UDP_GRO
        (SOL_UDP, 2, &[103, 104]),
    ];
    for (level, end, singles) in ranges {
        let below = argument(2, LinuxSeccompOperator::ScmpCmpLt, end, None)?;
        rules.push(allow("setsockopt", &[equal(1, level)?, below])?);
        for single in singles {
            rules.push(allow("setsockopt", &[equal(1, level)?, equal(2, *single)?])?);
        }
    }
    Ok(rules)
}

fn allow(name: &str, arguments: &[LinuxSeccompArg]) -> Result<LinuxSyscall, SpecError> {
    Ok(LinuxSyscallBuilder::default()
        .names(vec![name.to_owned()])
        .action(LinuxSeccompAction::ScmpActAllow)
        .args(arguments.to_vec())
        .build()?)
}

fn equal(index: usize, value: u64) -> Result<LinuxSeccompArg, SpecError> {
    argument(index, LinuxSeccompOperator::ScmpCmpEq, value, None)
}

fn masked(index: usize, mask: u64, value: u64) -> Result<LinuxSeccompArg, SpecError> {
    argument(index, LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value))
}

fn argument(
    index: usize,
    operator: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> Result<LinuxSeccompArg, SpecError> {
    let argument = LinuxSeccompArgBuilder::default().index(index).op(operator).value(value);
    Ok(match value_two {
        Some(value_two) => argument.value_two(value_two),
        None => argument,
    }
    .build()?)
}

/// All 32-bit numbers but these, as masks and values of which each other number matches exactly
/// one: what a filter without "not equal" needs to forbid single values. Largest blocks first.
fn all_but(forbidden: &[u32]) -> Vec<(u64, u64)> {
    let mut blocks = Vec::new();
    // Prefixes of the forbidden numbers, one bit longer each time; a branch without a forbidden
    // number is a block.
    let mut prefixes = vec![0_u32];
    let mut mask = 0_u32;
    for bit in (0..u32::BITS).rev() {
        mask |= 1 << bit;
        let branches: Vec<u32> =
            prefixes.iter().flat_map(|prefix| [*prefix, prefix | 1 << bit]).collect();
        let (inner, outer): (Vec<u32>, Vec<u32>) = branches
            .into_iter()
            .partition(|branch| forbidden.iter().any(|number| number & mask == *branch));
        blocks.extend(outer.into_iter().map(|value| (u64::from(mask), u64::from(value))));
        prefixes = inner;
    }
    blocks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::BTreeSet, sync::LazyLock};

    use proptest::prelude::*;

    use super::*;

    static RULES: LazyLock<Vec<LinuxSyscall>> =
        LazyLock::new(|| profile().unwrap().syscalls().clone().unwrap());

    /// What the filter answers: the first rule that matches, as no two rules overlap.
    fn allows(name: &str, arguments: [u64; 6]) -> bool {
        RULES.iter().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.names().iter().any(|other| other == name)
                && rule.args().iter().flatten().all(|argument| {
                    let actual = arguments[argument.index()];
                    match argument.op() {
                        LinuxSeccompOperator::ScmpCmpEq => actual == argument.value(),
                        LinuxSeccompOperator::ScmpCmpLt => actual < argument.value(),
                        LinuxSeccompOperator::ScmpCmpMaskedEq => {
                            actual & argument.value() == argument.value_two().unwrap()
                        }
                        _ => false,
                    }
                })
        })
    }

    #[test]
    fn every_call_is_listed_once_and_every_group_says_why() {
        let mut seen = BTreeSet::new();
        for (reason, names) in syscalls::GROUPS {
            assert!(!reason.is_empty());
            let names: Vec<_> = names.split_whitespace().collect();
            assert!(names.is_sorted(), "{reason}");
            for name in names {
                assert!(seen.insert(name), "{name}");
            }
        }
        // An unconditional rule would make the conditional ones void.
        for rule in RULES.iter() {
            if rule.args().is_some() {
                for name in rule.names() {
                    assert!(!seen.contains(name.as_str()), "{name}");
                }
            }
        }
    }

    #[test]
    fn only_safe_operators_allow() {
        use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpLt, ScmpCmpMaskedEq};
        for rule in RULES.iter() {
            let mut indices = BTreeSet::new();
            for argument in rule.args().iter().flatten() {
                assert!(matches!(argument.op(), ScmpCmpEq | ScmpCmpLt | ScmpCmpMaskedEq));
                // libseccomp takes one comparison per argument and rule.
                assert!(indices.insert(argument.index()));
            }
        }
    }

    #[test]
    fn what_escapes_were_made_of_is_absent() {
        let names = "acct add_key bpf chroot clock_settime delete_module finit_module fsconfig \
             fsmount fsopen fspick init_module io_uring_enter io_uring_register \
             io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie \
             mbind memfd_secret modify_ldt mount mount_setattr move_mount move_pages \
             name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open \
             pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace \
             quotactl quotactl_fd reboot request_key setdomainname sethostname setns \
             settimeofday splice swapoff swapon syslog tee umount2 unshare userfaultfd \
             vhangup vmsplice clone3";
        for name in names.split_whitespace() {
            assert!(!allows(name, [0; 6]), "{name}");
        }
    }

    #[test]
    fn what_a_server_needs_is_there() {
        assert!(allows("clone", [0x0120_0011, 0, 0, 0, 0, 0])); // fork of the C library
        assert!(allows("clone", [0x003d_0f00, 0, 0, 0, 0, 0])); // a thread
        assert!(allows("socket", [AF_INET, SOCK_STREAM | 0o2_004_000, 0, 0, 0, 0]));
        assert!(allows("socket", [AF_INET6, SOCK_DGRAM, IPPROTO_UDP, 0, 0, 0]));
        assert!(allows("socket", [AF_NETLINK, 3, 0, 0, 0, 0])); // getifaddrs
        assert!(allows("setsockopt", [3, SOL_SOCKET, 15, 0, 0, 0])); // SO_REUSEPORT
        assert!(allows("setsockopt", [3, SOL_TCP, 1, 0, 0, 0])); // TCP_NODELAY
        assert!(allows("ioctl", [0, 0x5401, 0, 0, 0, 0])); // TCGETS
        assert!(allows("ioctl", [0, 0x5413, 0, 0, 0, 0])); // TIOCGWINSZ
        assert!(allows("futex", [0, 0x81, 0, 0, 0, 0]));
        assert!(allows("mknodat", [0, 0, 0o010_644, 0, 0, 0])); // mkfifo
        assert!(!allows("mknodat", [0, 0, 0o020_644, 0, 0, 0]));
        assert!(!allows("socket", [AF_INET, 3, 1, 0, 0, 0]));
        assert!(!allows("setsockopt", [3, SOL_SOCKET, 26, 0, 0, 0]));
        assert!(!allows("setsockopt", [3, SOL_UDP, 100, 0, 0, 0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn all_but_is_exact(number: u32, forbidden in prop::collection::vec(any::<u32>(), 0..6)) {
            for number in forbidden.iter().copied().chain([number]) {
                let hits = all_but(&forbidden)
                    .iter()
                    .filter(|(mask, value)| u64::from(number) & mask == *value)
                    .count();
                prop_assert_eq!(hits, usize::from(!forbidden.contains(&number)));
            }
        }

        #[test]
        fn no_upper_half_opens_a_wall(upper: u32) {
            let upper = u64::from(upper) << 32;
            for request in FORBIDDEN_REQUESTS {
                prop_assert!(!allows("ioctl", [0, upper | u64::from(request), 0, 0, 0, 0]));
            }
            prop_assert!(!allows("setsockopt", [3, upper | SOL_TCP, upper | 31, 0, 0, 0]));
            prop_assert!(!allows("clone", [upper | 0x1000_0000, 0, 0, 0, 0, 0]));
            for family in (0..64).filter(|family| ![1, 2, 10, 16].contains(family)) {
                prop_assert!(!allows("socket", [upper | family, 1, 0, 0, 0, 0]));
            }
            for protocol in (1..300).filter(|protocol| ![6, 17].contains(protocol)) {
                prop_assert!(!allows("socket", [AF_INET, SOCK_STREAM, upper | protocol, 0, 0, 0]));
                prop_assert!(!allows("socket", [AF_NETLINK, 3, upper | protocol, 0, 0, 0]));
            }
            prop_assert!(!allows("futex", [0, upper | 0xc, 0, 0, 0, 0]));
            prop_assert!(!allows("futex", [0, upper | 0x8c, 0, 0, 0, 0]));
        }
    }
}
