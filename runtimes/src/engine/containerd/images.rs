//! Images on this node: from a name to verified facts and directories.
//!
//! Reads only; the one thing it makes is the view (and, for an image somebody
//! pulled without unpacking it, its snapshots). Must never copy an image's
//! labels anywhere.

use std::sync::{Arc, PoisonError};

use containerd_client::{
    services::v1::{GetImageRequest, Image, ListImagesRequest, images_client::ImagesClient},
    types::Mount,
};
use oci_spec::image::{Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest};
use tonic::Code;

use super::{
    Containerd, SHORT,
    call::{CallError, failed},
    manifest::{ImageFacts, Unusable, candidates, parse, unusable},
    unpack::{UnpackError, lower_directories, view_name},
};
use crate::engine::{EngineError, EngineImage, ImageDescription};

/// More images than any policy names; a bound against a node that imports for ever.
const MOST_KNOWN_IMAGES: usize = 64;

/// Why an image's facts could not be had.
enum FactsError {
    Call(CallError),
    Unusable(Unusable),
}

impl From<CallError> for FactsError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<Unusable> for FactsError {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

impl Containerd {
    /// Asks for the name and, at the same time, for the view of the image that the name led to
    /// last time: one way to containerd instead of two. The view counts only if the name leads
    /// there still.
    pub(super) async fn find_image(&self, reference: &str) -> Result<EngineImage, EngineError> {
        let Some((target, facts)) = self.guess(reference) else {
            let record = self.get_record(reference).await?;
            return self.describe(record).await;
        };
        let (record, mounts) =
            tokio::join!(self.get_record(reference), self.mounts_of_view(facts.chain_id()));
        let record = record?;
        match mounts {
            Ok(mounts) if record.target.as_ref().is_some_and(|found| found.digest == target) => {
                with_directories(record.name, &facts, &mounts)
            }
            // It leads elsewhere now, or its view is gone, or that could not be asked.
            _ => self.describe(record).await,
        }
    }

    /// The target that a name led to when it was last looked up, and its facts.
    fn guess(&self, reference: &str) -> Option<(String, Arc<ImageFacts>)> {
        let led_to = self.inner.led_to.lock().unwrap_or_else(PoisonError::into_inner);
        let target = led_to.get(reference)?.clone();
        drop(led_to);
        let facts = self.inner.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.get(&target).map(|facts| (target.clone(), Arc::clone(facts)))
    }

    fn remember(&self, reference: &str, target: &str) {
        let mut led_to = self.inner.led_to.lock().unwrap_or_else(PoisonError::into_inner);
        if led_to.len() >= MOST_KNOWN_IMAGES {
            led_to.clear();
        }
        led_to.insert(reference.to_owned(), target.to_owned());
    }

    async fn get_record(&self, reference: &str) -> Result<Image, EngineError> {
        let request = self.request(GetImageRequest { name: reference.to_owned() });
        let finding = self.call(SHORT, |channel| async {
            Ok(ImagesClient::new(channel).get(request).await?.into_inner().image)
        });
        match finding.await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => Err(EngineError::ImageMissing { reference: reference.to_owned() }),
            Err(error) if error.is(Code::NotFound) => {
                Err(EngineError::ImageMissing { reference: reference.to_owned() })
            }
            Err(error) => Err(self.error("find image", reference)(error)),
        }
    }

    /// Images that cannot be used here (of another platform, damaged) are left
    /// out with a warning: they must not hide the others.
    pub(super) async fn list_images(&self) -> Result<Vec<EngineImage>, EngineError> {
        let request = self.request(ListImagesRequest::default());
        let images = self
            .call(SHORT, |channel| async {
                Ok(ImagesClient::new(channel).list(request).await?.into_inner().images)
            })
            .await
            .map_err(self.error("list", "images"))?;
        let mut described = Vec::with_capacity(images.len());
        for image in images {
            let name = image.name.clone();
            match self.describe(image).await {
                Ok(image) => described.push(image),
                Err(error @ EngineError::Unavailable { .. }) => return Err(error),
                Err(error) => tracing::warn!(image = name, %error, "left out"),
            }
        }
        Ok(described)
    }

