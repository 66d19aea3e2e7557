//! Images and who uses them: what may be removed, and when.
//!
//! An image of a live sandbox is never removed, not even by force: its root is
//! made of the image's layers. A removal marks the image first and looks for
//! sandboxes then; a start is registered first and looks for the mark then. So
//! one of the two always sees the other.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::engine::{EngineError, EngineImage, ImportProgress};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_spec::image::Descriptor;

use super::{Launcher, entry::Entry, failure::Failure, lock};
use crate::{
    host::HostError,
    image::{
        check::{self, Finding},
        download::Downloads,
        registry::{PullError, Registry},
    },
};

/// Layers that are fetched at once.
const STREAMS: usize = 3;

/// The step of a pull that may be broken off at any time.
pub const DOWNLOADING: &str = "downloading layers";

type Report<'report> = &'report (dyn Fn(ImportProgress) + Send + Sync);

/// What the launcher remembers of images.
#[derive(Default)]
pub struct Images {
    /// One pull at a time: they share the directory of downloads.
    pulling: tokio::sync::Mutex<()>,
    /// References of images that are being removed.
    leaving: Mutex<BTreeSet<String>>,
    /// When it was last looked for unused ones.
    pub(super) looked: Mutex<Option<Instant>>,
}

/// Who uses an image, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    pub sandboxes: Vec<String>,
    pub profiles: Vec<String>,
}

impl Uses {
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.profiles.is_empty()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image `{reference}` is used by {}", users.join(", "))]
    InUse { reference: String, users: Vec<String>, force_helps: bool },
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Takes the mark off again, however a removal ends.
struct Leaving<'images>(&'images Images, &'images str);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        lock(&self.0.leaving).remove(self.1);
    }
}

impl Launcher {
    fn downloads(&self) -> PathBuf {
        self.layout.downloads()
    }

    /// Refuses a start from an image that is being removed right now.
    pub(super) fn check_image_stays(&self, reference: &str) -> Result<(), Failure> {
        if lock(&self.images.leaving).contains(reference) {
            return Err(Failure::new(
                FailureReason::ImageMissing,
                format!("image `{reference}` is being removed from this node"),
                "an administrator can import it again",
            ));
        }
        Ok(())
    }

    /// Who uses the image of this name.
    pub fn image_uses(&self, reference: &str) -> Uses {
        let config = self.config();
        let named: Vec<_> = config
            .images
            .iter()
            .filter(|(_, image)| image.reference == reference)
            .map(|(name, _)| name)
            .collect();
        let profiles = config
            .profiles
            .iter()
            .filter(|(_, profile)| {
                named.iter().any(|name| **name == profile.image || profile.images.contains(name))
            })
            .map(|(name, _)| name.clone())
            .collect();
        let sandboxes = self
            .with_images()
            .iter()
            .filter(|entry| entry.sandbox.record.facts.image_reference == reference)
            .map(|entry| entry.sandbox.id().to_string())
            .collect();
        Uses { sandboxes, profiles }
    }

    /// Whatever stands on an image: servers, and what waits for its user.
    fn with_images(&self) -> Vec<Arc<Entry>> {
        let servers = self.list(None).into_iter().chain(self.pool.entries());
        servers.filter(|entry| !entry.is_gone()).collect()
    }

    /// The digests of the images of all live sandboxes.
    fn live_images(&self) -> Vec<String> {
        let live: BTreeSet<_> = self
            .with_images()
            .iter()
            .map(|entry| entry.sandbox.record.facts.image_digest.clone())
            .collect();
        live.into_iter().collect()
    }

    /// Imports an archive; frees what the name named before.
    pub async fn import_image(
        &self,
        archive: &std::path::Path,
        reference: &str,
        report: Report<'_>,
    ) -> Result<EngineImage, ImageError> {
        let image = self.engine.import(archive, reference, report).await?;
        tracing::info!(reference, digest = image.digest, "an image was imported");
        // One that was missing until now, or could not wait.
        self.pool.try_again();
        self.engine.collect(&self.live_images()).await?;
        Ok(image)
    }

