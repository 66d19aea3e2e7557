//! containerd or a shim freezes or dies in the middle of a start or a stop, or the
//! server's processes are killed from the host: bounded, told, and cleaned up.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{ExitCause, Phase};
use adrastea_tests::{
    Instance, Options, Suite,
    client::{Started, request},
};
use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::engine_faults::{recovers, shim_of};

pub fn add(suite: &mut Suite) {
    suite.own(
        "freezes::containerd_in_the_middle_of_a_start_or_a_stop",
        Options::default(),
        |instance| async move {
            let ben = instance.start("ben").await?.id().to_owned();
            // At moments spread over a start, and over a stop.
            for (round, wait) in [20, 60, 120, 200, 20, 60, 120, 200].into_iter().enumerate() {
                let (signal, wait) = (
                    if round < 4 { Signal::SIGSTOP } else { Signal::SIGKILL },
                    Duration::from_millis(wait),
                );
                disturb(&instance, signal, wait)
                    .await
                    .with_context(|| format!("{signal} after {wait:?}"))?;
            }
            let now = instance.get("ben").await?;
            ensure!(now.phase() == Phase::Ready && now.sandbox_id == ben, "{now:?}");
            instance.answers("ben").await?;
            instance.stop("ben", "").await?;
            instance.nothing_left(Duration::from_secs(20))
        },
    );

    suite.own(
        "freezes::a_frozen_shim_holds_a_stop_up_for_a_bounded_time",
        Options::default(),
        |instance| async move {
            let ready = instance.start("ana").await?;
            instance.start("ben").await?;
            let shim = Pid::from_raw(shim_of(&instance, ready.id())?);
            kill(shim, Signal::SIGSTOP)?;
            let since = Instant::now();
            let stopped =
                tokio::time::timeout(Duration::from_secs(120), instance.stop("ana", "")).await;
            let took = since.elapsed();
            // Nothing of the tenant runs any more, whatever the shim does; nobody else noticed.
            let left = processes_of(&instance, ready.id());
            let neighbour = instance.answers("ben").await;
            let other = instance.start("cleo").await;
            kill(shim, Signal::SIGCONT).ok();
            ensure!(
                stopped.with_context(|| format!("the stop took {took:?}"))??,
                "there was nothing to stop"
            );
            ensure!(left.is_empty(), "the server outlived its stop: {left:?}");
            neighbour?;
            other?;
            for user in ["ben", "cleo"] {
                instance.stop(user, "").await?;
            }
            // What could not be removed is removed by the next look.
            instance.restart_launcher(Signal::SIGKILL).await?;
            instance.nothing_left(Duration::from_secs(20))
        },
    );

    suite.own(
        "freezes::a_server_killed_from_the_host_is_told_and_cleaned_up",
        Options::default(),
        |instance| async move {
            instance.start("ben").await?;
            for which in ["the init", "the server", "all"] {
                let ready = instance.start("ana").await?;
                let mut processes = processes_of(&instance, ready.id());
                processes.sort_unstable();
                ensure!(processes.len() >= 2, "{processes:?}");
                let chosen = match which {
                    "the init" => &processes[..1],
                    "the server" => &processes[1..2],
                    _ => &processes[..],
                };
                for pid in chosen {
                    // One takes the others with it.
                    kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
                }
                let exit = instance.exit("ana", Duration::from_secs(10)).await?;
                ensure!(
                    exit.cause() == ExitCause::Signaled && exit.signal == 9,
                    "{which}: {exit:?}"
                );
                ensure!(
                    processes_of(&instance, ready.id()).is_empty(),
                    "{which}: something runs on"
                );
            }
            instance.answers("ben").await?;
            instance.stop("ben", "").await?;
            instance.nothing_left(Duration::from_secs(10))
        },
    );
}

/// containerd gets the signal so long after a start began, and again after a stop began.
async fn disturb(instance: &Arc<Instance>, signal: Signal, wait: Duration) -> anyhow::Result<()> {
    const FROZEN: Duration = Duration::from_secs(2);
    let hit = || async {
        tokio::time::sleep(wait).await;
        // Dead already is as good as killed.
        let hit = instance.kill_containerd(signal);
        ensure!(hit.is_ok() || signal == Signal::SIGKILL, "{hit:?}");
        if signal == Signal::SIGSTOP {
            tokio::time::sleep(FROZEN).await;
            instance.kill_containerd(Signal::SIGCONT)?;
        }
        anyhow::Ok(())
    };
    let bounded = |what: &'static str| move |_| anyhow::anyhow!("the {what} never ended");
    let starting =
        tokio::time::timeout(Duration::from_secs(120), instance.try_start(request("ana")));
    let (started, hurt) = tokio::join!(starting, hit());
    hurt?;
    match started.map_err(bounded("start"))?? {
        Started::Ready(_) => instance.answers("ana").await?,
        Started::Failed(failed) => {
            ensure!(signal == Signal::SIGKILL, "a short freeze failed a start: {failed:?}");
            ensure!(!failed.message.is_empty() && !failed.hint.is_empty(), "no words: {failed:?}");
            recovers(instance, "ana", Duration::from_secs(30)).await?;
        }
    }
    let stopping = tokio::time::timeout(Duration::from_secs(120), instance.stop("ana", ""));
    let (stopped, hurt) = tokio::join!(stopping, hit());
    hurt?;
    ensure!(stopped.map_err(bounded("stop"))??, "there was nothing to stop");
    recovers(instance, "ana", Duration::from_secs(30)).await?;
    ensure!(instance.stop("ana", "").await?);
    Ok(())
}

/// Processes in a sandbox's control group.
pub fn processes_of(instance: &Instance, id: &str) -> Vec<i32> {
    let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let roots = groups.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
    let mut found: Vec<i32> = roots
        .filter_map(|root| {
            fs::read_to_string(root.join(&instance.name).join(id).join("cgroup.procs")).ok()
        })
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
