//! What the OCI runtimes keep of our containers, below the instance's run directory:
//! runc a directory of the sandbox's name, gVisor files in whose names it stands.
//!
//! Must never remove what carries no sandbox's name.

use std::{fs, path::Path};

use adrastea_runtimes::plan::SandboxId;

use super::sandbox::Layout;
use crate::host::{Attempt as _, HostError, directories, tolerate_absence};

/// Every sandbox of which a runtime keeps something.
pub fn owners(layout: &Layout) -> Result<Vec<SandboxId>, HostError> {
    let mut found = Vec::new();
    for root in layout.runtime_states()? {
        found.extend(directories::names(&root)?.iter().filter_map(|name| owner(name)));
    }
    Ok(found)
}

/// Removes all that any runtime keeps of one sandbox.
pub fn remove(layout: &Layout, id: &SandboxId) -> Result<(), HostError> {
    for root in layout.runtime_states()? {
        for name in directories::names(&root)? {
            if owner(&name).as_ref() == Some(id) {
                remove_entry(&root.join(name))?;
            }
        }
    }
    Ok(())
}

fn remove_entry(path: &Path) -> Result<(), HostError> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    tolerate_absence(removed).attempt("remove", path)
}

/// The sandbox whose name is a whole word of this one.
fn owner(name: &str) -> Option<SandboxId> {
    name.split(|character: char| !character.is_ascii_alphanumeric())
        .find_map(|word| word.parse().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_named_runtime_keeps_is_found_also_when_nobody_names_it_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout {
            instance: "one".into(),
            state: directory.path().join("state"),
            run: directory.path().join("run"),
        };
        let id: SandboxId = "s9c5a396659f".parse().unwrap();
        assert_eq!(owners(&layout).unwrap(), []);
        for name in ["runc", "youki"] {
            let kept = layout.runtime_root(name).join("one").join(id.as_str());
            fs::create_dir_all(&kept).unwrap();
            assert_eq!(owners(&layout).unwrap(), std::slice::from_ref(&id), "{name}");
            remove(&layout, &id).unwrap();
            assert!(!kept.exists(), "{name}");
        }
        // A name can be that of anything else in the run directory.
        assert_ne!(layout.runtime_root("containerd"), layout.run.join("containerd"));
    }

    #[test]
    fn the_owner_is_in_the_name() {
        let owner = |name| owner(name).map(|id| id.to_string());
        for name in [
            "s9c5a396659f",
            "runsc-s9c5a396659f.sock",
            "s9c5a396659f_sandbox:s9c5a396659f.state",
            "s9c5a396659f_sandbox:s9c5a396659f.lock",
        ] {
            assert_eq!(owner(name).as_deref(), Some("s9c5a396659f"), "{name}");
        }
        for name in ["", "runsc", "s9c5a396659f0", "runsc-s9c5a396659f0.sock", "shim-state"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
