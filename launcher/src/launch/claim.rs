//! Second and third phase: the walls are proved while nothing of the tenant has
//! run; then the sandbox is claimed for its user: home, egress, and over the
//! channel environment, secrets and arguments.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea_init::claim::Claim;
use adrastea_proto::v1::{FailureReason, Phase};
use adrastea_runtimes::engine::EngineImage;

use super::{Launcher, entry::Entry, failure::Failure, ground::Waiting, prepare::Prepared};
use crate::{failpoint, policy::Decision};

const CLAIM_PATIENCE: Duration = Duration::from_secs(10);

/// A sandbox whose walls were seen to stand. Only [`prove`] and [`prove_again`] make one.
pub struct Proved(Prepared);

impl Proved {
    /// One that is not claimed yet. It is proved again before it is.
    pub fn wait(self) -> Prepared {
        self.0
    }
}

pub async fn prove(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    prepared: Prepared,
) -> Result<Proved, Failure> {
    entry.progress(Phase::Proving, 40, "Checking the sandbox's walls");
    let since = Instant::now();
    launcher.ground.prove(&entry.sandbox, &prepared.waiting).await?;
    failpoint::hit("prove", "done");
    entry.took("prove", since);
    Ok(Proved(prepared))
}

/// Once more, for a sandbox that has waited.
pub async fn prove_again(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    prepared: Prepared,
) -> Result<Proved, Failure> {
    entry.progress(Phase::Proving, 40, "Checking the sandbox's walls");
    let since = Instant::now();
    launcher.ground.prove_again(&entry.sandbox, prepared.waiting.pid).await?;
    failpoint::hit("prove", "again");
    entry.took("prove", since);
    Ok(Proved(prepared))
}

/// A sandbox that belongs to its user and whose server was told to start.
pub struct Claimed {
    /// Why the command was started anew where a program of it waited.
    pub anew: Option<String>,
}

/// The environment of a server: the image's ENV first, what the profile and the hub say wins.
pub fn environment(image: EngineImage, decision: &Decision) -> Vec<(String, String)> {
    let mut environment = image
        .environment
        .into_iter()
        .filter(|(name, _)| !name.starts_with("LD_"))
        .collect::<std::collections::BTreeMap<_, _>>();
    environment.extend(decision.environment.clone());
    environment.into_iter().collect()
}

pub async fn claim(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    proved: Proved,
    decision: &Decision,
) -> Result<Claimed, Failure> {
    let Prepared { waiting: Waiting { pid, .. }, channel, image } = proved.0;
    let sandbox = &entry.sandbox;
    entry.progress(Phase::Claiming, 50, "Attaching your home");
    if entry.is_unwanted() {
        return Err(Failure::cancelled());
    }
    let since = Instant::now();
    launcher.ground.attach_home(sandbox, pid).await?;
    failpoint::hit("home", "attached");
    entry.took("home", since);

    let since = Instant::now();
    launcher.ground.open_egress(sandbox).await?;
    entry.took("egress", since);

    let since = Instant::now();
    let claim = Claim {
        arguments: decision.command.clone(),
        environment: environment(image, decision),
        directory: sandbox.home_inside().to_owned(),
    };
    let (receiver, anew) = channel.claim(&claim, CLAIM_PATIENCE).await.map_err(|error| {
        Failure::caused_by(
            FailureReason::Internal,
            &error,
            "the sandbox was removed; start the server again",
        )
    })?;
    failpoint::hit("claim", "done");
    entry.took("claim", since);

    launcher.pump_log(entry, receiver);
    entry.progress(Phase::Starting, 60, "Starting your server");
    Ok(Claimed { anew })
}
