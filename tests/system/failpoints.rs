//! The launcher dies by SIGKILL at every named point, and again while it recovers
//! from that; the next one leaves nothing behind, or adopts, and no home is lost.
//! Somebody else's server lives through all of it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    time::{Duration, Instant},
};

use adrastea_proto::v1::Phase;
use adrastea_tests::{Instance, Options, Suite, client::request, column, remains};
use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

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
/// Points of a launcher that takes over; the steps' undoing is among them as well.
const RECOVERING: &[&str] = &[
    "boot-directories",
    "boot-ledger",
    "boot-engine",
    "install-router",
    "install-host",
    "install-connected",
    "boot-network",
    "reconcile-adopted",
    "reconcile-removed",
    "sweep-begun",
    "sweep-removed",
    "boot-reconciled",
];
/// Points of a launcher that ends without a sandbox and takes everything away.
const ENDING: &[&str] = &[
    "shutdown-pool",
    "shutdown-begun",
    "shutdown-network",
    "shutdown-router",
    "shutdown-engine",
    "shutdown-mounts",
];

/// Points of a home's way out and back; [`crate::forget`] tries them.
pub const FORGETTING: &[&str] = &["home-retired", "home-aside"];
pub const RESTORING: &[&str] = &["home-returning", "home-back"];
pub const PURGING: &[&str] = &["purge-begun", "purge-emptied"];

/// Everything must be in order again this long after the next launcher began.
const CONVERGED: Duration = Duration::from_secs(10);

pub fn add(suite: &mut Suite) {
    for (name, points) in [("starting", STARTING), ("running", RUNNING), ("stopping", STOPPING)] {
        suite.own(
            &format!("failpoints::death_at_every_point_of_{name}_heals"),
            Options::default(),
            move |instance| async move {
                let stage = Stage::set(instance).await?;
                let mut broken = Vec::new();
                for point in column::share(points) {
                    if let Err(error) = stage.die_once(point, name).await {
                        broken.push(format!("{point}: {error:#}"));
                        // What one point left must not be counted for the next.
                        stage.instance.stop("ana", "").await.ok();
                    }
                }
                ensure!(broken.is_empty(), "{}", broken.join("\n"));
                Ok(())
            },
        );
    }

    suite.own(
        "failpoints::a_second_death_while_recovering_heals",
        Options::default(),
        |instance| async move {
            let stage = Stage::set(instance).await?;
            // Each point of a recovery, after a first death somewhere on the way up or down.
            let firsts = [
                "claim-done",
                "container-created",
                "container-undone",
                "rootfs-made",
                "home-attached",
            ];
            let mut broken = Vec::new();
            let seconds = [RECOVERING, STOPPING].concat();
            for (number, second) in column::share(&seconds).into_iter().enumerate() {
                let undoing = STOPPING.contains(&second);
                // A step's undoing is met where the step was made.
                let first = if undoing { firsts[0] } else { firsts[number % firsts.len()] };
                if let Err(error) = stage.die_twice(first, second).await {
                    broken.push(format!("{first}, then {second}: {error:#}"));
                    break;
                }
            }
            ensure!(broken.is_empty(), "{}", broken.join("\n"));
            Ok(())
        },
    );

    suite.own(
        "failpoints::death_at_every_point_of_the_end_heals",
        Options::default(),
        |instance| async move {
            let mut broken = Vec::new();
            for point in ENDING {
                if let Err(error) = die_ending(&instance, point).await {
                    broken.push(format!("{point}: {error:#}"));
                    break;
                }
            }
            ensure!(broken.is_empty(), "{}", broken.join("\n"));
            Ok(())
        },
    );

    suite.plain("failpoints::every_point_of_the_launcher_is_tried", || {
        // A point that was added must be added here.
        let hits = hits_in(&adrastea_tests::place::root().join("launcher/src"))?;
        // Two of them stand for the four steps of the ground, one for all five undone.
        let known = hits - 3 + 2 * 4 + 5;
        let own = [STARTING, RUNNING, STOPPING, RECOVERING, ENDING];
        let of_homes = [FORGETTING, RESTORING, PURGING];
        let of_the_pool = [crate::pool::POINTS, crate::pool::RECOVERING];
        let lists: Vec<_> = [&own[..], &of_homes, &of_the_pool].concat();
        let tried: usize = lists.iter().map(|list| list.len()).sum();
        ensure!(tried == known, "the launcher has {known} points, {tried} are tried");
        Ok(())
    });
}

fn hits_in(directory: &Path) -> anyhow::Result<usize> {
    let mut hits = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            hits += hits_in(&path)?;
        } else {
            hits +=
                fs::read_to_string(&path).unwrap_or_default().matches("failpoint::hit(").count();
        }
    }
    Ok(hits)
}

