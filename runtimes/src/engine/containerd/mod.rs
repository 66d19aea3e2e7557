//! The engine over containerd's gRPC API.
//!
//! ```text
//! Containerd ── call      one call, bounded, errors sorted
//!     ├── tasks           containers and their tasks
//!     ├── images          lookup, lower directories     ── manifest (pure)
//!     ├── import          archive → content, image      ── archive, docker_save, layer (reading)
//!     │     └── content   blobs in containerd's store   ── blob (where their bytes are)
//!     ├── collect         what no image needs any more
//!     ├── tidy            what killed imports left
//!     └── unpack          layers → snapshots
//! managed                 a containerd of our own (config, process)
//! ```
//!
//! Only this module imports `containerd-client`. It must never touch another
//! containerd namespace than the one it was given, and never copy an image's
//! own labels or annotations to anything.

use std::{
    collections::HashMap,
    error::Error,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use containerd_client::{services::v1::version_client::VersionClient, tonic::transport::Channel};
use oci_spec::runtime::Spec;
use tokio::{sync::Mutex, time::timeout};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

use self::call::CallError;
use super::{
    Engine, EngineError, EngineImage, EngineSandbox, ExitStatus, Handler, ImageDescription,
    ImageLimits, ImportProgress, Leftover, Stdio,
};
use crate::plan::SandboxId;

mod archive;
mod blob;
mod call;
mod collect;
mod content;
mod docker_save;
mod images;
mod import;
mod layer;
pub mod managed;
mod manifest;
mod options;
mod shim_socket;
mod tasks;
mod tidy;
mod unpack;

/// A unix socket answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(3);
/// Calls that only read or write containerd's database.
const SHORT: Duration = Duration::from_secs(10);
/// Calls behind which a shim and an OCI runtime work.
const LONG: Duration = Duration::from_secs(30);

/// Marks what we made, for whoever looks with other tools.
const INSTANCE_LABEL: &str = "adrastea/instance";
const SNAPSHOTTER: &str = "overlayfs";

/// A client of one containerd, in one namespace. Cheap to clone.
#[derive(Clone)]
pub struct Containerd {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    namespace: String,
    namespace_header: MetadataValue<Ascii>,
    limits: ImageLimits,
    /// Connected at the first call; afterwards the channel reconnects by itself.
    channel: Mutex<Option<Channel>>,
    /// One import at a time: they share names of leases and snapshots.
    importing: Mutex<()>,
    /// Facts of images by the digest that names them.
    facts: std::sync::Mutex<HashMap<String, Arc<manifest::ImageFacts>>>,
    /// What each name led to when it was last looked up: a guess, and never an answer.
    led_to: std::sync::Mutex<HashMap<String, String>>,
}

impl Containerd {
    /// Connects at the first call, so containerd need not run yet.
    pub fn connect(socket: impl Into<PathBuf>, namespace: &str) -> Result<Self, EngineError> {
        Self::connect_limited(socket, namespace, ImageLimits::default())
    }

    /// As [`Containerd::connect`], with other bounds on images.
    pub fn connect_limited(
        socket: impl Into<PathBuf>,
        namespace: &str,
        limits: ImageLimits,
    ) -> Result<Self, EngineError> {
        let namespace_header = namespace.parse().map_err(|source| EngineError::Failed {
            verb: "use the namespace",
            thing: namespace.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                socket: socket.into(),
                namespace: namespace.to_owned(),
                namespace_header,
                limits,
                channel: Mutex::new(None),
                importing: Mutex::new(()),
                facts: std::sync::Mutex::default(),
                led_to: std::sync::Mutex::default(),
            }),
        })
    }

    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.inner.namespace_header.clone());
        request
    }

    async fn channel(&self) -> Result<Channel, CallError> {
        let mut slot = self.inner.channel.lock().await;
        if let Some(channel) = &*slot {
            return Ok(channel.clone());
        }
        let connecting = timeout(CONNECT, containerd_client::connect(&self.inner.socket));
        let channel = match connecting.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(CallError::Unreachable(Box::new(error))),
            Err(elapsed) => return Err(CallError::Unreachable(Box::new(elapsed))),
        };
        *slot = Some(channel.clone());
        Ok(channel)
    }

    /// A call without a deadline of its own.
    async fn call_unbounded<T, F>(
        &self,
        call: impl FnOnce(Channel) -> F + Send,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, tonic::Status>> + Send,
    {
        Ok(call(self.channel().await?).await?)
    }

    async fn call<T, F>(
        &self,
        deadline: Duration,
        call: impl FnOnce(Channel) -> F + Send,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, tonic::Status>> + Send,
    {
        match timeout(deadline, self.call_unbounded(call)).await {
            Ok(result) => result,
            // Late, or is containerd itself stuck?
            Err(_) => match self.probe().await {
                Ok(_) => Err(CallError::Late(deadline)),
                Err(source) => Err(CallError::Unreachable(source)),
            },
        }
    }

    async fn probe(&self) -> Result<String, Box<dyn Error + Send + Sync>> {
        let asking = self.call_unbounded(|channel| async {
            Ok(VersionClient::new(channel).version(()).await?.into_inner().version)
        });
        match timeout(CONNECT, asking).await {
            Ok(Ok(version)) => Ok(version),
            Ok(Err(CallError::Unreachable(source))) => Err(source),
            Ok(Err(error)) => Err(Box::new(error.into_engine(self.socket(), "ask", "version"))),
            Err(elapsed) => Err(Box::new(elapsed)),
        }
    }

    fn error(&self, verb: &'static str, thing: &str) -> impl FnOnce(CallError) -> EngineError {
        let (socket, thing) = (self.inner.socket.clone(), thing.to_owned());
        move |error| error.into_engine(&socket, verb, thing)
    }
}

#[async_trait]
impl Engine for Containerd {
    async fn version(&self) -> Result<String, EngineError> {
        match self.probe().await {
            // Debian's `2.1.9+unknown`, upstream's `v2.1.4`.
            Ok(version) => {
                let bare = version.split(['+', '~']).next().unwrap_or_default();
                Ok(bare.trim_start_matches('v').to_owned())
            }
            Err(source) => {
                Err(EngineError::Unavailable { socket: self.inner.socket.clone(), source })
            }
        }
    }

    async fn create(
        &self,
        id: &SandboxId,
        spec: &Spec,
        handler: &Handler,
        stdio: &Stdio,
    ) -> Result<u32, EngineError> {
        self.create_sandbox(id, spec, handler, stdio).await
    }

    async fn start(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.start_task(id.as_str()).await
    }

    async fn kill(&self, id: &SandboxId, signal: i32) -> Result<(), EngineError> {
        self.kill_task(id.as_str(), signal).await
    }

    async fn wait(&self, id: &SandboxId) -> Result<ExitStatus, EngineError> {
        self.wait_task(id.as_str()).await
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.delete_sandbox(id.as_str()).await
    }

    async fn list(&self) -> Result<Vec<EngineSandbox>, EngineError> {
        self.list_sandboxes().await
    }

    async fn image(&self, reference: &str) -> Result<EngineImage, EngineError> {
        self.find_image(reference).await
    }

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError> {
        self.list_images().await
    }

    async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &(dyn Fn(ImportProgress) + Send + Sync),
    ) -> Result<EngineImage, EngineError> {
        self.import_archive(archive, reference, progress).await
    }

    async fn tidy(&self) -> Result<Vec<Leftover>, EngineError> {
        self.remove_leftovers().await
    }

    async fn missing_blobs(&self, digests: &[String]) -> Result<Vec<String>, EngineError> {
        self.lacking(digests).await
    }

    async fn describe(&self, reference: &str) -> Result<ImageDescription, EngineError> {
        self.describe_image(reference).await
    }

    async fn remove_image(&self, reference: &str) -> Result<bool, EngineError> {
        self.remove_record(reference).await
    }

    async fn collect(&self, live: &[String]) -> Result<(), EngineError> {
        self.collect_garbage(live).await
    }
}
