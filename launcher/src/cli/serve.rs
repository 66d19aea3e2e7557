//! `adrastea serve`: reads the configuration, boots, serves, and leaves in order.

use std::{path::Path, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    api::{self, peer::Callers, scrape},
    audit::{self, Audit},
    boot::Node,
    config::Config,
    host::{directories, users},
    launch::failure::chain,
    telemetry,
};

/// Who may start nothing without it: a log that cannot be opened is an error at the start.
fn open_audit(config: &Config) -> anyhow::Result<Audit> {
    if !config.audit.enabled {
        return Ok(Audit::none());
    }
    let path = config.audit_log();
    if config.audit.path.is_none() {
        directories::make_root_directory(&config.state_directory(), 0o711, 0)?;
        directories::make_root_directory(&config.state_directory().join("audit"), 0o700, 0)?;
    }
    let (largest, keep) = (config.audit.max_size.bytes(), config.audit.keep);
    Ok(Audit::open(audit::Settings { path, largest, keep }, &config.instance)?)
}

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
    telemetry::install();
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
    let mut hangup = signal(SignalKind::hangup())?;
    let audit = open_audit(&config)?;
    let metrics = match config.metrics.listen {
        Some(address) => Some(scrape::listen(address).await?),
        None => None,
    };
    let node = Node::boot(config).await?;
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = api::serve(
        std::sync::Arc::clone(&node.launcher),
        &socket,
        group,
        callers,
        audit.clone(),
        async {
            let _ = stopped.await;
        },
    );
    let mut serving = std::pin::pin!(serving);
    let reloading = async {
        while hangup.recv().await.is_some() {
            if let Err(error) = node.launcher.reload() {
                tracing::error!(
                    error = chain(&error),
                    hint = error.hint(),
                    "the configuration is not taken over; the old one holds on"
                );
            }
            // Somebody else may have renamed the file.
            audit.reopen();
        }
        std::future::pending::<()>().await;
    };
    let scraped = async {
        if let Some(listener) = metrics {
            scrape::serve(listener, std::sync::Arc::clone(&node.launcher)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = &mut serving => served?,
        () = reloading => {}
        () = scraped => {}
        () = node.tend() => {}
        () = shutdown => {
            let _ = stop.send(());
            // Streams of watchers have no end of their own: they get a moment, no more.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), serving).await;
        }
    }
    let _ = std::fs::remove_file(&socket);
    let flushed = tokio::task::spawn_blocking(move || audit.flush()).await;
    if flushed.is_err() {
        tracing::warn!("the audit log was not written to its end");
    }
    node.shut_down().await?;
    Ok(ExitCode::SUCCESS)
}
