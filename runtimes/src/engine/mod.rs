//! The container engine behind one trait: containers, tasks, images.
//!
//! Knows nothing of users, policy, homes or networks. It must never be given a
//! secret: what it is told ends up in the engine's database.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use oci_spec::runtime::Spec;

use crate::plan::SandboxId;

pub mod containerd;
pub mod fake;

/// Which engine plugin runs a sandbox, and how it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// containerd's runtime name, e.g. `io.containerd.runc.v2`, or the path of a shim.
    pub runtime: String,
    pub options: HandlerOptions,
    /// What the shim wants to be told in the spec, beside it. Whatever stands before the runtime
    /// takes it out: no runtime obeys an annotation of ours.
    pub annotation: Option<Annotation>,
}

/// A name and a value among the annotations of a spec.
pub type Annotation = (&'static str, &'static str);

/// The options message of the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerOptions {
    /// `containerd.runc.v1.Options`: a runc-compatible binary and its state root.
    Runc { binary: PathBuf, root: PathBuf },
    /// `runtimeoptions.v1.Options`: the file that a shim of another kind reads, and what that
    /// shim calls such files, where it calls them something.
    Configured { configuration: PathBuf, kind: Option<&'static str> },
}

/// The FIFOs of the init's channel, made (and the readers opened) beforehand.
#[derive(Clone, Debug)]
pub struct Stdio {
    pub stdin: PathBuf,
    pub stdout: PathBuf,
}

/// How a task ended, as the engine says it (128 + signal when killed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    pub code: u32,
    /// False where the engine has lost the task and its status.
    pub known: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// The container exists, its task does not (any more).
    None,
    Created,
    Running,
    Stopped,
}

/// One container the engine has in our namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSandbox {
    pub id: String,
    pub state: TaskState,
    /// The host's pid of PID 1, or 0.
    pub pid: u32,
}

/// An image that is unpacked and ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineImage {
    pub reference: String,
    /// The manifest's digest, `sha256:…`.
    pub digest: String,
    /// Directories of its layers, topmost first.
    pub layers: Vec<PathBuf>,
    /// The image's ENV: for the tenant's process only.
    pub environment: Vec<(String, String)>,
    pub size_bytes: u64,
}

/// What an image says of itself. For people only: none of it ever reaches a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDescription {
    pub user: String,
    pub entry_point: Vec<String>,
    pub command: Vec<String>,
    pub volumes: Vec<String>,
}

/// How large an image may become on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of all its files, unpacked.
    pub unpacked_bytes: u64,
    /// Files, directories and links, of all its layers.
    pub files: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { unpacked_bytes: 64 << 30, files: 4_000_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportProgress {
    pub step: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Something that nobody needs any more and that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub kind: &'static str,
    pub name: String,
}

/// What went wrong in the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not answer: nothing is known of any sandbox.
    #[error("containerd does not answer on `{socket}`")]
    Unavailable {
        socket: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("image `{reference}` is not on this node")]
    ImageMissing { reference: String },
    #[error("failed to {verb} `{thing}`")]
    Failed {
        verb: &'static str,
        thing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("failed to {verb} `{thing}` within {} s", after.as_secs())]
    Timeout { verb: &'static str, thing: String, after: Duration },
    /// The archive is no image, does not match its digests, or is beyond a bound.
    #[error("`{path}` is no usable image: {reason}")]
    BadArchive { path: PathBuf, reason: String },
}

/// One container engine. Every call is bounded in time.
#[async_trait]
pub trait Engine: Send + Sync {
    /// The engine's version, e.g. `2.1.9`.
    async fn version(&self) -> Result<String, EngineError>;

    /// Makes container and task. The init is not running yet. Returns its host pid.
    async fn create(
        &self,
        id: &SandboxId,
        spec: &Spec,
        handler: &Handler,
        stdio: &Stdio,
    ) -> Result<u32, EngineError>;

    async fn start(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// Sends a signal to PID 1. Absence is success.
    async fn kill(&self, id: &SandboxId, signal: i32) -> Result<(), EngineError>;

    /// Returns when the task has ended, however long that takes.
    async fn wait(&self, id: &SandboxId) -> Result<ExitStatus, EngineError>;

    /// Removes task (killing it if need be) and container. Absence is success.
    async fn delete(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// All containers in our namespace.
    async fn list(&self) -> Result<Vec<EngineSandbox>, EngineError>;

    /// An image by its name on this node, unpacked.
    async fn image(&self, reference: &str) -> Result<EngineImage, EngineError>;

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError>;

    /// Imports and unpacks an OCI archive, an OCI layout (a directory, which need not
    /// hold the blobs that the engine has), or what `docker save` writes; every blob
    /// is verified.
    async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &(dyn Fn(ImportProgress) + Send + Sync),
    ) -> Result<EngineImage, EngineError>;

    /// Removes what imports that were killed left, and layers of images that are
    /// gone and no sandbox stands on. Nothing while an import is under way.
    async fn tidy(&self) -> Result<Vec<Leftover>, EngineError>;

    /// Those of these blobs that the engine does not have.
    async fn missing_blobs(&self, digests: &[String]) -> Result<Vec<String>, EngineError>;

    /// What an image says of itself.
    async fn describe(&self, reference: &str) -> Result<ImageDescription, EngineError>;

    /// Takes a name away. False if there was none. What it named stays until [`Engine::collect`].
    async fn remove_image(&self, reference: &str) -> Result<bool, EngineError>;

    /// Frees the disk of everything that neither a named image needs nor a sandbox
    /// of one of the images with these digests.
    async fn collect(&self, live: &[String]) -> Result<(), EngineError>;
}
