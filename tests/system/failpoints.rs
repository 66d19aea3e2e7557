//! The launcher dies by SIGKILL at every named point; the next one leaves
//! nothing behind, or adopts, and no home is lost.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use adrastea_proto::v1::Phase;
use adrastea_tests::{Instance, Options, Suite, client::request};
use anyhow::{Context as _, ensure};

/// Points on the way up.
const STARTING: &[&str] = &[
    "directory-intended",
    "directory-made",
    "namespaces-intended",
    "namespaces-made",
    "network-intended",
    "network-made",
    "rootfs-intended",
    "rootfs-made",
    "container-intended",
    "container-created",
    "container-started",
    "prove-done",
    "home-attached",
    "claim-done",
];
/// Points after which the sandbox is to be adopted.
const RUNNING: &[&str] = &["running-recorded", "ready-answered"];
/// Points on the way down.
const STOPPING: &[&str] = &[
    "container-undone",
    "rootfs-undone",
    "network-undone",
    "namespaces-undone",
    "directory-undone",
];

/// Everything must be in order again this long after the next launcher began.
const CONVERGED: Duration = Duration::from_secs(10);

pub fn add(suite: &mut Suite) {
    for (name, points) in [("starting", STARTING), ("running", RUNNING), ("stopping", STOPPING)] {
        suite.own(
            &format!("failpoints::death_at_every_point_of_{name}_heals"),
            Options::default(),
            move |instance| async move {
                let ready = instance.start("ana").await?;
                ensure!(
                    instance.http(ready.address(), "/write/kept/home/jovyan/file")?.1 == "written"
                );
                instance.stop("ana", "").await?;
                let mut broken = Vec::new();
                for point in points {
                    if let Err(error) = die_at(&instance, point, name).await {
                        broken.push(format!("{point}: {error:#}"));
                        // What one point left must not be counted for the next.
                        instance.stop("ana", "").await.ok();
                    }
                }
                ensure!(broken.is_empty(), "{}", broken.join("\n"));
                Ok(())
            },
        );
    }

    suite.plain("failpoints::every_point_of_the_launcher_is_tried", || {
        // A point that was added must be added here.
        let mut hits = 0;
        for entry in std::fs::read_dir(adrastea_tests::place::root().join("launcher/src/launch"))? {
            let text = std::fs::read_to_string(entry?.path())?;
            hits += text.matches("failpoint::hit(").count();
        }
        // Two of them stand for the four steps of the ground, one for all five undone.
        let known = hits - 3 + 2 * 4 + 5;
        let tried = STARTING.len() + RUNNING.len() + STOPPING.len();
        ensure!(tried == known, "the launcher has {known} points, {tried} are tried");
        Ok(())
    });
}

async fn die_at(instance: &Instance, point: &str, when: &str) -> anyhow::Result<()> {
    instance.end_launcher(nix::sys::signal::Signal::SIGTERM)?;
    instance.serve(Some(&format!("{point}=return"))).await?;
    if when == "stopping" {
        instance.start("ana").await?;
        instance.stop("ana", "").await.err().context("the launcher did not die")?;
    } else {
        instance.try_start(request("ana")).await.err().context("the launcher did not die")?;
    }
    let ended = instance.wait_ended(Duration::from_secs(10))?;
    ensure!(ended.signal() == Some(9), "it did not die at the point: {ended}");
    let since = Instant::now();
    instance.serve(None).await?;
    if when == "running" {
        let sandbox = instance.get("ana").await?;
        ensure!(sandbox.phase() == Phase::Ready, "it was not adopted: {sandbox:?}");
        // Recorded as running, it may still be on its way to its first answer.
        while instance.answers("ana").await.is_err() {
            ensure!(since.elapsed() < CONVERGED, "the adopted server does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        instance.stop("ana", "").await?;
    }
    instance.nothing_left(CONVERGED.saturating_sub(since.elapsed()))?;
    let exit = instance.exit("ana", Duration::ZERO).await?;
    ensure!(!exit.message.is_empty(), "the end has no words");
    // The home is intact, and the same user starts again.
    let ready = instance.start("ana").await?;
    ensure!(
        instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "kept",
        "the home was lost"
    );
    instance.stop("ana", "").await?;
    instance.nothing_left(CONVERGED)
}
