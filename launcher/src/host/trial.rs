//! One command, bounded in time, of which the output is wanted however it ends. Without a
//! shell, with nothing to read, and in its environment only where the node's programs are.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{Attempt as _, HostError};

/// Some programs do not start without one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is kept of each stream.
const MOST: u64 = 64 << 10;
/// How long a stream may stay open after its writer: a descendant that has it still.
const LAST_WORDS: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(5);

pub struct Outcome {
    /// None: it was killed, because its time was over.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it, and kills it and its group of processes at the deadline.
pub fn run(
    binary: &Path,
    arguments: &[impl AsRef<OsStr>],
    within: Duration,
) -> Result<Outcome, HostError> {
    let deadline = Instant::now() + within;
    let mut child = Command::new(binary)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .attempt("run", binary)?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait().attempt("wait for", binary)? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            child.wait().attempt("wait for", binary)?;
            break None;
        }
        thread::sleep(PAUSE);
    };
    Ok(Outcome { status, stdout: finished(&stdout), stderr: finished(&stderr) })
}

type Collector = std::sync::mpsc::Receiver<Vec<u8>>;

/// Reads to the end in a thread of its own, which ends with the last writer.
fn collect(stream: Option<impl Read + Send + 'static>) -> Collector {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut left = MOST;
        let Some(mut stream) = stream else { return };
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) if left > 0 => {
                    left = left.saturating_sub(count as u64);
                    if sender.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

fn finished(receiver: &Collector) -> String {
    let mut all = Vec::new();
    while let Ok(part) = receiver.recv_timeout(LAST_WORDS) {
        all.extend(part);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str, within: Duration) -> Outcome {
        run(Path::new("/bin/sh"), &["-c", script], within).unwrap()
    }

    #[test]
    fn what_it_says_is_kept_however_it_ends() {
        let done = shell("echo out; echo err >&2; exit 7", Duration::from_secs(10));
        assert_eq!(done.status.unwrap().code(), Some(7));
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
        let large = shell("head -c 1000000 /dev/zero; exit 0", Duration::from_secs(10));
        assert!(large.status.unwrap().success());
        assert!(large.stdout.len() < 100_000);
    }

    #[test]
    fn it_ends_at_its_deadline_with_all_that_it_started() {
        let since = Instant::now();
        let late = shell("echo begun; sleep 60 & sleep 60", Duration::from_millis(200));
        assert!(late.status.is_none());
        assert_eq!(late.stdout, "begun\n");
        assert!(since.elapsed() < Duration::from_secs(10));
    }
}
