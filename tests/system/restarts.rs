//! Servers outlive their launcher, however it ends.

use std::time::{Duration, Instant};

use adrastea_proto::v1::{ExitCause, Phase};
use adrastea_tests::{Instance, Options, Suite};
use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::network::{PUBLIC, temptations, walls_stand};

pub fn add(suite: &mut Suite) {
    for (name, signal, count) in
        [("in_order", Signal::SIGTERM, 4), ("by_sigkill", Signal::SIGKILL, 20)]
    {
        suite.own(
            &format!("restarts::{count}_servers_survive_a_launcher_ended_{name}"),
            Options::default(),
            move |instance| async move { survives(&instance, signal, count).await },
        );
    }

    suite.own(
        "restarts::an_end_meanwhile_is_found_out",
        Options::default(),
        |instance| async move {
            let ready = instance.start("ana").await?;
            instance.start("ben").await?;
            instance.end_launcher(Signal::SIGKILL)?;
            instance.http(ready.address(), "/exit/5").ok();
            instance.serve(None).await?;
            let exit = instance.exit("ana", Duration::from_secs(10)).await?;
            ensure!(matches!(exit.cause(), ExitCause::Exited | ExitCause::Lost), "{exit:?}");
            ensure!(exit.cause() == ExitCause::Lost || exit.code == 5, "{exit:?}");
            instance.answers("ben").await?;
            instance.stop("ben", "").await?;
            instance.nothing_left(Duration::from_secs(10))
        },
    );

    suite.own(
        "restarts::the_walls_stand_all_the_time",
        Options::default().with_world(),
        |instance| async move {
            let _open = temptations(&instance)?;
            instance.start("ana").await?;
            instance.start("ben").await?;
            let addresses =
                [instance.get("ana").await?.address, instance.get("ben").await?.address];
            instance.end_launcher(Signal::SIGKILL)?;
            let without =
                instance.http(&addresses[0], &format!("/connect/{}/8888", addresses[1]))?.1;
            ensure!(without != "open", "no launcher, no walls");
            ensure!(instance.http(&addresses[0], &format!("/connect/{PUBLIC}/80"))?.1 != "open");
            instance.serve(None).await?;
            walls_stand(&instance, "ana", "ben").await?;
            instance.start("cleo").await?;
            walls_stand(&instance, "cleo", "ana").await
        },
    );

    suite.own(
        "restarts::ids_are_kept_and_never_given_twice",
        Options::default(),
        |instance| async move {
            instance.start("ana").await?;
            let ana = instance.get("ana").await?;
            instance.restart_launcher(Signal::SIGKILL).await?;
            instance.start("ben").await?;
            let ben = instance.get("ben").await?;
            ensure!(
                ana.disk_uid != ben.disk_uid
                    && ana.run_range_first != ben.run_range_first
                    && ana.address != ben.address,
                "{ana:?} {ben:?}"
            );
            instance.stop("ana", "").await?;
            instance.restart_launcher(Signal::SIGTERM).await?;
            instance.start("ana").await?;
            let again = instance.get("ana").await?;
            ensure!(
                again.disk_uid == ana.disk_uid && again.generation > ana.generation,
                "{ana:?} {again:?}"
            );
            Ok(())
        },
    );
}

async fn survives(instance: &Instance, signal: Signal, count: usize) -> anyhow::Result<()> {
    let users: Vec<_> = (0..count).map(|number| format!("user-{number}")).collect();
    for user in &users {
        let ready = instance.start(user).await?;
        instance.http(ready.address(), "/print/before")?;
    }
    let before = instance.live().await?;
    ensure!(before.len() == count);
    instance.end_launcher(signal)?;
    for sandbox in &before {
        ensure!(instance.http(&sandbox.address, "/")?.0 == 200, "a server went with its launcher");
        instance.http(&sandbox.address, "/print/meanwhile")?;
    }
    let since = Instant::now();
    instance.serve(None).await?;
    ensure!(
        since.elapsed() < Duration::from_secs(10),
        "it took {:?} until the launcher answered",
        since.elapsed()
    );
    let after = instance.live().await?;
    ensure!(after.len() == count);
    for (old, new) in before.iter().zip(&after) {
        ensure!(new.phase() == Phase::Ready, "{new:?}");
        ensure!(
            (&old.sandbox_id, &old.address, old.generation, old.disk_uid, old.run_range_first)
                == (
                    &new.sandbox_id,
                    &new.address,
                    new.generation,
                    new.disk_uid,
                    new.run_range_first
                ),
            "{old:?} became {new:?}"
        );
        ensure!(instance.http(&new.address, "/print/after")?.0 == 200);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for user in &users {
        let log = instance.log(user).await?;
        ensure!(log == "answering\nbefore\nmeanwhile\nafter\n", "{user}: {log:?}");
    }
    instance.start("new").await?;
    instance.answers("new").await?;
    for user in users.iter().map(String::as_str).chain(["new"]) {
        ensure!(instance.stop(user, "").await?, "{user} was not there to stop");
    }
    instance.nothing_left(Duration::from_secs(10))
}
