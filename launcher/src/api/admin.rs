//! The Admin service: for the node's administrator, the host's root alone.

use std::{path::PathBuf, sync::Arc, time::Instant};

use adrastea_proto::v1::{self, admin_server, run_event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    audited::{Auditor, Note},
    images,
    peer::require_root,
    pool, scrape,
    service::{Streaming, wish},
    status,
};
use crate::{
    config_reload::Reload,
    launch::{
        Entry, Launcher, StartNews, StopCause, StopWish,
        failure::{Failure, chain},
    },
    policy,
};

pub struct AdminService {
    launcher: Arc<Launcher>,
    auditor: Auditor,
}

impl AdminService {
    pub fn new(launcher: Arc<Launcher>, auditor: Auditor) -> Self {
        Self { launcher, auditor }
    }

    fn wish_of_administrator(&self, grace_ms: Option<u32>, reason: &str) -> StopWish {
        let by = "stopped by the administrator of this node";
        let why = if reason.is_empty() { by.to_owned() } else { format!("{by}: {reason}") };
        wish(&self.launcher, grace_ms, StopCause::Administrator, why)
    }
}

/// What users will read: short, and nothing but text.
fn reason(text: &str) -> Result<&str, Status> {
    const LONGEST: usize = 500;
    let text = text.trim();
    if text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "a reason is one line of at most {LONGEST} bytes"
        )));
    }
    Ok(text)
}

type RunSender = mpsc::Sender<Result<v1::RunEvent, Status>>;

