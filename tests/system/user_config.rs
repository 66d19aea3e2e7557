//! Servers that ignore what their user has configured in the home, whatever lies
//! there: planted files are neither seen nor written, planted links lead nowhere,
//! and the rest of the home is the user's as ever.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use adrastea::names::ServerKey;
use adrastea_proto::v1::StartRequest;
use adrastea_tests::{
    Instance, Options, Suite,
    client::{HUB, Ready, key, request},
    column,
};
use anyhow::ensure;
use tonic::Code;

use crate::ask::refused;

/// What Jupyter, IPython and Python read in a home; each with a file that would count.
const READ: &[(&str, &str)] = &[
    (".jupyter", "jupyter_server_config.py"),
    (".ipython", "startup.py"),
    (".config/jupyter", "jupyter_server_config.py"),
    (".local/etc", "jupyter_config.py"),
    (".local/lib", "usercustomize.py"),
    (".local/share/jupyter", "kernel.json"),
];

fn ignoring(user: &str) -> StartRequest {
    StartRequest { disable_user_config: true, ..request(user) }
}

/// The ordinary profile, but policy has its users' configuration ignored.
fn options() -> Options {
    Options::default().replacing(
        "[profiles.tiny-private]\n",
        "[profiles.tiny-private]\nuser_config = \"ignored\"\n",
    )
}

fn home(instance: &Instance, user: &str) -> anyhow::Result<PathBuf> {
    Ok(instance.state().join("homes").join(ServerKey::new(HUB, user, "")?.owner().on_disk()))
}

/// Nothing is seen or can be written in any place, nor can one be had by moving things.
fn covered(instance: &Instance, server: &Ready) -> anyhow::Result<()> {
    let ask = |path: &str| anyhow::Ok(instance.http(server.address(), path)?.1);
    for (place, file) in READ {
        let listed = ask(&format!("/list/home/jovyan/{place}"))?;
        ensure!(listed.is_empty(), "~/{place} shows {listed:?}");
        let written = ask(&format!("/write/evil/home/jovyan/{place}/{file}"))?;
        ensure!(column::says_read_only(&written), "~/{place} can be written: {written}");
        // Busy: a mount point, or a directory that is one on the way to it.
        for part in place.match_indices('/').map(|(end, _)| &place[..end]).chain([*place]) {
            let part = part.replace('/', "+");
            let beside =
                part.rsplit_once('+').map_or_else(String::new, |(way, _)| format!("{way}+"));
            let moved = ask(&format!("/move/{part}/{beside}moved"))?;
            ensure!(moved.starts_with("error 16"), "~/{part} could be moved away: {moved}");
        }
    }
    let environment = ask("/env")?;
    for line in ["JUPYTERHUB_DISABLE_USER_CONFIG=1", "PYTHONNOUSERSITE=1"] {
        ensure!(environment.lines().any(|found| found == line), "{environment}");
    }
    for place in ["data", ".local/data", ".config/data", ".local/share/data"] {
        let written = ask(&format!("/write/mine/home/jovyan/{place}"))?;
        ensure!(written == "written", "~/{place} cannot be written: {written}");
    }
    Ok(())
}

pub fn add(suite: &mut Suite) {
    suite.own("user_config::is_ignored_in_any_home", options(), |instance| async move {
        fresh_and_used(&instance).await?;
        hostile(&instance).await?;
        by_policy(&instance).await
    });
}

