//! The audit log: a line for every call that is decided on, allowed or denied, for
//! the end of every start, and for the end of every server.
//!
//! Writing never holds a call up and never fails one; a denial is on disk soon
//! after. Knows nothing of the wire: `api` says what was called.

mod file;
mod record;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, SystemTime},
};

pub use file::{AuditFile, Settings, numbered};
pub use record::{Event, Record, Verdict};

use crate::host::HostError;

/// Lines that wait for the disk; more are lost, and counted.
const QUEUE: usize = 8192;
/// Lines that are written at once.
const BATCH: u64 = 256;

enum Order {
    Line(Box<Record>),
    Reopen,
    /// Answers when everything before it is written.
    Flush(SyncSender<()>),
}

/// A handle to the log; clones write to the same one.
#[derive(Clone)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// No log at all.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Opens the log and starts the thread that writes it.
    pub fn open(settings: Settings, instance: &str) -> Result<Self, HostError> {
        let path = settings.path.clone();
        let file = AuditFile::open(settings)?;
        let (orders, received) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { file, instance: instance.to_owned(), lost: Arc::clone(&lost) };
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run(&received))
            .map_err(|error| HostError::new("write audit log", path, error))?;
        Ok(Self(Some(Arc::new(Inner { orders, lost }))))
    }

    pub fn write(&self, record: Record) {
        if let Some(inner) = &self.0
            && inner.orders.try_send(Order::Line(Box::new(record))).is_err()
        {
            inner.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Somebody has renamed the file: the next line goes into a new one.
    pub fn reopen(&self) {
        if let Some(inner) = &self.0 {
            let _ = inner.orders.try_send(Order::Reopen);
        }
    }

    /// Waits, for a moment at most, until everything is written. Blocks.
    pub fn flush(&self) {
        if let Some(inner) = &self.0 {
            let (done, is_done) = sync_channel(1);
            if inner.orders.try_send(Order::Flush(done)).is_ok() {
                let _ = is_done.recv_timeout(Duration::from_secs(5));
            }
        }
    }
}

struct Writer {
    file: AuditFile,
    instance: String,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let (mut lines, mut count, mut sync) = (String::new(), 0, false);
            let mut after = None;
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Line(record) => {
                        lines += &record.line(&self.instance, SystemTime::now());
                        sync |= record.is_denial();
                        count += 1;
                    }
                    other => {
                        after = Some(other);
                        break;
                    }
                }
                next = if count < BATCH { orders.try_recv().ok() } else { None };
            }
            self.add(lines, count, sync);
            match after {
                Some(Order::Reopen) => {
                    if let Err(error) = self.file.reopen() {
                        tracing::error!(%error, source = %error.source, "failed to open the audit log anew");
                    }
                }
                Some(Order::Flush(done)) => {
                    let _ = done.send(());
                }
                Some(Order::Line(_)) | None => {}
            }
        }
    }

    fn add(&mut self, mut lines: String, count: u64, sync: bool) {
        if lines.is_empty() {
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let record = Record { event: Event::Lost, lost: Some(lost), ..Record::default() };
            lines.insert_str(0, &record.line(&self.instance, SystemTime::now()));
        }
        if let Err(error) = self.file.add(&lines, sync) {
            self.lost.fetch_add(lost + count, Ordering::Relaxed);
            tracing::error!(%error, source = %error.source, count, "lines of the audit log are lost");
        }
    }
}
