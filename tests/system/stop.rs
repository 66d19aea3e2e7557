//! Stopping: bounded, idempotent, at any moment of a life.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{ExitCause, FailureReason, Phase, StopRequest};
use adrastea_tests::{Suite, client::key};
use anyhow::{Context as _, ensure};

use crate::ask::{failed, with_arguments};

pub fn add(suite: &mut Suite) {
    suite.shared("stop::is_idempotent", |instance| async move {
        ensure!(!instance.stop("nobody-started", "").await?, "it stopped what never was");
        instance.start("twice").await?;
        ensure!(instance.stop("twice", "").await?);
        ensure!(!instance.stop("twice", "").await?, "it stopped what was gone");
        let exit = instance.exit("twice", Duration::ZERO).await?;
        ensure!(exit.cause() == ExitCause::Stopped, "{exit:?}");
        Ok(())
    });

    suite.shared("stop::a_stubborn_server_is_killed_after_the_grace", |instance| async move {
        instance.start_with(with_arguments("stubborn", &["stubborn"])).await?;
        let since = Instant::now();
        let request =
            StopRequest { key: Some(key("stubborn", "")), grace_ms: Some(700), generation: 0 };
        ensure!(instance.launcher().await?.stop(request).await?.into_inner().stopped);
        let took = since.elapsed();
        ensure!(took >= Duration::from_millis(700), "it was not given its grace: {took:?}");
        ensure!(
            took <= Duration::from_millis(2700),
            "it took {took:?}; grace and 2 s are promised"
        );
        let exit = instance.exit("stubborn", Duration::ZERO).await?;
        ensure!((exit.cause(), exit.code) == (ExitCause::Stopped, 137), "{exit:?}");
        Ok(())
    });

    suite.shared("stop::children_do_not_outlive_their_server", |instance| async move {
        let ready = instance.start("children").await?;
        for _ in 0..5 {
            instance.http(ready.address(), "/spawn/serve/stubborn")?;
        }
        let since = Instant::now();
        instance.stop("children", "").await?;
        ensure!(since.elapsed() <= Duration::from_secs(4), "it took {:?}", since.elapsed());
        Ok(())
    });

    suite.shared("stop::in_the_middle_of_a_start_gives_it_up", |instance| async move {
        let starter = Arc::clone(&instance);
        let start = tokio::spawn(async move {
            starter.start_failing(with_arguments("given-up", &["never"])).await
        });
        wait_for(&instance, "given-up", Phase::Starting).await?;
        ensure!(instance.stop("given-up", "").await?);
        let failure = tokio::time::timeout(Duration::from_secs(5), start)
            .await
            .context("the start goes on")???;
        failed(&failure, FailureReason::Cancelled, "given up")?;
        ensure!(instance.get("given-up").await?.phase() == Phase::Gone);
        Ok(())
    });

    suite.shared("stop::at_every_moment_of_a_start_leaves_it_gone", |instance| async move {
        for delay in (0..200).step_by(20) {
            let starter = Arc::clone(&instance);
            let start = tokio::spawn(async move {
                starter.try_start(adrastea_tests::client::request("moments")).await
            });
            tokio::time::sleep(Duration::from_millis(delay)).await;
            instance.stop("moments", "").await?;
            start.await?.with_context(|| format!("stopped after {delay} ms"))?;
            // The start may have arrived after the stop: then it is there, whole.
            instance.stop("moments", "").await?;
            ensure!(instance.get("moments").await?.phase() == Phase::Gone, "after {delay} ms");
        }
        Ok(())
    });

    suite.shared("stop::a_late_stop_never_hits_a_newer_server", |instance| async move {
        let old = instance.start("fenced").await?;
        instance.stop("fenced", "").await?;
        let new = instance.start("fenced").await?;
        let late = StopRequest {
            key: Some(key("fenced", "")),
            grace_ms: None,
            generation: old.ready.generation,
        };
        ensure!(!instance.launcher().await?.stop(late).await?.into_inner().stopped);
        instance.answers("fenced").await?;
        let meant = StopRequest {
            key: Some(key("fenced", "")),
            grace_ms: None,
            generation: new.ready.generation,
        };
        ensure!(instance.launcher().await?.stop(meant).await?.into_inner().stopped);
        Ok(())
    });
}

pub async fn wait_for(
    instance: &adrastea_tests::Instance,
    user: &str,
    phase: Phase,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !instance.get(user).await.is_ok_and(|sandbox| sandbox.phase() == phase) {
        ensure!(Instant::now() < deadline, "`{user}` never was {}", phase.as_str_name());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
