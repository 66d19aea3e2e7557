//! Sandboxes that wait for their user, with real containerd and runtime: taken once, the walls
//! and the home as in a cold start, and nothing left of them, however the launcher ends.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    path::Path,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{Phase, ReloadRequest, Sandbox, StartRequest};
use adrastea_tests::{Instance, Options, Suite, client, column, config, remains};
use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};

/// Points at which a launcher dies while a slot is made or claimed.
pub const POINTS: &[&str] =
    &["slot-waiting", "slot-recorded", "slot-taken", "prove-again", "running-claimed"];
/// Points at which the next one dies, too.
pub const RECOVERING: &[&str] = &["reconcile-slot"];

const CONVERGED: Duration = Duration::from_secs(15);

fn options(pool: &str) -> Options {
    let busy = "[pool]\ncpu = 100.0\n";
    Options { pool: Some(pool.into()), append: busy.into(), ..Options::default() }
}

fn request(user: &str, arguments: &[&str]) -> StartRequest {
    StartRequest {
        profile: "waiting".into(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        ..client::request(user)
    }
}

pub fn add(suite: &mut Suite) {
    suite.own(
        "pool::a_start_takes_a_waiting_sandbox_and_the_home_stays_the_users",
        options("{ minimum = 1, maximum = 1 }"),
        |instance| async move { takes(&instance).await },
    );
    suite.own(
        "pool::a_claim_that_fails_is_a_cold_start",
        options("{ minimum = 1, maximum = 1 }"),
        |instance| async move { fails(&instance).await },
    );
    suite.own(
        "pool::it_is_made_anew_when_policy_changes_and_emptied_by_a_drain",
        options("{ minimum = 2, maximum = 2 }"),
        |instance| async move { follows(&instance).await },
    );
    suite.own(
        "pool::a_launcher_that_is_killed_or_ends_leaves_no_waiting_sandbox",
        options("{ minimum = 2, maximum = 2 }"),
        |instance| async move { is_left(&instance).await },
    );
    suite.own(
        "pool::death_at_every_point_of_a_claim_heals",
        options("{ minimum = 1, maximum = 1 }"),
        |instance| async move { dies(&instance).await },
    );
}

async fn stop_and_drain(instance: &Instance) -> anyhow::Result<()> {
    instance.stop("ana", "").await?;
    let drained = instance.cli(&["pool", "drain"])?;
    ensure!(drained.code == 0 && drained.stdout.contains("removed"), "{drained:?}");
    instance.nothing_left(CONVERGED)
}

async fn takes(instance: &Instance) -> anyhow::Result<()> {
    let pool = instance.pool("waiting", 1).await?;
    let slot = &pool.waiting[0];
    ensure!(slot.memory_bytes > 0 && pool.problem.is_empty(), "{pool:?}");
    ensure!(instance.live().await?.is_empty(), "somebody was told of a slot");
    let listed = instance.cli(&["pool"])?;
    let line = listed.stdout.lines().find(|line| line.starts_with(&slot.sandbox_id));
    let line = line.with_context(|| format!("{listed:?}"))?;
    // What the kernel charges, and what the processes use.
    let sizes = line.matches("iB").count();
    ensure!(sizes == 2 && !line.contains(" 0 bytes"), "{line}");

    let ready = instance.start_with(request("ana", &[])).await?;
    ensure!(ready.id() == slot.sandbox_id, "{} is not {}", ready.id(), slot.sandbox_id);
    ensure!(instance.log("ana").await?.contains("waited"), "it was started anew");
    ensure!(instance.http(ready.address(), "/write/mine/home/jovyan/file")?.1 == "written");
    ensure!(instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "mine");
    ensure!(instance.http(ready.address(), "/grow/home/jovyan")?.1 == "grown");
    let sandbox = instance.get("ana").await?;
    let home = find(&instance.state().join("homes"), "file")?;
    let names = all_belong_to(home.parent().context("no home")?, &sandbox)?;
    for name in ["file", "copied", "second", "renamed", "link", "moved", "deeper"] {
        ensure!(names.contains(name), "no {name} was made: {names:?}");
    }
    let inspected = instance.cli(&["inspect", "--user", "ana", "--hub", client::HUB])?;
    ensure!(inspected.code == 0, "{inspected:?}");
    // A later cold start of the same user finds the file as its own.
    instance.stop("ana", "").await?;
    let cold = instance.start("ana").await?;
    ensure!(cold.id() != slot.sandbox_id);
    ensure!(instance.http(cold.address(), "/cat/home/jovyan/file")?.1 == "mine");
    ensure!(instance.http(cold.address(), "/write/again/home/jovyan/file")?.1 == "written");
    let pool = instance.pool("waiting", 1).await?;
    ensure!((pool.hits, pool.misses, pool.failures) == (1, 0, 0), "{pool:?}");
    let metrics = instance.cli(&["metrics"])?.stdout;
    for line in [
        "adrastea_pool_claims_total{result=\"hit\",profile=\"waiting\"} 1",
        "adrastea_pool_slots{profile=\"waiting\"} 1",
        "adrastea_pool_age_seconds_count{profile=\"waiting\"} 1",
        "adrastea_pool_fill_seconds_count{profile=\"waiting\"} 2",
    ] {
        ensure!(metrics.contains(line), "no `{line}` in:\n{metrics}");
    }
    stop_and_drain(instance).await
}

fn find(folder: &Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let homes = fs::read_dir(folder)?.flatten();
    let mut found = homes.map(|home| home.path().join(name)).filter(|path| path.exists());
    found.next().with_context(|| format!("no home has `{name}`"))
}

/// Every file and folder below a home is its user's on the disk; their names.
fn all_belong_to(folder: &Path, user: &Sandbox) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let owner = entry.metadata()?;
        ensure!(
            (owner.uid(), owner.gid()) == (user.disk_uid, user.disk_gid),
            "`{}` belongs to {}:{}, the user is {}",
            entry.path().display(),
            owner.uid(),
            owner.gid(),
            user.disk_uid
        );
        names.insert(entry.file_name().to_string_lossy().into_owned());
        if owner.is_dir() {
            names.extend(all_belong_to(&entry.path(), user)?);
        }
    }
    Ok(names)
}

