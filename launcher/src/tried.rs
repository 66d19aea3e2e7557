//! What was tried on this node, with which program, and what came of it: in the run directory, so
//! that a boot of the node, or another program, asks again. Only root writes there.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use adrastea_runtimes::RuntimeSettings;

use crate::{
    config::Config,
    host::{Attempt as _, HostError, directories},
};

/// The directory of tries, in the run directory and in the state directory.
pub const TRIES: &str = "self-test";

/// Where it is remembered.
pub fn memory(config: &Config) -> PathBuf {
    config.run_directory().join(TRIES)
}

/// Where it stands that this runtime was seen to start a sandbox.
pub fn starts(config: &Config, name: &str) -> PathBuf {
    memory(config).join(format!("{name}.passed"))
}

/// Where it stands what came of a home that was attached to a sandbox of it that waited.
fn waits(config: &Config, name: &str) -> PathBuf {
    memory(config).join(format!("{name}.waits"))
}

/// What came of attaching a home late with the same program: why it does not do, if so. None
/// where that was not tried.
pub fn waiting(
    config: &Config,
    name: &str,
    settings: &RuntimeSettings,
) -> Option<Result<(), String>> {
    let text = fs::read_to_string(waits(config, name)).ok()?;
    let reason = text.strip_prefix(&waiting_key(config, name, settings).ok()?)?;
    Some(if reason.is_empty() { Ok(()) } else { Err(reason.to_owned()) })
}

/// Remembers what came of it.
pub fn remember_waiting(
    config: &Config,
    name: &str,
    settings: &RuntimeSettings,
    outcome: Result<(), &str>,
) -> Result<(), HostError> {
    let text = waiting_key(config, name, settings)? + outcome.err().unwrap_or_default();
    directories::make_root_directory(&memory(config), 0o711, 0)?;
    directories::write_atomically(&waits(config, name), text.as_bytes(), 0o600)
}

/// The engine calls the launcher's own program before this one: what counts is the operator's.
fn waiting_key(
    config: &Config,
    name: &str,
    settings: &RuntimeSettings,
) -> Result<String, HostError> {
    let configured = config.runtimes.get(name).map(|runtime| runtime.binary.clone());
    let binary = configured.unwrap_or_else(|| settings.binary.clone());
    key(&RuntimeSettings { binary, ..settings.clone() }, &config.init_binary())
}

/// What must be the same for the answer to be the same.
pub fn key(settings: &RuntimeSettings, init: &Path) -> Result<String, HostError> {
    let mut key = vec![format!("adrastea {} {}", env!("CARGO_PKG_VERSION"), settings.version)];
    let machine = settings.machine.iter();
    let machine = machine.flat_map(|it| [&it.monitor, &it.file_server, &it.kernel, &it.image]);
    for path in [settings.binary.as_path(), init].into_iter().chain(machine.map(PathBuf::as_path)) {
        let file = fs::metadata(path).attempt("look at", path)?;
        let changed = (file.mtime(), file.mtime_nsec());
        let (device, inode, length) = (file.dev(), file.ino(), file.len());
        key.push(format!("{} {device}:{inode} {changed:?} {length}", path.display()));
    }
    // A run directory may lie on a disk.
    let boot = "/proc/sys/kernel/random/boot_id";
    key.push(fs::read_to_string(boot).attempt("read", boot)?);
    Ok(key.join(" "))
}
