//! Frees what no image and no sandbox needs: views first, then containerd's own
//! garbage collection takes snapshots and blobs that nothing points to.
//!
//! Must never take a view away that a live sandbox's root is made of: whoever
//! calls names the images of all live sandboxes.

use std::collections::HashSet;

use containerd_client::services::v1::{
    DeleteImageRequest,
    images_client::ImagesClient,
    snapshots::{ListSnapshotsRequest, snapshots_client::SnapshotsClient},
};
use tonic::Code;

use super::{
    Containerd, SHORT, SNAPSHOTTER,
    call::CallError,
    tidy::VIEW,
    unpack::{IMAGE_LABEL, image_label},
};
use crate::engine::{Engine as _, EngineError};

impl Containerd {
    pub(super) async fn lacking(&self, digests: &[String]) -> Result<Vec<String>, EngineError> {
        let mut lacking = Vec::new();
        for digest in digests {
            if !self.has_blob(digest).await.map_err(self.error("look for blob", digest))? {
                lacking.push(digest.clone());
            }
        }
        Ok(lacking)
    }

    pub(super) async fn remove_record(&self, reference: &str) -> Result<bool, EngineError> {
        let request = self.request(DeleteImageRequest {
            name: reference.to_owned(),
            ..DeleteImageRequest::default()
        });
        let deleting =
            self.call(SHORT, |channel| async { ImagesClient::new(channel).delete(request).await });
        match deleting.await {
            Ok(_) => Ok(true),
            Err(error) if error.is(Code::NotFound) => Ok(false),
            Err(error) => Err(self.error("remove image", reference)(error)),
        }
    }

    pub(super) async fn collect_garbage(&self, live: &[String]) -> Result<(), EngineError> {
        // Not under an import, whose layers have no name yet.
        let _guard = self.inner.importing.lock().await;
        let named = self.images().await?.into_iter().map(|image| image.digest);
        let needed: HashSet<String> =
            named.chain(live.iter().cloned()).map(|digest| image_label(&digest)).collect();
        let views = self.views().await.map_err(self.error("list", "views of images"))?;
        for (key, labels) in views {
            if is_needed(&labels, &needed) {
                continue;
            }
            self.remove_snapshot(&key).await.map_err(self.error("remove view", &key))?;
        }
        // Deleting a lease in step runs the collection and waits for it.
        let lease = self.open_lease("collect").await?;
        self.close_lease(&lease).await;
        Ok(())
    }

    /// The names of all views of images, with the names of their labels.
    async fn views(&self) -> Result<Vec<(String, Vec<String>)>, CallError> {
        let request = self.request(ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            filters: vec![format!("name~=^{VIEW}")],
        });
        self.call(SHORT, |channel| async {
            let mut stream = SnapshotsClient::new(channel).list(request).await?.into_inner();
            let mut views = Vec::new();
            while let Some(message) = stream.message().await? {
                let found = message.info.into_iter().filter(|info| info.name.starts_with(VIEW));
                views.extend(
                    found.map(|info| (info.name, info.labels.into_keys().collect::<Vec<_>>())),
                );
            }
            Ok(views)
        })
        .await
    }
}

/// A view without a mark was made by an older version, which made none: it stays.
fn is_needed(labels: &[String], needed: &HashSet<String>) -> bool {
    let mut marked = false;
    for label in labels {
        marked |= label.starts_with(IMAGE_LABEL);
        if needed.contains(label) {
            return true;
        }
    }
    !marked
}
