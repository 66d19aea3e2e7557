//! A server's life: start, progress, answer, log, and its end with the cause.

use std::time::Duration;

use adrastea_proto::v1::{
    ExitCause, FailureReason, Phase, Progress, StartRequest, WatchRequest, watch_event,
};
use adrastea_tests::{
    Suite,
    client::{HUB, request},
    column,
    image::ANSWER,
};
use anyhow::{Context as _, ensure};

use crate::{
    ask::{failed, with_arguments},
    stop::wait_for,
};

const PATIENCE: Duration = Duration::from_secs(10);

pub fn add(suite: &mut Suite) {
    suite.shared(
        "life::a_start_tells_its_progress_and_then_the_server_answers",
        |instance| async move {
            let ready = instance.start("progress").await?;
            let phases: Vec<_> = ready.progress.iter().map(Progress::phase).collect();
            let expected =
                [Phase::Queued, Phase::Preparing, Phase::Proving, Phase::Claiming, Phase::Starting];
            ensure!(phases == expected, "{phases:?}");
            ensure!(
                ready.progress.iter().all(|step| !step.message.is_empty()),
                "a step without words"
            );
            ensure!(ready.progress.is_sorted_by_key(|step| step.percent), "percentages go back");
            // At once: whoever is told "ready" must not need a second try.
            ensure!(instance.http(ready.address(), "/")? == (200, "ok".into()));
            let sandbox = instance.get("progress").await?;
            ensure!(
                sandbox.phase() == Phase::Ready && sandbox.sandbox_id == ready.id(),
                "{sandbox:?}"
            );
            ensure!(sandbox.steps.len() > 5, "the steps were not timed: {:?}", sandbox.steps);
            instance.stop("progress", "").await?;
            ensure!(instance.get("progress").await?.phase() == Phase::Gone);
            ensure!(instance.http(ready.address(), "/").is_err(), "it still answers");
            Ok(())
        },
    );

    suite.shared("life::the_server_gets_its_environment_home_and_user", |instance| async move {
        let request = StartRequest {
            environment: [("TEST_PLAIN".into(), "a b=c".into())].into(),
            secret_environment: [("JUPYTERHUB_API_TOKEN".into(), "canary".into())].into(),
            ..request("environment")
        };
        let ready = instance.start_with(request).await?;
        let environment = instance.http(ready.address(), "/env")?.1;
        for line in [
            "TEST_PLAIN=a b=c",
            "JUPYTERHUB_API_TOKEN=canary",
            "HOME=/home/jovyan",
            "USER=jovyan",
            "PATH=/bin",
            "FROM_IMAGE=a=b",
        ] {
            ensure!(
                environment.lines().any(|found| found == line),
                "`{line}` is not in:\n{environment}"
            );
        }
        ensure!(!environment.contains("LD_PRELOAD"), "the image set LD_PRELOAD:\n{environment}");
        ensure!(instance.http(ready.address(), "/directory")?.1 == "/home/jovyan");
        ensure!(instance.http(ready.address(), "/write/kept/home/jovyan/file")?.1 == "written");
        ensure!(
            column::says_read_only(&instance.http(ready.address(), "/write/no/usr/file")?.1),
            "the rootfs can be written"
        );
        instance.stop("environment", "").await?;
        let ready = instance.start("environment").await?;
        ensure!(instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "kept");
        instance.stop("environment", "").await.map(|_| ())
    });

    suite.shared("life::what_the_server_writes_is_its_log", |instance| async move {
        let ready = instance.start("log").await?;
        instance.http(ready.address(), "/print/hello")?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let log = instance.log("log").await?;
        ensure!(log == "answering\nhello\n", "{log:?}");
        let cli = instance.cli(&["logs", "--user", "log", "--hub", HUB])?;
        ensure!(cli.stdout == log, "{cli:?}");
        instance.http(ready.address(), "/exit/0").ok();
        let exit = instance.exit("log", PATIENCE).await?;
        ensure!(exit.log_tail == log, "{exit:?}");
        Ok(())
    });

    suite.shared("life::an_exit_code_is_told", |instance| async move {
        let ready = instance.start("code").await?;
        instance.http(ready.address(), "/exit/3").ok();
        let exit = instance.exit("code", PATIENCE).await?;
        ensure!((exit.cause(), exit.code, exit.signal) == (ExitCause::Exited, 3, 0), "{exit:?}");
        ensure!(exit.message.contains("exit code 3"), "{exit:?}");
        Ok(())
    });

    suite.shared("life::a_signal_is_told", |instance| async move {
        for signal in [9, 6] {
            let ready = instance.start("signal").await?;
            instance.http(ready.address(), &format!("/signal/{signal}")).ok();
            let exit = instance.exit("signal", PATIENCE).await?;
            ensure!((exit.cause(), exit.signal) == (ExitCause::Signaled, signal), "{exit:?}");
        }
        Ok(())
    });

    suite.shared("life::an_end_is_pushed_to_those_who_watch", |instance| async move {
        let mut events = instance
            .launcher()
            .await?
            .watch(WatchRequest { hub: HUB.into(), ..Default::default() })
            .await?
            .into_inner();
        let ready = instance.start("watched").await?;
        instance.http(ready.address(), "/exit/4").ok();
        let (mut synced, mut seen) = (false, false);
        let watching = async {
            while let Some(event) = events.message().await? {
                match event.event {
                    Some(watch_event::Event::Synced(_)) => synced = true,
                    Some(watch_event::Event::Sandbox(sandbox))
                        if sandbox.sandbox_id == ready.id() =>
                    {
                        seen |= sandbox.phase() == Phase::Ready;
                        if sandbox.phase() == Phase::Gone {
                            return sandbox.exit.context("no cause");
                        }
                    }
                    _ => {}
                }
            }
            anyhow::bail!("the stream ended")
        };
        let exit =
            tokio::time::timeout(PATIENCE, watching).await.context("nothing was pushed")??;
        ensure!(synced && seen && exit.code == 4, "{synced} {seen} {exit:?}");
        Ok(())
    });

    suite.shared(
        "life::a_server_that_ends_before_it_answers_is_a_failure_with_its_log",
        |instance| async move {
            let failure = instance.start_failing(with_arguments("dies", &["die", "7"])).await?;
            failed(&failure, FailureReason::ServerExited, "7")?;
            ensure!(failure.log_tail.contains("dying on purpose"), "{failure:?}");
            ensure!(instance.get("dies").await?.phase() == Phase::Gone);
            Ok(())
        },
    );

    suite.shared("life::a_late_server_is_waited_for", |instance| async move {
        let ready = instance.start_with(with_arguments("late", &["late", "1500"])).await?;
        ensure!(instance.http(ready.address(), "/")?.0 == 200);
        instance.stop("late", "").await.map(|_| ())
    });

    suite.shared("life::a_start_goes_on_when_its_hub_goes_away", |instance| async move {
        let request = with_arguments("left", &["late", "500"]);
        let mut events = instance.launcher().await?.start(request.clone()).await?.into_inner();
        events.message().await?;
        drop(events);
        wait_for(&instance, "left", Phase::Ready).await?;
        // The hub that comes back asks again, and gets the same one.
        let again = instance.start_with(request).await?;
        ensure!(again.id() == instance.get("left").await?.sandbox_id);
        instance.stop("left", "").await.map(|_| ())
    });

    suite.shared("life::run_passes_output_and_exit_code_on", |instance| async move {
        let output = instance.run("runner", &[ANSWER, "exit", "42"])?;
        ensure!(output.code == 42, "{output:?}");
        let output = instance.run("runner", &[ANSWER, "env"])?;
        ensure!(output.code == 0 && output.stdout.contains("HOME=/home/jovyan"), "{output:?}");
        let output = instance.run("runner", &[ANSWER, "signal", "9"])?;
        ensure!(output.code == 137, "{output:?}");
        let output = instance.run("runner", &[ANSWER, "input"])?;
        ensure!(output.stdout.trim() == "0 bytes", "{output:?}");
        let output = instance.run("runner", &["/bin/absent"])?;
        ensure!(output.code != 0, "{output:?}");
        Ok(())
    });
}
