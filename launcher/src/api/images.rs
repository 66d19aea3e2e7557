//! Images on the wire: progress that ends in an image, and findings in words.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use adrastea_proto::v1::{self, ImageFindingLevel, import_image_event};
use adrastea_runtimes::engine::{EngineError, EngineImage, ImportProgress};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::service::Streaming;
use crate::{
    image::{
        check::{Finding, Level},
        registry::PullError,
    },
    launch::{
        Launcher,
        failure::chain,
        images::{DOWNLOADING, ImageError},
    },
};

pub fn describe(launcher: &Launcher, image: &EngineImage) -> v1::Image {
    let uses = launcher.image_uses(&image.reference);
    v1::Image {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        layers: u32::try_from(image.layers.len()).unwrap_or(u32::MAX),
        size_bytes: image.size_bytes,
        sandboxes: uses.sandboxes,
        profiles: uses.profiles,
    }
}

pub fn finding(finding: Finding) -> v1::ImageFinding {
    let level = match finding.level {
        Level::Fact => ImageFindingLevel::Fact,
        Level::Advice => ImageFindingLevel::Advice,
        Level::Problem => ImageFindingLevel::Problem,
    };
    v1::ImageFinding { level: level.into(), text: finding.text, hint: finding.hint }
}

/// Our errors about images as gRPC's.
pub fn status(error: &ImageError) -> Status {
    let text = chain(error);
    match error {
        ImageError::InUse { force_helps, .. } => {
            let hint = if *force_helps {
                "--force removes it although profiles name it"
            } else {
                "stop these sandboxes first"
            };
            Status::failed_precondition(format!("{text} ({hint})"))
        }
        ImageError::Pull(error) => match error {
            PullError::Reference { .. } => Status::invalid_argument(text),
            PullError::Denied { .. } | PullError::Credentials(_) => Status::permission_denied(text),
            PullError::Registry { .. } => Status::unavailable(text),
            PullError::Platform { .. } => Status::not_found(text),
            PullError::Digest { .. } => Status::data_loss(text),
            PullError::TooLarge { .. } => Status::resource_exhausted(text),
            PullError::Host(_) => Status::internal(text),
        },
        ImageError::Engine(error) => match error {
            EngineError::Unavailable { .. } => Status::unavailable(text),
            EngineError::ImageMissing { .. } => Status::not_found(text),
            EngineError::BadArchive { .. } => Status::invalid_argument(text),
            EngineError::Failed { .. } | EngineError::Timeout { .. } => {
                Status::failed_precondition(text)
            }
        },
        ImageError::Host(_) => Status::internal(text),
    }
}

/// Told of every step of an import or a pull.
pub type Reporter = Arc<dyn Fn(ImportProgress) + Send + Sync>;

/// Runs `work` and streams what it reports, then its image or its error. Whoever
/// goes away ends a download, which the next one continues, but no import.
pub fn stream<Work>(
    work: impl FnOnce(Reporter) -> Work,
) -> Response<Streaming<v1::ImportImageEvent>>
where
    Work: Future<Output = Result<v1::Image, ImageError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(64);
    let (reporter, downloading) = (sender.clone(), Arc::new(AtomicBool::new(false)));
    let is_downloading = Arc::clone(&downloading);
    let report = move |progress: ImportProgress| {
        downloading.store(progress.step == DOWNLOADING, Ordering::Relaxed);
        let progress = v1::ImportProgress {
            step: progress.step,
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
        };
        // A slow reader misses some progress, never the result.
        let _ = reporter.try_send(Ok(v1::ImportImageEvent {
            event: Some(import_image_event::Event::Progress(progress)),
        }));
    };
    let mut work = Box::pin(work(Arc::new(report)));
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = &mut work => ended,
            () = sender.closed() => {
                if is_downloading.load(Ordering::Relaxed) {
                    return;
                }
                work.await
            }
        };
        let last = match ended {
            Ok(image) => {
                Ok(v1::ImportImageEvent { event: Some(import_image_event::Event::Image(image)) })
            }
            Err(error) => Err(status(&error)),
        };
        let _ = sender.send(last).await;
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}
