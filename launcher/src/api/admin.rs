//! The Admin service: for the node's administrator, the host's root alone.

use std::{path::PathBuf, sync::Arc};

use adrastea_proto::v1::{self, admin_server, import_image_event, run_event};
use adrastea_runtimes::engine::EngineImage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    peer::require_root,
    service::{Streaming, wish},
    status,
};
use crate::{
    launch::{
        Entry, Launcher, StartNews,
        failure::{Failure, chain},
    },
    policy,
};

pub struct AdminService {
    launcher: Arc<Launcher>,
}

impl AdminService {
    pub fn new(launcher: Arc<Launcher>) -> Self {
        Self { launcher }
    }
}

fn describe(image: &EngineImage) -> v1::Image {
    v1::Image {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        layers: u32::try_from(image.layers.len()).unwrap_or(u32::MAX),
        size_bytes: image.size_bytes,
    }
}

type RunSender = mpsc::Sender<Result<v1::RunEvent, Status>>;

/// Streams progress, then output, then the end. Whoever goes away ends the
/// sandbox: nobody else knows of it.
async fn attend(launcher: Arc<Launcher>, entry: Arc<Entry>, sender: RunSender) {
    let gone = async {
        sender.closed().await;
        entry.wish_to_stop(wish(&launcher, Some(0), "nobody waits for it any more"));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = narrate(&entry, &sender) => {}
        () = gone => {}
    }
}

async fn narrate(entry: &Arc<Entry>, sender: &RunSender) {
    let send = async |event| sender.send(Ok(v1::RunEvent { event: Some(event) })).await.is_ok();
    // From the first moment: what is written before "ready" counts too.
    let tap = entry.log.follow();
    let mut changes = entry.changes();
    let mut told = 0;
    let started = 'start: loop {
        changes.borrow_and_update();
        for news in entry.news(told) {
            told += 1;
            if let Some(progress) = status::progress(&news) {
                send(run_event::Event::Progress(progress)).await;
            }
            match news {
                StartNews::Ready => break 'start true,
                StartNews::Failed(failure) => {
                    send(run_event::Event::Failed(status::failed(failure))).await;
                    break 'start false;
                }
                StartNews::Progress { .. } => {}
            }
        }
        if changes.changed().await.is_err() {
            break false;
        }
    };
    if !started {
        return;
    }
    if let Ok((kept, mut more)) = tap {
        let output = |data| run_event::Event::Output(v1::LogChunk { data });
        if !kept.is_empty() {
            send(output(kept)).await;
        }
        while let Some(data) = more.recv().await {
            send(output(data)).await;
        }
    }
    entry.wait_gone().await;
    if let Some(exit) = entry.describe().exit {
        send(run_event::Event::Exit(exit)).await;
    }
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    type RunStream = Streaming<v1::RunEvent>;

    async fn run(
        &self,
        request: Request<v1::RunRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        require_root(&request)?;
        let request = request.into_inner();
        let start =
            request.start.ok_or_else(|| Status::invalid_argument("the request holds no start"))?;
        if request.command.first().is_none_or(String::is_empty)
            || request.command.iter().any(|part| part.contains('\0'))
        {
            return Err(Status::invalid_argument("the command is empty or holds a NUL character"));
        }
        let mut decision = policy::decide(&self.launcher.config, &start)
            .map_err(|refusal| status::of_refusal(&refusal))?;
        decision.command = request.command;
        decision.ready_path = String::new();
        let entry = self
            .launcher
            .start(decision)
            .await
            .map_err(|refused| status::of_start_refused(&refused))?;
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(attend(Arc::clone(&self.launcher), entry, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type ImportImageStream = Streaming<v1::ImportImageEvent>;

    async fn import_image(
        &self,
        request: Request<v1::ImportImageRequest>,
    ) -> Result<Response<Self::ImportImageStream>, Status> {
        require_root(&request)?;
        let request = request.into_inner();
        let path = PathBuf::from(&request.path);
        if !path.is_absolute() || request.reference.is_empty() {
            return Err(Status::invalid_argument("an absolute path and a reference are needed"));
        }
        let engine = Arc::clone(&self.launcher.engine);
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let report = {
                let sender = sender.clone();
                move |progress: adrastea_runtimes::engine::ImportProgress| {
                    let progress = v1::ImportProgress {
                        step: progress.step,
                        done_bytes: progress.done_bytes,
                        total_bytes: progress.total_bytes,
                    };
                    // A slow reader misses some progress, never the result.
                    let _ = sender.try_send(Ok(v1::ImportImageEvent {
                        event: Some(import_image_event::Event::Progress(progress)),
                    }));
                }
            };
            let last = match engine.import(&path, &request.reference, &report).await {
                Ok(image) => Ok(v1::ImportImageEvent {
                    event: Some(import_image_event::Event::Image(describe(&image))),
                }),
                Err(error) => Err(Status::failed_precondition(chain(&error))),
            };
            let _ = sender.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        require_root(&request)?;
        let images = self.launcher.engine.images().await.map_err(|error| {
            let failure = Failure::from(error);
            Status::unavailable(failure.message)
        })?;
        Ok(Response::new(v1::ListImagesResponse { images: images.iter().map(describe).collect() }))
    }

    async fn stop_all(
        &self,
        request: Request<v1::StopAllRequest>,
    ) -> Result<Response<v1::StopAllResponse>, Status> {
        require_root(&request)?;
        let wish = wish(&self.launcher, request.get_ref().grace_ms, "stopped by the administrator");
        Ok(Response::new(v1::StopAllResponse { stopped: self.launcher.stop_all(&wish).await }))
    }
}
