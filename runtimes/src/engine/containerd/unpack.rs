//! Layers become snapshots: one committed snapshot per chain id, and one
//! long-lived view per image, from which its directories are read.
//!
//! Must never commit a layer whose content is not what the image's
//! configuration says (its diff id).

use std::{collections::HashMap, path::PathBuf, time::Duration};

use containerd_client::{
    services::v1::{
        ApplyRequest,
        diff_client::DiffClient,
        snapshots::{
            CommitSnapshotRequest, Info, MountsRequest, PrepareSnapshotRequest,
            RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, ViewSnapshotRequest,
            snapshots_client::SnapshotsClient,
        },
    },
    types::{Descriptor, Mount},
};
use prost_types::FieldMask;
use tonic::Code;

use super::{
    Containerd, INSTANCE_LABEL, SHORT, SNAPSHOTTER,
    call::CallError,
    content::leased,
    manifest::{ImageFacts, Layer, Unusable, unusable},
    tidy::{UNPACK, VIEW},
};

/// What the labels begin with that say which images are mounted through a view.
pub(super) const IMAGE_LABEL: &str = "adrastea/image.";

/// One layer may be gigabytes on a slow disk.
const APPLY: Duration = Duration::from_secs(1800);

/// Why a layer could not be unpacked.
pub(super) enum UnpackError {
    Call(CallError),
    Unusable(Unusable),
}

impl From<CallError> for UnpackError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Containerd {
    /// Unpacks what is missing. `unpacked` is told how many layers' bytes are done.
    pub(super) async fn unpack(
        &self,
        lease: &str,
        image: &ImageFacts,
        unpacked: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), UnpackError> {
        let mut parent = "";
        let mut done = 0;
        for layer in &image.layers {
            self.lease_snapshot(lease, &layer.chain_id).await?;
            if !self.has_snapshot(&layer.chain_id).await? {
                self.unpack_layer(lease, parent, layer).await?;
            }
            parent = &layer.chain_id;
            done += layer.blob.size();
            unpacked(done);
        }
        Ok(())
    }

    async fn unpack_layer(
        &self,
        lease: &str,
        parent: &str,
        layer: &Layer,
    ) -> Result<(), UnpackError> {
        let key = format!("{UNPACK}{}", short(&layer.chain_id));
        // What an import that was killed left half unpacked.
        self.remove_snapshot(&key).await?;
        let result = self.apply_layer(lease, &key, parent, layer).await;
        if result.is_err() {
            let _ = self.remove_snapshot(&key).await;
        }
        result
    }

