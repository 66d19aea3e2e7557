//! Commands of the host, run without a shell, with an empty environment, and
//! with paths that only root-owned configuration can name.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use super::HostError;

/// What a short command prints on its standard output.
pub fn output(binary: &Path, arguments: &[&str]) -> Result<String, HostError> {
    let failed = |source| HostError::new("run", binary, source);
    let output = Command::new(binary)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(io::Error::other(format!(
            "{}: {}",
            output.status,
            said.lines().next().unwrap_or_default()
        ))))
    }
}
