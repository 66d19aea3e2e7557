//! A process known for certain: pid, binary and start time together.
//!
//! Must never signal a pid alone: it may be somebody else's by now.

use std::{ffi::OsStr, fs, io, os::unix::ffi::OsStrExt, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running process, as it was when it was identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pid: i32,
    /// In clock ticks since boot (proc_pid_stat(5), field 22).
    start_time: u64,
}

impl Process {
    /// The process of that pid, if it runs that binary.
    pub(super) fn identify(pid: i32, binary: &Path) -> Option<Self> {
        let start_time = start_time(pid)?;
        runs(pid, binary).then_some(Self { pid, start_time })
    }

    /// From a pidfile, if that process still lives and is the same one.
    pub(super) fn load(pidfile: &Path, binary: &Path) -> Option<Self> {
        let text = fs::read_to_string(pidfile).ok()?;
        let mut words = text.split_whitespace();
        let saved =
            Self { pid: words.next()?.parse().ok()?, start_time: words.next()?.parse().ok()? };
        (Self::identify(saved.pid, binary)? == saved).then_some(saved)
    }

    /// Whole or not at all: a reader never sees half a pidfile.
    pub(super) fn save(&self, pidfile: &Path) -> io::Result<()> {
        let new = pidfile.with_extension("pid.new");
        fs::write(&new, format!("{} {}\n", self.pid, self.start_time))?;
        fs::rename(new, pidfile)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Absence is success.
    pub(super) fn signal(&self, signal: Signal) {
        if self.lives() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// None for a process that is gone, or only waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold blanks and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Also when the binary was replaced by an upgrade meanwhile.
fn runs(pid: i32, binary: &Path) -> bool {
    let Ok(executable) = fs::read_link(format!("/proc/{pid}/exe")) else {
        return false;
    };
    let bytes = executable.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Path::new(OsStr::from_bytes(bytes)) == binary
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pid_alone_is_not_a_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let binary = fs::read_link("/proc/self/exe").unwrap();
        let process = Process::identify(own, &binary).unwrap();
        assert!(process.lives());
        assert_eq!(Process::identify(own, Path::new("/bin/false")), None);

        let directory = tempfile::tempdir().unwrap();
        let pidfile = directory.path().join("x.pid");
        assert_eq!(Process::load(&pidfile, &binary), None);
        process.save(&pidfile).unwrap();
        assert_eq!(Process::load(&pidfile, &binary), Some(process.clone()));
        // The same pid, another start: somebody else.
        fs::write(&pidfile, format!("{own} {}\n", process.start_time + 1)).unwrap();
        assert_eq!(Process::load(&pidfile, &binary), None);
        fs::write(&pidfile, "garbage").unwrap();
        assert_eq!(Process::load(&pidfile, &binary), None);
    }
}
