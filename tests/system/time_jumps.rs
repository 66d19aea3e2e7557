//! The wall clock jumps an hour in either direction while a launcher works: nothing
//! that waits, ends, orders or tells depends on it.

use std::{
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use adrastea_proto::v1::{ExitCause, FailureReason, Phase, StopRequest, WatchRequest, watch_event};
use adrastea_tests::{
    Instance, Options, Suite,
    client::{HUB, key},
    place,
};
use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;

use crate::ask::{failed, with_arguments};

const HOUR: i64 = 3600;

pub fn add(suite: &mut Suite) {
    let library = place::tools().join("faketime/libfaketimeMT.so.1");
    let environment = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", "{scratch}/clock".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("FAKETIME_NO_CACHE", "1".into()),
        // Shared memory would outlive a launcher that is killed.
        ("FAKETIME_DISABLE_SHM", "1".into()),
    ];
    let options = Options {
        environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Options::default()
    };
    let options = options.replacing("ready_timeout = 30", "ready_timeout = 3");
    suite.own("time::a_jump_of_an_hour_breaks_nothing", options, move |instance| async move {
        ensure!(library.exists(), "`{}` is missing; run `tools/get faketime`", library.display());
        set_clock(&instance, 0)?;
        let ben = instance.start("ben").await?.id().to_owned();
        let watching = WatchRequest { hub: HUB.into(), ..WatchRequest::default() };
        let mut watch = instance.launcher().await?.watch(watching).await?.into_inner();
        // Nobody's; the launcher looks for such things once a minute.
        let orphan = instance.run_directory().join("sandboxes/s0123456789a");
        fs::create_dir(&orphan)?;
        let planted = Instant::now();

        for (number, offset) in [HOUR, -HOUR, 0].into_iter().enumerate() {
            let user = format!("user-{number}");
            set_clock(&instance, offset)?;
            let ready = instance.start_with(with_arguments(&user, &["stubborn"])).await?;
            let told = instance.get(&user).await?.started_at;
            ensure!(is_about(told, offset)?, "the launcher's clock did not jump: {told}");
            // The events of this start arrive, in its order.
            wait_for(&mut watch, ready.id(), Phase::Ready).await?;
            // A grace that the clock jumps out of.
            let grace =
                StopRequest { key: Some(key(&user, "")), grace_ms: Some(2000), generation: 0 };
            let mut launcher = instance.launcher().await?;
            let since = Instant::now();
            let stopping = tokio::spawn(async move { launcher.stop(grace).await });
            tokio::time::sleep(Duration::from_millis(300)).await;
            set_clock(&instance, -offset)?;
            let stopped = tokio::time::timeout(Duration::from_secs(30), stopping).await;
            ensure!(stopped.context("the stop never ended")???.into_inner().stopped);
            ensure!(since.elapsed() >= Duration::from_secs(2), "the grace was cut short");
            let exit = instance.exit(&user, Duration::ZERO).await?;
            ensure!(exit.cause() == ExitCause::Stopped, "{exit:?}");
            wait_for(&mut watch, ready.id(), Phase::Gone).await?;
        }

        // A timeout that the clock jumps over, forth and back, is as long as ever.
        let since = Instant::now();
        let never = with_arguments("never", &["never"]);
        let (failure, jumped) = tokio::join!(instance.start_failing(never), async {
            for offset in [HOUR, -HOUR, HOUR] {
                tokio::time::sleep(Duration::from_millis(500)).await;
                set_clock(&instance, offset)?;
            }
            anyhow::Ok(())
        });
        jumped?;
        failed(&failure?, FailureReason::Timeout, "within 3 s")?;
        ensure!(since.elapsed() >= Duration::from_secs(3), "the timeout came early");

        // A launcher that starts in the past of the last one takes over.
        set_clock(&instance, -HOUR)?;
        instance.restart_launcher(Signal::SIGKILL).await?;
        let now = instance.get("ben").await?;
        ensure!(now.phase() == Phase::Ready && now.sandbox_id == ben, "{now:?}");
        instance.answers("ben").await?;
        instance.start("user-0").await?;
        instance.stop("user-0", "").await?;
        ensure!(!orphan.exists(), "what nobody owns was not removed at the start");

        // And the minute's look goes on, however the clock goes.
        fs::create_dir(&orphan)?;
        let replanted = Instant::now();
        set_clock(&instance, HOUR)?;
        while orphan.exists() {
            ensure!(
                replanted.elapsed() < Duration::from_secs(150),
                "nobody looked since {planted:?}"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        instance.answers("ben").await?;
        instance.stop("ben", "").await?;
        instance.nothing_left(Duration::from_secs(10))
    });
}

/// So many seconds off; whole or not at all, because the launcher reads it all the time.
fn set_clock(instance: &Instance, offset: i64) -> anyhow::Result<()> {
    let (clock, fresh) = (instance.scratch().join("clock"), instance.scratch().join("clock.new"));
    fs::write(&fresh, format!("{offset:+}\n"))?;
    Ok(fs::rename(fresh, clock)?)
}

/// Whether a time is now with that offset, and not now.
fn is_about(seconds: u64, offset: i64) -> anyhow::Result<bool> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok((seconds.cast_signed() - now.cast_signed() - offset).abs() < HOUR / 10)
}

async fn wait_for(
    watch: &mut tonic::Streaming<adrastea_proto::v1::WatchEvent>,
    id: &str,
    phase: Phase,
) -> anyhow::Result<()> {
    let waiting = async {
        while let Some(event) = watch.message().await? {
            if let Some(watch_event::Event::Sandbox(sandbox)) = event.event
                && sandbox.sandbox_id == id
                && sandbox.phase() == phase
            {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.context("nothing was told")?
}
