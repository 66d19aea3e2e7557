//! `adrastea serve`: reads the configuration, boots, serves, and leaves in order.

use std::{path::Path, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    api::{self, peer::Callers},
    boot::Node,
    config::Config,
    host::users,
};

pub async fn serve(path: &Path) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_env("ADRASTEA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();

    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the launcher must be started by root; it gives every sandbox less than itself"
    );
    let config = Config::load(path, true)?;
    let socket = config.socket();
    let group = users::gid_of(&config.access.group)?;
    let callers = Callers::new(
        config
            .access
            .hub_users
            .iter()
            .map(|name| users::uid_of(name))
            .collect::<Result<Vec<_>, _>>()?,
    );

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node = Node::boot(config).await?;
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving =
        api::serve(std::sync::Arc::clone(&node.launcher), &socket, group, callers, async {
            let _ = stopped.await;
        });
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => served?,
        () = node.tend() => {}
        () = shutdown => {
            let _ = stop.send(());
            // Streams of watchers have no end of their own: they get a moment, no more.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), serving).await;
        }
    }
    let _ = std::fs::remove_file(&socket);
    node.shut_down().await?;
    Ok(ExitCode::SUCCESS)
}
