//! The pool as the wire has it.

use std::collections::HashMap;

use adrastea_proto::v1;
use tonic::Status;

use crate::launch::pool::PoolState;

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn describe(state: PoolState) -> v1::ProfilePool {
    let waiting = state.slots.into_iter().map(|slot| v1::WaitingSandbox {
        sandbox_id: slot.id,
        age_ms: milliseconds(slot.age),
        memory_bytes: slot.memory_bytes,
        cpu_ms: milliseconds(slot.cpu),
        proportional_memory_bytes: None,
    });
    v1::ProfilePool {
        profile: state.profile,
        minimum: state.minimum,
        maximum: state.maximum,
        target: state.target,
        waiting: waiting.collect(),
        hits: state.counts.hits,
        misses: state.counts.misses,
        failures: state.counts.failures,
        drained: state.drained,
        problem: state.aside.unwrap_or_default(),
    }
}

/// What the processes of each use for themselves; of one that was taken meanwhile nothing is told.
pub fn add_memory(profiles: &mut [v1::ProfilePool], memory: &HashMap<String, u64>) {
    for slot in profiles.iter_mut().flat_map(|profile| &mut profile.waiting) {
        slot.proportional_memory_bytes = memory.get(&slot.sandbox_id).copied();
    }
}

/// The profile that is meant; none for all.
pub fn one(profile: &str) -> Option<&str> {
    Some(profile).filter(|profile| !profile.is_empty())
}

pub fn absent() -> Status {
    Status::not_found("no profile of this name has a pool")
}
