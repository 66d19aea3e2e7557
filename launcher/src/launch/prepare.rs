//! First phase: everything a sandbox needs, up to an init that waits. The
//! network is closed, no home is attached, no secret has arrived.
//!
//! Before each step its intent is journalled, and the wish to stop is looked at
//! between steps, never inside one: a step that was begun is finished.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{FailureReason, Phase};
use adrastea_runtimes::{
    Kernel, Runtime, RuntimeSettings, build_configuration, build_spec,
    engine::{EngineImage, Stdio},
    spec::SpecError,
};

use super::{Launcher, channel::Channel, entry::Entry, failure::Failure, ground::Waiting};
use crate::{failpoint, host::fifo, policy::Decision, store::Step};

/// How long the init may take to say that it waits: the runtime's own start.
const INIT_PATIENCE: Duration = Duration::from_secs(30);

/// A sandbox whose init waits, unproved.
pub struct Prepared {
    pub waiting: Waiting,
    pub channel: Channel,
    pub image: EngineImage,
}

/// What is checked before the host is changed.
struct Checked {
    image: EngineImage,
    runtime: &'static dyn Runtime,
    settings: RuntimeSettings,
}

async fn check(launcher: &Launcher, decision: &Decision) -> Result<Checked, Failure> {
    let (runtime, settings) = launcher.runtime(&decision.runtime)?;
    launcher.check_image_stays(&decision.image.reference)?;
    let image = launcher.engine.image(&decision.image.reference).await?;
    if image.digest != decision.image.digest {
        return Err(Failure::new(
            FailureReason::ImageMissing,
            format!(
                "image `{}` is {} here, but policy pins {}",
                decision.image.reference, image.digest, decision.image.digest
            ),
            format!("import the pinned image, or change images.{}.digest", decision.image.name),
        ));
    }
    Ok(Checked { image, runtime, settings })
}

pub async fn prepare(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    decision: &Decision,
) -> Result<Prepared, Failure> {
    entry.progress(Phase::Preparing, 10, "Preparing the sandbox");
    let since = Instant::now();
    let Checked { image, runtime, settings } = check(launcher, decision).await?;
    entry.took("check", since);

    let sandbox = &entry.sandbox;
    for step in [Step::Directory, Step::Namespaces, Step::Network, Step::Rootfs] {
        if entry.is_unwanted() {
            return Err(Failure::cancelled());
        }
        let since = Instant::now();
        launcher.store.intend(sandbox.id(), step)?;
        failpoint::hit(step.name(), "intended");
        launcher.ground.make(step, sandbox, &image).await?;
        failpoint::hit(step.name(), "made");
        entry.took(step.name(), since);
    }

    let since = Instant::now();
    let plan = sandbox.plan();
    let defect = |error: SpecError| {
        let hint = "this is a defect of the launcher: report it";
        Failure::caused_by(FailureReason::Internal, &error, hint)
    };
    let spec = build_spec(runtime, &plan).map_err(defect)?;
    let configuration = build_configuration(runtime, &plan, &settings).map_err(defect)?;
    // Readers first: a FIFO without one blocks the engine for ever.
    let mut channel = Channel {
        receiver: fifo::open_receiver(&sandbox.stdout())?,
        sender: fifo::open_sender(&sandbox.stdin())?,
    };
    let stdio = Stdio { stdin: sandbox.stdin(), stdout: sandbox.stdout() };
    launcher.store.intend(sandbox.id(), Step::Container)?;
    failpoint::hit("container", "intended");
    if let Some(configuration) = configuration {
        launcher.ground.surround(sandbox, &configuration).await?;
    }
    entry.took("spec", since);

    let since = Instant::now();
    let few = launcher.creates.acquire().await;
    launcher.courtesy.give_way().await;
    if entry.is_unwanted() {
        return Err(Failure::cancelled());
    }
    entry.took("engine-turn", since);
    let since = Instant::now();
    let handler = runtime.handler(&settings, &sandbox.configuration());
    let pid = launcher.engine.create(sandbox.id(), &spec, &handler, &stdio).await?;
    failpoint::hit("container", "created");
    entry.set_pid(pid);
    entry.took("engine-create", since);

    let since = Instant::now();
    launcher.engine.start(sandbox.id()).await?;
    failpoint::hit("container", "started");
    entry.took("engine-start", since);
    drop(few);
    launcher.watch_task(entry);

    let since = Instant::now();
    let said = tokio::select! {
        answer = channel.waiting(INIT_PATIENCE) => answer.map_err(|error| {
            Failure::caused_by(FailureReason::Internal, &error, "the runtime did not start the init; look at containerd's log")
        })?,
        status = entry.task_ended() => return Err(Failure::new(
            FailureReason::Internal,
            format!("the init ended with code {} before it waited", status.code),
            "the image's architecture may not fit, or the runtime refused; look at containerd's log",
        )),
        _ = entry.unwanted() => return Err(Failure::cancelled()),
    };
    let report = match runtime.kernel() {
        Kernel::Node => None,
        Kernel::Own | Kernel::Machine => {
            Some(channel.report(INIT_PATIENCE).await.map_err(|error| {
                let hint = "the init must tell what the node cannot see; look at containerd's log";
                Failure::caused_by(FailureReason::Proof, &error, hint)
            })?)
        }
    };
    entry.took("init-waits", since);
    Ok(Prepared { waiting: Waiting { pid, said, report }, channel, image })
}