async fn fresh_and_used(instance: &Instance) -> anyhow::Result<()> {
    let server = instance.start_with(ignoring("fresh")).await?;
    covered(instance, &server)?;
    instance.stop("fresh", "").await?;

    // The reference: without it, what lies there is read, and can be written.
    let server = instance.start("used").await?;
    let owner = fs::metadata(home(instance, "used")?)?;
    for (place, file) in READ {
        let folder = home(instance, "used")?.join(place);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(file), "mine")?;
        for path in folder.ancestors().take(place.split('/').count()) {
            chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
        chown(folder.join(file), Some(owner.uid()), Some(owner.gid()))?;
        let seen = instance.http(server.address(), &format!("/list/home/jovyan/{place}"))?.1;
        ensure!(seen == *file, "~/{place} shows {seen:?} without it: the test shows nothing");
    }
    let moved = instance.http(server.address(), "/move/.local/.elsewhere")?.1;
    ensure!(moved == "moved", "{moved}");
    instance.http(server.address(), "/move/.elsewhere/.local")?;

    // A second server of the same user could uncover it in the shared home.
    let named = StartRequest { key: Some(key("used", "second")), ..ignoring("used") };
    refused(instance.try_start(named).await, Code::PermissionDenied, "user_config")?;
    instance.stop("used", "").await?;

    let server = instance.start_with(ignoring("used")).await?;
    covered(instance, &server)?;
    let named = StartRequest { key: Some(key("used", "second")), ..request("used") };
    refused(instance.try_start(named).await, Code::PermissionDenied, "user_config")?;
    instance.stop("used", "").await?;

    // Covered, not removed.
    for (place, file) in READ {
        ensure!(fs::read(home(instance, "used")?.join(place).join(file))? == b"mine", "{place}");
    }
    let server = instance.start("used").await?;
    let seen = instance.http(server.address(), "/cat/home/jovyan/.local/lib/usercustomize.py")?.1;
    ensure!(seen == "mine", "{seen}");
    instance.stop("used", "").await?;
    Ok(())
}

async fn hostile(instance: &Instance) -> anyhow::Result<()> {
    instance.start("evil").await?;
    instance.stop("evil", "").await?;
    let home = home(instance, "evil")?;
    let owner = fs::metadata(&home)?;
    let own = |path: &Path| lchown(path, Some(owner.uid()), Some(owner.gid()));
    let victim = instance.scratch().join("victim");
    fs::create_dir(&victim)?;
    symlink(&victim, home.join(".jupyter"))?;
    nix::unistd::mkfifo(&home.join(".ipython"), nix::sys::stat::Mode::S_IRWXU)?;
    fs::write(home.join(".config"), "a file")?;
    fs::create_dir(home.join(".local"))?;
    symlink("../../../../../../etc", home.join(".local/etc"))?;
    symlink("share", home.join(".local/share"))?;
    for name in [".jupyter", ".ipython", ".config", ".local", ".local/etc", ".local/share"] {
        own(&home.join(name))?;
    }
    fs::set_permissions(home.join(".local"), Permissions::from_mode(0o000))?;
    let etc = fs::metadata("/etc")?.mtime();

    let server = instance.start_with(ignoring("evil")).await?;
    // What its owner has shut stays shut; whoever opens it finds the places covered.
    let shut = instance.http(server.address(), "/list/home/jovyan/.local/lib")?.1;
    ensure!(shut.starts_with("error 13"), "{shut}");
    fs::set_permissions(home.join(".local"), Permissions::from_mode(0o700))?;
    covered(instance, &server)?;
    instance.stop("evil", "").await?;
    ensure!(fs::read_dir(&victim)?.count() == 0, "a planted link was followed");
    ensure!(fs::metadata("/etc")?.mtime() == etc, "a planted link was followed to /etc");
    for name in [".jupyter", ".ipython", ".config", ".local/etc", ".local/share"] {
        let aside = home.join(format!("{name}.ignored-0"));
        ensure!(fs::symlink_metadata(&aside).is_ok(), "`{}` was lost", aside.display());
        ensure!(fs::symlink_metadata(home.join(name))?.uid() == owner.uid(), "~/{name}");
    }
    fs::remove_dir(&victim)?;
    instance.nothing_left(std::time::Duration::from_secs(5))
}

async fn by_policy(instance: &Instance) -> anyhow::Result<()> {
    let asked = StartRequest { profile: "tiny-private".into(), ..request("somebody-else") };
    let server = instance.start_with(asked).await?;
    covered(instance, &server)?;
    // The launcher that comes next knows it still.
    instance.restart_launcher(nix::sys::signal::Signal::SIGKILL).await?;
    let named = StartRequest { key: Some(key("somebody-else", "x")), ..request("somebody-else") };
    refused(instance.try_start(named).await, Code::PermissionDenied, "user_config")?;
    covered(instance, &server)?;
    instance.stop("somebody-else", "").await?;
    Ok(())
}
