//! a launcher comes up, system call by system call, and between any two of them the
//! socket and its directory are no more open than they may be.
//!
//! Traces the launcher it starts itself, and nothing else.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use adrastea_tests::{Instance, Suite, place};
use anyhow::{Context as _, anyhow, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{access::GROUP, tenant};

const PATIENCE: Duration = Duration::from_secs(120);

pub fn add(suite: &mut Suite) {
    suite.own("c1_there_is_no_earlier_moment", tenant::options(), async |instance| {
        no_earlier_moment(&instance).await
    });
}

async fn no_earlier_moment(instance: &Instance) -> anyhow::Result<()> {
    // Without servers a launcher takes its run directory with it: the next one makes all anew.
    instance.end_launcher(Signal::SIGTERM)?;
    ensure!(!instance.run_directory().exists(), "the run directory is still there");
    let api = instance.run_directory().join("api");
    let paths = vec![api.clone(), api.join("launcher.sock"), api.join("launcher.new")];
    let mut command = instance.namespace.command(place::launcher());
    command.arg("--config").arg(instance.config()).arg("serve").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let traced = thread::spawn(move || traced_boot(command, &paths));
    let (calls, states) = traced.join().map_err(|_| anyhow!("a thread panicked"))??;
    instance.serve(None).await?;
    ensure!(calls > 1000, "only {calls} system calls were seen");
    let allowed = [
        "api 700 0:0".to_owned(),
        format!("api 700 0:{GROUP}"),
        format!("api 750 0:{GROUP}"),
        format!("launcher.sock 660 0:{GROUP}"),
    ];
    // The unfinished socket is one that nobody but root may write, whatever lies around it.
    let unfinished = |state: &str| {
        let mode = state.strip_prefix("launcher.new ").and_then(|rest| rest.split(' ').next());
        let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok());
        mode.is_some_and(|mode| mode & 0o022 == 0) || state == format!("launcher.new 660 0:{GROUP}")
    };
    let wrong: Vec<_> =
        states.iter().filter(|state| !allowed.contains(state) && !unfinished(state)).collect();
    ensure!(wrong.is_empty(), "there was a moment with {wrong:?}");
    ensure!(states.contains(&allowed[0]) && states.contains(&allowed[3]), "{states:?}");
    Ok(())
}

/// Each state of the paths that there was around any system call of the launcher's, until it
/// served; and the number of looks.
fn traced_boot(
    mut command: std::process::Command,
    paths: &[PathBuf],
) -> anyhow::Result<(usize, BTreeSet<String>)> {
    // SAFETY: between fork and exec one system call is made, which takes numbers.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn().context("failed to start the launcher")?;
    let launcher = Pid::from_raw(child.id().cast_signed());
    let mut seen = BTreeSet::new();
    let (mut looks, mut started, mut served) = (0, false, false);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a place for the result; only this thread's own children are meant.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if pid < 0 || (pid == launcher.as_raw() && !libc::WIFSTOPPED(status)) {
            ensure!(served, "the launcher ended early: {status:#x} {seen:?}");
            return Ok((looks, seen));
        }
        if !libc::WIFSTOPPED(status) {
            continue;
        }
        if !started {
            started = true;
            // Its threads, but no program that it starts; and it does not outlive this one.
            let options =
                libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
            // SAFETY: the launcher is stopped and traced by this thread; the rest are numbers.
            unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options) };
        }
        looks += 1;
        for path in paths {
            let Ok(found) = fs::symlink_metadata(path) else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mode = found.mode() & 0o7777;
            seen.insert(format!("{name} {mode:o} {}:{}", found.uid(), found.gid()));
            if name == "launcher.sock" && !served {
                served = true;
                kill(launcher, Signal::SIGTERM)?;
            }
        }
        if Instant::now() > deadline {
            kill(launcher, Signal::SIGKILL)?;
        }
        let signal = libc::WSTOPSIG(status);
        // Stops of tracing's own are nobody else's signal.
        let own = [libc::SIGTRAP, libc::SIGTRAP | 0x80, libc::SIGSTOP].contains(&signal);
        let passed = if own { 0 } else { signal };
        // SAFETY: the thread is stopped and traced by this one; it may be gone, which is no harm.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, passed) };
    }
}
