//! Looks at the files of a running sandbox from outside. Reads only, and follows
//! no link: a path of the tenant's must never lead back to the host.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use super::{Attempt as _, HostError};

/// The root directory of a process, as that process has it.
pub struct Inside {
    root: File,
    path: PathBuf,
}

impl Inside {
    pub fn of(pid: u32) -> Result<Self, HostError> {
        let path = PathBuf::from(format!("/proc/{pid}/root"));
        let root = File::open(&path).attempt("open", &path)?;
        Ok(Self { root, path })
    }

    fn open(&self, path: &Path, flags: i32) -> io::Result<File> {
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: an all-zero `open_how` is valid: no flags, no mode, no restriction.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = u64::from((flags | libc::O_CLOEXEC | libc::O_NOFOLLOW).unsigned_abs());
        how.resolve =
            libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
        // SAFETY: the path and `how` live through the call, and the true size of `how` is passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                self.root.as_fd().as_raw_fd(),
                c_path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let number = i32::try_from(result).map_err(io::Error::other)?;
        // SAFETY: the system call has just returned this descriptor, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) }.into())
    }

    /// What is at this path; a link is looked at itself.
    pub fn metadata(&self, path: &Path) -> io::Result<fs::Metadata> {
        match self.open(path, libc::O_PATH) {
            Ok(file) => file.metadata(),
            // O_PATH with O_NOFOLLOW opens a link, but "no links" refuses it all the same.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                let parent = self.open(path.parent().unwrap_or(Path::new("/")), libc::O_PATH)?;
                let name = path.file_name().unwrap_or_default();
                fs::symlink_metadata(
                    Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name),
                )
            }
            Err(error) => Err(error),
        }
    }

    /// The names in a directory; for a device node, its major and minor number.
    pub fn devices(
        &self,
        directory: &Path,
    ) -> Result<BTreeMap<String, Option<(u64, u64)>>, HostError> {
        let shown = self.path.join(directory.strip_prefix("/").unwrap_or(directory));
        let folder =
            self.open(directory, libc::O_DIRECTORY | libc::O_RDONLY).attempt("open", &shown)?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&path).attempt("read", &shown)? {
            let name = entry.attempt("read", &shown)?.file_name();
            // Over the descriptor again, because a bound node lies on the entry of the directory.
            let metadata = fs::symlink_metadata(path.join(&name)).attempt("read", &shown)?;
            let kind = metadata.mode() & libc::S_IFMT;
            let numbers = (kind == libc::S_IFCHR || kind == libc::S_IFBLK).then(|| {
                (libc::major(metadata.rdev()).into(), libc::minor(metadata.rdev()).into())
            });
            found.insert(name.to_string_lossy().into_owned(), numbers);
        }
        Ok(found)
    }
}
