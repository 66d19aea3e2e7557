//! What imports that were killed left in containerd, and views of images that are
//! gone.
//!
//! Must never remove what somebody else made in our namespace (only our own
//! names), nor a view while any sandbox may stand on it.

use std::collections::BTreeSet;

use containerd_client::services::v1::{
    DeleteRequest, ListRequest,
    leases_client::LeasesClient,
    snapshots::{ListSnapshotsRequest, snapshots_client::SnapshotsClient},
};

use super::{Containerd, LONG, SHORT, SNAPSHOTTER, call::CallError};
use crate::engine::{EngineError, Leftover};

pub(super) const IMPORT: &str = "adrastea-import-";
pub(super) const UNPACK: &str = "adrastea-unpack-";
pub(super) const VIEW: &str = "adrastea-view-";

impl Containerd {
    pub(super) async fn remove_leftovers(&self) -> Result<Vec<Leftover>, EngineError> {
        // Whoever imports owns all of it.
        let Ok(_alone) = self.inner.importing.try_lock() else { return Ok(Vec::new()) };
        let mut removed = Vec::new();
        let failed = |error| self.error("tidy up", "images")(error);
        for name in self.leases().await.map_err(failed)? {
            let request = self.request(DeleteRequest { id: name.clone(), sync: false });
            self.call(SHORT, |channel| async { LeasesClient::new(channel).delete(request).await })
                .await
                .map_err(failed)?;
            removed.push(Leftover { kind: "lease", name });
        }
        let snapshots = self.snapshots().await.map_err(failed)?;
        let half = snapshots.iter().filter(|name| name.starts_with(UNPACK)).cloned();
        let unused = self.unused_views(&snapshots).await?;
        for name in half.chain(unused) {
            self.remove_snapshot(&name).await.map_err(failed)?;
            removed.push(Leftover { kind: "snapshot", name });
        }
        Ok(removed)
    }

    /// Views no image stands behind; none as long as a sandbox is there.
    async fn unused_views(&self, snapshots: &[String]) -> Result<Vec<String>, EngineError> {
        let views: Vec<_> = snapshots.iter().filter(|name| name.starts_with(VIEW)).collect();
        if views.is_empty() || !self.list_sandboxes().await?.is_empty() {
            return Ok(Vec::new());
        }
        let Some(used) = self.views_of_images().await? else { return Ok(Vec::new()) };
        let used: BTreeSet<_> = used.iter().collect();
        // A sandbox that began meanwhile has its image, or will not start.
        Ok(views.into_iter().filter(|view| !used.contains(view)).cloned().collect())
    }

    async fn leases(&self) -> Result<Vec<String>, CallError> {
        let request = self.request(ListRequest { filters: Vec::new() });
        let leases = self
            .call(SHORT, |channel| async {
                Ok(LeasesClient::new(channel).list(request).await?.into_inner().leases)
            })
            .await?;
        Ok(leases.into_iter().map(|it| it.id).filter(|id| id.starts_with(IMPORT)).collect())
    }

    async fn snapshots(&self) -> Result<Vec<String>, CallError> {
        let request = self.request(ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            filters: Vec::new(),
        });
        self.call(LONG, |channel| async {
            let mut stream = SnapshotsClient::new(channel).list(request).await?.into_inner();
            let mut names = Vec::new();
            while let Some(message) = stream.message().await? {
                names.extend(message.info.into_iter().map(|info| info.name));
            }
            Ok(names)
        })
        .await
    }
}
