//! Many starts at once; and, when all answer, what they take while they are idle.

use std::time::{Duration, Instant};

use super::{machine, memory, node::Node, over, progress::Progress};
use crate::{
    bench::{
        report::{Failures, Memory, MemoryPoint, Plan, Storm},
        statistics::{Spread, rounded},
    },
    config::Config,
};

/// What a server does after its first answer shall not count as idle.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Measured {
    storms: Vec<Storm>,
    points: Vec<MemoryPoint>,
}

/// For each runtime of the node, in its order.
pub async fn measure(
    config: &Config,
    node: &Node,
    plan: &Plan,
    deadline: Option<Instant>,
    progress: &Progress,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<(Vec<Storm>, Option<Memory>)>> {
    progress.part("many starts at once");
    let mut measured: Vec<Measured> = node.runtimes.iter().map(|_| Measured::default()).collect();
    for (number, size) in plan.storms.iter().enumerate() {
        for turn in 0..node.runtimes.len() {
            let place = (turn + number) % node.runtimes.len();
            let (runtime, measured) = (&node.runtimes[place], &mut measured[place]);
            progress.doing(format!("{size} at once, {runtime}"));
            let in_the_way = if number > 0 && over(deadline) {
                Some("for want of time".to_owned())
            } else {
                too_much(*size, &measured.points)
            };
            match in_the_way {
                Some(reason) => {
                    left_out.push(format!("{size} starts at once, {runtime}: {reason}"));
                }
                None => one(config, node, runtime, *size, measured).await?,
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

async fn one(
    config: &Config,
    node: &Node,
    runtime: &str,
    size: usize,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let since = Instant::now();
    let starts = (1..=size).map(|number| node.start(runtime, node.key(runtime, number)));
    let started = futures_util::future::try_join_all(starts).await?;
    let total_ms = since.elapsed().as_secs_f64() * 1000.0;
    let (mut failures, mut times, mut sandboxes) = (Failures::default(), Vec::new(), Vec::new());
    let mut longest_queue = 0;
    for outcome in started {
        match outcome {
            Ok(started) => {
                times.push(started.ms);
                sandboxes.push(started.sandbox_id);
                longest_queue = longest_queue.max(started.queue_place);
            }
            Err(reason) => failures.add(reason),
        }
    }
    if !sandboxes.is_empty() {
        tokio::time::sleep(SETTLE).await;
        measured.points.push(memory::of(config, &sandboxes)?);
    }
    measured.storms.push(Storm {
        at_once: size,
        total_ms: (!times.is_empty()).then(|| rounded(total_ms)),
        start_ms: Spread::of(&times),
        longest_queue,
        failures,
    });
    node.stop_all().await
}
