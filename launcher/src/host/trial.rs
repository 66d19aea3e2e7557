//! One command, bounded in time, of which the output is wanted however it ends. Without a
//! shell, with nothing to read, and in its environment only where the node's programs are.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
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
const MOST: usize = 64 << 10;
/// How long a stream may stay open after its writer: a descendant that has it still.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long it may take to end once it has said enough.
const TO_END: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

pub struct Outcome {
    /// None: it was killed, because its time was over.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it, and kills it and its group of processes at the deadline; or soon after it has
/// said a line on its standard output that is enough.
pub fn run(
    binary: &Path,
    arguments: &[impl AsRef<OsStr>],
    within: Duration,
    is_enough: &dyn Fn(&str) -> bool,
) -> Result<Outcome, HostError> {
    let mut deadline = Instant::now() + within;
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
    let mut stdout = Collector::of(child.stdout.take());
    let stderr = Collector::of(child.stderr.take());
    let mut had_enough = false;
    let status = loop {
        if let Some(status) = child.try_wait().attempt("wait for", binary)? {
            break Some(status);
        }
        if !had_enough && stdout.so_far().lines().any(is_enough) {
            had_enough = true;
            deadline = deadline.min(Instant::now() + TO_END);
        }
        if Instant::now() >= deadline {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            child.wait().attempt("wait for", binary)?;
            break None;
        }
        thread::sleep(PAUSE);
    };
    Ok(Outcome { status, stdout: stdout.finished(), stderr: stderr.finished() })
}

/// What a stream brings, read by a thread that ends with the last writer.
struct Collector {
    parts: Receiver<Vec<u8>>,
    all: Vec<u8>,
}

impl Collector {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let (sender, parts) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut left = MOST;
            let Some(mut stream) = stream else { return };
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) if left > 0 => {
                        left = left.saturating_sub(count);
                        if sender.send(buffer[..count].to_vec()).is_err() {
                            return;
                        }
                    }
                    // Read and dropped, so that the writer is never held up.
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        });
        Self { parts, all: Vec::new() }
    }

    fn so_far(&mut self) -> String {
        self.all.extend(self.parts.try_iter().flatten());
        // A last line without its end may still grow.
        let whole = self.all.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        String::from_utf8_lossy(&self.all[..whole]).into_owned()
    }

    fn finished(mut self) -> String {
        while let Ok(part) = self.parts.recv_timeout(LAST_WORDS) {
            self.all.extend(part);
        }
        String::from_utf8_lossy(&self.all).into_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str, within: Duration) -> Outcome {
        run(Path::new("/bin/sh"), &["-c", script], within, &|line| line == "enough").unwrap()
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
    #[test]
    fn it_is_not_waited_for_once_it_has_said_enough() {
        let since = Instant::now();
        let long = shell("echo enough; sleep 60", Duration::from_secs(60));
        assert!(long.status.is_none() && since.elapsed() < Duration::from_secs(30));
        assert_eq!(long.stdout, "enough\n");
    }
}
