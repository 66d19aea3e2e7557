//! containerd dies or hangs: servers live, errors are bounded, and it recovers.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{ExitCause, FailureReason, Phase};
use adrastea_tests::{
    Instance, Options, Suite,
    client::{Started, request},
    config, place,
};
use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::ask::failed;

/// Starts until it works again.
pub async fn recovers(instance: &Instance, user: &str, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match instance.try_start(request(user)).await? {
            Started::Ready(_) => return instance.answers(user).await,
            Started::Failed(failure) if Instant::now() > deadline => {
                bail!("no start after {patience:?}: {failure:?}")
            }
            Started::Failed(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// containerd's ordinary one, and gVisor's own.
const SHIMS: [&str; 2] = ["containerd-shim-runc-v2", "containerd-shim-runsc-v1"];

/// The process that containerd started for one sandbox.
pub fn shim_of(instance: &Instance, id: &str) -> anyhow::Result<i32> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|byte| *byte == 0).collect();
        let is_shim = SHIMS.iter().any(|name| words[0].ends_with(name.as_bytes()));
        // gVisor's own names no sandbox; either works in its bundle's directory.
        let bundle = || fs::read_link(entry.path().join("cwd")).is_ok_and(|it| it.ends_with(id));
        let ours = is_shim
            && words.contains(&instance.name.as_bytes())
            && (words.contains(&id.as_bytes()) || bundle());
        if ours {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    bail!("there is no shim of `{id}`")
}

pub fn add(suite: &mut Suite) {
    suite.own(
        "engine::servers_live_through_containerds_death",
        Options::default(),
        |instance| async move {
            instance.start("ana").await?;
            instance.start("ben").await?;
            let before = instance.containerd_pid()?;
            instance.kill_containerd(Signal::SIGKILL)?;
            for user in ["ana", "ben"] {
                ensure!(instance.get(user).await?.phase() == Phase::Ready, "unknown is not dead");
                instance.answers(user).await?;
            }
            recovers(&instance, "cleo", Duration::from_secs(20)).await?;
            ensure!(instance.containerd_pid()? != before);
            for user in ["ana", "ben"] {
                ensure!(instance.get(user).await?.phase() == Phase::Ready);
                instance.answers(user).await?;
            }
            // An end is still noticed by the one that was started again.
            let ben = instance.get("ben").await?;
            instance.http(&ben.address, "/exit/6").ok();
            let exit = instance.exit("ben", Duration::from_secs(10)).await?;
            ensure!(exit.code == 6, "{exit:?}");
            ensure!(instance.stop("ana", "").await? && instance.stop("cleo", "").await?);
            instance.nothing_left(Duration::from_secs(10))
        },
    );

    suite.own(
        "engine::a_hanging_containerd_is_an_error_with_a_deadline",
        Options::default(),
        |instance| async move {
            instance.start("ana").await?;
            instance.kill_containerd(Signal::SIGSTOP)?;
            let since = Instant::now();
            let outcome = tokio::time::timeout(
                Duration::from_secs(90),
                instance.start_failing(request("ben")),
            )
            .await;
            let (listed, took) = (instance.get("ana").await, since.elapsed());
            let answered = instance.answers("ana").await;
            instance.kill_containerd(Signal::SIGCONT)?;
            failed(
                &outcome.context("the start never ended")??,
                FailureReason::EngineUnavailable,
                "",
            )?;
            ensure!(took < Duration::from_secs(60), "the error took {took:?}");
            ensure!(listed?.phase() == Phase::Ready);
            answered?;
            recovers(&instance, "ben", Duration::from_secs(20)).await?;
            for user in ["ana", "ben"] {
                ensure!(instance.stop(user, "").await?);
            }
            instance.nothing_left(Duration::from_secs(15))
        },
    );

    suite.own(
        "engine::the_death_of_a_shim_is_noticed_and_cleaned_up",
        Options::default(),
        |instance| async move {
            let ready = instance.start("ana").await?;
            instance.start("ben").await?;
            kill(Pid::from_raw(shim_of(&instance, ready.id())?), Signal::SIGKILL)?;
            let exit = instance.exit("ana", Duration::from_secs(10)).await?;
            ensure!(exit.cause() != ExitCause::Stopped && !exit.message.is_empty(), "{exit:?}");
            instance.answers("ben").await?;
            instance.stop("ben", "").await?;
            instance.nothing_left(Duration::from_secs(10))
        },
    );

    suite.own(
        "engine::a_start_without_containerd_fails_with_a_hint_and_leaves_nothing",
        Options::default(),
        |instance| async move {
            // By a name that can be taken away.
            let binary = place::tools().join("bin/containerd");
            let link = instance.scratch().join("containerd");
            symlink(&binary, &link)?;
            let quoted = |path: &Path| format!("\"{}\"", path.display());
            let text = instance.config_text().replace(&quoted(&binary), &quoted(&link));
            config::write(&instance.config(), &text)?;
            instance.restart_launcher(Signal::SIGTERM).await?;
            let ready = instance.start("ana").await?;
            fs::remove_file(&link)?;
            instance.kill_containerd(Signal::SIGKILL)?;
            let failure = instance.start_failing(request("ben")).await;
            let directories = instance.run_directory().join("sandboxes").read_dir()?.count();
            symlink(&binary, &link)?;
            failed(&failure?, FailureReason::EngineUnavailable, "containerd")?;
            ensure!(directories == 1, "a failed start left its directory");
            ensure!(instance.http(ready.address(), "/")?.0 == 200);
            recovers(&instance, "ben", Duration::from_secs(20)).await?;
            ensure!(instance.stop("ana", "").await? && instance.stop("ben", "").await?);
            instance.nothing_left(Duration::from_secs(10))
        },
    );
}
