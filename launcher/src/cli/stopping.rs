//! The commands that end servers, or keep new ones away.

use std::{path::Path, process::ExitCode};

use adrastea_proto::v1;

use super::{OptionalServer, client};
use crate::say::say;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded, and never negative
fn milliseconds(grace: Option<f64>) -> Option<u32> {
    grace.map(|seconds| (seconds.clamp(0.0, 300.0) * 1000.0) as u32)
}

/// Root stops in the administrator's name, anybody else as a hub would.
pub async fn stop(
    config: &Path,
    server: OptionalServer,
    all: bool,
    grace: Option<f64>,
    reason: Option<String>,
) -> anyhow::Result<ExitCode> {
    let grace_ms = milliseconds(grace);
    if all {
        let answer = client::admin(config)
            .await?
            .stop_all(v1::StopAllRequest { grace_ms })
            .await
            .map_err(|status| client::said(&status))?;
        say!("stopped {}", answer.into_inner().stopped);
        return Ok(ExitCode::SUCCESS);
    }
    let key = Some(v1::ServerKey {
        hub: server.hub,
        user: server.user.unwrap_or_default(),
        server: server.name,
    });
    let stopped = if reason.is_some() || nix::unistd::geteuid().is_root() {
        let reason = reason.unwrap_or_default();
        let request = v1::StopSandboxRequest { key, grace_ms, reason };
        client::admin(config).await?.stop_sandbox(request).await.map(|it| it.into_inner().stopped)
    } else {
        let request = v1::StopRequest { key, grace_ms, generation: 0 };
        client::launcher(config).await?.stop(request).await.map(|it| it.into_inner().stopped)
    };
    let stopped = stopped.map_err(|status| client::said(&status))?;
    say!("{}", if stopped { "stopped" } else { "there was nothing to stop" });
    Ok(ExitCode::SUCCESS)
}

pub async fn drain(
    config: &Path,
    stop_servers: bool,
    grace: Option<f64>,
) -> anyhow::Result<ExitCode> {
    let request = v1::DrainRequest { stop_servers, grace_ms: milliseconds(grace) };
    let answer = client::admin(config)
        .await?
        .drain(request)
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    say!("drained: no new starts; stopped {}, still running {}", answer.stopped, answer.running);
    Ok(ExitCode::SUCCESS)
}

pub async fn undrain(config: &Path) -> anyhow::Result<ExitCode> {
    client::admin(config)
        .await?
        .undrain(v1::UndrainRequest {})
        .await
        .map_err(|status| client::said(&status))?;
    say!("starts are taken again");
    Ok(ExitCode::SUCCESS)
}
