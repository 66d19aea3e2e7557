//! What nobody owns is found and removed, kind by kind, while who lives stays
//! untouched; many are taken over at once; and a reboot loses nothing that matters.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use adrastea_proto::v1::{ExitCause, Phase};
use adrastea_tests::{Instance, Options, Suite, column, place, remains};
use anyhow::{Context as _, ensure};
use containerd_client::{
    services::v1::{DeleteContainerRequest, containers_client::ContainersClient},
    tonic::Request,
};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
};
use tokio::{task::JoinSet, time::Instant};

use crate::{freezes::processes_of, storms::number};

/// The launcher looks every minute.
const TWO_LOOKS: Duration = Duration::from_secs(150);

pub fn add(suite: &mut Suite) {
    suite.own(
        "reconcile::an_orphan_of_every_kind_is_removed_and_the_living_stay",
        Options::default(),
        |instance| async move { orphans(&instance).await },
    );

    suite.own(
        "reconcile::a_task_without_a_container_is_removed",
        Options::default(),
        |instance| async move { without_containers(&instance).await },
    );

    let count = number("ADRASTEA_SANDBOXES", 30);
    let run_ranges = u32::try_from(count + 10).unwrap_or(64).max(64);
    let options = Options { run_ranges, ..Options::default() };
    suite.own(
        "reconcile::many_are_taken_over_and_a_reboot_keeps_homes_and_ids",
        options,
        move |instance| async move {
            let homes = many(&instance, count).await?;
            reboot(&instance, count, homes).await
        },
    );
}

/// Things of sandboxes that nobody knows, one kind each.
struct Planted {
    /// One id for each kind, in the order of the steps below.
    ids: Vec<String>,
    /// In the control group, so that it shows that processes are killed, too.
    child: Child,
}

