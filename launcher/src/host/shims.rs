//! The processes an engine starts beside each sandbox ("shims"). An engine that is
//! killed in the middle of a start forgets the one it has just started; it is known
//! by its own command line, which names instance and sandbox.
//!
//! Must never take a tenant's process for one: a shim is the host's root.

use std::{fs, io, path::PathBuf};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Attempt as _, HostError, processes};

/// A shim that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shim {
    pub pid: u32,
    pub sandbox: String,
}

/// Every shim of this instance.
pub fn list(instance: &str) -> Result<Vec<Shim>, HostError> {
    let entries = fs::read_dir("/proc").attempt("read", "/proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let shim = |pid: u32| {
        let words = processes::read(pid, "cmdline").ok()?;
        let bundle = || fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let sandbox = sandbox_of(&words.split('\0').collect::<Vec<_>>(), instance, bundle)?;
        // Anybody can call himself so; a tenant is never root out here.
        let is_root = processes::status(pid).is_ok_and(|status| status.uids.first() == Some(&0));
        is_root.then_some(Shim { pid, sandbox })
    };
    Ok(pids.filter_map(shim).collect())
}

/// gVisor's own shim names no sandbox in its command line; like any, it works in its bundle's
/// directory, which the engine calls by the sandbox's name.
fn sandbox_of(
    words: &[&str],
    instance: &str,
    bundle: impl FnOnce() -> Option<PathBuf>,
) -> Option<String> {
    let after = |flag: &str| {
        let place = words.iter().position(|word| *word == flag)?;
        words.get(place + 1).copied()
    };
    let name = words.first()?.rsplit('/').next()?;
    let ours = name.starts_with("containerd-shim-") && after("-namespace")? == instance;
    if !ours || words.contains(&"-id") {
        return after("-id").filter(|_| ours).map(str::to_owned);
    }
    let bundle = bundle()?;
    let name = bundle.file_name()?.to_str()?;
    // An engine that has forgotten the sandbox removes the directory below the shim (proc(5)).
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

/// Ends one by force.
pub fn end(shim: &Shim) -> Result<(), HostError> {
    match kill(Pid::from_raw(shim.pid.cast_signed()), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(HostError::new("end shim of", &shim.sandbox, io::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_instances_shims_are_meant() {
        let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        let shim =
            "/usr/bin/containerd-shim-runc-v2 -namespace adrastea -id s0123456789a -address /a";
        let own = "/opt/containerd-shim-runsc-v1 -namespace adrastea -address /a";
        let bundle = || Some("/run/tasks/adrastea/s00000000000".into());
        let of = |words: &[&str]| sandbox_of(words, "adrastea", bundle);
        assert_eq!(of(&words(shim)), Some("s0123456789a".into()));
        assert_eq!(of(&words(own)), Some("s00000000000".into()));
        assert_eq!(sandbox_of(&words(own), "adrastea", || None), None);
        let removed = || Some("/run/tasks/adrastea/s00000000000 (deleted)".into());
        assert_eq!(sandbox_of(&words(own), "adrastea", removed), of(&words(own)));
        for other in [
            "/usr/bin/containerd-shim-runc-v2 -namespace moby -id s0123456789a",
            "/usr/bin/sleep -namespace adrastea -id s0123456789a",
            "/opt/containerd-shim-runsc-v1 -namespace moby -address /a",
            "/usr/bin/containerd-shim-runc-v2 -namespace adrastea -id",
            "/usr/bin/containerd-shim-runc-v2 -id s0123456789a -namespace",
            "",
        ] {
            assert_eq!(of(&words(other)), None, "{other}");
        }
    }
}
