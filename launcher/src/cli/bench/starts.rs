//! Starts one after the other, each until its first cell, and their stops: cold ones, and those
//! that find a sandbox waiting.

use std::{collections::BTreeMap, time::Instant};

use adrastea_proto::v1;

use super::{
    node::{Node, Started, milliseconds},
    over,
    progress::Progress,
    waiting::{self, Pool},
};
use crate::bench::{
    report::{COLD, Failures, Plan, Starts, Step, WARM},
    statistics::Spread,
};
use crate::launch::failure::chain;

#[derive(Default)]
struct Measured {
    totals: Vec<f64>,
    first_cells: Vec<f64>,
    /// Why there is no first cell; it is not tried again then.
    no_cell: Option<String>,
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

/// In the quick mode a first cell is measured in so many rounds: a kernel takes as long as a start.
const QUICK_CELLS: usize = 3;

/// For each runtime of the node, in its order.
pub async fn measure(
    node: &Node,
    pools: &[Option<Pool>],
    plan: &Plan,
    deadline: Option<Instant>,
    progress: &Progress,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<BTreeMap<&'static str, Starts>>> {
    progress.part("starts");
    let rounds = plan.rounds;
    let cells = if plan.quick { QUICK_CELLS } else { rounds };
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
            one(node, runtime, warm, &mut measured[number], round > 0, round <= cells).await?;
            progress.done();
        }
    }
    let mut each: Vec<BTreeMap<_, _>> = pools.iter().map(|_| BTreeMap::new()).collect();
    for ((place, warm), measured) in turns.into_iter().zip(measured) {
        if let Some(why) = &measured.no_cell {
            let runtime = &node.runtimes[place];
            left_out.push(format!("first cell, {runtime}, {}: {why}", kind(warm)));
        }
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
    wants_cell: bool,
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
    let mut cell = None;
    if wants_cell && measured.no_cell.is_none() {
        match first_cell(node, &key, &started).await {
            Ok(ms) => cell = Some(ms),
            Err(error) => measured.no_cell = Some(chain(error.as_ref())),
        }
    }
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
    measured.first_cells.extend(cell);
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

/// Milliseconds from the start's call until `1 + 1` was answered in a kernel of its server.
async fn first_cell(node: &Node, key: &v1::ServerKey, started: &Started) -> anyhow::Result<f64> {
    let notebook = node.notebook(key, started)?;
    let kernel = notebook.first_cell().await?;
    let taken = milliseconds(started.since);
    notebook.end(kernel).await?;
    Ok(taken)
}

impl Measured {
    fn summed_up(self) -> Starts {
        let step =
            |(step, values): (String, Vec<f64>)| Some(Step { step, ms: Spread::of(&values)? });
        Starts {
            total_ms: Spread::of(&self.totals),
            first_cell_ms: Spread::of(&self.first_cells),
            stop_ms: Spread::of(&self.stops),
            steps: self.steps.into_iter().filter_map(step).collect(),
            misses: self.misses,
            failures: self.failures,
        }
    }
}
