//! Makes a slot: everything up to a program that has loaded and waits, and nothing of a user.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use adrastea_init::claim::Claim;
use adrastea_proto::v1::{self, FailureReason, Phase};
use tokio::time::Instant;

use super::{Class, LAST_WORDS, Slot, trial};
use crate::{
    config::{Config, ImageConfig},
    failpoint,
    launch::{
        Launcher, channel::ChannelError, claim, entry::Entry, facts, failure::Failure, feed::Feed,
        keeper, new_id, prepare, sandbox::Sandbox,
    },
    names::{RequestId, ServerKey},
    policy::{self, Decision, PinnedImage, Refusal},
    store::{DiskIdentity, ExitRecord, Facts, NewSandbox, SandboxRecord},
};

/// How long an image's server may take to load, with the least of the processors.
const LOADING: Duration = Duration::from_secs(180);

/// What slots of a profile are made for.
pub struct Wanted {
    pub profile: String,
    pub class: Class,
    pub decision: Decision,
    pub minimum: u32,
    pub maximum: u32,
}

/// A slot's facts: nobody's numbers, and the home's are mapped once it has one.
pub fn slot_facts(decision: &Decision) -> Facts {
    Facts { home_mapped: true, ..facts(decision, DiskIdentity { uid: 0, gid: 0 }) }
}

/// What a slot of this profile's pool is made for: what somebody gets who asks for nothing,
/// but for a user.
fn decide_slot(config: &Config, name: &str, key: ServerKey) -> Result<Decision, Refusal> {
    let missing = |what: &str| Refusal::Invalid(format!("{what} is not configured"));
    let profile = config.profiles.get(name).ok_or_else(|| missing("the profile"))?;
    let runtime = profile.runtimes.first().ok_or_else(|| missing("a runtime"))?.clone();
    let ImageConfig { reference, digest } =
        config.images.get(&profile.image).cloned().ok_or_else(|| missing("the image"))?;
    let image = PinnedImage { name: profile.image.clone(), reference, digest };
    let request = v1::StartRequest::default();
    policy::grant(config, name, runtime, image, &request, key, RequestId::new("slot")?)
}

/// What a profile's slots are for, or why it has none.
pub fn wanted(launcher: &Launcher, name: &str) -> Result<Option<Wanted>, String> {
    let config = launcher.config();
    let Some(pool) = config.slots(name) else { return Ok(None) };
    let key = ServerKey::slot("nobody");
    let decision = decide_slot(&config, name, key).map_err(|refusal| refusal.to_string())?;
    if decision.ignore_user_config {
        return Err(
            "a server that ignores its user's configuration starts when it is asked for".into()
        );
    }
    let (driver, settings) =
        launcher.runtime(&decision.runtime).map_err(|failure| failure.message)?;
    if let Some(reason) = driver.refuses_to_wait(&settings.program, settings.version) {
        return Err(format!("under `{}` {reason}", decision.runtime));
    }
    if !launcher.pool.maps_homes.load(Ordering::Relaxed) {
        launcher.ground.maps_homes().map_err(|failure| failure.message)?;
        launcher.pool.maps_homes.store(true, Ordering::Relaxed);
    }
    let class = Class::of(&decision, slot_facts(&decision));
    Ok(Some(Wanted {
        profile: name.to_owned(),
        class,
        decision,
        minimum: pool.minimum,
        maximum: pool.maximum,
    }))
}

/// Why there is no slot now.
pub enum NoSlot {
    /// It was given up: somebody else needs the place, or the launcher ends.
    GivenUp,
    /// The image's program cannot wait: it will not tomorrow either.
    Aside(String),
    Failed(Failure),
}

impl From<Failure> for NoSlot {
    fn from(failure: Failure) -> Self {
        if failure.reason == FailureReason::Cancelled {
            Self::GivenUp
        } else {
            Self::Failed(failure)
        }
    }
}

/// Makes one slot. What was begun of one that fails is taken away.
pub async fn make(launcher: &Arc<Launcher>, wanted: &Wanted) -> Result<Slot, NoSlot> {
    trial::pass(launcher, wanted).await?;
    let entry = enter(launcher, wanted, |_| {})?;
    let made = build(launcher, &entry, wanted).await;
    launcher.pool.inner().making = None;
    match made {
        Ok(slot) => {
            failpoint::hit("slot", "waiting");
            Ok(slot)
        }
        Err(why) => {
            remove(launcher, &entry, "it could not be made").await;
            Err(why)
        }
    }
}

