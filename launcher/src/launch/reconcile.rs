//! Brings the launcher's memory and the host together: at boot, and every
//! minute after. Lives are adopted; what nobody owns is removed; every action
//! is logged.
//!
//! Must never remove anything while it does not know what lives: if the engine
//! does not answer, nothing is done.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use adrastea_proto::v1::{ExitCause, Phase};
use adrastea_runtimes::engine::TaskState;
use tokio::sync::broadcast;

use super::{
    Launcher,
    entry::Entry,
    failure::{Failure, chain},
    keeper,
    keeper::Origin,
    lock,
    sandbox::Sandbox,
};
use crate::{
    host::fifo,
    store::{ExitRecord, SandboxRecord, SandboxState},
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
                    done.adopted += 1;
                }
                (SandboxState::Gone, _) if steps.is_empty() && !record.holds_leases() => {
                    self.enter(record, Phase::Gone);
                }
                (before, _) => {
                    let exit = record.exit.clone().unwrap_or_else(|| interrupted(before));
                    let entry = self.enter(record, Phase::Stopping);
                    tracing::info!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, message = exit.message, "removing what is left");
                    keeper::remove_leftover(self, &entry, exit).await;
                    done.removed += 1;
                }
            }
        }
        done.orphans = self.sweep().await?;
        Ok(done)
    }

    fn enter(self: &Arc<Self>, record: SandboxRecord, phase: Phase) -> Arc<Entry> {
        let key = record.key.clone();
        let address = (self.address)(&self.config, record.address_index);
        let sandbox = Sandbox::new(record, address, &self.layout);
        let entry = Arc::new(Entry::new(
            sandbox,
            self.config.network.server_port,
            phase,
            self.feed.clone(),
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

    /// Removes what carries our names and nobody owns, and retries what could not be undone.
    pub async fn sweep(self: &Arc<Self>) -> Result<u32, Failure> {
        let _alone = self.sweeping.lock().await;
        // First what exists, then who owns: a sandbox born in between is in the second list only.
        let present = self.engine.list().await?;
        let on_host = self.ground.present().await?;
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
        let mut count = 0;
        for orphan in present.iter().filter(|found| !known.contains(&found.id)) {
            let Ok(id) = orphan.id.parse() else { continue };
            tracing::warn!(sandbox = orphan.id, "removing a container that nobody owns");
            match self.engine.delete(&id).await {
                Ok(()) => count += 1,
                Err(error) => tracing::error!(
                    sandbox = orphan.id,
                    error = chain(&error),
                    "failed to remove a container that nobody owns"
                ),
            }
        }
        for orphan in on_host.iter().filter(|id| !known.contains(id.as_str())) {
            tracing::warn!(sandbox = %orphan, "removing what nobody owns");
            match self.ground.remove_all_of(orphan).await {
                Ok(()) => count += 1,
                Err(failure) => {
                    tracing::error!(sandbox = %orphan, message = failure.message, "failed to remove what nobody owns");
                }
            }
        }
        for record in records {
            let leftover = record.state == SandboxState::Gone && known.contains(record.id.as_str());
            let kept = lock(&self.registry)
                .get(&record.key)
                .is_some_and(|entry| entry.sandbox.record.id == record.id && !entry.is_gone());
            if leftover && !kept {
                let exit = record.exit.clone().unwrap_or_else(|| interrupted(record.state));
                let address = (self.address)(&self.config, record.address_index);
                let sandbox = Sandbox::new(record, address, &self.layout);
                // A feed of its own: its end was told long ago, and a newer server of this key may run.
                let feed = broadcast::Sender::new(1);
                let entry = Arc::new(Entry::new(
                    sandbox,
                    self.config.network.server_port,
                    Phase::Stopping,
                    feed,
                ));
                keeper::remove_leftover(self, &entry, exit).await;
                count += 1;
            }
        }
        Ok(count)
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
