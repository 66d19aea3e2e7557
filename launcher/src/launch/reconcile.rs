//! Brings the launcher's memory and the host together: at boot, and every
//! minute after. Lives are adopted; what nobody owns is removed; every action
//! is logged and counted.
//!
//! Must never remove anything while it does not know what lives: if the engine
//! does not answer, nothing is done.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use adrastea_proto::v1::{ExitCause, Phase};
use adrastea_runtimes::{engine::TaskState, plan::SandboxId};

use super::{
    Launcher,
    entry::Entry,
    failure::{Failure, chain},
    feed::Feed,
    keeper,
    keeper::Origin,
    lock,
    sandbox::Sandbox,
    traces::{Trace, Traces, names},
};
use crate::{
    failpoint,
    host::fifo,
    store::{ExitRecord, SandboxRecord, SandboxState},
    telemetry,
};

/// What one reconciliation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub adopted: u32,
    pub removed: u32,
    pub orphans: u32,
}

impl Launcher {
    /// At boot: adopts every sandbox that runs, removes what is left of the others.
    pub async fn reconcile(self: &Arc<Self>) -> Result<Reconciled, Failure> {
        let present: HashMap<_, _> =
            self.engine.list().await?.into_iter().map(|found| (found.id.clone(), found)).collect();
        let mut done = Reconciled::default();
        for record in self.store.sandboxes(self.pools.first_run_id)? {
            let state =
                present.get(record.id.as_str()).map_or(TaskState::None, |found| found.state);
            let pid = present.get(record.id.as_str()).map_or(0, |found| found.pid);
            let steps = self.store.steps(&record.id)?;
            match (record.state, state) {
                (SandboxState::Running, TaskState::Running) => {
                    let entry = self.enter(record, Phase::Ready);
                    entry.set_pid(pid);
                    match fifo::open_receiver(&entry.sandbox.stdout()) {
                        Ok(receiver) => self.pump_log(&entry, receiver),
                        Err(error) => {
                            tracing::warn!(sandbox = %entry.sandbox.id(), error = chain(&error), "failed to reopen the log's channel");
                        }
                    }
                    tracing::info!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, "adopted");
                    self.watch_task(&entry);
                    tokio::spawn(keeper::keep(Arc::clone(self), entry, Origin::Adopted));
                    telemetry::reconciled("adopted", Trace::Task.name());
                    done.adopted += 1;
                    failpoint::hit("reconcile", "adopted");
                }
                (SandboxState::Gone, _) if steps.is_empty() && !record.holds_leases() => {
                    if !record.key.is_slot() {
                        self.enter(record, Phase::Gone);
                    }
                }
                // What waited for its user waits for nobody any more: a new one is made.
                (SandboxState::Starting, _) if record.key.is_slot() => {
                    let exit = interrupted(record.state);
                    let entry = self.apart(record);
                    tracing::info!(sandbox = %entry.sandbox.id(), "removing a slot that waited");
                    keeper::remove_slot(self, &entry, exit).await;
                    telemetry::reconciled("removed", Trace::Journal.name());
                    done.removed += 1;
                    failpoint::hit("reconcile", "slot");
                }
                (_, _) if record.key.is_slot() => {
                    let exit = record.exit.clone().unwrap_or_else(|| interrupted(record.state));
                    keeper::remove_slot(self, &self.apart(record), exit).await;
                }
                (before, _) => {
                    let exit = record.exit.clone().unwrap_or_else(|| interrupted(before));
                    let entry = self.enter(record, Phase::Stopping);
                    tracing::info!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, message = exit.message, "removing what is left");
                    keeper::remove_leftover(self, &entry, exit).await;
                    telemetry::reconciled("removed", Trace::Journal.name());
                    done.removed += 1;
                    failpoint::hit("reconcile", "removed");
                }
            }
        }
        done.orphans = self.sweep().await?;
        Ok(done)
    }

    fn enter(self: &Arc<Self>, record: SandboxRecord, phase: Phase) -> Arc<Entry> {
        let key = record.key.clone();
        let address = (self.address)(&self.config(), record.address_index);
        let sandbox = Sandbox::new(record, address, &self.layout);
        let entry = Arc::new(Entry::new(
            sandbox,
            self.config().network.server_port,
            phase,
            Arc::clone(&self.feed),
        ));
        let mut registry = lock(&self.registry);
        // Rows come in the order of generations; a live one is never hidden behind one that is gone.
        let hidden =
            registry.get(&key).is_some_and(|present| !present.is_gone() && entry.is_gone());
        if !hidden {
            registry.insert(key, Arc::clone(&entry));
        }
        entry
    }

    /// An entry that nobody is told of, with a feed of its own.
    fn apart(&self, record: SandboxRecord) -> Arc<Entry> {
        let config = self.config();
        let address = (self.address)(&config, record.address_index);
        let sandbox = Sandbox::new(record, address, &self.layout);
        let feed = Arc::new(Feed::keeping(1));
        Arc::new(Entry::new(sandbox, config.network.server_port, Phase::Stopping, feed))
    }

    /// Removes what carries our names and nobody owns, and retries what could not be undone.
    pub async fn sweep(self: &Arc<Self>) -> Result<u32, Failure> {
        let _alone = self.sweeping.lock().await;
        self.settle()?;
        failpoint::hit("sweep", "begun");
        // First what exists, then who owns: a sandbox born in between is in the second list only.
        let present = self.traces().await?;
        let records = self.store.sandboxes(self.pools.first_run_id)?;
        let known: HashSet<String> = records
            .iter()
            .filter(|record| {
                record.state != SandboxState::Gone
                    || record.holds_leases()
                    || self.store.steps(&record.id).is_ok_and(|steps| !steps.is_empty())
            })
            .map(|record| record.id.to_string())
            .collect();
        let mut orphans = present.0;
        orphans.retain(|id, _| !known.contains(id.as_str()));
        if !orphans.is_empty() {
            // One that has just ended in order was there at the first look, and is not at a second.
            let still = self.traces().await?;
            orphans.retain(|id, _| still.0.contains_key(id));
        }
        let mut count = 0;
        for (orphan, found) in &orphans {
            tracing::warn!(sandbox = %orphan, found = names(found), "removing what nobody owns");
            let result = self.remove_orphan(orphan, found).await;
            let action = if result.is_ok() { "removed" } else { "failed" };
            for trace in found {
                telemetry::reconciled(action, trace.name());
            }
            match result {
                Ok(()) => count += 1,
                Err(failure) => {
                    tracing::error!(sandbox = %orphan, message = failure.message, "failed to remove what nobody owns");
                }
            }
        }
        match self.engine.tidy().await {
            Ok(removed) => {
                for leftover in removed {
                    tracing::warn!(
                        kind = leftover.kind,
                        name = leftover.name,
                        "removed what an import left in containerd"
                    );
                    telemetry::reconciled("removed", leftover.kind);
                    count += 1;
                }
            }
            Err(error) => tracing::error!(error = chain(&error), "failed to tidy up in containerd"),
        }
        for record in records {
            let leftover = record.state == SandboxState::Gone && known.contains(record.id.as_str());
            let kept = lock(&self.registry)
                .get(&record.key)
                .is_some_and(|entry| entry.sandbox.record.id == record.id && !entry.is_gone());
            if leftover && !kept {
                let exit = record.exit.clone().unwrap_or_else(|| interrupted(record.state));
                // Its end was told long ago, and a newer server of this key may run.
                let is_slot = record.key.is_slot();
                let entry = self.apart(record);
                tracing::warn!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, "undoing what could not be undone before");
                if is_slot {
                    keeper::remove_slot(self, &entry, exit).await;
                } else {
                    keeper::remove_leftover(self, &entry, exit).await;
                }
                telemetry::reconciled("removed", Trace::Journal.name());
                count += 1;
            }
        }
        Ok(count)
    }

    /// Everything that exists of any sandbox, in the engine and on the host.
    async fn traces(&self) -> Result<Traces, Failure> {
        let mut traces = self.ground.present().await?;
        for found in self.engine.list().await? {
            let Ok(id) = found.id.parse() else { continue };
            let trace = match found.state {
                TaskState::None => Trace::Container,
                TaskState::Created | TaskState::Running | TaskState::Stopped => Trace::Task,
            };
            traces.add(trace, [id]);
        }
        Ok(traces)
    }

    async fn remove_orphan(&self, id: &SandboxId, found: &BTreeSet<Trace>) -> Result<(), Failure> {
        let deleted = if found.contains(&Trace::Container) || found.contains(&Trace::Task) {
            self.engine.delete(id).await.map_err(Failure::from)
        } else {
            Ok(())
        };
        // Whatever the engine says: what is on the host goes.
        let removed = self.ground.remove_all_of(id).await;
        failpoint::hit("sweep", "removed");
        deleted.and(removed)
    }
}

fn interrupted(before: SandboxState) -> ExitRecord {
    let (cause, message) = match before {
        SandboxState::Starting => {
            (ExitCause::FailedStart, "the launcher ended in the middle of the start")
        }
        SandboxState::Running | SandboxState::Gone => {
            (ExitCause::Lost, "it ended while the launcher was down; its exit code is lost")
        }
    };
    ExitRecord {
        cause: cause.into(),
        code: 1,
        signal: 0,
        message: message.into(),
        log_tail: String::new(),
    }
}