    /// The views that images stand behind. None if any image cannot be read: then nobody knows.
    pub(super) async fn views_of_images(&self) -> Result<Option<Vec<String>>, EngineError> {
        let request = self.request(ListImagesRequest::default());
        let images = self
            .call(SHORT, |channel| async {
                Ok(ImagesClient::new(channel).list(request).await?.into_inner().images)
            })
            .await
            .map_err(self.error("list", "images"))?;
        let mut views = Vec::with_capacity(images.len());
        for image in images {
            let target = image.target.map(|target| target.digest).unwrap_or_default();
            match self.known_facts(&target).await {
                Ok(facts) => views.push(view_name(facts.chain_id())),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(views))
    }

    async fn describe(&self, image: Image) -> Result<EngineImage, EngineError> {
        let reference = image.name;
        let target = image.target.map(|target| target.digest).unwrap_or_default();
        let facts = match self.known_facts(&target).await {
            Ok(facts) => facts,
            Err(FactsError::Call(error)) => {
                return Err(self.error("read image", &reference)(error));
            }
            Err(FactsError::Unusable(Unusable(reason))) => {
                return Err(failed("use image", reference, reason));
            }
        };
        let image = self.with_layers(reference, &facts).await?;
        self.remember(&image.reference, &target);
        Ok(image)
    }

    /// The image with its directories; unpacks what is not.
    pub(super) async fn with_layers(
        &self,
        reference: String,
        facts: &ImageFacts,
    ) -> Result<EngineImage, EngineError> {
        let viewing = |error| self.error("view the layers of", &reference)(error);
        let mounts = match self.view(facts).await.map_err(viewing)? {
            Some(mounts) => mounts,
            None => self.unpack_then_view(&reference, facts).await?,
        };
        with_directories(reference, facts, &mounts)
    }

    async fn unpack_then_view(
        &self,
        reference: &str,
        facts: &ImageFacts,
    ) -> Result<Vec<Mount>, EngineError> {
        let _guard = self.inner.importing.lock().await;
        let lease = self.open_lease(reference).await?;
        let unpacked = self.unpack(&lease, facts, &|_| ()).await;
        let viewed = match unpacked {
            Ok(()) => self.view(facts).await.map_err(UnpackError::Call),
            Err(error) => Err(error),
        };
        self.close_lease(&lease).await;
        match viewed {
            Ok(Some(mounts)) => Ok(mounts),
            Ok(None) => Err(failed("unpack image", reference, "its snapshot vanished")),
            Err(UnpackError::Call(error)) => Err(self.error("unpack image", reference)(error)),
            Err(UnpackError::Unusable(Unusable(reason))) => {
                Err(failed("unpack image", reference, reason))
            }
        }
    }

    /// What the image says of itself: to be shown to people.
    pub(super) async fn describe_image(
        &self,
        reference: &str,
    ) -> Result<ImageDescription, EngineError> {
        let image = self.get_record(reference).await?;
        let target = image.target.map(|target| target.digest).unwrap_or_default();
        match self.known_facts(&target).await {
            Ok(facts) => Ok(facts.description.clone()),
            Err(FactsError::Call(error)) => Err(self.error("read image", reference)(error)),
            Err(FactsError::Unusable(Unusable(reason))) => {
                Err(failed("use image", reference, reason))
            }
        }
    }

    /// The facts behind a digest, read and verified once: a digest names its content for ever.
    async fn known_facts(&self, target: &str) -> Result<Arc<ImageFacts>, FactsError> {
        let cache = || self.inner.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = cache().get(target) {
            return Ok(Arc::clone(facts));
        }
        let facts = Arc::new(self.facts(target).await?);
        let mut known = cache();
        if known.len() >= MOST_KNOWN_IMAGES {
            known.clear();
        }
        known.insert(target.to_owned(), Arc::clone(&facts));
        Ok(facts)
    }

    /// From the target (an index or a manifest) to the facts for this host.
    async fn facts(&self, target: &str) -> Result<ImageFacts, FactsError> {
        let mut digest: Digest =
            target.parse().map_err(|_| Unusable(format!("its target `{target}` is no digest")))?;
        // An index may point to an index.
        for _ in 0..4 {
            let bytes = self.read_blob(digest.as_ref()).await?;
            // The media type of a target is a claim; the content decides.
            let Ok(manifest) = ImageManifest::from_reader(bytes.as_slice()) else {
                let index = parse("index", &bytes, |bytes| ImageIndex::from_reader(bytes))?;
                match candidates(&index).into_iter().next() {
                    Some(descriptor) => digest = descriptor.digest().clone(),
                    None => return Ok(unusable("it holds no image for this platform")?),
                }
                continue;
            };
            let configuration = self.read_blob(manifest.config().digest().as_ref()).await?;
            let configuration = parse("configuration", &configuration, |bytes| {
                ImageConfiguration::from_reader(bytes)
            })?;
            let media_type = oci_spec::image::MediaType::ImageManifest;
            let descriptor = Descriptor::new(media_type, bytes.len() as u64, digest);
            return Ok(ImageFacts::new(descriptor, &manifest, &configuration)?);
        }
        Ok(unusable("its indexes are nested too deeply")?)
    }
}

fn with_directories(
    reference: String,
    facts: &ImageFacts,
    mounts: &[Mount],
) -> Result<EngineImage, EngineError> {
    let layers = lower_directories(mounts)
        .map_err(|Unusable(reason)| failed("use image", &reference, reason))?;
    if layers.len() != facts.layers.len() {
        let reason =
            format!("its view has {} layers instead of {}", layers.len(), facts.layers.len());
        return Err(failed("use image", reference, reason));
    }
    Ok(EngineImage {
        reference,
        digest: facts.manifest.digest().to_string(),
        layers,
        environment: facts.environment.clone(),
        size_bytes: facts.size_bytes(),
    })
}
