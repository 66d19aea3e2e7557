//! What the kernel says of its clock (adjtimex(2)). Reads only.

use std::io;

/// Whether something keeps the clock right.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: an all-zero `timex` is valid, and its `modes` of 0 asks without changing anything.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` lives through the call and is of the type the call writes.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}
