//! Whether the filter of system calls is the one that was asked for: from outside only its
//! presence can be seen, and a runtime can misread its rules on arguments (youki 0.7 takes
//! masks for values).
//!
//! Each call here is refused by the filter with EPERM, and by any kernel without the filter
//! with another error, before it does anything: on no descriptor, or with arguments that no
//! kernel takes. Must never make one that could succeed and matter.

use crate::sys;

struct Call {
    name: &'static str,
    number: libc::c_long,
    arguments: [i64; 4],
    gives_descriptor: bool,
}

const fn call(name: &'static str, number: libc::c_long, arguments: [i64; 4]) -> Call {
    Call { name, number, arguments, gives_descriptor: false }
}

const fn socket(name: &'static str, arguments: [i64; 3]) -> Call {
    let [family, kind, protocol] = arguments;
    let arguments = [family, kind, protocol, 0];
    Call { name, number: libc::SYS_socket, arguments, gives_descriptor: true }
}

/// No descriptor.
const NONE: i64 = -1;
const UPPER_HALF: i64 = 1 << 32;
/// A thread in a user namespace of its own, without what threads share: EINVAL (clone(2)).
const NO_THREAD: i64 = 0x1000_0000 | 0x0001_0000;
const TIOCSTI: i64 = 0x5412;
const CHARACTER_DEVICE: i64 = 0o020_600;
/// FUTEX_CMP_REQUEUE_PI, on the null pointer.
const REQUEUE: i64 = 12;
const SOL_SOCKET: i64 = 1;
const SO_ATTACH_FILTER: i64 = 26;
const SOL_TCP: i64 = 6;
const TCP_ULP: i64 = 31;
const AF_INET: i64 = 2;
const SOCK_SEQPACKET: i64 = 5;

/// One of each kind of rule: none at all, a mask, an equal value, a lower one, several of
/// them; and what must not slip past in the upper half of a register.
const CALLS: [Call; 10] = [
    call("unshare", libc::SYS_unshare, [0; 4]),
    call("clone", libc::SYS_clone, [NO_THREAD, 0, 0, 0]),
    call("clone-upper-half", libc::SYS_clone, [NO_THREAD | UPPER_HALF, 0, 0, 0]),
    call("ioctl", libc::SYS_ioctl, [NONE, TIOCSTI, 0, 0]),
    call("ioctl-upper-half", libc::SYS_ioctl, [NONE, TIOCSTI | UPPER_HALF, 0, 0]),
    call("mknodat", libc::SYS_mknodat, [NONE, 0, CHARACTER_DEVICE, 0]),
    call("futex", libc::SYS_futex, [0, REQUEUE, 0, 0]),
    call("setsockopt", libc::SYS_setsockopt, [NONE, SOL_SOCKET, SO_ATTACH_FILTER, 0]),
    call("setsockopt-tcp", libc::SYS_setsockopt, [NONE, SOL_TCP, TCP_ULP, 0]),
    socket("socket", [AF_INET, SOCK_SEQPACKET, 0]),
];

/// The names of those that the filter does not refuse.
pub fn let_through() -> Vec<&'static str> {
    let refused = |call: &&Call| {
        sys::error_of_call(call.number, call.arguments, call.gives_descriptor) == libc::EPERM
    };
    CALLS.iter().filter(|call| !refused(call)).map(|call| call.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_filter_every_call_is_refused_in_another_way() {
        // This process has no filter, or one that knows nothing of these.
        let mut expected: Vec<_> = CALLS.iter().map(|call| call.name).collect();
        expected.sort_unstable();
        let mut found = let_through();
        found.sort_unstable();
        assert_eq!(found, expected);
        // And none of them has done anything: the only one that succeeds changes nothing.
        for call in CALLS.iter().filter(|call| call.name != "unshare") {
            assert_ne!(
                sys::error_of_call(call.number, call.arguments, call.gives_descriptor),
                0,
                "{}",
                call.name
            );
        }
    }
}