/// A sandbox of the pool's that is to be made now, with what is `known` of it alone.
pub fn enter(
    launcher: &Arc<Launcher>,
    wanted: &Wanted,
    known: impl FnOnce(&mut SandboxRecord),
) -> Result<Arc<Entry>, NoSlot> {
    let id = new_id();
    let new = NewSandbox {
        key: ServerKey::slot(id.as_str()),
        id,
        request_id: wanted.decision.request_id.clone(),
        request_hash: [0; 32],
        facts: slot_facts(&wanted.decision),
    };
    let mut record = launcher.store.record_sandbox(&new, launcher.pools).map_err(Failure::from)?;
    known(&mut record);
    let config = launcher.config();
    let address = (launcher.address)(&config, record.address_index);
    let sandbox = Sandbox::new(record, address, &launcher.layout);
    // A feed of its own: nobody watches what is nobody's.
    let feed = Arc::new(Feed::keeping(1));
    let entry = Arc::new(Entry::new(sandbox, config.network.server_port, Phase::Preparing, feed));
    {
        let mut inner = launcher.pool.inner();
        inner.making = Some(Arc::clone(&entry));
        if inner.closed {
            entry.wish_to_stop(not_needed());
        }
    }
    Ok(entry)
}

/// The wish with which a slot that is being made is given up.
pub fn not_needed() -> crate::launch::StopWish {
    crate::launch::StopWish {
        grace: Duration::ZERO,
        cause: crate::launch::StopCause::Drained,
        why: "the slot is not needed".into(),
    }
}

async fn build(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    wanted: &Wanted,
) -> Result<Slot, NoSlot> {
    let began = Instant::now();
    let prepared = prepare::prepare(launcher, entry, &wanted.decision).await?;
    let mut prepared = claim::prove(launcher, entry, prepared).await?.wait();
    let weight = launcher.ground.hold_back(&entry.sandbox)?;
    let standby = Claim {
        arguments: wanted.decision.command.clone(),
        environment: claim::environment(prepared.image.clone(), &wanted.decision),
        directory: PathBuf::from("/"),
    };
    {
        let mut readiness = std::pin::pin!(prepared.channel.standby(&standby, LOADING));
        let ready = tokio::select! {
            biased;
            ready = &mut readiness => ready,
            status = entry.task_ended() => {
                // What was said before the end is still on its way.
                let said = tokio::time::timeout(LAST_WORDS, &mut readiness).await;
                said.map_err(|_| NoSlot::Aside(format!("the sandbox ended with code {} while the server loaded", status.code)))?
            }
            _ = entry.unwanted() => return Err(NoSlot::GivenUp),
        };
        ready.map_err(|error| match error {
            ChannelError::Aside(reason) => NoSlot::Aside(reason),
            error => Failure::caused_by(
                FailureReason::Internal,
                &error,
                "the image's server did not load beforehand",
            )
            .into(),
        })?;
    }
    let cpu = launcher.ground.counters(&entry.sandbox).get("cpu_used_microseconds").copied();
    let cpu = cpu.map_or_else(|| began.elapsed(), Duration::from_micros);
    tracing::info!(sandbox = %entry.sandbox.id(), profile = wanted.profile, took = ?began.elapsed(), ?cpu, "a slot waits");
    Ok(Slot {
        profile: wanted.profile.clone(),
        class: wanted.class.clone(),
        entry: Arc::clone(entry),
        prepared,
        weight,
        born: Instant::now(),
        cpu,
    })
}

/// Takes a slot away, whole.
pub async fn remove(launcher: &Arc<Launcher>, entry: &Arc<Entry>, why: &str) {
    tracing::debug!(sandbox = %entry.sandbox.id(), why, "removing a slot");
    let exit = ExitRecord {
        cause: adrastea_proto::v1::ExitCause::Stopped.into(),
        code: 0,
        signal: 0,
        message: why.into(),
        log_tail: String::new(),
    };
    keeper::remove_slot(launcher, entry, exit).await;
}