/// An instance where ben's server lives, and ana has a home.
struct Stage {
    instance: std::sync::Arc<Instance>,
    /// Ben's sandbox, and all there is when nobody else has one.
    ben: String,
    quiet: BTreeSet<String>,
}

impl Stage {
    async fn set(instance: std::sync::Arc<Instance>) -> anyhow::Result<Self> {
        let ready = instance.start("ana").await?;
        ensure!(instance.http(ready.address(), "/write/kept/home/jovyan/file")?.1 == "written");
        instance.stop("ana", "").await?;
        instance.nothing_left(CONVERGED)?;
        let ben = instance.start("ben").await?.id().to_owned();
        let quiet = remains::of_sandboxes(&instance)?;
        Ok(Self { instance, ben, quiet })
    }

    /// Serves with a failpoint, and acts until the launcher has died there.
    async fn die_at(&self, point: &str) -> anyhow::Result<()> {
        let instance = &self.instance;
        instance.end_launcher(Signal::SIGTERM)?;
        instance.serve(Some(&format!("{point}=return"))).await?;
        if STOPPING.contains(&point) {
            instance.start("ana").await?;
            instance.stop("ana", "").await.err().context("the launcher did not die")?;
        } else {
            instance.try_start(request("ana")).await.err().context("the launcher did not die")?;
        }
        let ended = instance.wait_ended(Duration::from_secs(10))?;
        ensure!(ended.signal() == Some(9), "it did not die at the point: {ended}");
        Ok(())
    }

    async fn die_once(&self, point: &str, when: &str) -> anyhow::Result<()> {
        self.die_at(point).await?;
        let since = Instant::now();
        self.instance.serve(None).await?;
        if when == "running" {
            let sandbox = self.instance.get("ana").await?;
            ensure!(sandbox.phase() == Phase::Ready, "it was not adopted: {sandbox:?}");
            // Recorded as running, it may still be on its way to its first answer.
            while self.instance.answers("ana").await.is_err() {
                ensure!(since.elapsed() < CONVERGED, "the adopted server does not answer");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.instance.stop("ana", "").await?;
        }
        self.converges(since).await
    }

    async fn die_twice(&self, first: &str, second: &str) -> anyhow::Result<()> {
        self.die_at(first).await?;
        if second == "sweep-removed" {
            // Something that nobody owns.
            fs::create_dir(self.instance.run_directory().join("sandboxes/s0123456789a"))?;
        }
        let died = self.instance.serve(Some(&format!("{second}=return"))).await;
        let died = format!("{:#}", died.err().context("the second launcher did not die")?);
        ensure!(died.contains("signal: 9"), "it did not die at the point: {died}");
        let since = Instant::now();
        self.instance.serve(None).await?;
        self.converges(since).await
    }

    /// Ana has nothing but her home, ben's server never noticed, and she starts again.
    async fn converges(&self, since: Instant) -> anyhow::Result<()> {
        let instance = &self.instance;
        self.is_quiet(CONVERGED.saturating_sub(since.elapsed()))?;
        let ben = instance.get("ben").await?;
        ensure!(ben.phase() == Phase::Ready && ben.sandbox_id == self.ben, "{ben:?}");
        instance.answers("ben").await?;
        let exit = instance.exit("ana", Duration::ZERO).await?;
        ensure!(!exit.message.is_empty(), "the end has no words");
        let ready = instance.start("ana").await?;
        ensure!(
            instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "kept",
            "the home was lost"
        );
        instance.stop("ana", "").await?;
        self.is_quiet(CONVERGED)
    }

    fn is_quiet(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let now = remains::of_sandboxes(&self.instance)?;
            if now == self.quiet {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "left behind: {:?}; missing: {:?}",
                now.difference(&self.quiet).collect::<Vec<_>>(),
                self.quiet.difference(&now).collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The launcher dies while it takes everything away; the next one serves, and the next end is whole.
async fn die_ending(instance: &Instance, point: &str) -> anyhow::Result<()> {
    instance.end_launcher(Signal::SIGTERM)?;
    instance.serve(Some(&format!("{point}=return"))).await?;
    let ready = instance.start("ana").await?;
    instance.http(ready.address(), "/write/kept/home/jovyan/file")?;
    instance.stop("ana", "").await?;
    let ended = instance.end_launcher(Signal::SIGTERM)?;
    ensure!(ended.signal() == Some(9), "it did not die at the point: {ended}");
    let since = Instant::now();
    instance.serve(None).await?;
    instance.nothing_left(CONVERGED.saturating_sub(since.elapsed()))?;
    let ready = instance.start("ana").await?;
    ensure!(
        instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "kept",
        "a home was lost"
    );
    instance.stop("ana", "").await?;
    let ended = instance.end_launcher(Signal::SIGTERM)?;
    ensure!(ended.success(), "{ended}");
    let left = remains::of_instance(&instance.name, Duration::from_secs(5))?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    instance.serve(None).await
}
