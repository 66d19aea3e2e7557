//! Many starts at once, and many one after another: nobody fails or starves,
//! everybody else is answered, and nothing grows.
//!
//! Short here; `make soak` sets `ADRASTEA_STORM` and `ADRASTEA_CYCLES` higher.

use std::{fs, path::Path, sync::Arc, time::Duration};

use adrastea_proto::v1::Phase;
use adrastea_tests::{
    Instance, Options, Suite,
    client::{Started, request},
};
use anyhow::{Context as _, ensure};
use tokio::{task::JoinSet, time::Instant};

/// Against hanging, not for speed: the figures are printed.
const BOUND: Duration = Duration::from_secs(20);
/// Cycles side by side.
const LANES: usize = 4;

/// A number from the environment, or the short form's.
pub fn number(name: &str, short: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

pub fn add(suite: &mut Suite) {
    let starts = number("ADRASTEA_STORM", 30);
    // A few beside the storm's own.
    let ranges = u32::try_from(starts + 20).unwrap_or(64).max(64);
    let options = Options { run_ranges: ranges, ..Options::default() };
    suite.own(
        "storms::nobody_fails_or_starves_and_nothing_grows",
        options,
        move |instance| async move {
            storm(&instance, starts).await?;
            instance.nothing_left(Duration::from_secs(10))?;
            cycles(&instance, number("ADRASTEA_CYCLES", 100)).await
        },
    );
}

/// What others wait for while the storm rages.
#[derive(Debug, Default)]
struct Longest {
    get: Duration,
    list: Duration,
    stop: Duration,
}

async fn storm(instance: &Arc<Instance>, starts: usize) -> anyhow::Result<()> {
    instance.start("bystander").await?;
    for number in 0..3 {
        instance.start(&format!("quitter-{number}")).await?;
    }
    let since = Instant::now();
    let mut storm = JoinSet::new();
    for number in 0..starts {
        let instance = Arc::clone(instance);
        storm.spawn(async move {
            let since = Instant::now();
            let started = instance.try_start(request(&format!("storm-{number}"))).await?;
            anyhow::Ok((started, since.elapsed()))
        });
    }
    let (others, done) = (Arc::clone(instance), tokio::sync::watch::Sender::new(false));
    let mut is_done = done.subscribe();
    let others = tokio::spawn(async move {
        let mut longest = Longest::default();
        for round in 0.. {
            if *is_done.borrow_and_update() {
                break;
            }
            let since = Instant::now();
            ensure!(others.get("bystander").await?.phase() == Phase::Ready);
            longest.get = longest.get.max(since.elapsed());
            let since = Instant::now();
            others.live().await?;
            longest.list = longest.list.max(since.elapsed());
            if round % 5 == 0 && round < 15 {
                let since = Instant::now();
                ensure!(others.stop(&format!("quitter-{}", round / 5), "").await?);
                longest.stop = longest.stop.max(since.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(longest)
    });

    let (mut times, mut told) = (Vec::new(), 0);
    while let Some(ended) = storm.join_next().await {
        let (started, took) = ended??;
        let Started::Ready(ready) = started else {
            anyhow::bail!("a start of the storm failed: {started:?}")
        };
        times.push(took);
        let queued: Vec<_> = ready.progress.iter().filter(|step| step.queue_place > 0).collect();
        told += usize::from(!queued.is_empty());
        ensure!(queued.iter().all(|step| step.message.starts_with("Waiting: ")), "{queued:?}");
        // Everybody has one server: nobody is overtaken.
        ensure!(queued.is_sorted_by(|one, next| one.queue_place > next.queue_place), "{queued:?}");
    }
    let whole = since.elapsed();
    done.send_replace(true);
    let longest = others.await??;
    times.sort_unstable();
    println!(
        "{starts} starts at once: all after {whole:?}, median {:?}, the last {:?}; meanwhile at most {longest:?}",
        times[times.len() / 2],
        times[times.len() - 1],
    );
    ensure!(told >= starts / 3, "only {told} of {starts} were told their place");
    ensure!(longest.get.max(longest.list).max(longest.stop) < BOUND, "{longest:?}");
    ensure!(longest.stop > Duration::ZERO, "nobody was stopped meanwhile");
    ensure!(instance.live().await?.len() == starts + 1);

    let since = Instant::now();
    let stopped = instance.cli(&["stop", "--all", "--grace", "2"])?;
    ensure!(stopped.stdout == format!("stopped {}\n", starts + 1), "{stopped:?}");
    println!("all of them stopped after {:?}", since.elapsed());
    Ok(())
}

/// What must stay flat over many starts: of the launcher, and of the machine.
fn size(instance: &Instance) -> anyhow::Result<Vec<(&'static str, usize)>> {
    let launcher = instance.pid().context("the launcher does not run")?;
    let count = |folder: String| Ok::<_, std::io::Error>(fs::read_dir(folder)?.count());
    let status = fs::read_to_string(format!("/proc/{launcher}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().split(' ').next()?.parse().ok());
    let mounts = fs::read_to_string(format!("/proc/{launcher}/mountinfo"))?;
    Ok(vec![
        ("resident KiB", resident.context("no VmRSS")?),
        ("open files", count(format!("/proc/{launcher}/fd"))?),
        ("threads", count(format!("/proc/{launcher}/task"))?),
        ("mounts", mounts.lines().count()),
        ("network namespaces", namespaces(&mounts)),
        ("logs", count(instance.state().join("logs").display().to_string())?),
    ])
}

/// Pinned network namespaces of the instance.
fn namespaces(mounts: &str) -> usize {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| Path::new(point).file_name().is_some_and(|name| name == "network.ns"))
        .count()
}

async fn cycles(instance: &Arc<Instance>, count: usize) -> anyhow::Result<()> {
    let before = size(instance)?;
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let instance = Arc::clone(instance);
        lanes.spawn(async move {
            for _ in 0..count / LANES {
                instance.start(&format!("cycle-{lane}")).await?;
                instance.stop(&format!("cycle-{lane}"), "").await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended??;
    }
    instance.nothing_left(Duration::from_secs(10))?;
    // Connections of the tests' own clients take a moment to go.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let after = size(instance)?;
        let grown: Vec<_> = before
            .iter()
            .zip(&after)
            .filter(|((name, before), (_, after))| {
                // Memory by a tenth and what an allocator keeps; everything else by what is in flight.
                let room = if *name == "resident KiB" { before / 10 + 4096 } else { 10 };
                *after > before + room
            })
            .collect();
        if grown.is_empty() {
            println!("{count} starts and stops: from {before:?} to {after:?}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "over {count} starts these have grown: {grown:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
