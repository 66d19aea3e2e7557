//! What a server writes, kept in a file of bounded size: two halves, the older
//! one dropped when the newer is full. A flood costs neither disk nor memory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::unix::pipe,
    sync::{
        mpsc,
        oneshot::{self, error::TryRecvError},
    },
    time::timeout,
};

use adrastea_runtimes::plan::SandboxId;

use crate::host::{Attempt as _, HostError, tolerate_absence};

/// How much of a log goes to the user's page with a failure.
pub const TAIL_BYTES: u64 = 4096;

pub struct Log {
    path: PathBuf,
    half: u64,
    inner: Mutex<Inner>,
}

/// A follower that takes nothing for so long is dropped: the server comes first.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(5);

/// An unprivileged process can make a pipe this large (pipe(7)).
const LARGEST_PIPE: usize = 1 << 20;

/// Taken at once of what a server writes.
const PIECE: usize = 16 << 10;

struct Inner {
    current: Option<File>,
    /// Position of the older half's and of the newer half's first byte.
    older: u64,
    newer: u64,
    end: u64,
    /// Those who follow.
    taps: Vec<mpsc::Sender<Vec<u8>>>,
    /// Nothing comes any more.
    closed: bool,
}

impl Log {
    /// A log that is written on first use. An existing file is continued.
    pub fn new(path: PathBuf, capacity: u64) -> Self {
        let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let older = length(&Self::older_path(&path));
        let end = older + length(&path);
        let inner =
            Inner { current: None, older: 0, newer: older, end, taps: Vec::new(), closed: false };
        Self { path, half: (capacity / 2).max(4096), inner: Mutex::new(inner) }
    }

    fn older_path(path: &Path) -> PathBuf {
        path.with_extension("log.1")
    }

    pub fn append(&self, data: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in data.chunks(usize::try_from(self.half).unwrap_or(usize::MAX)) {
            if inner.end - inner.newer + piece.len() as u64 > self.half {
                inner.current = None;
                fs::rename(&self.path, Self::older_path(&self.path))
                    .or_else(|error| tolerate_absence(Err(error)))?;
                inner.older = inner.newer;
                inner.newer = inner.end;
            }
            if inner.current.is_none() {
                inner.current = Some(
                    OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?,
                );
            }
            if let Some(file) = &mut inner.current {
                file.write_all(piece)?;
            }
            inner.end += piece.len() as u64;
        }
        Ok(())
    }

    /// What is kept so far, and everything that comes after it.
    pub fn follow(&self) -> io::Result<(Vec<u8>, mpsc::Receiver<Vec<u8>>)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (tap, receiver) = mpsc::channel(64);
        if !inner.closed {
            inner.taps.push(tap);
        }
        Ok((self.read(&inner, 0)?, receiver))
    }

    /// What was written is gone with its file; what comes from now on is a new beginning.
    pub fn begin_anew(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.current = None;
        (inner.older, inner.newer) = (inner.end, inner.end);
    }

    /// Ends following: nothing comes any more.
    pub fn close(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        inner.taps.clear();
    }

    /// Hands a piece to those who follow; slow ones are dropped.
    async fn pass_on(&self, data: &[u8]) {
        let taps = self.inner.lock().unwrap_or_else(PoisonError::into_inner).taps.clone();
        for tap in taps {
            if !matches!(timeout(FOLLOWER_PATIENCE, tap.send(data.to_vec())).await, Ok(Ok(()))) {
                self.inner
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .taps
                    .retain(|present| !present.same_channel(&tap));
            }
        }
    }

    /// What is kept from position `from` on.
    fn read(&self, inner: &Inner, from: u64) -> io::Result<Vec<u8>> {
        let from = from.clamp(inner.older, inner.end);
        let mut data = Vec::new();
        for (path, first) in
            [(Self::older_path(&self.path), inner.older), (self.path.clone(), inner.newer)]
        {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(from.saturating_sub(first)))?;
            file.read_to_end(&mut data)?;
        }
        Ok(data)
    }

    /// The last `bytes`, as text.
    pub fn tail(&self, bytes: u64) -> String {
        String::from_utf8_lossy(&self.tail_bytes(bytes)).into_owned()
    }

    /// The last `bytes`; 0 is all that is kept.
    pub fn tail_bytes(&self, bytes: u64) -> Vec<u8> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if bytes == 0 { 0 } else { inner.end.saturating_sub(bytes) };
        // A log that is gone has nothing to say.
        self.read(&inner, from).unwrap_or_default()
    }

    /// The sandbox whose log, or older half of it, a file of this name is.
    pub fn owner(name: &str) -> Option<SandboxId> {
        let (id, ending) = name.split_once('.')?;
        ["log", "log.1"].contains(&ending).then(|| id.parse().ok())?
    }

    pub fn remove(path: &Path) -> Result<(), HostError> {
        for path in [path.to_owned(), Self::older_path(path)] {
            tolerate_absence(fs::remove_file(&path)).attempt("remove", &path)?;
        }
        Ok(())
    }
}

/// What can be read at once. The room for it is the thread's own: most servers are silent most
/// of the time, and nothing is held for them then.
fn read_some(receiver: &pipe::Receiver) -> io::Result<Vec<u8>> {
    let mut buffer = [0; PIECE];
    receiver.try_read(&mut buffer).map(|length| buffer[..length].to_vec())
}

/// Moves what the sandbox writes into its log until told that it has ended,
/// then takes what is still in the pipe.
pub async fn pump(receiver: pipe::Receiver, log: &Log, mut ended: oneshot::Receiver<()>) {
    while matches!(ended.try_recv(), Err(TryRecvError::Empty)) {
        match read_some(&receiver) {
            Ok(data) if data.is_empty() => return,
            Ok(data) => keep(log, &data).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::select! {
                _ = receiver.readable() => {}
                _ = &mut ended => break,
            },
            Err(_) => return,
        }
    }
    // The kernel is asked, not the runtime: that may not have heard of the last lines yet.
    let Ok(rest) = receiver.into_nonblocking_fd() else { return };
    let mut rest = File::from(rest);
    let mut buffer = vec![0; PIECE];
    // No pipe holds more; should somebody still write, this ends all the same.
    for _ in 0..LARGEST_PIPE / PIECE {
        match rest.read(&mut buffer) {
            Ok(length @ 1..) => keep(log, &buffer[..length]).await,
            _ => return,
        }
    }
}

async fn keep(log: &Log, data: &[u8]) {
    // A full disk must not stop the server: what cannot be kept is dropped.
    if let Err(error) = log.append(data) {
        tracing::warn!(path = %log.path.display(), %error, "failed to keep a server's output");
    }
    log.pass_on(data).await;
    // A flood of one server's must not keep a worker from all the others.
    tokio::task::yield_now().await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_the_end_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.log");
        let log = Log::new(path.clone(), 16 << 10);
        for line in 0..10_000 {
            log.append(format!("line {line}\n").as_bytes()).unwrap();
        }
        let size: u64 = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size <= 16 << 10, "{size}");
        assert!(log.tail(100).ends_with("line 9999\n"));
        assert_eq!(log.tail(100).len(), 100);
        let (all, _tap) = log.follow().unwrap();
        assert!(all.len() >= 8 << 10 && all.ends_with(b"line 9999\n"));
        log.append(b"more\n").unwrap();
        let continued = Log::new(path, 16 << 10);
        assert!(continued.tail(5) == "more\n");
    }
}