fn command(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(words).output()?;
    ensure!(
        output.status.success(),
        "`{program} {}`: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn ctr(instance: &Instance, words: &[&str]) -> anyhow::Result<()> {
    let (program, socket) = (place::tools().join("bin/ctr"), instance.containerd_socket());
    let before = ["--address", &socket.display().to_string(), "--namespace", &instance.name]
        .map(ToOwned::to_owned);
    let words: Vec<&str> = before.iter().map(String::as_str).chain(words.iter().copied()).collect();
    command(&program.display().to_string(), &words)
}

fn in_router(instance: &Instance, words: &[&str]) -> anyhow::Result<()> {
    let namespace = format!("--net=/run/netns/{}", instance.name);
    command("nsenter", &[&[namespace.as_str()], words].concat())
}

/// A group of the instance, in every hierarchy.
fn groups(instance: &Instance, id: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let roots = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    roots
        .chain([root.to_owned()])
        .filter(|path| !path.is_symlink())
        .map(|path| path.join(&instance.name))
        .filter(|path| path.is_dir())
        .map(|path| path.join(id))
        .collect()
}

fn plant(instance: &Instance) -> anyhow::Result<Planted> {
    let ids: Vec<_> = (0..10).map(|number| format!("sdeadbeef{number:03}")).collect();
    let folder = |number: usize| instance.run_directory().join("sandboxes").join(&ids[number]);
    let logs = instance.state().join("logs");
    for ending in ["log", "log.1"] {
        fs::write(logs.join(format!("{}.{ending}", ids[0])), "old words\n")?;
    }
    fs::create_dir_all(folder(1).join("io"))?;
    fs::create_dir_all(folder(2).join("rootfs"))?;
    mount(Some("tmpfs"), &folder(2).join("rootfs"), Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    fs::create_dir_all(folder(3))?;
    let pin = folder(3).join("network.ns");
    fs::write(&pin, "")?;
    mount(Some("/proc/self/ns/net"), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let link = format!("v{}", ids[4]);
    in_router(instance, &["ip", "link", "add", &link, "type", "veth", "peer", "name", "planted"])?;
    let element = format!("{{ \"v{}\" }}", ids[5]);
    in_router(instance, &["nft", "add", "element", "inet", "adrastea", "opened", &element])?;
    let child = Command::new("sleep").arg("600").spawn()?;
    for group in groups(instance, &ids[6]) {
        fs::create_dir(&group)?;
        // A cpuset is born empty: nobody can be put into it.
        let _ = fs::write(group.join("cgroup.procs"), child.id().to_string());
    }
    let states = instance.run_directory().join(column::runtime()).join(&instance.name);
    if column::has_own_kernel() {
        fs::write(states.join(format!("{0}_sandbox:{0}.state", ids[7])), "{}")?;
    } else {
        fs::create_dir_all(states.join(&ids[7]))?;
        fs::write(states.join(&ids[7]).join("state.json"), "{}")?;
    }
    let rootfs = instance.scratch().join("planted-rootfs");
    fs::create_dir_all(&rootfs)?;
    let rootfs = rootfs.display().to_string();
    ctr(instance, &["containers", "create", "--rootfs", &rootfs, &ids[8], "true"])?;
    ctr(instance, &["leases", "create", "--id", "adrastea-import-deadbeef"])?;
    ctr(instance, &["snapshots", "prepare", "adrastea-unpack-deadbeef"])?;
    // The view of an image that is not there: kept as long as anybody may stand on it.
    ctr(instance, &["snapshots", "prepare", "adrastea-view-deadbeef"])?;
    Ok(Planted { ids, child })
}

async fn orphans(instance: &Arc<Instance>) -> anyhow::Result<()> {
    let ready = instance.start("ana").await?;
    instance.http(ready.address(), "/write/mine/home/jovyan/mark")?;
    let before = remains::of_sandboxes(instance)?;
    let mut planted = plant(instance)?;
    let seen = remains::of_sandboxes(instance)?;
    let there = |found: &BTreeSet<String>, id: &str| found.iter().any(|line| line.contains(id));
    for id in &planted.ids[..9] {
        ensure!(there(&seen, id), "{id} was not planted: {seen:#?}");
    }
    let deadline = Instant::now() + TWO_LOOKS;
    loop {
        let mut left = remains::of_sandboxes(instance)?;
        left.retain(|line| !before.contains(line) && !line.contains("adrastea-view-deadbeef"));
        if left.is_empty() {
            break;
        }
        ensure!(Instant::now() < deadline, "these were not removed: {left:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    planted.child.wait().context("the planted process")?;
    let now = remains::of_sandboxes(instance)?;
    ensure!(before.is_subset(&now), "something of the living is gone");
    ensure!(there(&now, "adrastea-view-deadbeef"), "a view was removed under a living sandbox");
    instance.answers("ana").await?;
    ensure!(instance.http(ready.address(), "/cat/home/jovyan/mark")?.1 == "mine");

    let metrics = instance.cli(&["metrics"])?;
    ensure!(metrics.code == 0, "{metrics:?}");
    for kind in [
        "log",
        "directory",
        "mount",
        "namespace",
        "link",
        "firewall",
        "cgroup",
        "runtime-state",
        "container",
        "lease",
        "snapshot",
    ] {
        let name =
            format!("adrastea_reconcile_actions_total{{action=\"removed\",kind=\"{kind}\"}}");
        ensure!(metrics.stdout.contains(&name), "`{name}` is not in:\n{}", metrics.stdout);
    }
    let ready = format!(
        "adrastea_sandboxes{{phase=\"ready\",runtime=\"{}\",profile=\"standard\"}} 1",
        column::runtime()
    );
    ensure!(metrics.stdout.contains(&ready), "{metrics:?}");

    // Nobody lives: the view goes with the next look, at the latest at a boot.
    instance.stop("ana", "").await?;
    instance.restart_launcher(Signal::SIGKILL).await?;
    instance.nothing_left(Duration::from_secs(5))
}

/// containerd forgets the containers of two sandboxes, whose tasks go on: of one that the
/// launcher knows, and of one that it has forgotten, too.
async fn without_containers(instance: &Arc<Instance>) -> anyhow::Result<()> {
    let (known, unknown) = (instance.start("ana").await?, instance.start("ben").await?);
    let bystander = instance.start("cleo").await?;
    instance.end_launcher(Signal::SIGKILL)?;
    for id in [known.id(), unknown.id()] {
        forget_container(instance, id).await?;
        ensure!(!processes_of(instance, id).is_empty(), "the task of {id} ended by itself");
    }
    let ledger = rusqlite::Connection::open(instance.state().join("launcher.sqlite"))?;
    for table in ["steps", "sandboxes"] {
        let column = if table == "steps" { "sandbox" } else { "id" };
        ledger.execute(&format!("delete from {table} where {column} = ?1"), [unknown.id()])?;
    }
    drop(ledger);
    instance.serve(None).await?;
    let deadline = Instant::now() + TWO_LOOKS;
    for id in [known.id(), unknown.id()] {
        loop {
            let mut left = remains::of_sandboxes(instance)?;
            left.retain(|line| line.contains(id));
            if left.is_empty() && processes_of(instance, id).is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "of {id} there is left: {left:#?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    ensure!(instance.get("ana").await?.phase() == Phase::Gone);
    instance.answers("cleo").await?;
    ensure!(instance.get("cleo").await?.sandbox_id == bystander.id());
    for user in ["ana", "ben"] {
        instance.start(user).await?;
    }
    for user in ["ana", "ben", "cleo"] {
        instance.stop(user, "").await?;
    }
    instance.nothing_left(Duration::from_secs(10))
}

/// Behind containerd's back in no way: its own service lets anybody delete the container
/// of a task that runs.
async fn forget_container(instance: &Instance, id: &str) -> anyhow::Result<()> {
    let channel = containerd_client::connect(instance.containerd_socket()).await?;
    let mut request = Request::new(DeleteContainerRequest { id: id.to_owned() });
    request.metadata_mut().insert("containerd-namespace", instance.name.parse()?);
    ContainersClient::new(channel).delete(request).await?;
    Ok(())
}

/// Starts many, kills the launcher, and returns the ids on disk once all are taken over.
async fn many(instance: &Arc<Instance>, count: usize) -> anyhow::Result<Vec<u32>> {
    let mut starting = JoinSet::new();
    for number in 0..count {
        let instance = Arc::clone(instance);
        starting.spawn(async move { instance.start(&format!("many-{number}")).await });
    }
    while let Some(started) = starting.join_next().await {
        started??;
    }
    let first = instance.get("many-0").await?;
    instance.http(&first.address, "/write/kept/home/jovyan/mark")?;
    let before: Vec<_> = sandboxes(instance).await?;
    let homes: Vec<_> = before.iter().map(|(_, _, uid)| *uid).collect();
    instance.end_launcher(Signal::SIGKILL)?;
    let since = Instant::now();
    instance.serve(None).await?;
    println!(
        "{count} sandboxes were taken over, and the launcher answered, after {:?}",
        since.elapsed()
    );
    ensure!(sandboxes(instance).await? == before, "they are not the same");
    for number in [0, count / 2, count - 1] {
        instance.answers(&format!("many-{number}")).await?;
    }
    Ok(homes)
}

/// Key, sandbox and id on disk of all that live.
async fn sandboxes(instance: &Instance) -> anyhow::Result<Vec<(String, String, u32)>> {
    let mut live: Vec<_> = instance
        .live()
        .await?
        .into_iter()
        .map(|one| (one.key.unwrap_or_default().user, one.sandbox_id, one.disk_uid))
        .collect();
    live.sort();
    Ok(live)
}

async fn reboot(instance: &Arc<Instance>, count: usize, homes: Vec<u32>) -> anyhow::Result<()> {
    instance.end_launcher(Signal::SIGKILL)?;
    remains::end_by_force(&instance.name);
    fs::remove_dir_all(instance.run_directory())?;
    // The link to the router went with the router; the table is the host's.
    instance.namespace.output("nft", &["delete", "table", "inet", &instance.name])?;
    let since = Instant::now();
    instance.serve(None).await?;
    println!(
        "after a reboot with {count} sandboxes the launcher answered after {:?}",
        since.elapsed()
    );
    ensure!(instance.live().await?.is_empty(), "nobody survives a reboot");
    let gone = instance.get("many-1").await?;
    ensure!(gone.phase() == Phase::Gone, "{gone:?}");
    ensure!(gone.exit.is_some_and(|exit| exit.cause() == ExitCause::Lost));
    instance.nothing_left(Duration::from_secs(10))?;

    let again = instance.start("many-0").await?;
    ensure!(instance.http(again.address(), "/cat/home/jovyan/mark")?.1 == "kept");
    ensure!(homes.contains(&instance.get("many-0").await?.disk_uid), "another id");
    instance.start("newcomer").await?;
    let newcomer = instance.get("newcomer").await?.disk_uid;
    ensure!(!homes.contains(&newcomer), "an id was given twice");
    Ok(())
}
