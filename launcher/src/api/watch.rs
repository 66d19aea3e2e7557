//! Watch: one hub's servers as they are, then as they change; continued where an
//! earlier stream broke off if the launcher still knows that place.
//!
//! Must never leave a reader with a gap it does not know of: what cannot be
//! continued is told whole again, and closed with a marker.

use std::sync::Arc;

use adrastea_proto::v1::{self, watch_event::Event};
use tokio::sync::mpsc;
use tonic::Status;

use crate::launch::Launcher;

pub type Sender = mpsc::Sender<Result<v1::WatchEvent, Status>>;

/// The reader has gone.
struct Gone;

struct Reader {
    launcher: Arc<Launcher>,
    hub: String,
    sender: Sender,
    /// The number of the last change that was sent, or needed no sending.
    place: u64,
}

/// Sends until the reader goes away.
pub async fn attend(launcher: Arc<Launcher>, request: v1::WatchRequest, sender: Sender) {
    let v1::WatchRequest { hub, resume_token } = request;
    let resumed = launcher.feed.place(&hub, &resume_token);
    let mut reader = Reader { launcher, hub, sender, place: 0 };
    let _ = match resumed {
        Some(place) => reader.resume(place).await,
        None => reader.begin().await,
    };
}

impl Reader {
    /// `token` is empty where the stream cannot be continued from.
    async fn send(&self, event: Event, token: Option<u64>) -> Result<(), Gone> {
        let resume_token =
            token.map(|number| self.launcher.feed.token(&self.hub, number)).unwrap_or_default();
        let event = v1::WatchEvent { event: Some(event), resume_token };
        self.sender.send(Ok(event)).await.map_err(|_| Gone)
    }

    async fn begin(&mut self) -> Result<(), Gone> {
        self.whole().await?;
        self.follow(false).await
    }

    async fn resume(&mut self, place: u64) -> Result<(), Gone> {
        self.place = place;
        if self.launcher.feed.after(place).is_none() {
            return self.begin().await;
        }
        self.send(Event::Resumed(v1::Resumed {}), Some(place)).await?;
        self.follow(true).await
    }

    /// Everything that is there, and the marker. Only the marker's place can be continued from.
    async fn whole(&mut self) -> Result<(), Gone> {
        let (place, present) = self.launcher.snapshot(&self.hub);
        for sandbox in present {
            self.send(Event::Sandbox(sandbox), None).await?;
        }
        self.place = place;
        self.send(Event::Synced(v1::Synced {}), Some(place)).await
    }

    /// Every change after [`Self::place`], for ever. `marker`: one is owed once the past is told.
    async fn follow(&mut self, mut marker: bool) -> Result<(), Gone> {
        let mut latest = self.launcher.feed.latest();
        loop {
            latest.borrow_and_update();
            match self.launcher.feed.after(self.place) {
                // Too slow: the whole again catches up, and its marker is the one that was owed.
                None => {
                    self.whole().await?;
                    marker = false;
                }
                Some(changes) if changes.is_empty() => {
                    if std::mem::take(&mut marker) {
                        self.send(Event::Synced(v1::Synced {}), Some(self.place)).await?;
                    }
                    tokio::select! {
                        woken = latest.changed() => woken.map_err(|_| Gone)?,
                        () = self.sender.closed() => return Err(Gone),
                    }
                }
                Some(changes) => {
                    for change in changes {
                        self.place = change.number;
                        if change.sandbox.key.as_ref().is_some_and(|key| key.hub == self.hub) {
                            let sandbox = (*change.sandbox).clone();
                            self.send(Event::Sandbox(sandbox), Some(self.place)).await?;
                        }
                    }
                }
            }
        }
    }
}