    /// Fetches an image from its registry and imports it under `name`.
    pub async fn pull_image(
        &self,
        reference: &str,
        name: &str,
        report: Report<'_>,
    ) -> Result<EngineImage, ImageError> {
        let asking =
            || ImportProgress { step: "asking the registry".into(), done_bytes: 0, total_bytes: 0 };
        report(asking());
        let registry = Registry::new(&self.config().image_store, reference)?;
        let _turn = self.images.pulling.lock().await;
        let found = registry.find().await?;
        if let Ok(image) = self.engine.image(name).await
            && image.digest == found.digest
        {
            return Ok(image);
        }
        let digests: Vec<_> = found.blobs.iter().map(|blob| blob.digest().to_string()).collect();
        let missing: BTreeSet<_> = self.engine.missing_blobs(&digests).await?.into_iter().collect();
        let wanted: Vec<_> = found
            .blobs
            .iter()
            .enumerate()
            // The configuration says which image it is: it is always at hand.
            .filter(|(number, _)| *number == 0 || missing.contains(&digests[*number]))
            // The same layer may be in it twice.
            .filter(|(number, _)| !digests[..*number].contains(&digests[*number]))
            .map(|(_, blob)| blob.clone())
            .collect();
        let downloads = Downloads::new(self.downloads())?;
        let total = wanted.iter().map(Descriptor::size).sum();
        let arrived = Mutex::new(vec![0_u64; wanted.len()]);
        let mut fetches = Vec::new();
        for (number, blob) in wanted.into_iter().enumerate() {
            let (arrived, downloads, registry) = (&arrived, &downloads, &registry);
            fetches.push(async move {
                let told = |bytes| {
                    let done = {
                        let mut arrived = lock(arrived);
                        arrived[number] = bytes;
                        arrived.iter().sum()
                    };
                    report(ImportProgress {
                        step: DOWNLOADING.into(),
                        done_bytes: done,
                        total_bytes: total,
                    });
                };
                downloads.fetch(registry, &blob, &told).await
            });
        }
        stream::iter(fetches).buffer_unordered(STREAMS).try_collect::<Vec<_>>().await?;
        downloads.name(&found.digest, &found.manifest)?;
        let image = self.import_image(downloads.directory(), name, report).await?;
        let arrived = digests.iter().map(String::as_str).chain([found.digest.as_str()]);
        downloads.forget(arrived)?;
        Ok(image)
    }

    /// Removes an image. `force` overrules profiles that name it, never live sandboxes.
    pub async fn remove_image(&self, reference: &str, force: bool) -> Result<(), ImageError> {
        self.take_away(reference, force).await?;
        Ok(self.engine.collect(&self.live_images()).await?)
    }

    async fn take_away(&self, reference: &str, force: bool) -> Result<(), ImageError> {
        lock(&self.images.leaving).insert(reference.to_owned());
        let _leaving = Leaving(&self.images, reference);
        let Uses { sandboxes, profiles } = self.image_uses(reference);
        let force_helps = sandboxes.is_empty();
        let users: Vec<_> = sandboxes
            .iter()
            .map(|id| format!("sandbox {id}"))
            .chain(profiles.iter().map(|name| format!("profile {name}")))
            .collect();
        let overruled = force && force_helps;
        if !(users.is_empty() || overruled) {
            return Err(ImageError::InUse { reference: reference.to_owned(), users, force_helps });
        }
        if self.engine.remove_image(reference).await? {
            tracing::info!(reference, force, "an image was removed");
            Ok(())
        } else {
            Err(EngineError::ImageMissing { reference: reference.to_owned() }.into())
        }
    }

    /// Removes every image that neither the configuration nor a live sandbox names,
    /// and what earlier pulls have left. With `dry_run` only says which.
    pub async fn prune_images(&self, dry_run: bool) -> Result<Vec<EngineImage>, ImageError> {
        let config = self.config();
        let configured = |image: &EngineImage| {
            config.images.values().any(|named| named.reference == image.reference)
        };
        let mut unused: Vec<_> = self.engine.images().await?;
        unused.retain(|image| !configured(image) && self.image_uses(&image.reference).is_empty());
        if dry_run {
            return Ok(unused);
        }
        let mut removed = Vec::new();
        for image in unused {
            match self.take_away(&image.reference, false).await {
                Ok(()) => removed.push(image),
                // Somebody has begun to use it, or it is gone already.
                Err(
                    ImageError::InUse { .. } | ImageError::Engine(EngineError::ImageMissing { .. }),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        {
            let _turn = self.images.pulling.lock().await;
            Downloads::clear(&self.downloads())?;
        }
        self.engine.collect(&self.live_images()).await?;
        Ok(removed)
    }

    /// What an image supports, and what would make it better.
    pub async fn check_image(
        self: &Arc<Self>,
        reference: &str,
    ) -> Result<Vec<Finding>, ImageError> {
        let image = self.engine.image(reference).await?;
        let description = self.engine.describe(reference).await?;
        let checking = tokio::task::spawn_blocking(move || check::check(&image, &description));
        checking.await.map_err(|error| {
            HostError::new("check", reference, std::io::Error::other(error)).into()
        })
    }
}
