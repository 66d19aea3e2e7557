//! Which of the configured runtimes can be had on this node, and which of them people may choose.
//!
//! Must never put another runtime in the place of one that cannot be had.

use adrastea_proto::v1;
use adrastea_runtimes::{Runtime, RuntimeSettings};

use super::{Launcher, failure::Failure};

impl Launcher {
    /// The runtime of that name, if this node can run it.
    pub(super) fn runtime(
        &self,
        name: &str,
    ) -> Result<(&'static dyn Runtime, RuntimeSettings), Failure> {
        let missing = || {
            Failure::new(
                v1::FailureReason::RuntimeMissing,
                format!("runtime `{name}` is not on this node"),
                "an administrator can look with `adrastea doctor`",
            )
        };
        let settings = self.runtimes.get(name).ok_or_else(missing)?.clone()?;
        Ok((self.config().driver(name).ok_or_else(missing)?, settings))
    }

    /// Whether people are to choose it: one that was never seen to hold only where it was seen to
    /// start something on this node.
    pub fn is_offered(&self, runtime: &str) -> bool {
        let unproved = self.config().driver(runtime).is_some_and(|it| it.unproved().is_some());
        !unproved || self.runtime(runtime).is_ok()
    }
}
