//! The other ways into the same kernel: 32-bit and x32 calls, which know
//! numbers and calls a filter of 64-bit ones does not (E8); terminal requests.

use crate::{check::Check, sys};

#[cfg(target_arch = "x86_64")]
pub const CHECKS: &[Check] = &[
    Check::function("abi.int80-getpid", || sys::value_of_int80(int80(20, 0, 0))),
    Check::function("abi.int80-socketcall", socketcall),
    Check::function("abi.int80-mount", || sys::value_of_int80(int80(21, 0, 0))),
    Check::function("abi.x32-getpid", || sys::outcome(sys::raw(X32 | 39, [0; 6]))),
    Check::function("abi.x32-socket", || sys::outcome(sys::raw(X32 | 41, [38, 5, 0, 0, 0, 0]))),
    Check::call("abi.modify_ldt", libc::SYS_modify_ldt, &[]),
    Check::call("abi.iopl", libc::SYS_iopl, &[crate::check::Argument::Number(3)]),
    Check::function("abi.ioperm", || {
        sys::outcome(sys::raw(libc::SYS_ioperm, [0x80, 1, 1, 0, 0, 0]))
    }),
    Check::call("abi.uselib", libc::SYS_uselib, &[]),
    Check::call("abi.ustat", libc::SYS_ustat, &[]),
    Check::call("abi.sysfs", libc::SYS_sysfs, &[]),
    Check::function("ioctl.tiocsti", || request(0x5412)),
    Check::function("ioctl.tiocsti-upper-half", || request(1 << 40 | 0x5412)),
    Check::function("ioctl.tioclinux", || request(0x541c)),
    Check::function("ioctl.tioccons", || request(0x541d)),
    Check::function("ioctl.tiocsetd", || request(0x5423)),
    Check::function("ioctl.fionread", || request(0x541b)),
];

#[cfg(not(target_arch = "x86_64"))]
pub const CHECKS: &[Check] = &[
    Check::function("ioctl.tiocsti", || request(0x5412)),
    Check::function("ioctl.tiocsti-upper-half", || request(1 << 40 | 0x5412)),
    Check::function("ioctl.fionread", || request(0x541b)),
];

#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// A request on /dev/null, which knows none: ENOTTY tells that it reached the kernel.
fn request(number: u64) -> String {
    match sys::open(c"/dev/null", libc::O_RDONLY) {
        Ok(descriptor) => {
            let arguments = [descriptor.cast_unsigned(), number, 0, 0, 0, 0];
            sys::outcome(sys::raw(libc::SYS_ioctl, arguments))
        }
        Err(error) => sys::error_name(error),
    }
}

/// A call through the 32-bit gate.
#[cfg(target_arch = "x86_64")]
fn int80(number: u32, first: u32, second: u32) -> i32 {
    let result: i32;
    // SAFETY: rbx is saved around the call as the compiler reserves it; pointers are NULL or
    // below 4 GiB, and the calls used write to no memory.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "mov ebx, {first:e}",
            "int 0x80",
            "pop rbx",
            first = in(reg) first,
            inlateout("eax") number.cast_signed() => result,
            in("ecx") second,
            in("edx") 0,
            in("esi") 0,
            in("edi") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// socket(AF_VSOCK, SOCK_STREAM, 0) through `socketcall`, whose arguments no filter can see.
#[cfg(target_arch = "x86_64")]
fn socketcall() -> String {
    // A page that a 32-bit pointer can name: MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT.
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT).unsigned_abs();
    let page = sys::raw(libc::SYS_mmap, [0, 4096, 3, u64::from(flags), u64::MAX, 0]);
    let Ok(page) = page.and_then(|page| u32::try_from(page).map_err(|_| libc::ENOMEM)) else {
        return "no page".to_owned();
    };
    let arguments = page as usize as *mut [u32; 3];
    // SAFETY: the page was just mapped, is ours, aligned and larger than three numbers.
    unsafe { arguments.write([40, 1, 0]) };
    sys::value_of_int80(int80(102, 1, page))
}
