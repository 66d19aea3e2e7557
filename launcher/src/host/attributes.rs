//! Extended attributes of files.

use std::{ffi::CString, os::unix::ffi::OsStrExt as _, path::Path};

/// True if overlayfs was told to hide everything below this directory's layer.
pub fn is_opaque(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    [c"trusted.overlay.opaque", c"user.overlay.opaque"].iter().any(|name| {
        let mut value = [0_u8; 1];
        // SAFETY: both names end with NUL and live through the call, and the buffer
        // has the length that is passed.
        let length = unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        length == 1 && value == *b"y"
    })
}
