//! Imports an archive: look through, store, unpack, name. In this order, under a
//! lease, so that an import that is killed leaves nothing visible, and the next
//! one goes on from what is there.
//!
//! ```text
//! open ─ select ─ [lease] ─ look through ─ blobs ─ layers ─ image record ─ view ─ [lease gone]
//! ```
//!
//! Must never name an image that is not complete.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use containerd_client::{
    services::v1::{
        AddResourceRequest, CreateImageRequest, CreateRequest, DeleteRequest, Image, Resource,
        UpdateImageRequest, images_client::ImagesClient, leases_client::LeasesClient,
    },
    types::Descriptor as WireDescriptor,
};
use oci_spec::image::Descriptor;
use tokio::time::timeout;
use tonic::Code;

use super::{
    Containerd, INSTANCE_LABEL, SHORT, SNAPSHOTTER,
    archive::{Archive, ArchiveError},
    call::{CallError, failed},
    content::StoreError,
    layer::{self, Budget},
    manifest::{ImageFacts, Unusable, sha256},
    tidy::IMPORT,
    unpack::UnpackError,
};
use crate::engine::{EngineError, EngineImage, ImportProgress};

/// Deleting a lease with `sync` waits for the garbage collection behind it.
const COLLECT: Duration = Duration::from_secs(120);

/// How often a long look at a layer says how far it is.
const TICK: Duration = Duration::from_millis(200);

type Progress<'a> = &'a (dyn Fn(ImportProgress) + Send + Sync);

impl Containerd {
    pub(super) async fn import_archive(
        &self,
        path: &Path,
        reference: &str,
        progress: Progress<'_>,
    ) -> Result<EngineImage, EngineError> {
        let _guard = self.inner.importing.lock().await;
        progress(ImportProgress {
            step: "reading the archive".to_owned(),
            done_bytes: 0,
            total_bytes: 0,
        });
        let (archive, image) = open_archive(path).await?;
        let lease = self.open_lease(reference).await?;
        let imported = self.import_leased(&lease, &archive, &image, reference, progress).await;
        // Without connection the lease stays, and the next import takes it up.
        self.close_lease(&lease).await;
        imported
    }

    async fn import_leased(
        &self,
        lease: &str,
        archive: &Archive,
        image: &ImageFacts,
        reference: &str,
        progress: Progress<'_>,
    ) -> Result<EngineImage, EngineError> {
        let stored = match self.look_through(lease, archive, image, progress).await {
            Ok(()) => self.store(lease, archive, image, progress).await,
            Err(error) => Err(error),
        };
        stored.map_err(|error| match error {
            StoreError::Call(error) => self.error("store image", reference)(error),
            StoreError::Archive(error) => ArchiveError::Io(error).into_engine(archive.path()),
            StoreError::Unusable(reason) => {
                ArchiveError::Unusable(reason).into_engine(archive.path())
            }
        })?;
        let total: u64 = image.layers.iter().map(|layer| layer.blob.size()).sum();
        let unpacked = |done| {
            progress(ImportProgress {
                step: "unpacking layers".to_owned(),
                done_bytes: done,
                total_bytes: total,
            });
        };
        unpacked(0);
        self.unpack(lease, image, &unpacked).await.map_err(|error| match error {
            UnpackError::Call(error) => self.error("unpack image", reference)(error),
            UnpackError::Unusable(reason) => {
                ArchiveError::Unusable(reason).into_engine(archive.path())
            }
        })?;
        self.record(reference, &image.manifest)
            .await
            .map_err(self.error("record image", reference))?;
        match self.view(image).await {
            Ok(Some(_)) => {
                self.mark_view(image).await.map_err(self.error("mark the layers of", reference))?;
                self.with_layers(reference.to_owned(), image).await
            }
            Ok(None) => Err(failed("import image", reference, "its snapshot vanished")),
            Err(error) => Err(self.error("view the layers of", reference)(error)),
        }
    }

    /// Every layer that is not unpacked here yet, before containerd gets any of it.
    async fn look_through(
        &self,
        lease: &str,
        archive: &Archive,
        image: &ImageFacts,
        progress: Progress<'_>,
    ) -> Result<(), StoreError> {
        let total = image.layers.iter().map(|layer| layer.blob.size()).sum();
        let seen = Arc::new(AtomicU64::new(0));
        let mut before = 0;
        let mut budget = Budget::new(self.inner.limits);
        for layer in &image.layers {
            self.lease_snapshot(lease, &layer.chain_id).await?;
            let place = archive.find(&layer.blob).map_err(StoreError::Unusable)?;
            if let Some(place) = place
                && !self.has_snapshot(&layer.chain_id).await?
            {
                let counted = Arc::clone(&seen);
                let (place, layer, seen) = (place.clone(), layer.clone(), Arc::clone(&seen));
                let mut looking = tokio::task::spawn_blocking(move || {
                    layer::inspect(&place, &layer, &mut budget, &seen).map(|()| budget)
                });
                budget = loop {
                    match timeout(TICK, &mut looking).await {
                        Ok(Ok(looked)) => break looked.map_err(StoreError::from)?,
                        Ok(Err(error)) => {
                            return Err(StoreError::Archive(std::io::Error::other(error)));
                        }
                        Err(_) => progress(ImportProgress {
                            step: "checking layers".to_owned(),
                            done_bytes: counted.load(Ordering::Relaxed).min(total),
                            total_bytes: total,
                        }),
                    }
                };
            }
            before += layer.blob.size();
            seen.store(before, Ordering::Relaxed);
            progress(ImportProgress {
                step: "checking layers".to_owned(),
                done_bytes: before,
                total_bytes: total,
            });
        }
        Ok(())
    }