/// Streams progress, then output, then the end. Whoever goes away ends the
/// sandbox: nobody else knows of it.
async fn attend(launcher: Arc<Launcher>, entry: Arc<Entry>, sender: RunSender) {
    let gone = async {
        sender.closed().await;
        entry.wish_to_stop(wish(
            &launcher,
            Some(0),
            StopCause::Asked,
            "nobody waits for it any more",
        ));
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
        let (note, since) = (Note::of(&request), Instant::now());
        if let Some(start) = &request.get_ref().start {
            note.start(start);
        }
        require_root(&request)?;
        let request = request.into_inner();
        let start =
            request.start.ok_or_else(|| Status::invalid_argument("the request holds no start"))?;
        if request.command.first().is_none_or(String::is_empty)
            || request.command.iter().any(|part| part.contains('\0'))
        {
            return Err(Status::invalid_argument("the command is empty or holds a NUL character"));
        }
        let mut decision = policy::decide(&self.launcher.config(), &start)
            .map_err(|refusal| status::of_refusal(&refusal))?;
        note.decision(&decision);
        decision.command = request.command;
        decision.ready_path = String::new();
        let entry = self
            .launcher
            .start(decision)
            .await
            .map_err(|refused| status::of_start_refused(&refused))?;
        note.sandbox(&entry);
        self.auditor.follow(&entry, Some(since));
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(attend(Arc::clone(&self.launcher), entry, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type ImportImageStream = Streaming<v1::ImportImageEvent>;

    async fn import_image(
        &self,
        request: Request<v1::ImportImageRequest>,
    ) -> Result<Response<Self::ImportImageStream>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().reference));
        require_root(&request)?;
        let request = request.into_inner();
        let path = PathBuf::from(&request.path);
        if !path.is_absolute() || request.reference.is_empty() {
            return Err(Status::invalid_argument("an absolute path and a reference are needed"));
        }
        let launcher = Arc::clone(&self.launcher);
        Ok(images::stream(|report| async move {
            let image = launcher.import_image(&path, &request.reference, &*report).await?;
            Ok(images::describe(&launcher, &image))
        }))
    }

    type PullImageStream = Streaming<v1::ImportImageEvent>;

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().reference));
        require_root(&request)?;
        let v1::PullImageRequest { reference, mut name } = request.into_inner();
        if name.is_empty() {
            name.clone_from(&reference);
        }
        let launcher = Arc::clone(&self.launcher);
        Ok(images::stream(|report| async move {
            let image = launcher.pull_image(&reference, &name, &*report).await?;
            Ok(images::describe(&launcher, &image))
        }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().reference));
        require_root(&request)?;
        let request = request.into_inner();
        self.launcher
            .remove_image(&request.reference, request.force)
            .await
            .map_err(|error| images::status(&error))?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn prune_images(
        &self,
        request: Request<v1::PruneImagesRequest>,
    ) -> Result<Response<v1::PruneImagesResponse>, Status> {
        require_root(&request)?;
        let dry_run = request.get_ref().dry_run;
        let removed =
            self.launcher.prune_images(dry_run).await.map_err(|error| images::status(&error))?;
        let removed = removed.iter().map(|image| images::describe(&self.launcher, image)).collect();
        Ok(Response::new(v1::PruneImagesResponse { removed }))
    }

    async fn check_image(
        &self,
        request: Request<v1::CheckImageRequest>,
    ) -> Result<Response<v1::CheckImageResponse>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().reference));
        require_root(&request)?;
        let findings = self
            .launcher
            .check_image(&request.get_ref().reference)
            .await
            .map_err(|error| images::status(&error))?;
        let findings = findings.into_iter().map(images::finding).collect();
        Ok(Response::new(v1::CheckImageResponse { findings }))
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
        Ok(Response::new(v1::ListImagesResponse {
            images: images.iter().map(|image| images::describe(&self.launcher, image)).collect(),
        }))
    }

    async fn stop_all(
        &self,
        request: Request<v1::StopAllRequest>,
    ) -> Result<Response<v1::StopAllResponse>, Status> {
        require_root(&request)?;
        let wish = self.wish_of_administrator(request.get_ref().grace_ms, "");
        Ok(Response::new(v1::StopAllResponse { stopped: self.launcher.stop_all(&wish).await }))
    }

    async fn stop_sandbox(
        &self,
        request: Request<v1::StopSandboxRequest>,
    ) -> Result<Response<v1::StopSandboxResponse>, Status> {
        Note::of(&request).key(request.get_ref().key.as_ref());
        require_root(&request)?;
        let request = request.into_inner();
        let key = status::key(request.key.as_ref())?;
        let reason = reason(&request.reason)?;
        tracing::warn!(%key, reason, "stopped by the administrator");
        let wish = self.wish_of_administrator(request.grace_ms, reason);
        let launcher = Arc::clone(&self.launcher);
        // As with a hub's stop: it goes on even if nobody waits.
        let stopped = tokio::spawn(async move { launcher.stop(&key, 0, wish).await }).await;
        Ok(Response::new(v1::StopSandboxResponse {
            stopped: stopped.map_err(|_| Status::internal("the stop ended early"))?,
        }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        require_root(&request)?;
        let request = request.into_inner();
        let wish = request.stop_servers.then(|| {
            let why = "stopped because this node is being drained";
            wish(&self.launcher, request.grace_ms, StopCause::Drained, why)
        });
        let launcher = Arc::clone(&self.launcher);
        let drained = tokio::spawn(async move { launcher.drain(wish.as_ref()).await }).await;
        let drained = drained.map_err(|_| Status::internal("the drain ended early"))?;
        Ok(Response::new(v1::DrainResponse { stopped: drained.stopped, running: drained.running }))
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::UndrainResponse>, Status> {
        require_root(&request)?;
        self.launcher.undrain();
        Ok(Response::new(v1::UndrainResponse {}))
    }

    async fn list_pool(
        &self,
        request: Request<v1::ListPoolRequest>,
    ) -> Result<Response<v1::ListPoolResponse>, Status> {
        require_root(&request)?;
        let mut profiles: Vec<_> =
            self.launcher.describe_pool().into_iter().map(pool::describe).collect();
        if request.get_ref().with_proportional_memory {
            let launcher = Arc::clone(&self.launcher);
            let memory = tokio::task::spawn_blocking(move || launcher.memory_of_waiting());
            let memory = memory.await.map_err(|_| Status::internal("the look ended early"))?;
            pool::add_memory(&mut profiles, &memory);
        }
        Ok(Response::new(v1::ListPoolResponse { profiles }))
    }

    async fn drain_pool(
        &self,
        request: Request<v1::DrainPoolRequest>,
    ) -> Result<Response<v1::DrainPoolResponse>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().profile));
        require_root(&request)?;
        let (launcher, profile) = (Arc::clone(&self.launcher), request.into_inner().profile);
        let drained = tokio::spawn(async move { launcher.drain_pool(pool::one(&profile)).await });
        let removed = drained.await.map_err(|_| Status::internal("the drain ended early"))?;
        let removed = removed.ok_or_else(pool::absent)?;
        Ok(Response::new(v1::DrainPoolResponse { removed }))
    }

    async fn refill_pool(
        &self,
        request: Request<v1::RefillPoolRequest>,
    ) -> Result<Response<v1::RefillPoolResponse>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().profile));
        require_root(&request)?;
        let profile = request.into_inner().profile;
        self.launcher.refill_pool(pool::one(&profile)).ok_or_else(pool::absent)?;
        Ok(Response::new(v1::RefillPoolResponse {}))
    }

    async fn metrics(
        &self,
        request: Request<v1::MetricsRequest>,
    ) -> Result<Response<v1::MetricsResponse>, Status> {
        require_root(&request)?;
        Ok(Response::new(v1::MetricsResponse { text: scrape::text(&self.launcher) }))
    }

    async fn list_homes(
        &self,
        request: Request<v1::ListHomesRequest>,
    ) -> Result<Response<v1::ListHomesResponse>, Status> {
        require_root(&request)?;
        let homes =
            self.launcher.describe_homes().map_err(|failure| status::of_failure(&failure))?;
        Ok(Response::new(v1::ListHomesResponse { homes }))
    }

    async fn purge_home(
        &self,
        request: Request<v1::PurgeHomeRequest>,
    ) -> Result<Response<v1::PurgeHomeResponse>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().name));
        require_root(&request)?;
        let (launcher, name) = (Arc::clone(&self.launcher), request.into_inner().name);
        // What was begun is finished, whoever waits for it.
        tokio::spawn(async move { launcher.purge_home(&name).await })
            .await
            .map_err(|_| Status::internal("the purge ended early"))?
            .map_err(|refused| status::of_home_refused(&refused))?;
        Ok(Response::new(v1::PurgeHomeResponse {}))
    }

    async fn restore_home(
        &self,
        request: Request<v1::RestoreHomeRequest>,
    ) -> Result<Response<v1::RestoreHomeResponse>, Status> {
        Note::of(&request).add(|record| record.object.clone_from(&request.get_ref().name));
        require_root(&request)?;
        let (launcher, name) = (Arc::clone(&self.launcher), request.into_inner().name);
        let home = tokio::spawn(async move { launcher.restore_home(&name).await })
            .await
            .map_err(|_| Status::internal("the restoring ended early"))?
            .map_err(|refused| status::of_home_refused(&refused))?;
        Ok(Response::new(v1::RestoreHomeResponse { hub: home.hub, user: home.user }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let note = Note::of(&request);
        if let Some(start) = &request.get_ref().start {
            note.start(start);
        }
        require_root(&request)?;
        let start = request
            .into_inner()
            .start
            .ok_or_else(|| Status::invalid_argument("the request holds no start"))?;
        self.launcher
            .explain(&start)
            .await
            .map_err(|failure| status::of_failure(&failure))?
            .map(Response::new)
            .map_err(|refusal| status::of_refusal(&refusal))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectRequest>,
    ) -> Result<Response<v1::InspectResponse>, Status> {
        let note = Note::of(&request);
        note.key(request.get_ref().key.as_ref());
        note.add(|record| record.sandbox.clone_from(&request.get_ref().sandbox_id));
        require_root(&request)?;
        let v1::InspectRequest { sandbox_id, key } = request.into_inner();
        let key = key.as_ref().map(|key| status::key(Some(key))).transpose()?;
        let answer = self
            .launcher
            .inspect(|sandbox| match &key {
                Some(key) => sandbox.record.key == *key,
                None => sandbox.id().as_str() == sandbox_id,
            })
            .await;
        answer
            .map(Response::new)
            .ok_or_else(|| Status::not_found("this launcher knows no such sandbox"))
    }

    async fn reload(
        &self,
        request: Request<v1::ReloadRequest>,
    ) -> Result<Response<v1::ReloadResponse>, Status> {
        require_root(&request)?;
        let Reload { changed, needs_restart, .. } = self.launcher.reload().map_err(|error| {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            Status::failed_precondition(format!("{}{hint}; the old one holds on", chain(&error)))
        })?;
        Ok(Response::new(v1::ReloadResponse { changed, needs_restart }))
    }
}
