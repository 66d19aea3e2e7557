//! The commands that ask a running launcher.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use adrastea_proto::v1::{self, Phase, import_image_event, run_event};
use anyhow::Context as _;

use super::{OptionalServer, Server, client};
use crate::quantity::display_bytes;

impl Server {
    fn key(self) -> v1::ServerKey {
        v1::ServerKey { hub: self.hub, user: self.user, server: self.name }
    }
}

fn phase_name(phase: i32) -> String {
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
    println!(
        "{:<14} {:<10} {:<24} {:<12} {:<8} {:<16} {:<12}",
        "SANDBOX", "PHASE", "USER", "SERVER", "RUNTIME", "ADDRESS", "DISK UID"
    );
    for sandbox in answer
        .sandboxes
        .into_iter()
        .filter(|sandbox| all || sandbox.phase != i32::from(Phase::Gone))
    {
        let key = sandbox.key.unwrap_or_default();
        println!(
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

pub async fn stop(
    config: &Path,
    server: OptionalServer,
    all: bool,
    grace: Option<f64>,
) -> anyhow::Result<ExitCode> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // bounded, and never negative
    let grace_ms = grace.map(|seconds| (seconds.clamp(0.0, 300.0) * 1000.0) as u32);
    if all {
        let answer = client::admin(config)
            .await?
            .stop_all(v1::StopAllRequest { grace_ms })
            .await
            .map_err(|status| client::said(&status))?;
        println!("stopped {}", answer.into_inner().stopped);
        return Ok(ExitCode::SUCCESS);
    }
    let key = v1::ServerKey {
        hub: server.hub,
        user: server.user.unwrap_or_default(),
        server: server.name,
    };
    let request = v1::StopRequest { key: Some(key), grace_ms, generation: 0 };
    let answer = client::launcher(config)
        .await?
        .stop(request)
        .await
        .map_err(|status| client::said(&status))?;
    println!(
        "{}",
        if answer.into_inner().stopped { "stopped" } else { "there was nothing to stop" }
    );
    Ok(ExitCode::SUCCESS)
}

pub async fn import(config: &Path, archive: &Path, reference: String) -> anyhow::Result<ExitCode> {
    let path = std::path::absolute(archive)?.display().to_string();
    let mut admin = client::admin(config).await?;
    let mut events = admin
        .import_image(v1::ImportImageRequest { path, reference })
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    let live = std::io::stderr().is_terminal();
    let mut last_step = String::new();
    while let Some(event) = events.message().await.map_err(|status| client::said(&status))? {
        match event.event {
            Some(import_image_event::Event::Progress(progress)) => {
                let percent =
                    (progress.done_bytes * 100).checked_div(progress.total_bytes).unwrap_or(0);
                if live {
                    eprint!("\r\x1b[K{} {percent} %", progress.step);
                } else if last_step != progress.step {
                    eprintln!("{}", progress.step);
                    last_step = progress.step;
                }
            }
            Some(import_image_event::Event::Image(image)) => {
                if live {
                    eprint!("\r\x1b[K");
                }
                println!(
                    "{} {} ({} layers, {})",
                    image.reference,
                    image.digest,
                    image.layers,
                    display_bytes(image.size_bytes)
                );
                return Ok(ExitCode::SUCCESS);
            }
            None => {}
        }
    }
    anyhow::bail!("the launcher ended the import without a result")
}

pub async fn images(config: &Path) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .list_images(v1::ListImagesRequest {})
        .await
        .map_err(|status| client::said(&status))?;
    for image in answer.into_inner().images {
        println!(
            "{} {} ({} layers, {})",
            image.reference,
            image.digest,
            image.layers,
            display_bytes(image.size_bytes)
        );
    }
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
