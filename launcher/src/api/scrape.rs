//! What was counted, for `adrastea metrics` and, if `metrics.listen` is set, for a
//! Prometheus server that asks over HTTP. Answers one path, reads nothing of a
//! request but its head, and changes nothing.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use adrastea_proto::v1::Phase;
use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::{launch::Launcher, telemetry};

/// Connections at once; a server that scrapes needs one.
const CONNECTIONS: usize = 16;
/// A connection may last so long, and a request's head may take so long to come.
const LONGEST: Duration = Duration::from_secs(60);
const HEAD: Duration = Duration::from_secs(5);
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything counted, in Prometheus' text format.
pub fn text(launcher: &Launcher) -> String {
    let mut sandboxes = BTreeMap::new();
    for entry in launcher.list(None) {
        let facts = &entry.sandbox.record.facts;
        let phase = entry.phase();
        if phase != Phase::Gone {
            let phase = telemetry::word(phase.as_str_name(), "PHASE_");
            *sandboxes.entry([phase, facts.runtime.clone(), facts.profile.clone()]).or_default() +=
                1;
        }
    }
    telemetry::render(&sandboxes)
}

/// Binds, so that an address that is taken shows before anything is served.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to bind metrics.listen `{address}`"))
}

/// Answers until dropped.
pub async fn serve(listener: TcpListener, launcher: Arc<Launcher>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Who comes too much waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to take a connection for metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let launcher = Arc::clone(&launcher);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &launcher);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // A caller that goes away is no news.
            let _ = timeout(LONGEST, connection).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, launcher: &Launcher) -> Response<Full<Bytes>> {
    let reply = |status: StatusCode, format: &'static str, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(format));
        response
    };
    let plain = "text/plain; charset=utf-8";
    if request.uri().path() != "/metrics" {
        return reply(StatusCode::NOT_FOUND, plain, "there is only /metrics\n".into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = reply(StatusCode::METHOD_NOT_ALLOWED, plain, "only GET\n".into());
        refusal.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    reply(StatusCode::OK, FORMAT, text(launcher))
}
