//! The audit log's file: lines are only ever added, and it belongs to root alone.
//!
//! One thread writes, so that nobody waits for the disk. What could not be written
//! is counted and said in the log itself as soon as that is possible again. A full
//! log is renamed, never cut.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::host::{Attempt as _, HostError};

/// Where, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub path: PathBuf,
    /// A file that would become larger is renamed first.
    pub largest: u64,
    /// How many renamed files are kept; 0: nothing is ever renamed here.
    pub keep: u32,
}

pub struct AuditFile {
    settings: Settings,
    file: File,
    size: u64,
}

impl AuditFile {
    pub fn open(settings: Settings) -> Result<Self, HostError> {
        let (file, size) = open(&settings.path).attempt("open audit log", &settings.path)?;
        Ok(Self { settings, file, size })
    }

    /// As after a rotation by somebody else.
    pub fn reopen(&mut self) -> Result<(), HostError> {
        *self = Self::open(self.settings.clone())?;
        Ok(())
    }

    /// Adds whole lines; with `sync`, they are on disk when it returns.
    pub fn add(&mut self, lines: &str, sync: bool) -> Result<(), HostError> {
        let length = lines.len() as u64;
        if self.settings.keep > 0 && self.size > 0 && self.size + length > self.settings.largest {
            self.rotate()?;
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| {
            self.size += length;
            if sync { self.file.sync_data() } else { Ok(()) }
        });
        written.attempt("write audit log", &self.settings.path)
    }

    fn rotate(&mut self) -> Result<(), HostError> {
        let path = &self.settings.path;
        self.file.sync_all().attempt("write audit log", path)?;
        for number in (1..self.settings.keep).rev() {
            let (from, to) = (numbered(path, number), numbered(path, number + 1));
            super::super::host::tolerate_absence(fs::rename(&from, &to))
                .attempt("rename audit log", &from)?;
        }
        fs::rename(path, numbered(path, 1)).attempt("rename audit log", path)?;
        self.reopen()
    }
}

/// `audit.jsonl.3`
pub fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other("it is no regular file of the launcher's own user"));
    }
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let mut size = metadata.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(size - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            // A line that was cut by a death stays a line of its own.
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settings(directory: &Path) -> Settings {
        Settings { path: directory.join("audit.jsonl"), largest: 100, keep: 3 }
    }

    #[test]
    fn rotation_loses_nothing_that_is_to_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let mut log = AuditFile::open(settings.clone()).unwrap();
        for number in 0..40 {
            log.add(&format!("{number:09}\n"), number % 2 == 0).unwrap();
        }
        let mut found = String::new();
        for number in (1..=3).rev() {
            found += &fs::read_to_string(numbered(&settings.path, number)).unwrap();
        }
        found += &fs::read_to_string(&settings.path).unwrap();
        let expected = (0..40).fold(String::new(), |text, number| text + &format!("{number:09}\n"));
        assert_eq!(found, expected);
        let mode = fs::metadata(numbered(&settings.path, 1)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        log.add("the next\n", false).unwrap();
        assert!(!numbered(&settings.path, 4).exists());
    }

    #[test]
    fn what_others_rotate_is_opened_anew_and_a_cut_line_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { keep: 0, ..settings(directory.path()) };
        let mut log = AuditFile::open(settings.clone()).unwrap();
        log.add("first\n", true).unwrap();
        let moved = directory.path().join("moved");
        fs::rename(&settings.path, &moved).unwrap();
        log.add("second\n", true).unwrap();
        log.reopen().unwrap();
        log.add("third\n{\"cut", true).unwrap();
        drop(log);
        AuditFile::open(settings.clone()).unwrap().add("whole\n", true).unwrap();
        assert_eq!(fs::read_to_string(moved).unwrap(), "first\nsecond\n");
        assert_eq!(fs::read_to_string(settings.path).unwrap(), "third\n{\"cut\nwhole\n");
    }

    #[test]
    fn a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        std::os::unix::fs::symlink("/etc/passwd", &settings.path).unwrap();
        assert!(AuditFile::open(settings).is_err());
    }
}
