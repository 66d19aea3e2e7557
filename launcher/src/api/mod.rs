//! The wire: the unix socket, who may call, and the translation between
//! messages and the launcher. Decides nothing.

mod admin;
mod audited;
mod images;
pub mod peer;
mod pool;
pub mod scrape;
mod service;
mod status;
mod watch;

use std::{os::unix::fs::FileTypeExt as _, path::Path, sync::Arc, time::Duration};

use adrastea_proto::v1::{admin_server::AdminServer, launcher_server::LauncherServer};
use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{service::InterceptorLayer, transport::Server};

use crate::{audit::Audit, host::directories, launch::Launcher};
use audited::{AuditLayer, Auditor};
use peer::Callers;

/// A request is at most this large; policy allows less.
const LARGEST_MESSAGE: usize = 512 << 10;
/// Requests under way on one connection.
const CONCURRENCY: usize = 256;

/// Serves until `shutdown` completes. The socket has its owner and mode before anybody can connect.
pub async fn serve(
    launcher: Arc<Launcher>,
    socket: &Path,
    group: u32,
    callers: Callers,
    audit: Audit,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let listener = listen(socket, group)?;
    let auditor = Auditor::new(audit.clone());
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<LauncherServer<service::LauncherService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(adrastea_proto::DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("failed to build the reflection service")?;
    let service =
        LauncherServer::new(service::LauncherService::new(Arc::clone(&launcher), auditor.clone()))
            .max_decoding_message_size(LARGEST_MESSAGE);
    let admin = AdminServer::new(admin::AdminService::new(Arc::clone(&launcher), auditor.clone()))
        .max_decoding_message_size(LARGEST_MESSAGE);
    for entry in launcher.list(None) {
        // Found running: its start was told by an earlier launcher.
        auditor.follow(&entry, None);
    }
    tracing::info!(socket = %socket.display(), "serving");
    let served = Server::builder()
        // Outermost: what nobody may call is written down, too.
        .layer(AuditLayer(audit))
        .layer(InterceptorLayer::new(move |request| callers.admit(request)))
        .concurrency_limit_per_connection(CONCURRENCY)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(Some(1024))
        .add_service(health)
        .add_service(reflection)
        .add_service(service)
        .add_service(admin)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown)
        .await;
    let _ = std::fs::remove_file(socket);
    served.context("failed to serve")
}

/// Binds under a name that nobody may open yet, then gives it its name: there is
/// no moment at which the wrong users could connect.
fn listen(socket: &Path, group: u32) -> anyhow::Result<UnixListener> {
    let unfinished = socket.with_extension("new");
    for path in [&unfinished, &socket.to_path_buf()] {
        // Only ever a socket is removed: the path comes from configuration.
        if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            std::fs::remove_file(path)
                .with_context(|| format!("failed to remove the old socket `{}`", path.display()))?;
        }
    }
    let listener = UnixListener::bind(&unfinished)
        .with_context(|| format!("failed to bind `{}`", unfinished.display()))?;
    // Whoever serves owns it: root.
    directories::set_owner_and_mode(&unfinished, nix::unistd::geteuid().as_raw(), group, 0o660)?;
    std::fs::rename(&unfinished, socket)
        .with_context(|| format!("failed to name the socket `{}`", socket.display()))?;
    Ok(listener)
}
