//! Many starts at once, cold and with as many sandboxes that wait; and, when all of the cold ones
//! answer, what they take while they are idle.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    machine, memory,
    node::{Node, Started},
    over,
    progress::Progress,
    starts::{kind, turns},
    waiting::{self, Before, Pool},
};
use crate::{
    bench::{
        report::{Failures, Memory, MemoryPoint, Plan, Storm},
        statistics::{Spread, rounded},
    },
    config::Config,
};

/// What a server does after its first answer shall not count as idle.
const SETTLE: Duration = Duration::from_secs(2);

pub type OfRuntime = (BTreeMap<&'static str, Vec<Storm>>, Option<Memory>);

#[derive(Default)]
struct Measured {
    storms: BTreeMap<&'static str, Vec<Storm>>,
    points: Vec<MemoryPoint>,
}

/// For each runtime of the node, in its order.
pub async fn measure(
    config: &Config,
    node: &Node,
    pools: &[Option<Pool>],
    plan: &Plan,
    deadline: Option<Instant>,
    progress: &Progress,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<OfRuntime>> {
    progress.part("many starts at once");
    let mut measured: Vec<Measured> = node.runtimes.iter().map(|_| Measured::default()).collect();
    for (place, warm) in turns(pools) {
        measured[place].storms.insert(kind(warm), Vec::new());
    }
    let turns = turns(pools);
    for (number, size) in plan.storms.iter().enumerate() {
        for turn in 0..turns.len() {
            let (place, warm) = turns[(turn + number) % turns.len()];
            let (runtime, measured) = (&node.runtimes[place], &mut measured[place]);
            let what = format!("{size} at once, {}, {runtime}", kind(warm));
            progress.doing(what.clone());
            waiting::settled(node, pools).await?;
            let in_the_way = if number > 0 && over(deadline) {
                Some("for want of time".to_owned())
            } else {
                too_much(*size, &measured.points)
            };
            let done = match (in_the_way, warm) {
                (Some(reason), _) => Err(reason),
                (None, None) => cold(config, node, runtime, *size, measured).await.map(Ok)?,
                (None, Some(pool)) => hot(node, runtime, pool, *size).await?,
            };
            match done {
                Ok(storm) => measured.storms.entry(kind(warm)).or_default().push(storm),
                Err(reason) => left_out.push(format!("{what}: {reason}")),
            }
            progress.done();
        }
    }
    let each = measured.into_iter().map(|it| (it.storms, memory::summed_up(it.points)));
    Ok(each.collect())
}

/// Whether so many would need more memory than the node has, judged by those before.
fn too_much(size: usize, before: &[MemoryPoint]) -> Option<String> {
    let last = before.last()?;
    #[allow(clippy::cast_precision_loss)] // a handful of users
    let needed = (last.sandboxes_mib + last.shims_mib) / last.users as f64 * size as f64 * 1.5;
    let free = machine::free_memory_mib();
    (needed > free).then(|| {
        format!("it would need about {needed:.0} MiB of memory, and {free:.0} MiB are free")
    })
}

/// What came of so many starts.
struct Outcome {
    total_ms: f64,
    started: Vec<Started>,
    failures: Failures,
}

async fn all(
    node: &Node,
    runtime: &str,
    warm: Option<&Pool>,
    size: usize,
) -> anyhow::Result<Outcome> {
    let since = Instant::now();
    let starts = (1..=size).map(|number| node.start(runtime, warm, node.key(runtime, number)));
    let each = futures_util::future::try_join_all(starts).await?;
    let total_ms = since.elapsed().as_secs_f64() * 1000.0;
    let (mut failures, mut started) = (Failures::default(), Vec::new());
    for outcome in each {
        match outcome {
            Ok(one) => started.push(one),
            Err(reason) => failures.add(reason),
        }
    }
    Ok(Outcome { total_ms, started, failures })
}

impl Outcome {
    /// `of_kind`: the times of those starts that were what they were to be.
    fn storm(self, at_once: usize, of_kind: &[f64]) -> Storm {
        let misses = self.started.len() - of_kind.len();
        Storm {
            at_once,
            total_ms: (!of_kind.is_empty() && misses == 0).then(|| rounded(self.total_ms)),
            start_ms: Spread::of(of_kind),
            longest_queue: self.started.iter().map(|one| one.queue_place).max().unwrap_or(0),
            misses,
            failures: self.failures,
        }
    }
}

async fn cold(
    config: &Config,
    node: &Node,
    runtime: &str,
    size: usize,
    measured: &mut Measured,
) -> anyhow::Result<Storm> {
    let outcome = all(node, runtime, None, size).await?;
    if !outcome.started.is_empty() {
        tokio::time::sleep(SETTLE).await;
        let ids: Vec<String> = outcome.started.iter().map(|one| one.sandbox_id.clone()).collect();
        measured.points.push(memory::of(config, &ids)?);
    }
    node.stop_all().await?;
    let times: Vec<f64> = outcome.started.iter().map(|one| one.ms).collect();
    Ok(outcome.storm(size, &times))
}

/// With as many sandboxes waiting as start; else there is nothing to be measured.
async fn hot(
    node: &Node,
    runtime: &str,
    pool: &Pool,
    size: usize,
) -> anyhow::Result<Result<Storm, String>> {
    let before: Before = pool.before(node).await?;
    if before.ids.len() < size {
        let waiting = before.ids.len();
        return Ok(Err(format!("{waiting} wait, of profile `{}`", pool.profile)));
    }
    let outcome = all(node, runtime, Some(pool), size).await?;
    let (mut times, mut made_anew) = (Vec::new(), 0);
    for number in 1..=size {
        let sandbox = node.get(node.key(runtime, number)).await?;
        let started = outcome.started.iter().find(|one| one.sandbox_id == sandbox.sandbox_id);
        let Some(started) = started else { continue };
        if before.took(&sandbox) {
            times.push(started.ms);
        } else if before.ids.contains(&sandbox.sandbox_id) {
            made_anew += 1;
        }
    }
    let failed = pool.failed_since(node, &before).await?;
    node.stop_all().await?;
    // Which of them it was, nobody tells afterwards.
    if failed > made_anew {
        return Ok(Err(format!("{} servers loaded anew", failed - made_anew)));
    }
    Ok(Ok(outcome.storm(size, &times)))
}
