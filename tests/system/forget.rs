//! Users whom the hub has deleted, with real homes full of hostile things: what
//! lies in one never hurts the host, and nothing that was begun is left half done.

use std::{
    fs::{self, File, Permissions},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use adrastea::names::ServerKey;
use adrastea_proto::v1::{Home, HomeFate, HomeState, StartRequest};
use adrastea_tests::{
    Instance, Options, Suite,
    client::{HUB, request},
};
use anyhow::{Context as _, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

use crate::failpoints::{FORGETTING, PURGING, RESTORING};

const PATIENCE: Duration = Duration::from_secs(60);

fn options(policy: &str) -> Options {
    Options { append: format!("\n[home]\n{policy}\n"), ..Options::default() }
}

fn on_disk(user: &str) -> anyhow::Result<String> {
    Ok(ServerKey::new(HUB, user, "")?.owner().on_disk())
}

fn home(instance: &Instance, user: &str) -> anyhow::Result<PathBuf> {
    Ok(instance.state().join("homes").join(on_disk(user)?))
}

fn aside(instance: &Instance) -> PathBuf {
    instance.state().join("homes/.set-aside")
}

/// A home whose owner has written in it, and the owner's number.
async fn inhabited(instance: &Instance, user: &str) -> anyhow::Result<u32> {
    let ready = instance.start(user).await?;
    let written = instance.http(ready.address(), "/write/mine/home/jovyan/file")?.1;
    ensure!(written == "written", "{written}");
    Ok(instance.get(user).await?.disk_uid)
}

/// Everything a tenant could leave to whoever tidies up.
fn plant(home: &Path, uid: u32, victim: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(victim.join("kept"))?;
    chown(victim, Some(uid), Some(uid))?;
    let own = |path: &Path| lchown(path, Some(uid), Some(uid));
    for (name, target) in
        [("out", victim), ("up", Path::new("../..")), ("round", Path::new("round"))]
    {
        symlink(target, home.join(name))?;
        own(&home.join(name))?;
    }
    nix::unistd::mkfifo(&home.join("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    own(&home.join("pipe"))?;
    let wide = home.join("wide");
    fs::create_dir(&wide)?;
    for number in 0..2000 {
        File::create(wide.join(format!("{number}\u{1b}[31m\n")))?;
    }
    let mut deep = home.join("deep");
    fs::create_dir(&deep)?;
    for _ in 0..200 {
        own(&deep)?;
        deep = deep.join("deeper");
        fs::create_dir(&deep)?;
    }
    own(&deep)?;
    let shut = home.join("shut/in");
    fs::create_dir_all(&shut)?;
    symlink(victim, shut.join("out"))?;
    own(&shut)?;
    own(&home.join("shut"))?;
    own(&wide)?;
    fs::set_permissions(&shut, Permissions::from_mode(0o000))?;
    Ok(fs::set_permissions(home.join("shut"), Permissions::from_mode(0o500))?)
}

async fn only_aside(instance: &Instance) -> anyhow::Result<Home> {
    let mut homes = instance.homes().await?;
    homes.retain(|home| home.state() != HomeState::Owned);
    ensure!(homes.len() == 1, "{homes:?}");
    Ok(homes.remove(0))
}

async fn until_nothing_is_aside(instance: &Instance) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let homes = instance.homes().await?;
        if homes.iter().all(|home| home.state() == HomeState::Owned) {
            let left: Vec<_> = fs::read_dir(aside(instance))?.flatten().collect();
            ensure!(left.is_empty(), "{left:?}");
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "{homes:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn add(suite: &mut Suite) {
    suite.own(
        "forget::a_hostile_home_is_archived_restored_and_purged",
        options("on_delete = \"archive\""),
        |instance| async move { hostile(&instance).await },
    );
    suite.own(
        "forget::death_at_every_point_is_taken_up",
        options("on_delete = \"archive\""),
        |instance| async move { deaths(&instance).await },
    );
    suite.plain("forget::on_a_full_disk_no_home_is_lost", || on_a_small_disk(full));
    suite.plain("forget::on_a_full_disk_a_users_configuration_is_ignored", || {
        on_a_small_disk(full_and_ignoring)
    });
}

/// A directory for homes where inodes end before bytes: a directory more is too much.
fn on_a_small_disk(act: impl AsyncFnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("full-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let place = adrastea_tests::place::scratch().join(name);
    fs::create_dir_all(&place)?;
    let limits = "mode=0711,size=8m,nr_inodes=64";
    mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some(limits))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(act(&place));
    umount2(&place, MntFlags::MNT_DETACH)?;
    fs::remove_dir(&place)?;
    result
}

async fn hostile(instance: &Instance) -> anyhow::Result<()> {
    let first = inhabited(instance, "ana").await?;
    let victim = instance.scratch().join("victim");
    plant(&home(instance, "ana")?, first, &victim)?;
    let inode = fs::metadata(home(instance, "ana")?)?.ino();

    // Her server runs.
    let answer = instance.forget("ana").await?;
    ensure!(answer.home() == HomeFate::Archived && answer.purged_at == 0, "{answer:?}");
    ensure!(instance.forget("ana").await? == answer, "it is not idempotent");
    ensure!(!home(instance, "ana")?.exists());
    let folder = fs::metadata(aside(instance))?;
    ensure!((folder.mode() & 0o7777, folder.uid()) == (0o700, 0), "{:o}", folder.mode());

    // Another ana: an empty home and another number.
    let ready = instance.start("ana").await?;
    let second = instance.get("ana").await?.disk_uid;
    ensure!(second > first, "{second} after {first}");
    let listed = instance.http(ready.address(), "/list/home/jovyan")?.1;
    ensure!(listed.is_empty(), "the new home holds {listed:?}");

    let name = only_aside(instance).await?.name;
    let listed = instance.cli(&["home", "ls"])?;
    let line = listed.stdout.lines().find(|line| line.starts_with(&name)).context("not listed")?;
    ensure!(line.contains("ana") && line.contains(&first.to_string()), "{line}");
    ensure!(line.contains("set aside") && line.contains("never"), "{line}");
    let refused = instance.cli(&["home", "restore", &name])?;
    ensure!(refused.code != 0 && refused.stderr.contains("another home"), "{refused:?}");

    // The way back.
    instance.forget("ana").await?;
    let homes = instance.homes().await?;
    let newer = homes.iter().find(|home| home.disk_uid == second).context("not listed")?;
    ensure!(instance.cli(&["home", "purge", &newer.name])?.code == 0);
    let restored = instance.cli(&["home", "restore", &name])?;
    ensure!(restored.code == 0, "{restored:?}");
    ensure!(fs::metadata(home(instance, "ana")?)?.ino() == inode, "it is another directory");
    let ready = instance.start("ana").await?;
    ensure!(instance.get("ana").await?.disk_uid == first);
    ensure!(instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "mine");
    instance.forget("ana").await?;

    // What belongs to somebody else, its owner cannot remove: it is told, and the rest goes.
    let name = only_aside(instance).await?.name;
    let kept = aside(instance).join(&name).join("of-root");
    fs::create_dir_all(kept.join("full"))?;
    fs::set_permissions(&kept, Permissions::from_mode(0o700))?;
    let failed = instance.cli(&["home", "purge", &name])?;
    ensure!(failed.code != 0 && failed.stderr.contains("of-root"), "{failed:?}");
    let left: Vec<_> = fs::read_dir(aside(instance).join(&name))?.flatten().collect();
    ensure!(left.len() == 1 && kept.join("full").is_dir(), "{left:?}");
    let told = only_aside(instance).await?;
    ensure!(told.state() == HomeState::BeingPurged && told.problem.contains("of-root"), "{told:?}");
    let refused = instance.cli(&["home", "restore", &name])?;
    ensure!(refused.code != 0 && refused.stderr.contains("may be gone"), "{refused:?}");
    // Nor is the directory of another number taken for it.
    let tree = aside(instance).join(&name);
    chown(&tree, Some(first + 7), Some(first + 7))?;
    let failed = instance.cli(&["home", "purge", &name])?;
    ensure!(failed.code != 0 && failed.stderr.contains("belongs to"), "{failed:?}");
    chown(&tree, Some(first), Some(first))?;
    fs::remove_dir_all(&kept)?;
    let purged = instance.cli(&["home", "purge", &name])?;
    ensure!(purged.code == 0, "{purged:?}");
    until_nothing_is_aside(instance).await?;

    ensure!(victim.join("kept").is_dir(), "what a link led to is gone");
    ensure!(fs::metadata(&victim)?.uid() == first);
    fs::remove_dir_all(&victim)?;
    instance.nothing_left(Duration::from_secs(5))
}

async fn die_at(instance: &Instance, point: &str) -> anyhow::Result<()> {
    instance.end_launcher(Signal::SIGTERM)?;
    instance.serve(Some(&format!("{point}=return"))).await
}

async fn dead(instance: &Instance) -> anyhow::Result<()> {
    let ended = instance.wait_ended(Duration::from_secs(20))?;
    ensure!(ended.signal() == Some(9), "it did not die at the point: {ended}");
    instance.serve(None).await
}

async fn until_aside(instance: &Instance) -> anyhow::Result<Home> {
    let since = Instant::now();
    loop {
        if let Ok(home) = only_aside(instance).await
            && home.state() == HomeState::SetAside
        {
            return Ok(home);
        }
        ensure!(since.elapsed() < PATIENCE, "{:?}", instance.homes().await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn deaths(instance: &Instance) -> anyhow::Result<()> {
    let mut last = 0;
    for point in FORGETTING {
        let id = inhabited(instance, "ana").await?;
        ensure!(id > last, "{point}: {id} was given again");
        last = id;
        die_at(instance, point).await?;
        instance.forget("ana").await.err().context("the launcher did not die")?;
        dead(instance).await?;
        let home = until_aside(instance).await?;
        ensure!(home.disk_uid == id && aside(instance).join(&home.name).join("file").exists());
        ensure!(instance.cli(&["home", "purge", &home.name])?.code == 0, "{point}");
    }
    let id = inhabited(instance, "ana").await?;
    for point in RESTORING {
        instance.forget("ana").await?;
        let home = only_aside(instance).await?;
        die_at(instance, point).await?;
        ensure!(instance.cli(&["home", "restore", &home.name])?.code != 0, "{point}");
        dead(instance).await?;
        until_nothing_is_aside(instance).await.with_context(|| (*point).to_owned())?;
        ensure!(inhabited(instance, "ana").await? == id, "{point}: it came back to another number");
    }
    for point in PURGING {
        inhabited(instance, "ana").await?;
        instance.forget("ana").await?;
        let home = only_aside(instance).await?;
        die_at(instance, point).await?;
        ensure!(instance.cli(&["home", "purge", &home.name])?.code != 0, "{point}");
        dead(instance).await?;
        until_nothing_is_aside(instance).await.with_context(|| (*point).to_owned())?;
    }
    // In the middle of the tree: the child ends with the launcher, and the next one goes on.
    let id = inhabited(instance, "ana").await?;
    let home = home(instance, "ana")?;
    for number in 0..20_000 {
        File::create(home.join(number.to_string()))?;
    }
    ensure!(fs::metadata(&home)?.uid() == id);
    instance.forget("ana").await?;
    let name = only_aside(instance).await?.name;
    let tree = aside(instance).join(&name);
    // Not by counting: whoever reads the directory holds the purge up.
    let touched = || fs::metadata(&tree).map(|tree| (tree.mtime(), tree.mtime_nsec()));
    let untouched = touched()?;
    let mut admin = instance.admin().await?;
    let request = adrastea_proto::v1::PurgeHomeRequest { name };
    let purging = tokio::spawn(async move { admin.purge_home(request).await });
    let since = Instant::now();
    while touched()? == untouched {
        ensure!(since.elapsed() < PATIENCE, "the purge does not begin");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let ended = instance.end_launcher(Signal::SIGKILL)?;
    ensure!(ended.signal() == Some(9));
    let _ = purging.await?;
    ensure!(tree.exists(), "the purge was over already: the test shows nothing");
    let count = || fs::read_dir(&tree).map_or(0, Iterator::count);
    let since = Instant::now();
    // A child that is killed finishes the system call it is in.
    let mut before = count();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = count();
        if now == before {
            break;
        }
        ensure!(since.elapsed() < Duration::from_secs(10), "the child outlives its launcher");
        before = now;
    }
    instance.serve(None).await?;
    until_nothing_is_aside(instance).await?;
    instance.start("ana").await?;
    instance.stop("ana", "").await?;
    instance.nothing_left(Duration::from_secs(10))
}

async fn full(root: &Path) -> anyhow::Result<()> {
    let policy = format!("root = \"{}\"\non_delete = \"archive\"", root.display());
    let instance = Instance::new(&options(&policy)).await?;
    inhabited(&instance, "ana").await?;
    let home = root.join(on_disk("ana")?);
    let mut filler = 0;
    while File::create(root.join(format!("filler-{filler}"))).is_ok() {
        filler += 1;
    }
    let failed = instance.forget("ana").await.err().context("it was set aside without room")?;
    ensure!(format!("{failed:?}").contains("No space left"), "{failed:?}");
    ensure!(fs::read(home.join("file"))? == b"mine", "the home was lost");
    for number in 0..filler {
        fs::remove_file(root.join(format!("filler-{number}")))?;
    }
    let answer = instance.forget("ana").await?;
    ensure!(answer.home() == HomeFate::Archived, "{answer:?}");
    // Full again: purging needs no room.
    while File::create(root.join(format!("filler-{filler}"))).is_ok() {
        filler += 1;
    }
    let name = only_aside(&instance).await?.name;
    let purged = instance.cli(&["home", "purge", &name])?;
    ensure!(purged.code == 0, "{purged:?}");
    instance.nothing_left(Duration::from_secs(5))?;
    instance.finish().await
}

/// Without room for bytes, a server that ignores its user's configuration starts.
async fn full_and_ignoring(root: &Path) -> anyhow::Result<()> {
    let policy = format!("root = \"{}\"\non_delete = \"archive\"", root.display());
    let instance = Instance::new(&options(&policy)).await?;
    let mut filler = File::create(root.join("filler"))?;
    while std::io::Write::write(&mut filler, &[0; 4096]).is_ok() {}
    let asked = StartRequest { disable_user_config: true, ..request("ben") };
    let server = instance.start_with(asked).await?;
    let listed = instance.http(server.address(), "/list/home/jovyan/.local/lib")?.1;
    ensure!(listed.is_empty(), "{listed}");
    let written = instance.http(server.address(), "/write/x/home/jovyan/file")?.1;
    ensure!(written.starts_with("error 28"), "the disk is not full: {written}");
    instance.stop("ben", "").await?;
    instance.nothing_left(Duration::from_secs(5))?;
    instance.finish().await
}