    /// All blobs, the pointing ones last, each with labels by which containerd's
    /// garbage collection finds what it points to.
    async fn store(
        &self,
        lease: &str,
        archive: &Archive,
        image: &ImageFacts,
        progress: Progress<'_>,
    ) -> Result<(), StoreError> {
        let mut manifest_labels = HashMap::from([(
            "containerd.io/gc.ref.content.config".to_owned(),
            image.configuration.digest().to_string(),
        )]);
        let mut blobs: Vec<(&Descriptor, HashMap<String, String>)> = Vec::new();
        for (number, layer) in image.layers.iter().enumerate() {
            let digest = layer.blob.digest().to_string();
            manifest_labels.insert(format!("containerd.io/gc.ref.content.l.{number}"), digest);
            blobs.push((&layer.blob, HashMap::new()));
        }
        let snapshot = format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}");
        let configuration_labels = HashMap::from([(snapshot, image.chain_id().to_owned())]);
        blobs.push((&image.configuration, configuration_labels));
        blobs.push((&image.manifest, manifest_labels));

        let total = image.size_bytes();
        let mut before = 0;
        for (blob, labels) in blobs {
            let written = |done| {
                progress(ImportProgress {
                    step: "storing layers".to_owned(),
                    done_bytes: before + done,
                    total_bytes: total,
                });
            };
            self.lease_resource(lease, "content", blob.digest().as_ref()).await?;
            match archive.find(blob).map_err(StoreError::Unusable)? {
                Some(place) => self.write_blob(lease, place, blob, labels, &written).await?,
                // What was not downloaded again, because it was here.
                None if self.has_blob(blob.digest().as_ref()).await? => written(blob.size()),
                None => {
                    let reason = format!("the blob {} is missing", blob.digest());
                    return Err(StoreError::Unusable(Unusable(reason)));
                }
            }
            before += blob.size();
        }
        Ok(())
    }

    /// The name; replaces what it named before.
    async fn record(&self, reference: &str, manifest: &Descriptor) -> Result<(), CallError> {
        let image = Image {
            name: reference.to_owned(),
            labels: HashMap::from([(INSTANCE_LABEL.to_owned(), self.inner.namespace.clone())]),
            target: Some(WireDescriptor {
                media_type: manifest.media_type().to_string(),
                digest: manifest.digest().to_string(),
                size: i64::try_from(manifest.size()).unwrap_or(i64::MAX),
                annotations: HashMap::new(),
            }),
            ..Image::default()
        };
        let request = self.request(CreateImageRequest {
            image: Some(image.clone()),
            ..CreateImageRequest::default()
        });
        let creating =
            self.call(SHORT, |channel| async { ImagesClient::new(channel).create(request).await });
        match creating.await {
            Ok(_) => return Ok(()),
            Err(error) if error.is(Code::AlreadyExists) => {}
            Err(error) => return Err(error),
        }
        let request = self
            .request(UpdateImageRequest { image: Some(image), ..UpdateImageRequest::default() });
        self.call(SHORT, |channel| async { ImagesClient::new(channel).update(request).await })
            .await
            .map(|_| ())
    }

    /// One lease per name: an import that was killed is taken up by the next.
    pub(super) async fn open_lease(&self, reference: &str) -> Result<String, EngineError> {
        let id = format!("{IMPORT}{}", &sha256(reference.as_bytes())[7..39]);
        let request = self.request(CreateRequest { id: id.clone(), labels: HashMap::new() });
        let creating =
            self.call(SHORT, |channel| async { LeasesClient::new(channel).create(request).await });
        match creating.await {
            Err(error) if !error.is(Code::AlreadyExists) => {
                Err(self.error("lease image", reference)(error))
            }
            _ => Ok(id),
        }
    }

    pub(super) async fn close_lease(&self, id: &str) {
        let request = self.request(DeleteRequest { id: id.to_owned(), sync: true });
        let deleting = self
            .call(COLLECT, |channel| async { LeasesClient::new(channel).delete(request).await });
        match deleting.await {
            Err(error) if !error.is(Code::NotFound) => {
                tracing::warn!(lease = id, ?error, "failed to delete a lease");
            }
            _ => {}
        }
    }

    pub(super) async fn lease_snapshot(
        &self,
        lease: &str,
        chain_id: &str,
    ) -> Result<(), CallError> {
        self.lease_resource(lease, &format!("snapshots/{SNAPSHOTTER}"), chain_id).await
    }

    /// Keeps what may be there already, before anybody looks whether it is.
    pub(super) async fn lease_resource(
        &self,
        lease: &str,
        kind: &str,
        id: &str,
    ) -> Result<(), CallError> {
        let request = self.request(AddResourceRequest {
            id: lease.to_owned(),
            resource: Some(Resource { id: id.to_owned(), r#type: kind.to_owned() }),
        });
        self.call(SHORT, |channel| async { LeasesClient::new(channel).add_resource(request).await })
            .await
            .map(|_| ())
    }
}

async fn open_archive(path: &Path) -> Result<(Archive, ImageFacts), EngineError> {
    let owned = path.to_owned();
    let opening = tokio::task::spawn_blocking(move || {
        let archive = Archive::open(&owned)?;
        let image = archive.select()?;
        Ok((archive, image))
    });
    match opening.await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => {
            let error: ArchiveError = error;
            Err(error.into_engine(path))
        }
        Err(error) => Err(EngineError::Failed {
            verb: "read",
            thing: path.display().to_string(),
            source: Box::new(error),
        }),
    }
}
