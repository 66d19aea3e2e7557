//! The configuration changes while servers run, and a mistake in it changes nothing.

use std::time::{Duration, Instant};

use adrastea_proto::v1::ReloadRequest;
use adrastea_tests::{Options, Suite, client::request, config};
use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub fn add(suite: &mut Suite) {
    suite.own(
        "reload::changes_hold_and_mistakes_do_not",
        Options::default(),
        |instance| async move {
            let ready = instance.start("ana").await?;
            let before = instance.config_text().to_owned();
            let limited = |memory: u64| {
                let mut request = request("ben");
                request.limits = Some(adrastea_proto::v1::Limits {
                    memory_bytes: Some(memory),
                    cpu_millis: None,
                });
                request
            };
            // What the profile's ceiling forbids now, it allows after the reload.
            let beyond = 256 << 20;
            ensure!(
                instance.try_start(limited(beyond)).await.is_err(),
                "beyond the ceiling at once"
            );

            config::write(&instance.config(), &before.replace("[limits]", "[limitz]"))?;
            let refused = instance.admin().await?.reload(ReloadRequest {}).await;
            let words = refused.err().context("a mistake was taken over")?.message().to_owned();
            ensure!(words.contains("limitz") && words.contains("did you mean `limits`"), "{words}");
            ensure!(instance.try_start(limited(beyond)).await.is_err(), "the old one is gone");

            let raised = raise_ceiling(&before)?;
            config::write(
                &instance.config(),
                &raised.replace("[network]", "[network]\nhub_port = 8089"),
            )?;
            let answer = instance.admin().await?.reload(ReloadRequest {}).await?.into_inner();
            ensure!(answer.changed.iter().any(|key| key.starts_with("profiles.")), "{answer:?}");
            ensure!(answer.needs_restart == ["network"], "{answer:?}");
            instance.try_start(limited(beyond)).await?;
            ensure!(instance.http(ready.address(), "/")?.0 == 200, "a server did not outlive it");

            // The same by the signal, back to what was.
            config::write(&instance.config(), &before)?;
            let pid = i32::try_from(instance.pid().context("there is no launcher")?)?;
            kill(Pid::from_raw(pid), Signal::SIGHUP)?;
            let deadline = Instant::now() + Duration::from_secs(20);
            instance.stop("ben", "").await?;
            while instance.try_start(limited(beyond)).await.is_ok() {
                ensure!(Instant::now() < deadline, "the signal was not heard");
                instance.stop("ben", "").await?;
            }
            instance.stop("ana", "").await?;
            instance.nothing_left(Duration::from_secs(10))
        },
    );
}

/// The same with room for more memory in every profile.
fn raise_ceiling(text: &str) -> anyhow::Result<String> {
    let raised: Vec<_> = text
        .lines()
        .map(|line| {
            if line.trim_start().starts_with("memory_ceiling") {
                "memory_ceiling = \"512MiB\"".to_owned()
            } else {
                line.to_owned()
            }
        })
        .collect();
    let raised = raised.join("\n") + "\n";
    ensure!(raised != text, "the configuration of the tests has no memory_ceiling");
    Ok(raised)
}
