//! The Launcher service: what a hub may ask.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{self, launcher_server, start_event};
use adrastea_runtimes::{Limitation, Runtime};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{
    audited::{Auditor, Note},
    status, watch,
};
use crate::{
    bench::hints,
    launch::{Entry, Launcher, StartNews, StopCause, StopWish},
    names::ServerKey,
    policy,
};

pub type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Messages that wait for a slow reader.
const QUEUE: usize = 64;
/// A stop's grace is at most this.
const LONGEST_GRACE: Duration = Duration::from_secs(300);

pub struct LauncherService {
    launcher: Arc<Launcher>,
    auditor: Auditor,
}

impl LauncherService {
    pub fn new(launcher: Arc<Launcher>, auditor: Auditor) -> Self {
        Self { launcher, auditor }
    }
}

fn limitations(driver: &dyn Runtime) -> v1::RuntimeLimitations {
    let said =
        |one: &Limitation| v1::RuntimeLimitation { what: one.what.into(), why: one.why.into() };
    v1::RuntimeLimitations { limitations: driver.limitations().iter().map(said).collect() }
}

/// The grace a caller asks for, bounded.
pub fn wish(
    launcher: &Launcher,
    grace_ms: Option<u32>,
    cause: StopCause,
    why: impl Into<String>,
) -> StopWish {
    let grace = grace_ms
        .map_or(launcher.default_grace(), |grace| Duration::from_millis(grace.into()))
        .min(LONGEST_GRACE);
    StopWish { grace, cause, why: why.into() }
}

/// Sends every piece of news of a start, from the first on, until it has ended.
async fn tell(entry: Arc<Entry>, sender: mpsc::Sender<Result<v1::StartEvent, Status>>) {
    let mut changes = entry.changes();
    let (mut told, mut told_place) = (0, 0);
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
                        queue_place: 0,
                    }),
                    false,
                ),
            };
            // Whoever asked has gone: the start goes on, so that a hub that comes back finds it.
            if sender.send(Ok(v1::StartEvent { event: Some(event) })).await.is_err() || last {
                return;
            }
        }
        let place = entry.queue_place();
        if place != 0 && place != told_place {
            told_place = place;
            let event = start_event::Event::Progress(status::queued(place));
            if sender.send(Ok(v1::StartEvent { event: Some(event) })).await.is_err() {
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
        let (note, since) = (Note::of(&request), Instant::now());
        let request = request.into_inner();
        note.start(&request);
        let decision = policy::decide(&self.launcher.config(), &request).map_err(|refusal| {
            tracing::warn!(?request, %refusal, "refused");
            status::of_refusal(&refusal)
        })?;
        note.decision(&decision);
        let entry = self.launcher.start(decision).await.map_err(|refused| {
            tracing::warn!(?request, %refused, "refused");
            status::of_start_refused(&refused)
        })?;
        note.sandbox(&entry);
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.auditor.follow(&entry, Some(since));
        tokio::spawn(tell(entry, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stop(
        &self,
        request: Request<v1::StopRequest>,
    ) -> Result<Response<v1::StopResponse>, Status> {
        let note = Note::of(&request);
        let request = request.into_inner();
        note.key(request.key.as_ref());
        let key = status::key(request.key.as_ref())?;
        let wish = wish(&self.launcher, request.grace_ms, StopCause::Asked, "stopped");
        let launcher = Arc::clone(&self.launcher);
        // The stop goes on even if the caller does not wait for it.
        let stopped =
            tokio::spawn(async move { launcher.stop(&key, request.generation, wish).await }).await;
        Ok(Response::new(v1::StopResponse {
            stopped: stopped.map_err(|_| Status::internal("the stop ended early"))?,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Sandbox>, Status> {
        Note::of(&request).key(request.get_ref().key.as_ref());
        let key = status::key(request.get_ref().key.as_ref())?;
        let entry = self
            .launcher
            .get(&key)
            .ok_or_else(|| Status::not_found("this launcher knows no such server"))?;
        Ok(Response::new(entry.describe_with_steps()))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let hub = request.get_ref().hub.clone();
        Note::of(&request).add(|record| record.hub.clone_from(&hub));
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
        let (sender, receiver) = mpsc::channel(QUEUE);
        Note::of(&request).add(|record| record.hub.clone_from(&request.get_ref().hub));
        tokio::spawn(watch::attend(Arc::clone(&self.launcher), request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type LogsStream = Streaming<v1::LogChunk>;

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let note = Note::of(&request);
        let request = request.into_inner();
        note.key(request.key.as_ref());
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
        Note::of(&request).add(|record| record.user.clone_from(&request.get_ref().user));
        let config = self.launcher.config();
        let report = config.bench_report();
        let user = &request.get_ref().user;
        let offers = policy::offers(&config, user)
            .into_iter()
            .filter_map(|(name, profile)| {
                let runtimes: Vec<_> = policy::runtimes(&config, profile, user)
                    .into_iter()
                    .filter(|name| self.launcher.is_offered(name))
                    .cloned()
                    .collect();
                (!runtimes.is_empty()).then_some((name, profile, runtimes))
            })
            .map(|(name, profile, runtimes)| {
                let limits = &profile.limits;
                let waits = config.slots(name).is_some();
                let waiting = profile.runtimes.first().filter(|_| waits).map(String::as_str);
                v1::Offer {
                    profile: name.clone(),
                    display_name: profile.display_name.clone(),
                    description: profile.description.clone(),
                    runtimes: runtimes.clone(),
                    images: std::iter::once(&profile.image)
                        .chain(&profile.images)
                        .cloned()
                        .collect(),
                    memory_default_bytes: limits.memory.bytes(),
                    memory_ceiling_bytes: limits.memory_ceiling.unwrap_or(limits.memory).bytes(),
                    cpu_default_millis: limits.cpu.millis(),
                    cpu_ceiling_millis: limits.cpu_ceiling.unwrap_or(limits.cpu).millis(),
                    runtime_hints: hints::of(&report, &runtimes, waiting).into_iter().collect(),
                    runtime_limitations: runtimes
                        .iter()
                        .filter_map(|name| {
                            let limitations = limitations(config.driver(name)?);
                            (!limitations.limitations.is_empty())
                                .then(|| (name.clone(), limitations))
                        })
                        .collect(),
                    runtime_descriptions: runtimes
                        .iter()
                        .filter_map(|name| {
                            let driver = config.driver(name)?;
                            Some((name.clone(), driver.description().to_owned()))
                        })
                        .collect(),
                }
            })
            .collect();
        Ok(Response::new(v1::OffersResponse { offers }))
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        let note = Note::of(&request);
        let v1::ForgetRequest { hub, user } = request.into_inner();
        note.add(|record| {
            record.hub.clone_from(&hub);
            record.user.clone_from(&user);
        });
        let owner =
            ServerKey::new(&hub, &user, "").map_err(|error| status::of_name(&error))?.owner();
        let wish = wish(&self.launcher, None, StopCause::Asked, "its user was deleted");
        let launcher = Arc::clone(&self.launcher);
        // It goes on even if the hub does not wait for it.
        tokio::spawn(async move { launcher.forget(owner, wish).await })
            .await
            .map_err(|_| Status::internal("forgetting the user ended early"))?
            .map(|answer| {
                let fate = answer.home().as_str_name().trim_start_matches("HOME_FATE_");
                note.add(|record| record.result = format!("home {}", fate.to_lowercase()));
                Response::new(answer)
            })
            .map_err(|failure| status::of_failure(&failure))
    }
}
