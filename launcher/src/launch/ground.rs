//! What a launch does to the host, behind one trait: so that the order of
//! things, its journal and its undoing can be tested at every step without root.
//!
//! The real one is [`super::node::NodeGround`]. A stand-in proves no promise
//! about walls.

use std::collections::BTreeMap;

use adrastea_init::{FirstLine, report::Report};
use adrastea_runtimes::{engine::EngineImage, plan::SandboxId};
use async_trait::async_trait;

use super::{channel::Channel, failure::Failure, sandbox::Sandbox, traces::Traces};
use crate::store::{RetiredHome, Step};

/// How often the kernel enforced a limit on a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Processes killed for want of memory.
    pub memory_kills: u64,
    /// Processes and threads that could not be made.
    pub processes: u64,
}

impl Refusals {
    /// Those that came after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            memory_kills: self.memory_kills.saturating_sub(earlier.memory_kills),
            processes: self.processes.saturating_sub(earlier.processes),
        }
    }
}

/// An init that waits: its process, what it says of the walls that it alone can try, and
/// what it tells of its surroundings where the node cannot see them.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub pid: u32,
    pub said: FirstLine,
    pub report: Option<Report>,
}

#[async_trait]
pub trait Ground: Send + Sync {
    /// Does one journalled step. [`Step::Container`] is the engine's and never comes here.
    async fn make(&self, step: Step, sandbox: &Sandbox, image: &EngineImage)
    -> Result<(), Failure>;

    /// Undoes one step; what is absent is undone.
    async fn unmake(&self, step: Step, sandbox: &Sandbox) -> Result<(), Failure>;

    /// Before the engine makes the container: writes what the runtime reads for this sandbox alone,
    /// and makes the limited control group around what it will run. Undone with
    /// [`Step::Container`].
    async fn surround(&self, sandbox: &Sandbox, configuration: &str) -> Result<(), Failure>;

    /// Checks, while the init waits and no tenant code has run, that every promised wall stands.
    async fn prove(&self, sandbox: &Sandbox, waiting: &Waiting) -> Result<(), Failure>;

    /// The same for a sandbox that has waited with a program of the image's in it, before it
    /// becomes somebody's: that its walls stand still, and that nothing has passed.
    async fn prove_again(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure>;

    /// Lets everybody else have the processors first; returns the weight it had.
    fn hold_back(&self, sandbox: &Sandbox) -> Result<String, Failure>;

    /// Gives a sandbox the weight it had.
    fn let_go(&self, sandbox: &Sandbox, weight: &str) -> Result<(), Failure>;

    /// Whether homes can be attached to a sandbox whose ids were chosen before its user was known.
    fn maps_homes(&self) -> Result<(), Failure>;

    /// Attaches a home of nobody's to a waiting sandbox that is to be nobody's, has its init make
    /// files there, and looks at them on the disk: whether it is as it must be. Leaves no home.
    async fn try_home(
        &self,
        sandbox: &Sandbox,
        pid: u32,
        channel: &mut Channel,
    ) -> Result<(), Failure>;

    /// Attaches the user's home to the waiting sandbox.
    async fn attach_home(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure>;

    /// Opens what the egress profile allows; until then everything is closed.
    async fn open_egress(&self, sandbox: &Sandbox) -> Result<(), Failure>;

    /// Whether something answers HTTP at the server's port with anything but a server error.
    async fn answers(&self, sandbox: &Sandbox, path: &str) -> bool;

    /// All sandboxes of which anything exists on the host, and what. The engine's are not here.
    async fn present(&self) -> Result<Traces, Failure>;

    /// Removes everything that carries this id's name, whatever it is.
    async fn remove_all_of(&self, id: &SandboxId) -> Result<(), Failure>;

    /// The walls of a running sandbox that do not stand now, in words.
    async fn look(&self, sandbox: &Sandbox, pid: u32) -> Vec<String>;

    /// What a running sandbox uses now, by name.
    fn counters(&self, sandbox: &Sandbox) -> BTreeMap<String, u64>;

    /// Bytes that its processes use, where pages that several share are divided among them.
    fn proportional_memory(&self, sandbox: &Sandbox) -> u64;

    /// Whether there is a home of that name on disk.
    fn has_home(&self, on_disk: &str) -> Result<bool, Failure>;

    /// Moves a retired home to those set aside; false if there was none. Repeating it is harmless.
    fn set_home_aside(&self, home: &RetiredHome) -> Result<bool, Failure>;

    /// The way back. Repeating it is harmless.
    fn bring_home_back(&self, home: &RetiredHome) -> Result<(), Failure>;

    /// Removes a home that was set aside. Blocks; goes on where an earlier one stopped.
    fn purge_home(&self, home: &RetiredHome) -> Result<(), Failure>;

    /// What the kernel has refused this sandbox since it exists.
    fn refusals(&self, sandbox: &Sandbox) -> Refusals;
}
