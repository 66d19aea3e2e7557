//! What the launcher counts, by the names that operators know.
//!
//! The only place that names a metric; every name is explained in
//! `docs/operate.md`. Counting must never fail, wait, or hold anything of a user:
//! labels are words of ours or of the configuration, never a user's name, an id or
//! a path, so that nobody who calls can make their number grow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use prost::Message as _;

const STARTS: &str = "adrastea_starts_total";
const START_SECONDS: &str = "adrastea_start_seconds";
const STEP_SECONDS: &str = "adrastea_start_step_seconds";
const ENDS: &str = "adrastea_ends_total";
const RPCS: &str = "adrastea_rpcs_total";
const RPC_SECONDS: &str = "adrastea_rpc_seconds";
const RECONCILE_ACTIONS: &str = "adrastea_reconcile_actions_total";
const SANDBOXES: &str = "adrastea_sandboxes";
const POOL_CLAIMS: &str = "adrastea_pool_claims_total";
const POOL_SLOTS: &str = "adrastea_pool_slots";
const POOL_MEMORY: &str = "adrastea_pool_memory_bytes";
const POOL_AGE_SECONDS: &str = "adrastea_pool_age_seconds";
const POOL_FILL_SECONDS: &str = "adrastea_pool_fill_seconds";
const POOL_TRIED: &str = "adrastea_pool_trial_passed";

/// Upper bounds of the histograms: a step of a millisecond and a start of a minute are told apart.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// What a sandbox is counted by: phase, runtime, profile.
pub type Group = [String; 3];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
/// Groups that were told once: one that has emptied is told as 0.
static GROUPS: Mutex<BTreeSet<Group>> = Mutex::new(BTreeSet::new());

/// From now on what is counted is kept; before, and in tests without it, it is dropped.
pub fn install() {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .unwrap_or_default();
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        let _ = RECORDER.set(handle);
        describe_counter!(STARTS, "Starts that came to their end, by result.");
        describe_histogram!(START_SECONDS, Unit::Seconds, "From a start's entry to its end.");
        describe_histogram!(STEP_SECONDS, Unit::Seconds, "What each step of a start took.");
        describe_counter!(ENDS, "Servers that ended, by cause.");
        describe_counter!(
            RECONCILE_ACTIONS,
            "What reconciliation did about what it found, by kind of thing."
        );
        describe_counter!(RPCS, "Calls, by method and status.");
        describe_histogram!(RPC_SECONDS, Unit::Seconds, "From a call to the head of its answer.");
        describe_gauge!(SANDBOXES, "Sandboxes that are not gone.");
        describe_counter!(POOL_CLAIMS, "What the pool did for starts that could have had a slot.");
        describe_gauge!(POOL_SLOTS, "Slots that wait for a user.");
        describe_gauge!(POOL_MEMORY, Unit::Bytes, "What the waiting slots' control groups use.");
        describe_histogram!(
            POOL_AGE_SECONDS,
            Unit::Seconds,
            "How long a slot waited for its user."
        );
        describe_gauge!(
            POOL_TRIED,
            "Whether a home that was attached late was as it must be; if not, no sandbox waits."
        );
        describe_histogram!(POOL_FILL_SECONDS, Unit::Seconds, "What making a slot took.");
    }
}

/// Everything counted so far, in Prometheus' text format; `sandboxes` are those of now.
pub fn render(sandboxes: &BTreeMap<Group, usize>) -> String {
    {
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        groups.extend(sandboxes.keys().cloned());
        for group in &*groups {
            let [phase, runtime, profile] = group.clone();
            let count = sandboxes.get(group).copied().unwrap_or_default();
            #[allow(clippy::cast_precision_loss)] // no node has so many
            gauge!(SANDBOXES, "phase" => phase, "runtime" => runtime, "profile" => profile)
                .set(count as f64);
        }
    }
    RECORDER
        .get()
        .map(|handle| {
            handle.run_upkeep();
            handle.render()
        })
        .unwrap_or_default()
}

/// A start came to its end: `ready`, or a reason of failure.
pub fn started(result: &str, runtime: &str, took: Duration) {
    let (result, runtime) = (word(result, "FAILURE_REASON_"), runtime.to_owned());
    counter!(STARTS, "result" => result.clone(), "runtime" => runtime.clone()).increment(1);
    histogram!(START_SECONDS, "result" => result, "runtime" => runtime).record(took);
}

/// A step of a start was done.
pub fn stepped(step: &'static str, runtime: &str, took: Duration) {
    histogram!(STEP_SECONDS, "step" => step, "runtime" => runtime.to_owned()).record(took);
}

