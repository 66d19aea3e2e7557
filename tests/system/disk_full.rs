//! The state directory's disk is full: starts fail in words, servers live, stopping
//! needs no room, and everything goes on once there is some.

use std::{fs, io::Write as _, time::Duration};

use adrastea_proto::v1::Phase;
use adrastea_tests::{
    Instance, Options, Suite,
    client::{Started, request},
};
use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

pub fn add(suite: &mut Suite) {
    let small = || Options { disk: Some(48 << 20), ..Options::default() };
    suite.own(
        "disk_full::starts_fail_in_words_and_stops_need_no_room",
        small(),
        |instance| async move {
            for user in ["ana", "ben", "cleo"] {
                let ready = instance.start(user).await?;
                ensure!(
                    instance.http(ready.address(), "/write/kept/home/jovyan/file")?.1 == "written"
                );
            }
            fill(&instance)?;
            for user in ["ana", "new"] {
                // Each that fails may free or take a little.
                fill(&instance)?;
                let said = refused(&instance, if user == "ana" { "dora" } else { user }).await?;
                let words = said.to_lowercase();
                ensure!(
                    words.contains("disk") && words.contains("full"),
                    "the disk is not named: {said}"
                );
            }
            for user in ["ana", "ben", "cleo"] {
                ensure!(instance.get(user).await?.phase() == Phase::Ready);
                instance.answers(user).await?;
            }
            // Stopping works, and is seen, though nothing can be written.
            fill(&instance)?;
            ensure!(instance.stop("ana", "").await?);
            ensure!(instance.get("ana").await?.phase() == Phase::Gone);
            instance.answers("ben").await?;
            // An end by itself as well.
            let ben = instance.get("ben").await?;
            instance.http(&ben.address, "/exit/6").ok();
            ensure!(instance.exit("ben", Duration::from_secs(10)).await?.code == 6);

            // Room again: it goes on at once, with the homes as they were.
            fs::remove_file(filler(&instance))?;
            for user in ["ana", "ben"] {
                let ready = instance.start(user).await?;
                ensure!(instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "kept");
            }
            instance.answers("cleo").await?;
            for user in ["ana", "ben", "cleo"] {
                ensure!(instance.stop(user, "").await?, "{user} was not there to stop");
            }
            instance.nothing_left(Duration::from_secs(10))
        },
    );

    suite.own(
        "disk_full::a_launcher_killed_meanwhile_loses_nothing",
        small(),
        |instance| async move {
            let ready = instance.start("ana").await?;
            ensure!(instance.http(ready.address(), "/write/kept/home/jovyan/file")?.1 == "written");
            instance.start("ben").await?;
            fill(&instance)?;
            ensure!(instance.stop("ana", "").await?);
            instance.end_launcher(Signal::SIGKILL)?;
            // It serves, or says why not; nothing is taken from those who run.
            if let Err(error) = instance.serve(None).await {
                let log = instance.launcher_log().to_lowercase();
                ensure!(log.contains("full") || log.contains("no space"), "{error:#}");
            } else {
                instance.end_launcher(Signal::SIGKILL)?;
            }
            fs::remove_file(filler(&instance))?;
            instance.serve(None).await?;
            instance.answers("ben").await?;
            ensure!(instance.get("ana").await?.phase() == Phase::Gone);
            let ready = instance.start("ana").await?;
            ensure!(instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "kept");
            for user in ["ana", "ben"] {
                ensure!(instance.stop(user, "").await?);
            }
            instance.nothing_left(Duration::from_secs(10))
        },
    );
}

fn filler(instance: &Instance) -> std::path::PathBuf {
    instance.state().join("filler")
}

/// Takes the last byte of the disk.
fn fill(instance: &Instance) -> anyhow::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(filler(instance))?;
    for size in [1 << 20, 1 << 12, 1] {
        loop {
            match file.write(&vec![b'x'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// What a start is told that must not succeed.
async fn refused(instance: &Instance, user: &str) -> anyhow::Result<String> {
    match instance.try_start(request(user)).await {
        Ok(Started::Ready(ready)) => anyhow::bail!("a start on a full disk: {ready:?}"),
        Ok(Started::Failed(failed)) => Ok(format!("{} {}", failed.message, failed.hint)),
        Err(error) => {
            let status = error.downcast::<tonic::Status>().context("no words")?;
            Ok(status.message().to_owned())
        }
    }
}
