//! Starts one after the other, and their stops: cold ones, and those that find a sandbox waiting.

use std::{collections::BTreeMap, time::Instant};

use super::{
    node::Node,
    over,
    progress::Progress,
    waiting::{self, Pool},
};
use crate::bench::{
    report::{COLD, Failures, Starts, Step, WARM},
    statistics::Spread,
};

#[derive(Default)]
struct Measured {
    totals: Vec<f64>,
    stops: Vec<f64>,
    /// In the order of the launcher.
    steps: Vec<(String, Vec<f64>)>,
    misses: usize,
    failures: Failures,
}

/// What takes its turn in each round: a runtime by its place, and its pool for warm starts.
pub fn turns(pools: &[Option<Pool>]) -> Vec<(usize, Option<&Pool>)> {
    let warm =
        pools.iter().enumerate().filter_map(|(place, pool)| Some((place, Some(pool.as_ref()?))));
    (0..pools.len()).map(|place| (place, None)).chain(warm).collect()
}

pub fn kind(warm: Option<&Pool>) -> &'static str {
    if warm.is_some() { WARM } else { COLD }
}

/// For each runtime of the node, in its order.
pub async fn measure(
    node: &Node,
    pools: &[Option<Pool>],
    rounds: usize,
    deadline: Option<Instant>,
    progress: &Progress,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<BTreeMap<&'static str, Starts>>> {
    progress.part("starts");
    let turns = turns(pools);
    let mut measured: Vec<Measured> = turns.iter().map(|_| Measured::default()).collect();
    // The first start of all fills caches: it is not counted, unless it fails.
    for round in 0..=rounds {
        if round > 1 && over(deadline) {
            left_out.push(format!(
                "rounds of starts: {} of {rounds}, for want of time",
                rounds + 1 - round
            ));
            break;
        }
        for turn in 0..turns.len() {
            // Another one begins each round.
            let number = (turn + round) % turns.len();
            let (place, warm) = turns[number];
            let runtime = &node.runtimes[place];
            progress.doing(format!("{} start {round} of {rounds}, {runtime}", kind(warm)));
            waiting::settled(node, pools).await?;
            one(node, runtime, warm, &mut measured[number], round > 0).await?;
            progress.done();
        }
    }
    let mut each: Vec<BTreeMap<_, _>> = pools.iter().map(|_| BTreeMap::new()).collect();
    for ((place, warm), measured) in turns.into_iter().zip(measured) {
        each[place].insert(kind(warm), measured.summed_up());
    }
    Ok(each)
}

async fn one(
    node: &Node,
    runtime: &str,
    warm: Option<&Pool>,
    measured: &mut Measured,
    counts: bool,
) -> anyhow::Result<()> {
    let key = node.key(runtime, 1);
    let before = match warm {
        Some(pool) => Some((pool, pool.before(node).await?)),
        None => None,
    };
    let started = match node.start(runtime, warm, key.clone()).await? {
        Ok(started) => started,
        Err(reason) => {
            measured.failures.add(reason);
            return Ok(());
        }
    };
    let sandbox = node.get(key.clone()).await?;
    let is_of_its_kind = match &before {
        Some((pool, before)) => {
            before.took(&sandbox) && pool.failed_since(node, before).await? == 0
        }
        None => waiting::was_made(&sandbox),
    };
    let stopped = node.stop(key).await?;
    if !counts {
        return Ok(());
    }
    if !is_of_its_kind {
        measured.misses += 1;
        return Ok(());
    }
    measured.totals.push(started.ms);
    measured.stops.push(stopped);
    for step in sandbox.steps {
        #[allow(clippy::cast_precision_loss)] // a start does not take ages
        let ms = step.microseconds as f64 / 1000.0;
        match measured.steps.iter_mut().find(|(name, _)| *name == step.step) {
            Some((_, values)) => values.push(ms),
            None => measured.steps.push((step.step, vec![ms])),
        }
    }
    Ok(())
}

impl Measured {
    fn summed_up(self) -> Starts {
        let step =
            |(step, values): (String, Vec<f64>)| Some(Step { step, ms: Spread::of(&values)? });
        Starts {
            total_ms: Spread::of(&self.totals),
            stop_ms: Spread::of(&self.stops),
            steps: self.steps.into_iter().filter_map(step).collect(),
            misses: self.misses,
            failures: self.failures,
        }
    }
}
