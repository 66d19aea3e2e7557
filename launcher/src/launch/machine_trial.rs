//! Starts one virtual machine through the engine, without a user, a home and a network, and holds
//! it against the whole proof: whether a runtime that starts machines does so on this node.
//!
//! Must leave nothing in the engine; the rest of what it is given is the caller's to remove.

use std::{path::Path, time::Duration};

use adrastea_runtimes::{
    Runtime, RuntimeSettings, build_configuration, build_spec,
    engine::{Engine, Stdio},
    plan::Plan,
    spec::{self, SpecError},
};

use super::{channel::Channel, failure::chain, machine, observe::observe_machine, proof};
use crate::host::{cgroup_limits::surround, cgroups::Hierarchy, confinement, directories, fifo};

pub struct MachineTrial<'it> {
    pub driver: &'it dyn Runtime,
    pub settings: &'it RuntimeSettings,
    pub plan: &'it Plan,
    /// A directory of its own, that only root can write.
    pub place: &'it Path,
    pub cgroups: Hierarchy,
}

impl MachineTrial<'_> {
    /// Why it does not start one, or which wall does not stand.
    pub async fn run(&self, engine: &dyn Engine, within: Duration) -> Result<(), String> {
        let id = &self.plan.id;
        // Of one that was killed meanwhile.
        engine.delete(id).await.map_err(|error| chain(&error))?;
        let late = || format!("it took longer than {} s", within.as_secs());
        let outcome =
            tokio::time::timeout(within, self.start(engine)).await.unwrap_or_else(|_| Err(late()));
        let deleted = engine.delete(id).await.map_err(|error| chain(&error));
        let removed = machine::remove_leavings(id).map_err(|error| chain(&error));
        outcome.and(deleted).and(removed)
    }

    async fn start(&self, engine: &dyn Engine) -> Result<(), String> {
        fn told(error: &dyn std::error::Error) -> String {
            chain(error)
        }
        let Self { driver, settings, plan, place, cgroups } = self;
        let of_spec = |error: SpecError| told(&error);
        let spec = build_spec(*driver, plan).map_err(of_spec)?;
        let text = build_configuration(*driver, plan, settings).map_err(of_spec)?;
        let configuration = place.join("runtime.toml");
        let text = text.ok_or("it is driven by no file of its own")?;
        directories::write_atomically(&configuration, text.as_bytes(), 0o600)
            .map_err(|error| told(&error))?;
        let around = driver.around(plan).ok_or("nothing limits what it starts")?;
        surround(cgroups, &plan.cgroup, &around).map_err(|error| told(&error))?;

        let stdio = Stdio { stdin: place.join("stdin"), stdout: place.join("stdout") };
        for path in [&stdio.stdin, &stdio.stdout] {
            fifo::make(path).map_err(|error| told(&error))?;
        }
        let mut channel = Channel {
            receiver: fifo::open_receiver(&stdio.stdout).map_err(|error| told(&error))?,
            sender: fifo::open_sender(&stdio.stdin).map_err(|error| told(&error))?,
        };
        let handler = driver.handler(settings, &configuration);
        let pid =
            engine.create(&plan.id, &spec, &handler, &stdio).await.map_err(|error| told(&error))?;
        engine.start(&plan.id).await.map_err(|error| told(&error))?;
        // The time of all of it is bounded by who asks.
        let patience = Duration::from_secs(600);
        let said = channel.waiting(patience).await.map_err(|error| told(&error))?;
        let report = channel.report(patience).await.map_err(|error| told(&error))?;
        self.prove(pid, &configuration, &report, said.let_through.as_deref())
    }

    fn prove(
        &self,
        pid: u32,
        configuration: &Path,
        report: &adrastea_init::report::Report,
        let_through: Option<&[String]>,
    ) -> Result<(), String> {
        let Self { driver, plan, cgroups, .. } = self;
        let base = spec::base(plan).map_err(|error| chain(&error))?;
        confinement::separate_cores(pid).map_err(|error| chain(&error))?;
        machine::end_early(plan, &base, cgroups).map_err(|error| chain(&error))?;
        let seen =
            observe_machine(configuration, plan, pid, cgroups).map_err(|error| chain(&error))?;
        let mut broken = proof::broken_walls_of_machine(&seen, Some(report), *driver, plan, &base);
        broken.extend(proof::broken_filter(let_through));
        if broken.is_empty() {
            return Ok(());
        }
        Err(format!("a promised wall does not stand: {}", broken.join("; ")))
    }
}
