//! `adrastea bench`: measures this node's runtimes through its running launcher, as
//! a hub would use it. Every runtime that the profile offers takes its turn in each
//! round, so that all see the same load.
//!
//! It must judge nothing, and leave no server behind, however it ends.

mod ending;
mod hub;
mod inside;
mod machine;
mod memory;
mod network;
mod node;
mod notebook;
mod progress;
mod starts;
mod storms;
mod waiting;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use nix::unistd::geteuid;

use crate::{
    bench::{
        report::{self, Plan, Report, RuntimeReport},
        write,
    },
    config::Config,
    say::say,
};
use node::Node;
use progress::Progress;

#[derive(clap::Args)]
pub struct Options {
    /// A few rounds: at most about five minutes on two cores.
    #[arg(long)]
    quick: bool,
    /// Where the report goes; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "adrastea-bench")]
    output: PathBuf,
    /// Default: the first one that a user of the benchmark may use.
    #[arg(long, default_value = "")]
    profile: String,
    /// Only this runtime of the profile; may be given again.
    #[arg(long = "runtime", value_name = "NAME")]
    runtimes: Vec<String>,
    /// Starts one after the other, for each runtime. Default: 30, quick: 5.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Starts at once. Default: 1,5,10,20,50, quick: 1,5,10.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=200))]
    storms: Option<Vec<u32>>,
    /// Rounds of measuring inside; 0 leaves it out. Default: 7, quick: 3.
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(0..=100))]
    inside: Option<u32>,
    /// What names of the benchmark's users begin with; policy must let them use the profile.
    #[arg(long, value_name = "TEXT", default_value = "bench-")]
    user_prefix: String,
}

impl Options {
    fn plan(&self) -> Plan {
        let or = |asked: Option<u32>, full: usize, quick: usize| {
            asked.map_or(if self.quick { quick } else { full }, |asked| asked as usize)
        };
        let usual: &[u32] = if self.quick { &[1, 5, 10] } else { &[1, 5, 10, 20, 50] };
        let mut storms: Vec<usize> =
            self.storms.as_deref().unwrap_or(usual).iter().map(|size| *size as usize).collect();
        storms.sort_unstable();
        storms.dedup();
        Plan {
            quick: self.quick,
            rounds: or(self.rounds, 30, 5),
            storms,
            inside_rounds: or(self.inside, 7, 3),
        }
    }
}

/// Until when new rounds may begin: about five minutes for all of it in the quick mode, half an
/// hour in the full one. What was asked for by number takes in the full mode what it takes.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    starts: Option<Instant>,
    storms: Option<Instant>,
    inside: Option<Instant>,
}

impl Deadlines {
    fn new(options: &Options) -> Self {
        let now = Instant::now();
        let after = |quick: u64, full: u64, by_number: bool| {
            let bounded = options.quick || !by_number;
            let seconds = if options.quick { quick } else { full };
            bounded.then(|| now + Duration::from_secs(seconds))
        };
        Self {
            starts: after(105, 11 * 60, options.rounds.is_some()),
            storms: after(190, 19 * 60, options.storms.is_some()),
            inside: after(240, 26 * 60, options.inside.is_some()),
        }
    }
}

fn over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() > deadline)
}

pub async fn bench(path: &Path, options: Options) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, true)?;
    ensure!(
        geteuid().is_root(),
        "only root can run the benchmark: it looks at control groups and shims"
    );
    std::fs::create_dir_all(&options.output)
        .with_context(|| format!("failed to create `{}`", options.output.display()))?;
    let node = Node::connect(path, &config, &options).await?;
    // What an earlier benchmark left that was killed.
    node.stop_all().await?;
    let measured = tokio::select! {
        measured = measure(&config, &node, &options) => measured,
        () = ending::asked_to_end() => Err(anyhow::anyhow!("interrupted; nothing was written")),
    };
    // Also after an error: whoever asked must not find servers that nobody stops.
    let stopped = node.stop_all().await;
    let report = measured?;
    stopped?;
    write(&report, &options.output)?;
    if options.runtimes.is_empty() {
        remember(&config, &options.output)?;
    }
    say!("{}", options.output.join("report.md").display());
    let failures = report.failures();
    if failures > 0 {
        eprintln!("adrastea: {failures} starts failed; the report says why");
    }
    let measured = report
        .runtimes
        .iter()
        .any(|runtime| runtime.starts.values().any(|starts| starts.total_ms.is_some()));
    Ok(if measured { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the launcher reads for the hints of the start form.
fn remember(config: &Config, output: &Path) -> anyhow::Result<()> {
    let (kept, half) = (config.bench_report(), config.bench_report().with_extension("new"));
    std::fs::copy(output.join("report.json"), &half)
        .and_then(|_| std::fs::rename(&half, &kept))
        .with_context(|| format!("failed to write `{}`", kept.display()))
}

async fn measure(config: &Config, node: &Node, options: &Options) -> anyhow::Result<Report> {
    let plan = options.plan();
    let (since, deadlines) = (Instant::now(), Deadlines::new(options));
    let made_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut machine = machine::facts(config).await;
    let _hub = hub::StandIn::unless_there_is_one(node.hub, node.guests.clone()).await?;
    let runtimes = &node.runtimes;
    let mut left_out = Vec::new();
    let mut pools = Vec::new();
    for runtime in runtimes {
        let pool = waiting::of(node, config, runtime).await?;
        pools
            .push(pool.map_err(|why| left_out.push(format!("warm starts, {runtime}: {why}"))).ok());
    }
    let turns = starts::turns(&pools).len();
    let steps = (plan.rounds + 1 + plan.storms.len()) * turns + plan.inside_rounds * runtimes.len();
    let progress = Progress::new(steps);

    let until = deadlines.starts;
    let starts = starts::measure(node, &pools, &plan, until, &progress, &mut left_out).await?;
    let until = deadlines.storms;
    let storms =
        storms::measure(config, node, &pools, &plan, until, &progress, &mut left_out).await?;
    waiting::settled(node, &pools).await?;
    let inside = inside::measure(node, &plan, deadlines.inside, &progress, &mut left_out).await?;
    progress.finish();

    machine.load_after = machine::load();
    let parts = starts.into_iter().zip(storms).zip(inside);
    let each = runtimes.iter().zip(parts).map(|(runtime, ((starts, (storms, memory)), inside))| {
        RuntimeReport {
            runtime: runtime.clone(),
            version: machine::runtime_version(config, runtime),
            starts,
            storms,
            memory,
            inside,
        }
    });
    Ok(Report {
        schema: report::SCHEMA,
        made_at,
        seconds: crate::bench::statistics::rounded(since.elapsed().as_secs_f64()),
        runtimes: each.collect(),
        machine,
        profile: node.facts(),
        plan,
        left_out,
    })
}
