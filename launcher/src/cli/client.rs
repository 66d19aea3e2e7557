//! The command line's connection to the launcher of its configuration.

use std::path::Path;

use adrastea_proto::v1::{admin_client::AdminClient, launcher_client::LauncherClient};
use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::config::Config;

pub async fn connect(config: &Path) -> anyhow::Result<Channel> {
    let socket = Config::load(config, true)?.socket();
    // The address is never used: the connector below knows where to go.
    let endpoint = Endpoint::from_static("http://localhost");
    let path = socket.clone();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    endpoint.connect_with_connector(connector).await.with_context(|| {
        format!(
            "failed to reach the launcher at `{}`; is `adrastea serve` running?",
            socket.display()
        )
    })
}

pub async fn launcher(config: &Path) -> anyhow::Result<LauncherClient<Channel>> {
    Ok(LauncherClient::new(connect(config).await?))
}

pub async fn admin(config: &Path) -> anyhow::Result<AdminClient<Channel>> {
    Ok(AdminClient::new(connect(config).await?))
}

/// What the launcher said, without gRPC's wrapping.
pub fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