async fn fails(instance: &Instance) -> anyhow::Result<()> {
    // The program steps aside, or ends: its command is started anew in the same sandbox.
    for (number, how) in ["aside", "dies"].into_iter().enumerate() {
        let pool = instance.pool("waiting", 1).await?;
        let ready = instance.start_with(request("ana", &[how])).await?;
        ensure!(ready.id() == pool.waiting[0].sandbox_id, "{how}");
        ensure!(instance.http(ready.address(), "/")?.0 == 200, "{how}");
        ensure!(!instance.log("ana").await?.contains("waited"), "{how}");
        instance.stop("ana", "").await?;
        let pool = instance.pool("waiting", 1).await?;
        ensure!(pool.failures == number as u64 + 1, "{how}: {pool:?}");
    }
    // The server that waited ends before it answers: the start goes the cold way, under the same id,
    // and is told what happened there.
    let slot = instance.pool("waiting", 1).await?.waiting.remove(0).sandbox_id;
    let failed = instance.start_failing(request("ana", &["die", "3"])).await?;
    ensure!(failed.message.contains('3'), "{failed:?}");
    ensure!(failed.log_tail.contains("dying on purpose"), "{failed:?}");
    ensure!(!failed.log_tail.contains("waited"), "{failed:?}");
    ensure!(instance.get("ana").await?.sandbox_id == slot);
    ensure!(instance.pool("waiting", 1).await?.failures == 3);
    // The waiting program is killed while it waits: its sandbox goes, another one comes.
    let before = instance.pool("waiting", 1).await?.waiting.remove(0).sandbox_id;
    let group = format!("{}/{before}", instance.name);
    let processes = processes_of(&group)?;
    ensure!(processes.len() > 1, "{processes:?}");
    if !column::has_own_kernel() {
        kill(nix::unistd::Pid::from_raw(*processes.last().context("none")?), Signal::SIGKILL)?;
        let deadline = Instant::now() + CONVERGED;
        while instance.pool("waiting", 1).await?.waiting[0].sandbox_id == before {
            ensure!(Instant::now() < deadline, "a slot without a program still waits");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    stop_and_drain(instance).await
}

/// The processes of a control group on the host, by number.
fn processes_of(group: &str) -> anyhow::Result<Vec<i32>> {
    let places = [format!("/sys/fs/cgroup/memory/{group}"), format!("/sys/fs/cgroup/{group}")];
    let place = places.iter().find(|place| Path::new(place).is_dir()).context("no such group")?;
    let text = fs::read_to_string(Path::new(place).join("cgroup.procs"))?;
    let mut processes: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    processes.sort_unstable();
    Ok(processes)
}

async fn follows(instance: &Instance) -> anyhow::Result<()> {
    let ids = async || -> anyhow::Result<Vec<String>> {
        let pool = instance.pool("waiting", 2).await?;
        Ok(pool.waiting.into_iter().map(|one| one.sandbox_id).collect())
    };
    let before = ids().await?;
    let text = instance.config_text().to_owned();
    let changed = text.replace("open_files = 1024", "open_files = 1000");
    ensure!(changed != text);
    config::write(&instance.config(), &changed)?;
    instance.admin().await?.reload(ReloadRequest {}).await?;
    let deadline = Instant::now() + CONVERGED;
    while ids().await?.iter().any(|id| before.contains(id)) {
        ensure!(Instant::now() < deadline, "slots of the old policy still wait");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ready = instance.start_with(request("ana", &[])).await?;
    ensure!(!before.contains(&ready.id().to_owned()), "a slot of the old policy was taken");
    let limit = instance.http(ready.address(), "/cat/proc/self/limits")?.1;
    let files = limit.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    ensure!(files.contains("1000"), "{files}");
    instance.stop("ana", "").await?;

    ensure!(instance.cli(&["pool", "drain", "nobody"])?.code != 0);
    ensure!(instance.cli(&["pool", "drain", "waiting"])?.code == 0);
    instance.nothing_left(CONVERGED)?;
    ensure!(instance.pool("waiting", 0).await?.drained);
    let cold = instance.start_with(request("ana", &[])).await?;
    ensure!(!instance.log("ana").await?.contains("waited"), "{cold:?}");
    ensure!(instance.cli(&["pool", "refill"])?.code == 0);
    instance.pool("waiting", 2).await?;
    ensure!(instance.cli(&["drain"])?.code == 0);
    instance.pool("waiting", 0).await?;
    ensure!(instance.cli(&["undrain"])?.code == 0);
    instance.pool("waiting", 2).await?;
    stop_and_drain(instance).await
}

async fn is_left(instance: &Instance) -> anyhow::Result<()> {
    let before = instance.pool("waiting", 2).await?;
    instance.end_launcher(Signal::SIGKILL)?;
    instance.serve(None).await?;
    let after = instance.pool("waiting", 2).await?;
    let is_old = |id: &String| before.waiting.iter().any(|one| one.sandbox_id == *id);
    ensure!(!after.waiting.iter().any(|one| is_old(&one.sandbox_id)), "{after:?}");
    // A claimed one is a server as any other: it outlives its launcher.
    let ready = instance.start_with(request("ana", &[])).await?;
    instance.end_launcher(Signal::SIGKILL)?;
    instance.serve(None).await?;
    let adopted = instance.get("ana").await?;
    ensure!(adopted.phase() == Phase::Ready && adopted.sandbox_id == ready.id(), "{adopted:?}");
    ensure!(instance.http(ready.address(), "/")?.0 == 200);
    instance.stop("ana", "").await?;
    instance.pool("waiting", 2).await?;
    // An end in order takes them along.
    let ended = instance.end_launcher(Signal::SIGTERM)?;
    ensure!(ended.success(), "{ended}");
    let left = remains::of_instance(&instance.name, Duration::from_secs(5))?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    instance.serve(None).await?;
    instance.pool("waiting", 2).await?;
    stop_and_drain(instance).await
}

async fn dies(instance: &Instance) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for point in column::share(POINTS) {
        if let Err(error) = dies_at(instance, point).await {
            broken.push(format!("{point}: {error:#}"));
            instance.stop("ana", "").await.ok();
        }
    }
    // Again while it clears away what the first death left.
    for point in RECOVERING {
        instance.pool("waiting", 1).await?;
        instance.end_launcher(Signal::SIGKILL)?;
        let died = instance.serve(Some(&format!("{point}=return"))).await;
        let died = format!("{:#}", died.err().context("the second launcher did not die")?);
        ensure!(died.contains("signal: 9"), "it did not die at the point: {died}");
        instance.serve(None).await?;
    }
    instance.pool("waiting", 1).await?;
    ensure!(broken.is_empty(), "{}", broken.join("\n"));
    stop_and_drain(instance).await
}

async fn dies_at(instance: &Instance, point: &str) -> anyhow::Result<()> {
    instance.pool("waiting", 1).await?;
    instance.end_launcher(Signal::SIGTERM)?;
    let served = instance.serve(Some(&format!("{point}=return"))).await;
    if point == "slot-waiting" {
        // Soon after its start, or before it has said that it serves.
    } else {
        served?;
        instance.pool("waiting", 1).await?;
        let started = instance.try_start(request("ana", &[])).await;
        started.err().context("the launcher did not die")?;
    }
    let ended = instance.wait_ended(CONVERGED)?;
    ensure!(ended.signal() == Some(9), "it did not die at the point: {ended}");
    instance.serve(None).await?;
    if point == "running-claimed" {
        let sandbox = instance.get("ana").await?;
        ensure!(sandbox.phase() == Phase::Ready, "it was not adopted: {sandbox:?}");
        instance.answers("ana").await?;
        instance.stop("ana", "").await?;
    }
    instance.pool("waiting", 1).await?;
    let ready = instance.start_with(request("ana", &[])).await?;
    ensure!(instance.http(ready.address(), "/")?.0 == 200);
    instance.stop("ana", "").await?;
    // Beside the one that waits there is nothing.
    instance.pool("waiting", 1).await?;
    ensure!(instance.cli(&["pool", "drain"])?.code == 0);
    instance.nothing_left(CONVERGED)?;
    ensure!(instance.cli(&["pool", "refill"])?.code == 0);
    Ok(())
}
