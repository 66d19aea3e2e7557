//! The fixture itself: a leak of every kind must be seen, or the other tests prove nothing.

use std::{fs, process::Command, time::Duration};

use adrastea_tests::{Instance, Options, Suite};
use anyhow::{Context as _, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub fn add(suite: &mut Suite) {
    suite.own("fixture::a_leak_of_every_kind_is_seen", Options::default(), |instance| async move {
        instance.nothing_left(Duration::ZERO)?;
        let folder = instance.run_directory().join("sandboxes/planted");
        fs::create_dir(&folder)?;
        mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        let log = instance.state().join("logs/planted.log");
        fs::write(&log, "")?;
        let group = fs::read_dir("/sys/fs/cgroup")?
            .flatten()
            .map(|entry| entry.path().join(&instance.name));
        let group = group.chain(["/sys/fs/cgroup".into()]).find(|path| path.is_dir());
        let group = group.context("the instance has no control group")?.join("planted");
        fs::create_dir(&group)?;
        instance.namespace.ip("link add planted type veth peer name planted-peer")?;
        instance.namespace.output("nft", &["add", "table", "inet", "planted"])?;
        in_router(&instance, &["ip", "link", "add", "planted2", "type", "veth"])?;
        in_router(&instance, &["nft", "add", "table", "inet", "planted2"])?;
        let mut child = Command::new("sleep").arg("60").spawn()?;
        fs::write(group.join("cgroup.procs"), child.id().to_string())?;

        let found = instance.leaks(Duration::ZERO);
        child.kill()?;
        child.wait()?;
        umount2(&folder, MntFlags::empty())?;
        fs::remove_dir(&folder)?;
        fs::remove_file(&log)?;
        fs::remove_dir(&group)?;
        instance.namespace.ip("link delete planted")?;
        instance.namespace.output("nft", &["delete", "table", "inet", "planted"])?;
        in_router(&instance, &["ip", "link", "delete", "planted2"])?;
        in_router(&instance, &["nft", "delete", "table", "inet", "planted2"])?;

        let found = found?;
        for kind in [
            "mount",
            "file",
            "cgroup",
            "process",
            "link",
            "firewall",
            "router link",
            "router firewall",
        ] {
            let seen = found.iter().any(|line| line.starts_with(&format!("+ {kind}: ")));
            ensure!(seen, "a leaked {kind} was not seen among {found:?}");
        }
        instance.nothing_left(Duration::from_secs(2))
    });

    suite.own(
        "fixture::a_live_sandbox_is_seen_in_every_place",
        Options::default(),
        |instance| async move {
            instance.start("ana").await?;
            let found = instance.leaks(Duration::ZERO)?;
            for kind in [
                "mount",
                "file",
                "cgroup",
                "process",
                "router link",
                "router route",
                "router firewall",
                "containers ls -q",
                "tasks ls -q",
            ] {
                let seen = found.iter().any(|line| line.starts_with(&format!("+ {kind}: ")));
                ensure!(seen, "no {kind} of a live sandbox was seen among {found:?}");
            }
            Ok(())
        },
    );
}

fn in_router(instance: &Instance, words: &[&str]) -> anyhow::Result<()> {
    let namespace = format!("--net=/run/netns/{}", instance.name);
    let status = Command::new("nsenter").arg(namespace).args(words).status()?;
    ensure!(status.success(), "`{}` failed", words.join(" "));
    Ok(())
}
