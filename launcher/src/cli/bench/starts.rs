//! Starts one after the other, and their stops.

use std::time::Instant;

use super::{node::Node, over, progress::Progress};
use crate::bench::{
    report::{Failures, Starts, Step},
    statistics::Spread,
};

#[derive(Default)]
struct Measured {
    totals: Vec<f64>,
    stops: Vec<f64>,
    /// In the order of the launcher.
    steps: Vec<(String, Vec<f64>)>,
    failures: Failures,
}

/// For each runtime of the node, in its order.
pub async fn measure(
    node: &Node,
    rounds: usize,
    deadline: Option<Instant>,
    progress: &Progress,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<Starts>> {
    progress.part("starts");
    let mut measured: Vec<Measured> = node.runtimes.iter().map(|_| Measured::default()).collect();
    // The first start of all fills caches: it is not counted, unless it fails.
    for round in 0..=rounds {
        if round > 1 && over(deadline) {
            left_out.push(format!(
                "rounds of starts: {} of {rounds}, for want of time",
                rounds + 1 - round
            ));
            break;
        }
        for turn in 0..node.runtimes.len() {
            // Another one begins each round.
            let place = (turn + round) % node.runtimes.len();
            let runtime = &node.runtimes[place];
            progress.doing(format!("start {round} of {rounds}, {runtime}"));
            one(node, runtime, &mut measured[place], round > 0).await?;
            progress.done();
        }
    }
    Ok(measured.into_iter().map(Measured::summed_up).collect())
}

async fn one(
    node: &Node,
    runtime: &str,
    measured: &mut Measured,
    counts: bool,
) -> anyhow::Result<()> {
    let key = node.key(runtime, 1);
    let started = match node.start(runtime, key.clone()).await? {
        Ok(started) => started,
        Err(reason) => {
            measured.failures.add(reason);
            return Ok(());
        }
    };
    let steps = node.get(key.clone()).await?.steps;
    let stopped = node.stop(key).await?;
    if !counts {
        return Ok(());
    }
    measured.totals.push(started.ms);
    measured.stops.push(stopped);
    for step in steps {
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
            failures: self.failures,
        }
    }
}
