//! E14: what would give rights away, planted where a tenant can write (home and `/tmp`)
//! by somebody who may, is inert; and is not, where the walls are missing.

use std::{fs, path::Path, process::Command};

use adrastea_tests::{Instance, Namespace, Suite, column, image, place};
use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::{
    identity, posture,
    reference::{Reference, Wishes},
    tenant,
};

const SETUID: &str = "planted-setuid Uid:\t";
const CAPABILITIES: &str = "planted-capabilities CapEff:\t";

/// What it takes to plant, from outside, in a sandbox's own file system.
const RIGHTS: &str = "+mknod,+setfcap,+chown,+fowner,+fsetid,+dac_override,+dac_read_search,\
    +sys_ptrace,+sys_admin";

pub fn add(suite: &mut Suite) {
    suite.shared("e14_what_is_planted_in_home_and_tmp_is_inert", async |instance| {
        inert(&instance).await
    });
    suite.plain("e14_reference_what_is_planted_gives_rights", gives_rights);
}

/// Runs the planting program as the sandbox's own root, with every right of the host's.
fn plant(directory: &Path, owner: u64) -> anyhow::Result<()> {
    let output = Command::new("setpriv")
        .args([&format!("--reuid={owner}"), &format!("--regid={owner}"), "--clear-groups"])
        .args([format!("--inh-caps={RIGHTS}"), format!("--ambient-caps={RIGHTS}")])
        .arg(place::tenant())
        .arg("plant")
        .arg(directory)
        .output()
        .context("failed to run `setpriv`")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        said.contains("planted"),
        "{}: {said}{}",
        directory.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

async fn inert(instance: &Instance) -> anyhow::Result<()> {
    // What a machine has in `/tmp` no process of the node can reach: from there it is the node's own.
    let places: &[&str] =
        if column::is_of_machines() { &["/home/jovyan"] } else { &["/tmp", "/home/jovyan"] };
    let words = [&["try-planted"], places].concat();
    let ready = tenant::start(instance, "e-planted", &words, "waiting").await?;
    if !column::is_of_machines() {
        plant_in_tmp(instance, ready.id())?;
    }
    // The home lies on the host's disk, where the host's own root can leave something.
    plant(&identity::home(instance, "e-planted"), 0)?;
    let said = tenant::says(instance, "e-planted", "tried").await?;
    instance.stop("e-planted", "").await?;
    for place in places {
        for (what, expected) in [
            (SETUID, "1000\t1000\t1000\t1000"),
            (CAPABILITIES, "0000000000000000"),
            ("planted-setuid CapEff:\t", "0000000000000000"),
            ("planted-memory ", "refused: Permission denied"),
            ("planted-null ", "refused: Permission denied"),
        ] {
            ensure!(said.contains(&format!("{place} {what}{expected}")), "{place} {what}: {said}");
        }
    }
    Ok(())
}

/// Through a process of the sandbox that the node has.
fn plant_in_tmp(instance: &Instance, id: &str) -> anyhow::Result<()> {
    let group = format!("/{}/{}", instance.name, id);
    let server = *posture::processes_of(&group).last().context("no process")?;
    let root = Path::new("/proc").join(server.to_string()).join("root");
    // The host's number of the sandbox's root: what is setuid to it is setuid root inside.
    let text = fs::read_to_string(format!("/proc/{server}/uid_map"))?;
    let inner = text.lines().find_map(|line| {
        let mut numbers = line.split_whitespace();
        (numbers.next() == Some("0")).then(|| numbers.next()?.parse::<u64>().ok()).flatten()
    });
    plant(&root.join("tmp"), inner.context("nobody is root inside")?)
}

/// The same files on a mount without `nosuid` and `nodev`, tried by an ordinary user whom
/// nothing keeps from gaining rights.
fn gives_rights() -> anyhow::Result<()> {
    let shared = place::scratch().join(format!("planted-{}", std::process::id()));
    fs::create_dir_all(&shared)?;
    let planted = plant(&shared, 0).and_then(|()| {
        let bind = json!({"destination": "/shared", "type": "none", "source": shared, "options": ["bind", "rw"]});
        let wishes =
            Wishes { uid: 1000, bounding: true, mounts: vec![bind], ..Wishes::default() };
        let command = [image::TENANT, "try-planted", "/shared"];
        Reference::start(&Namespace::new()?, &command, &wishes)?.says("tried")
    });
    fs::remove_dir_all(&shared)?;
    let said = planted?;
    for (what, expected) in
        [(SETUID, "1000\t0\t0\t0"), (CAPABILITIES, "0000000000200080"), ("planted-null ", "opened")]
    {
        ensure!(said.contains(&format!("/shared {what}{expected}")), "{what}: {said}");
    }
    Ok(())
}
