//! The fake engine, watched: everything it is told goes into the diary, and its
//! waits can break as they do when containerd is restarted.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use adrastea::store::Step;
use adrastea_runtimes::{
    engine::{
        Engine, EngineError, EngineImage, EngineSandbox, ExitStatus, Handler, ImageDescription,
        ImportProgress, Leftover, Stdio, fake::FakeEngine,
    },
    plan::SandboxId,
};
use async_trait::async_trait;
use oci_spec::runtime::Spec;
use tokio::sync::Notify;

use crate::diary::Diary;

pub struct WatchedEngine {
    pub fake: FakeEngine,
    pub diary: Diary,
    waits_break: AtomicBool,
    broken: Notify,
}

impl WatchedEngine {
    pub fn new(fake: FakeEngine, diary: Diary) -> Self {
        Self { fake, diary, waits_break: AtomicBool::new(false), broken: Notify::new() }
    }

    /// Ends every wait that is under way with an error, and every later one, until set back.
    pub fn break_waits(&self, broken: bool) {
        self.waits_break.store(broken, Ordering::SeqCst);
        self.broken.notify_waiters();
    }
}

#[async_trait]
impl Engine for WatchedEngine {
    async fn version(&self) -> Result<String, EngineError> {
        self.fake.version().await
    }

    async fn create(
        &self,
        id: &SandboxId,
        spec: &Spec,
        handler: &Handler,
        stdio: &Stdio,
    ) -> Result<u32, EngineError> {
        self.diary.write("create container");
        self.diary.about_to_make(id, Step::Container);
        let created = self.fake.create(id, spec, handler, stdio).await;
        // A call that failed may have had its effect.
        self.diary.made(id, Step::Container);
        created
    }

    async fn start(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.diary.write("start container");
        self.fake.start(id).await
    }

    async fn kill(&self, id: &SandboxId, signal: i32) -> Result<(), EngineError> {
        self.diary.write(format!("kill {signal}"));
        self.fake.kill(id, signal).await
    }

    async fn wait(&self, id: &SandboxId) -> Result<ExitStatus, EngineError> {
        let broken = self.broken.notified();
        if !self.waits_break.load(Ordering::SeqCst) {
            tokio::select! {
                status = self.fake.wait(id) => return status,
                () = broken => {}
            }
        }
        Err(EngineError::Unavailable {
            socket: "/fake".into(),
            source: "the connection broke".into(),
        })
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.diary.write("delete container");
        self.fake.delete(id).await
    }

    async fn list(&self) -> Result<Vec<EngineSandbox>, EngineError> {
        self.fake.list().await
    }

    async fn image(&self, reference: &str) -> Result<EngineImage, EngineError> {
        self.fake.image(reference).await
    }

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError> {
        self.fake.images().await
    }

    async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &(dyn Fn(ImportProgress) + Send + Sync),
    ) -> Result<EngineImage, EngineError> {
        self.fake.import(archive, reference, progress).await
    }

    async fn tidy(&self) -> Result<Vec<Leftover>, EngineError> {
        self.fake.tidy().await
    }

    async fn missing_blobs(&self, digests: &[String]) -> Result<Vec<String>, EngineError> {
        self.fake.missing_blobs(digests).await
    }

    async fn describe(&self, reference: &str) -> Result<ImageDescription, EngineError> {
        self.fake.describe(reference).await
    }

    async fn remove_image(&self, reference: &str) -> Result<bool, EngineError> {
        self.fake.remove_image(reference).await
    }

    async fn collect(&self, live: &[String]) -> Result<(), EngineError> {
        self.fake.collect(live).await
    }
}
