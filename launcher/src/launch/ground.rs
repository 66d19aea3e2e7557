//! What a launch does to the host, behind one trait: so that the order of
//! things, its journal and its undoing can be tested at every step without root.
//!
//! The real one is [`super::node::NodeGround`]. A stand-in proves no promise
//! about walls.

use std::collections::BTreeSet;

use adrastea_runtimes::{engine::EngineImage, plan::SandboxId};
use async_trait::async_trait;

use super::{failure::Failure, sandbox::Sandbox};
use crate::store::Step;

#[async_trait]
pub trait Ground: Send + Sync {
    /// Does one journalled step. [`Step::Container`] is the engine's and never comes here.
    async fn make(&self, step: Step, sandbox: &Sandbox, image: &EngineImage)
    -> Result<(), Failure>;

    /// Undoes one step; what is absent is undone.
    async fn unmake(&self, step: Step, sandbox: &Sandbox) -> Result<(), Failure>;

    /// Checks, while the init waits and no tenant code has run, that every promised wall stands.
    async fn prove(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure>;

    /// Attaches the user's home to the waiting sandbox.
    async fn attach_home(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure>;

    /// Opens what the egress profile allows; until then everything is closed.
    async fn open_egress(&self, sandbox: &Sandbox) -> Result<(), Failure>;

    /// Whether something answers HTTP at the server's port with anything but a server error.
    async fn answers(&self, sandbox: &Sandbox, path: &str) -> bool;

    /// The ids of all sandboxes of which anything exists on the host.
    async fn present(&self) -> Result<BTreeSet<SandboxId>, Failure>;

    /// Removes everything that carries this id's name, whatever it is.
    async fn remove_all_of(&self, id: &SandboxId) -> Result<(), Failure>;

    /// How often the kernel killed in this sandbox for want of memory.
    fn memory_kills(&self, sandbox: &Sandbox) -> u64;
}
