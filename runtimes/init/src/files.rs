//! An extra wall around files: Landlock (landlock(7)), put up by the init around itself
//! before it waits, so that every program it starts later is born behind it.
//!
//! It holds even where a mount that should be read-only is not. Rights are given on the
//! *parent* of the home: a rule on a mount point does not cover what is mounted over it
//! later. A kernel without Landlock is no error; the launcher knows what its kernel has,
//! and compares. Must never widen anything: a ruleset can only take away.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use adrastea_init::trial::HOME_NAME;
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};

/// What is asked for; an older kernel gives less, and says so by its number.
const NEWEST: ABI = ABI::V6;

/// Places in which a tenant writes files of its own, besides the home.
const SCRATCH: [&str; 3] = ["/tmp", "/dev/shm", "/run"];

/// Puts the wall up; returns the version of Landlock that holds. 0 is none, for whatever
/// reason: whether that will do is not the init's to say, but the launcher's.
pub fn restrict() -> u32 {
    fs::read(HOME_NAME)
        .map_or(0, |home| build(&parent_of(Path::new(OsStr::from_bytes(&home)))).unwrap_or(0))
}

/// The directory whose rule covers a home that is attached later.
fn parent_of(home: &Path) -> PathBuf {
    home.parent().unwrap_or(Path::new("/")).to_owned()
}

fn build(parent: &Path) -> Result<u32, RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::from_read(NEWEST);
    // Nobody makes devices, and no device outside of /dev is told anything.
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let devices = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;

    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    rules = allow(rules, Path::new("/"), read)?;
    rules = allow(rules, Path::new("/dev"), devices)?;
    rules = allow(rules, parent, write)?;
    for place in SCRATCH {
        rules = allow(rules, Path::new(place), write)?;
    }
    // Not set here, too: a runtime that forgot it is to be seen.
    let status = rules.no_new_privs(false).restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => 0,
        (_, LandlockStatus::Available { effective_abi, .. }) => effective_abi.min(NEWEST) as u32,
        _ => 0,
    })
}

/// A place that is not there, or cannot be opened, gets no right: stricter, never weaker.
fn allow(
    rules: RulesetCreated,
    place: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(place) {
        Ok(place) => rules.add_rule(PathBeneath::new(place, rights)),
        Err(_) => Ok(rules),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_lies_above_the_home() {
        assert_eq!(parent_of(Path::new("/home/jovyan")), Path::new("/home"));
        assert_eq!(parent_of(Path::new("/work")), Path::new("/"));
        assert_eq!(parent_of(Path::new("/")), Path::new("/"));
    }
}