    async fn apply_layer(
        &self,
        lease: &str,
        key: &str,
        parent: &str,
        layer: &Layer,
    ) -> Result<(), UnpackError> {
        let request = self.request(PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        });
        let request = leased(request, lease);
        let mounts = self
            .call(SHORT, |channel| async {
                Ok(SnapshotsClient::new(channel).prepare(request).await?.into_inner().mounts)
            })
            .await?;
        let request = self.request(ApplyRequest {
            diff: Some(Descriptor {
                media_type: layer.blob.media_type().to_string(),
                digest: layer.blob.digest().to_string(),
                size: i64::try_from(layer.blob.size()).unwrap_or(i64::MAX),
                annotations: HashMap::new(),
            }),
            mounts,
            payloads: HashMap::new(),
            // A committed layer is never unpacked again: it must survive a power cut.
            sync_fs: true,
        });
        let request = leased(request, lease);
        let applied = self
            .call(APPLY, |channel| async {
                Ok(DiffClient::new(channel).apply(request).await?.into_inner().applied)
            })
            .await?
            .unwrap_or_default();
        if applied.digest != layer.diff_id {
            let reason = format!(
                "the layer {} unpacks to {} instead of {}",
                layer.blob.digest(),
                applied.digest,
                layer.diff_id
            );
            return Err(UnpackError::Unusable(Unusable(reason)));
        }
        let request = self.request(CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            name: layer.chain_id.clone(),
            key: key.to_owned(),
            labels: HashMap::new(),
        });
        let request = leased(request, lease);
        self.call(SHORT, |channel| async { SnapshotsClient::new(channel).commit(request).await })
            .await?;
        Ok(())
    }

    /// Makes the view of an image's layers, or finds it. `None`: they are not unpacked.
    pub(super) async fn view(&self, image: &ImageFacts) -> Result<Option<Vec<Mount>>, CallError> {
        let key = view_name(image.chain_id());
        let request = self.request(ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key,
            parent: image.chain_id().to_owned(),
            labels: HashMap::from([
                // Without it the layers vanish under running sandboxes.
                ("containerd.io/gc.root".to_owned(), self.inner.namespace.clone()),
                (INSTANCE_LABEL.to_owned(), self.inner.namespace.clone()),
                (image_label(image.manifest.digest().as_ref()), "yes".to_owned()),
            ]),
        });
        let viewing = self.call(SHORT, |channel| async {
            Ok(SnapshotsClient::new(channel).view(request).await?.into_inner().mounts)
        });
        match viewing.await {
            Ok(mounts) => return Ok(Some(mounts)),
            Err(error) if error.is(Code::NotFound) => return Ok(None),
            Err(error) if error.is(Code::AlreadyExists) => {}
            Err(error) => return Err(error),
        }
        self.mounts_of_view(image.chain_id()).await.map(Some)
    }

    /// The mounts of the view of a chain that has one.
    pub(super) async fn mounts_of_view(&self, chain_id: &str) -> Result<Vec<Mount>, CallError> {
        let request = self.request(MountsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: view_name(chain_id),
        });
        self.call(SHORT, |channel| async {
            Ok(SnapshotsClient::new(channel).mounts(request).await?.into_inner().mounts)
        })
        .await
    }

    /// Notes on a view that this image's sandboxes use it, too.
    pub(super) async fn mark_view(&self, image: &ImageFacts) -> Result<(), CallError> {
        let label = image_label(image.manifest.digest().as_ref());
        let request = self.request(UpdateSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            info: Some(Info {
                name: view_name(image.chain_id()),
                labels: HashMap::from([(label.clone(), "yes".to_owned())]),
                ..Info::default()
            }),
            update_mask: Some(FieldMask { paths: vec![format!("labels.{label}")] }),
        });
        self.call(SHORT, |channel| async { SnapshotsClient::new(channel).update(request).await })
            .await
            .map(|_| ())
    }

    pub(super) async fn has_snapshot(&self, key: &str) -> Result<bool, CallError> {
        let request = self.request(StatSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
        });
        let asking =
            self.call(SHORT, |channel| async { SnapshotsClient::new(channel).stat(request).await });
        match asking.await {
            Ok(_) => Ok(true),
            Err(error) if error.is(Code::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn remove_snapshot(&self, key: &str) -> Result<(), CallError> {
        let request = self.request(RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
        });
        let removing = self
            .call(SHORT, |channel| async { SnapshotsClient::new(channel).remove(request).await });
        match removing.await {
            Err(error) if !error.is(Code::NotFound) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The view of a chain.
pub(super) fn view_name(chain_id: &str) -> String {
    format!("{VIEW}{}", short(chain_id))
}

/// Says on a view which image is mounted through it.
pub(super) fn image_label(digest: &str) -> String {
    format!("{IMAGE_LABEL}{}", short(digest))
}

/// Half of a digest: 128 bits tell chains apart.
fn short(digest: &str) -> &str {
    digest.strip_prefix("sha256:").and_then(|hex| hex.get(..32)).unwrap_or(digest)
}

/// The directories of a view, topmost first. Options are found by their key:
/// their order differs between versions of containerd.
pub(super) fn lower_directories(mounts: &[Mount]) -> Result<Vec<PathBuf>, Unusable> {
    let [mount] = mounts else {
        return unusable(format!("its view has {} mounts instead of one", mounts.len()));
    };
    let lowers = match mount.r#type.as_str() {
        // One layer needs no overlay.
        "bind" => vec![mount.source.as_str()],
        "overlay" => match mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="))
        {
            Some(lowers) => lowers.split(':').collect(),
            None => return unusable("its view is an overlay without lower directories"),
        },
        other => return unusable(format!("its view is mounted as {other}")),
    };
    // A colon in a path would tear it apart.
    if lowers.iter().any(|lower| !lower.starts_with('/')) {
        return unusable(format!("its view has the odd directories {}", lowers.join(":")));
    }
    Ok(lowers.into_iter().map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: kind.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn lower_directories_are_found_whatever_the_order_of_options() {
        let one = mount("bind", "/s/1/fs", &["ro", "rbind"]);
        assert_eq!(lower_directories(&[one]).unwrap(), [PathBuf::from("/s/1/fs")]);
        for options in [["index=off", "lowerdir=/s/2:/s/1"], ["lowerdir=/s/2:/s/1", "index=off"]] {
            let two = mount("overlay", "overlay", &options);
            let expected = ["/s/2", "/s/1"].map(PathBuf::from);
            assert_eq!(lower_directories(&[two]).unwrap(), expected);
        }
    }

    #[test]
    fn odd_views_are_refused() {
        assert!(lower_directories(&[]).is_err());
        assert!(lower_directories(&[mount("overlay", "overlay", &["index=off"])]).is_err());
        assert!(lower_directories(&[mount("erofs", "/x", &[])]).is_err());
        assert!(lower_directories(&[mount("overlay", "", &["lowerdir=/a:b:/c"])]).is_err());
    }
}
