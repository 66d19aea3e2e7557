//! A lock that ends with its holder, however that ends.
//!
//! The descriptor closes at exec, so no command or container inherits it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{Attempt as _, HostError};

/// Held as long as it lives.
#[derive(Debug)]
pub struct InstanceLock(#[allow(dead_code)] Flock<File>);

impl InstanceLock {
    /// Takes the lock; while somebody else has it, waits for so long.
    pub fn take(path: &Path, patience: Duration) -> Result<Self, HostError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .attempt("open", path)?;
        let deadline = Instant::now() + patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self(lock)),
                Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = back,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let held = "another launcher or repair of this instance runs";
                    return Err(HostError::new("lock", path, std::io::Error::other(held)));
                }
                Err((_, error)) => return Err(HostError::new("lock", path, error)),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_it_ends_with_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = InstanceLock::take(&path, Duration::ZERO).unwrap();
        let refused = InstanceLock::take(&path, Duration::ZERO).unwrap_err();
        assert!(refused.source.to_string().contains("another launcher"), "{refused:?}");
        drop(first);
        InstanceLock::take(&path, Duration::ZERO).unwrap();
    }
}
