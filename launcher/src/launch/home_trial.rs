//! A home of nobody's, attached to a sandbox that waits, as a user's would be at a claim: its init
//! makes files there, and then the disk has to show them under the user's own number with the
//! right modes, and the inside nothing else. What this rests on, no interface of a runtime
//! promises: in whose mount namespace files are opened, and under whose number they are made.
//!
//! Must never be done to a sandbox that is to be somebody's, and must leave nothing in the home
//! root.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use adrastea_init::trial::{
    FILE, FOREIGN, FOREIGN_MODE, LINKED, MADE, MOVED, PLACE, TEXT, as_it_must_be,
};
use adrastea_proto::v1::FailureReason;

use super::{channel::Channel, failure::Failure, node::home_failure, sandbox::Sandbox};
use crate::{
    home::HomeDriver,
    host::{Attempt as _, HostError, tolerate_absence},
};

/// As long as a claim may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct HomeTrial<'it> {
    pub sandbox: &'it Sandbox,
    pub homes: &'static dyn HomeDriver,
    pub root: &'it Path,
}

/// Takes away what one that was killed has left in this home root.
pub fn remove(root: &Path) -> Result<(), HostError> {
    let place = root.join(PLACE);
    tolerate_absence(fs::remove_dir_all(&place)).attempt("remove", &place)
}

impl HomeTrial<'_> {
    /// `attach` is what attaches the home of a name to the sandbox.
    pub async fn run(
        &self,
        channel: &mut Channel,
        attach: impl FnOnce(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        remove(self.root).map_err(home_failure)?;
        let outcome = self.attempt(channel, attach).await;
        outcome.and(remove(self.root).map_err(home_failure))
    }

    async fn attempt(
        &self,
        channel: &mut Channel,
        attach: impl FnOnce(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.lay_out().map_err(home_failure)?;
        attach(PLACE)?;
        let said = channel.trial(PATIENCE).await.map_err(|error| {
            Failure::caused_by(FailureReason::Home, &error, "look at containerd's log")
        })?;
        let facts = &self.sandbox.record.facts;
        let expected = as_it_must_be(facts.uid_inside, facts.gid_inside);
        if said != expected {
            return Err(wrong(&format!("inside: {said}; it must be: {expected}")));
        }
        self.look_at_disk().map_err(home_failure)?.map_or(Ok(()), |told| Err(wrong(&told)))
    }

    /// The home, and in it a file that is not the user's.
    fn lay_out(&self) -> Result<(), HostError> {
        let facts = &self.sandbox.record.facts;
        drop(self.homes.open(self.root, PLACE, facts.disk_uid, facts.disk_gid)?);
        let foreign = self.root.join(PLACE).join(FOREIGN);
        fs::write(&foreign, "of somebody else\n")
            .and_then(|()| fs::set_permissions(&foreign, fs::Permissions::from_mode(FOREIGN_MODE)))
            .attempt("write", &foreign)
    }

    /// What the disk does not show as it must, if anything.
    fn look_at_disk(&self) -> Result<Option<String>, HostError> {
        let facts = &self.sandbox.record.facts;
        let at = |name: &str| self.root.join(PLACE).join(name);
        let look =
            |name: &str| -> Result<fs::Metadata, io::Error> { fs::symlink_metadata(at(name)) };
        for (name, mode) in MADE {
            let found = match look(name) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Some(format!("`{name}`, made inside, is not on the disk")));
                }
                Err(error) => return Err(HostError::new("look at", at(name), error)),
            };
            let seen = (found.uid(), found.gid(), found.mode() & 0o7777);
            if seen != (facts.disk_uid, facts.disk_gid, mode) {
                let (uid, gid, seen) = seen;
                return Ok(Some(format!(
                    "`{name}`, made inside, has {uid}:{gid} and mode {seen:o} on the disk; it must have {}:{} and {mode:o}",
                    facts.disk_uid, facts.disk_gid
                )));
            }
        }
        let inode = |name: &str| look(name).map(|found| found.ino()).attempt("look at", at(name));
        let text = fs::read(at(FILE)).attempt("read", at(FILE))?;
        let is_whole = text == TEXT && inode(MOVED)? == inode(LINKED)?;
        Ok((!is_whole).then(|| "what was written or linked inside is otherwise on the disk".into()))
    }
}

fn wrong(told: &str) -> Failure {
    Failure::new(
        FailureReason::Home,
        format!("a home that is attached late is not as it must be: {told}"),
        "use another version of the runtime; until then its servers start without waiting ones",
    )
}