/// What the pool did for a start: `hit`, `empty`, `unfit`, or `failed` for a claim that did.
pub fn pool_claimed(result: &'static str, profile: &str) {
    counter!(POOL_CLAIMS, "result" => result, "profile" => profile.to_owned()).increment(1);
}

/// A slot has found its user.
pub fn pool_aged(profile: &str, waited: Duration) {
    histogram!(POOL_AGE_SECONDS, "profile" => profile.to_owned()).record(waited);
}

/// A slot was made.
pub fn pool_made(profile: &str, took: Duration) {
    histogram!(POOL_FILL_SECONDS, "profile" => profile.to_owned()).record(took);
}

/// Whether homes can be attached late under this runtime.
pub fn pool_tried(runtime: &str, passed: bool) {
    gauge!(POOL_TRIED, "runtime" => runtime.to_owned()).set(f64::from(u8::from(passed)));
}

/// The slots that wait now.
pub fn pool_waits(profile: &str, count: usize, memory_bytes: u64) {
    #[allow(clippy::cast_precision_loss)] // no node has so many
    let (count, memory) = (count as f64, memory_bytes as f64);
    gauge!(POOL_SLOTS, "profile" => profile.to_owned()).set(count);
    gauge!(POOL_MEMORY, "profile" => profile.to_owned()).set(memory);
}

/// A call, named as in `Launcher.Start`, has its answer. Whoever calls chooses the
/// name: one that is not ours is counted as `other`.
pub fn called(method: &str, code: &str, took: Duration) {
    static METHODS: OnceLock<BTreeSet<String>> = OnceLock::new();
    let known = METHODS.get_or_init(methods);
    let method = known.get(method).cloned().unwrap_or_else(|| "other".into());
    counter!(RPCS, "method" => method.clone(), "code" => code.to_owned()).increment(1);
    histogram!(RPC_SECONDS, "method" => method).record(took);
}

/// Every method of the contract.
fn methods() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(adrastea_proto::DESCRIPTOR);
    let services = set.unwrap_or_default().file.into_iter().flat_map(|file| file.service);
    services
        .flat_map(|service| {
            let name = service.name().to_owned();
            service
                .method
                .into_iter()
                .map(move |method| format!("{name}.{}", method.name()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A server ended.
pub fn ended(cause: &str) {
    counter!(ENDS, "cause" => word(cause, "EXIT_CAUSE_")).increment(1);
}

/// Reconciliation `adopted`, `removed`, or `failed` to remove something.
pub fn reconciled(action: &'static str, kind: &'static str) {
    counter!(RECONCILE_ACTIONS, "action" => action, "kind" => kind).increment(1);
}

/// The wire's name of a value as a label: without its prefix, in small letters.
pub fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered() {
        install();
        let took = Duration::from_millis(30);
        started("ready", "runc", took);
        started("FAILURE_REASON_TIMEOUT", "runc", took);
        stepped("prove", "runc", took);
        ended("EXIT_CAUSE_OUT_OF_MEMORY");
        reconciled("removed", "log");
        called("Launcher.Start", "Ok", took);
        called("Launcher.Start\n", "Unimplemented", took);
        called("whatever/I.like", "Unimplemented", took);
        let _ = render(&BTreeMap::from([(["ready", "runc", "lab"].map(str::to_owned), 2)]));
        let text = render(&BTreeMap::from([(["stopping", "runc", "lab"].map(str::to_owned), 2)]));
        for line in [
            "adrastea_starts_total{result=\"ready\",runtime=\"runc\"} 1",
            "adrastea_starts_total{result=\"timeout\",runtime=\"runc\"} 1",
            "adrastea_start_seconds_bucket{result=\"ready\",runtime=\"runc\",le=\"0.025\"} 0",
            "adrastea_start_seconds_bucket{result=\"ready\",runtime=\"runc\",le=\"0.05\"} 1",
            "adrastea_start_step_seconds_count{step=\"prove\",runtime=\"runc\"} 1",
            "adrastea_ends_total{cause=\"out_of_memory\"} 1",
            "adrastea_reconcile_actions_total{action=\"removed\",kind=\"log\"} 1",
            "adrastea_rpcs_total{method=\"Launcher.Start\",code=\"Ok\"} 1",
            "adrastea_rpcs_total{method=\"other\",code=\"Unimplemented\"} 2",
            "adrastea_sandboxes{phase=\"stopping\",runtime=\"runc\",profile=\"lab\"} 2",
            "adrastea_sandboxes{phase=\"ready\",runtime=\"runc\",profile=\"lab\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in:\n{text}");
        }
    }

    #[test]
    fn every_method_of_the_contract_has_a_name_of_its_own() {
        let methods = methods();
        assert!(
            methods.contains("Launcher.Watch") && methods.contains("Admin.Drain"),
            "{methods:?}"
        );
    }
}
