//! Runs the `nft` command: whole tables at once, as one transaction.
//!
//! Knows nothing of what the text says. The text goes over stdin, never over
//! the command line; the environment is empty; the time is bounded.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::HostError;

const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
const LIMIT: Duration = Duration::from_secs(20);
const MOST_STDERR: usize = 2000;

/// Where the command is, if the host has it.
pub fn find() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|place| place.is_file())
}

/// Applies a rules text as one transaction: all of it, or nothing.
///
/// `namespace` is the network namespace to work in; `None` is the caller's own.
/// `subject` names the table in errors.
pub async fn apply(
    namespace: Option<BorrowedFd<'_>>,
    text: &str,
    subject: &str,
) -> Result<(), HostError> {
    run(namespace, text)
        .await
        .map_err(|source| HostError::new("apply rules to table", Path::new(subject), source))
}

async fn run(namespace: Option<BorrowedFd<'_>>, text: &str) -> io::Result<()> {
    let place = find()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the command `nft` is missing"))?;
    let mut command = Command::new(place);
    command
        .args(["-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(namespace) = namespace {
        let descriptor = namespace.as_raw_fd();
        // SAFETY: setns is a plain system call, allowed between fork and exec; the
        // descriptor is borrowed until after the child has been spawned.
        unsafe {
            command.pre_exec(move || match libc::setns(descriptor, libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
    }
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().ok_or_else(|| io::Error::other("no stdin"))?;
    let finished = timeout(LIMIT, async {
        // A command that stops reading has said why on stderr.
        let written = input.write_all(text.as_bytes()).await;
        drop(input);
        let output = child.wait_with_output().await?;
        if output.status.success() {
            return written;
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let shown: String = complaint.trim().chars().take(MOST_STDERR).collect();
        Err(io::Error::other(format!("nft ended with {}: {shown}", output.status)))
    });
    finished.await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nft took longer than {} s", LIMIT.as_secs()),
        ))
    })
}
