//! What the kernel offers besides namespaces and filters: Landlock, AppArmor, and core
//! scheduling (no two users on the threads of one core); and who ends first without memory.
//! Asked by the proof and by `doctor`.

use std::{fs, io, path::Path};

use super::{Attempt as _, HostError};

/// The AppArmor profile that is shipped (packaging/apparmor), and used where it is loaded.
pub const APPARMOR_PROFILE: &str = "adrastea-sandbox";

/// The newest version of Landlock that the init asks for.
const NEWEST_LANDLOCK: u32 = 6;

const PR_SCHED_CORE: i32 = 62;
const PR_SCHED_CORE_GET: u32 = 0;
const PR_SCHED_CORE_CREATE: u32 = 1;
/// The process with all its threads; what it starts later inherits the cookie.
const SCOPE_PROCESS: u32 = 1;

/// Has the kernel end a process early when the node runs out of memory.
pub fn ends_early(pid: u32, score: i32) -> Result<(), HostError> {
    let path = Path::new("/proc").join(pid.to_string()).join("oom_score_adj");
    fs::write(&path, score.to_string()).attempt("write", path)
}

/// The version of Landlock that an init can stand behind here; 0 is none.
pub fn landlock() -> u32 {
    const ASK_VERSION: u32 = 1;
    // SAFETY: with no attributes and the version flag the call reads no memory and changes nothing.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            ASK_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0).min(NEWEST_LANDLOCK)
}

/// The shipped profile, if the kernel has AppArmor and the profile is loaded.
pub fn apparmor_profile() -> Option<&'static str> {
    let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles").ok()?;
    let wanted = format!("{APPARMOR_PROFILE} (enforce)");
    loaded.lines().any(|line| line == wanted).then_some(APPARMOR_PROFILE)
}

/// Whether the kernel has AppArmor at all.
pub fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y")
}

/// The label a process runs under, if the kernel has AppArmor.
pub fn label(pid: u32) -> Option<String> {
    has_apparmor()
        .then(|| fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).ok())?
        .map(|text| text.trim().to_owned())
}

/// Whether the kernel can keep users apart on the threads of a core: it was built to, and
/// this machine has such threads.
pub fn has_core_scheduling() -> bool {
    core_cookie(std::process::id()).is_ok()
}

fn core_cookie(pid: u32) -> io::Result<u64> {
    let mut cookie = 0_u64;
    // SAFETY: the kernel writes one u64 to `cookie`, which lives through the call; scope 0 is one thread.
    let result =
        unsafe { libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, pid, 0_u32, &raw mut cookie) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Gives a process a cookie of its own; does nothing where the kernel has no core scheduling.
pub fn separate_cores(pid: u32) -> Result<(), HostError> {
    if !has_core_scheduling() {
        return Ok(());
    }
    // SAFETY: the call takes numbers only.
    let result =
        unsafe { libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, pid, SCOPE_PROCESS, 0_usize) };
    let made = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    made.attempt("give a core-scheduling cookie to", Path::new("/proc").join(pid.to_string()))
}

/// Whether a process has a cookie; none where the kernel has no core scheduling.
pub fn has_own_cores(pid: u32) -> Option<bool> {
    has_core_scheduling().then(|| core_cookie(pid).is_ok_and(|cookie| cookie != 0))
}
