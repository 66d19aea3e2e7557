//! What stands in for a hub where none listens: a server asks its hub for the
//! version and reports activity, and would wait for an answer. Knows nothing,
//! grants nothing, and gives the port back when it is dropped.

use std::{convert::Infallible, io::ErrorKind, net::SocketAddr};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

pub struct StandIn {
    serving: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Where a hub listens already, that one is asked.
    pub async fn unless_there_is_one(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Ok(Self { serving: None });
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("failed to listen in a hub's place at {address}"));
            }
        };
        Ok(Self { serving: Some(tokio::spawn(serve(listener))) })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(async move {
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            // A server that goes away is no news.
            let _ = connection.await;
        });
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"{\"version\": \"5.0.0\"}\n")));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    Ok(response)
}
