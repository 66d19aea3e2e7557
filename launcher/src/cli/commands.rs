//! The commands that ask a running launcher.

use std::{io::Write as _, path::Path, process::ExitCode};

use adrastea_proto::v1::{self, Phase, run_event};
use anyhow::Context as _;

use super::{Server, client};
use crate::say::say;

impl Server {
    pub(super) fn key(self) -> v1::ServerKey {
        v1::ServerKey { hub: self.hub, user: self.user, server: self.name }
    }
}

pub(super) fn phase_name(phase: i32) -> String {
    Phase::try_from(phase)
        .unwrap_or_default()
        .as_str_name()
        .trim_start_matches("PHASE_")
        .to_lowercase()
}

pub async fn list(config: &Path, all: bool) -> anyhow::Result<ExitCode> {
    let mut launcher = client::launcher(config).await?;
    let answer = launcher
        .list(v1::ListRequest { hub: String::new() })
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    say!(
        "{:<14} {:<10} {:<24} {:<12} {:<8} {:<16} {:<12}",
        "SANDBOX",
        "PHASE",
        "USER",
        "SERVER",
        "RUNTIME",
        "ADDRESS",
        "DISK UID"
    );
    for sandbox in answer
        .sandboxes
        .into_iter()
        .filter(|sandbox| all || sandbox.phase != i32::from(Phase::Gone))
    {
        let key = sandbox.key.unwrap_or_default();
        say!(
            "{:<14} {:<10} {:<24} {:<12} {:<8} {:<16} {:<12} {}",
            sandbox.sandbox_id,
            phase_name(sandbox.phase),
            key.user,
            key.server,
            sandbox.runtime,
            sandbox.address,
            sandbox.disk_uid,
            sandbox.exit.map(|exit| exit.message).unwrap_or_default()
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn logs(
    config: &Path,
    server: Server,
    follow: bool,
    tail_bytes: u64,
) -> anyhow::Result<ExitCode> {
    let mut launcher = client::launcher(config).await?;
    let request = v1::LogsRequest { key: Some(server.key()), tail_bytes, follow };
    let mut chunks =
        launcher.logs(request).await.map_err(|status| client::said(&status))?.into_inner();
    let mut out = std::io::stdout().lock();
    while let Some(chunk) = chunks.message().await.map_err(|status| client::said(&status))? {
        out.write_all(&chunk.data)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn metrics(config: &Path) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .metrics(v1::MetricsRequest {})
        .await
        .map_err(|status| client::said(&status))?;
    crate::say::print(format_args!("{}", answer.into_inner().text));
    Ok(ExitCode::SUCCESS)
}

/// Runs attached and ends with the command's own exit code.
pub async fn run(
    config: &Path,
    server: Server,
    profile: String,
    runtime: String,
    verbose: bool,
    command: Vec<String>,
) -> anyhow::Result<ExitCode> {
    let mut key = server.key();
    if key.server.is_empty() {
        // Beside the user's own server, never instead of it.
        key.server = format!("run-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    }
    let start = v1::StartRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        key: Some(key.clone()),
        profile,
        runtime,
        ..Default::default()
    };
    let mut admin = client::admin(config).await?;
    let mut events = admin
        .run(v1::RunRequest { start: Some(start), command })
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let event = tokio::select! {
            event = events.message() => event.map_err(|status| client::said(&status))?.context("the launcher went away")?,
            // Ending the stream ends the sandbox.
            _ = &mut interrupted => return Ok(ExitCode::from(130)),
        };
        match event.event {
            Some(run_event::Event::Progress(progress)) if verbose => {
                eprintln!("adrastea: {}", progress.message);
            }
            Some(run_event::Event::Output(chunk)) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&chunk.data)?;
                out.flush()?;
            }
            Some(run_event::Event::Exit(exit)) => {
                if verbose || exit.signal != 0 {
                    eprintln!("adrastea: {}", exit.message);
                }
                return Ok(ExitCode::from(u8::try_from(exit.code).unwrap_or(255)));
            }
            Some(run_event::Event::Failed(failed)) => {
                eprintln!("adrastea: {}\nhint: {}", failed.message, failed.hint);
                if !failed.log_tail.is_empty() {
                    eprintln!("{}", failed.log_tail);
                }
                return Ok(ExitCode::from(125));
            }
            Some(run_event::Event::Progress(_)) | None => {}
        }
    }
}

pub async fn reload(config: &Path) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .reload(v1::ReloadRequest {})
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    let told = |keys: &[String]| {
        if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
    };
    say!("changed: {}", told(&answer.changed));
    say!("needs a restart of the launcher: {}", told(&answer.needs_restart));
    Ok(ExitCode::SUCCESS)
}
