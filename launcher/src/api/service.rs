//! The Launcher service: what a hub may ask.

use std::{pin::Pin, sync::Arc, time::Duration};

use adrastea_proto::v1::{self, launcher_server, start_event, watch_event};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::status;
use crate::{
    launch::{Entry, Launcher, StartNews, StopWish},
    policy,
};

pub type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Messages that wait for a slow reader.
const QUEUE: usize = 64;
/// A stop's grace is at most this.
const LONGEST_GRACE: Duration = Duration::from_secs(300);

pub struct LauncherService {
    launcher: Arc<Launcher>,
}

impl LauncherService {
    pub fn new(launcher: Arc<Launcher>) -> Self {
        Self { launcher }
    }
}

/// The grace a caller asks for, bounded.
pub fn wish(launcher: &Launcher, grace_ms: Option<u32>, why: &str) -> StopWish {
    let grace = grace_ms
        .map_or(launcher.default_grace(), |grace| Duration::from_millis(grace.into()))
        .min(LONGEST_GRACE);
    StopWish { grace, why: why.to_owned() }
}

/// Sends every piece of news of a start, from the first on, until it has ended.
async fn tell(entry: Arc<Entry>, sender: mpsc::Sender<Result<v1::StartEvent, Status>>) {
    let mut changes = entry.changes();
    let mut told = 0;
    loop {
        changes.borrow_and_update();
        for news in entry.news(told) {
            told += 1;
            let (event, last) = match news {
                StartNews::Ready => {
                    let sandbox = entry.describe();
                    let ready = v1::Ready {
                        sandbox_id: sandbox.sandbox_id,
                        address: sandbox.address,
                        port: sandbox.port,
                        generation: sandbox.generation,
                    };
                    (start_event::Event::Ready(ready), true)
                }
                StartNews::Failed(failure) => {
                    (start_event::Event::Failed(status::failed(failure)), true)
                }
                StartNews::Progress { phase, percent, message } => (
                    start_event::Event::Progress(v1::Progress {
                        phase: phase.into(),
                        percent,
                        message,
                    }),
                    false,
                ),
            };
            // Whoever asked has gone: the start goes on, so that a hub that comes back finds it.
            if sender.send(Ok(v1::StartEvent { event: Some(event) })).await.is_err() || last {
                return;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

#[tonic::async_trait]
impl launcher_server::Launcher for LauncherService {
    type StartStream = Streaming<v1::StartEvent>;

    async fn start(
        &self,
        request: Request<v1::StartRequest>,
    ) -> Result<Response<Self::StartStream>, Status> {
        let request = request.into_inner();
        let decision = policy::decide(&self.launcher.config, &request).map_err(|refusal| {
            tracing::warn!(?request, %refusal, "refused");
            status::of_refusal(&refusal)
        })?;
        let entry = self.launcher.start(decision).await.map_err(|refused| {
            tracing::warn!(?request, %refused, "refused");
            status::of_start_refused(&refused)
        })?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(tell(entry, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stop(
        &self,
        request: Request<v1::StopRequest>,
    ) -> Result<Response<v1::StopResponse>, Status> {
        let request = request.into_inner();
        let key = status::key(request.key.as_ref())?;
        let wish = wish(&self.launcher, request.grace_ms, "stopped");
        let launcher = Arc::clone(&self.launcher);
        // The stop goes on even if the caller does not wait for it.
        let stopped =
            tokio::spawn(async move { launcher.stop(&key, request.generation, wish).await }).await;
        Ok(Response::new(v1::StopResponse {
            stopped: stopped.map_err(|_| Status::internal("the stop ended early"))?,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Sandbox>, Status> {
        let key = status::key(request.get_ref().key.as_ref())?;
        let entry = self
            .launcher
            .get(&key)
            .ok_or_else(|| Status::not_found("this launcher knows no such server"))?;
        Ok(Response::new(entry.describe()))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let hub = request.get_ref().hub.clone();
        if hub.is_empty() {
            super::peer::require_root(&request)?;
        }
        let entries = self.launcher.list((!hub.is_empty()).then_some(hub.as_str()));
        Ok(Response::new(v1::ListResponse {
            sandboxes: entries.iter().map(|entry| entry.describe()).collect(),
        }))
    }

    type WatchStream = Streaming<v1::WatchEvent>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let hub = request.into_inner().hub;
        let launcher = Arc::clone(&self.launcher);
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let send = |event| sender.send(Ok(v1::WatchEvent { event: Some(event) }));
            // Before the list, so that no change falls between the two.
            let mut feed = launcher.feed();
            loop {
                for entry in launcher.list(Some(&hub)) {
                    if send(watch_event::Event::Sandbox(entry.describe())).await.is_err() {
                        return;
                    }
                }
                if send(watch_event::Event::Synced(v1::Synced {})).await.is_err() {
                    return;
                }
                loop {
                    let change = tokio::select! {
                        change = feed.recv() => change,
                        () = sender.closed() => return,
                    };
                    match change {
                        Ok(sandbox) if sandbox.key.as_ref().is_some_and(|key| key.hub == hub) => {
                            if send(watch_event::Event::Sandbox(sandbox)).await.is_err() {
                                return;
                            }
                        }
                        Ok(_) => {}
                        // Too slow for the feed: the whole list again catches up.
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type LogsStream = Streaming<v1::LogChunk>;

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let key = status::key(request.key.as_ref())?;
        let entry = self
            .launcher
            .get(&key)
            .ok_or_else(|| Status::not_found("this launcher knows no such server"))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let chunk = |data| Ok(v1::LogChunk { data });
            if entry.is_gone() {
                let tail = entry.describe().exit.map(|exit| exit.log_tail).unwrap_or_default();
                let _ = sender.send(chunk(tail.into_bytes())).await;
                return;
            }
            let mut tap = request.follow.then(|| entry.log.follow().ok()).flatten();
            let kept = match &mut tap {
                // From the moment the following began: nothing twice, nothing missing.
                Some((kept, _)) => {
                    let wanted = if request.tail_bytes == 0 {
                        kept.len()
                    } else {
                        usize::try_from(request.tail_bytes).unwrap_or(usize::MAX)
                    };
                    kept.split_off(kept.len().saturating_sub(wanted))
                }
                None => entry.log.tail_bytes(request.tail_bytes),
            };
            for piece in kept.chunks(64 << 10) {
                if sender.send(chunk(piece.to_vec())).await.is_err() {
                    return;
                }
            }
            if let Some((_, mut more)) = tap {
                while let Some(data) = more.recv().await {
                    if sender.send(chunk(data)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn offers(
        &self,
        request: Request<v1::OffersRequest>,
    ) -> Result<Response<v1::OffersResponse>, Status> {
        let offers = policy::offers(&self.launcher.config, &request.get_ref().user)
            .into_iter()
            .map(|(name, profile)| {
                let limits = &profile.limits;
                v1::Offer {
                    profile: name.clone(),
                    display_name: profile.display_name.clone(),
                    description: profile.description.clone(),
                    runtimes: profile.runtimes.clone(),
                    images: std::iter::once(&profile.image)
                        .chain(&profile.images)
                        .cloned()
                        .collect(),
                    memory_default_bytes: limits.memory.bytes(),
                    memory_ceiling_bytes: limits.memory_ceiling.unwrap_or(limits.memory).bytes(),
                    cpu_default_millis: limits.cpu.millis(),
                    cpu_ceiling_millis: limits.cpu_ceiling.unwrap_or(limits.cpu).millis(),
                }
            })
            .collect();
        Ok(Response::new(v1::OffersResponse { offers }))
    }
}
