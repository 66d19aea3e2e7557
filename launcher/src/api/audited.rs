//! Writes a line of the audit log for every call, whatever becomes of it: also for
//! one that nobody may make, that cannot be read, or whose caller goes away.
//!
//! Who calls and what came of it is seen here, around all services. What a call is
//! about, its handler adds to the [`Note`]. Decides nothing.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use adrastea_proto::v1;
use tonic::{Code, Request, Status, codegen::http, transport::server::UdsConnectInfo};
use tower::{Layer, Service};

use crate::{
    audit::{Audit, Event, Record, Verdict},
    launch::Entry,
    policy::Decision,
    telemetry,
};

/// What is known of a call so far.
#[derive(Clone, Default)]
pub struct Note(Arc<Mutex<Record>>);

impl Note {
    /// The note of this call.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    pub fn add(&self, add: impl FnOnce(&mut Record)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn key(&self, key: Option<&v1::ServerKey>) {
        let Some(key) = key else { return };
        self.add(|record| {
            record.hub.clone_from(&key.hub);
            record.user.clone_from(&key.user);
            record.server = Some(key.server.clone());
        });
    }

    /// As it was asked; what is decided replaces it.
    pub fn start(&self, start: &v1::StartRequest) {
        self.key(start.key.as_ref());
        self.add(|record| {
            record.request_id.clone_from(&start.request_id);
            record.profile.clone_from(&start.profile);
            record.runtime.clone_from(&start.runtime);
            record.object.clone_from(&start.image);
        });
    }

    pub fn decision(&self, decision: &Decision) {
        self.add(|record| {
            record.profile.clone_from(&decision.profile);
            record.runtime.clone_from(&decision.runtime);
            record.object.clone_from(&decision.image.name);
            record.image_digest.clone_from(&decision.image.digest);
        });
    }

    pub fn sandbox(&self, entry: &Entry) {
        self.add(|record| *record = Record { ..about(entry, record.clone()) });
    }
}

/// A record with everything that is known of a sandbox.
fn about(entry: &Entry, record: Record) -> Record {
    let sandbox = entry.describe();
    let key = sandbox.key.unwrap_or_default();
    Record {
        hub: key.hub,
        user: key.user,
        server: Some(key.server),
        sandbox: sandbox.sandbox_id,
        generation: Some(sandbox.generation),
        profile: sandbox.profile,
        runtime: sandbox.runtime,
        image_digest: sandbox.image_digest,
        disk_uid: Some(sandbox.disk_uid),
        run_range_first: Some(sandbox.run_range_first),
        ..record
    }
}

/// The log, and whose end is waited for already: a start that is joined is one start.
#[derive(Clone)]
pub struct Auditor {
    pub audit: Audit,
    followed: Arc<Mutex<HashSet<String>>>,
}

impl Auditor {
    pub fn new(audit: Audit) -> Self {
        Self { audit, followed: Arc::default() }
    }

    /// Writes down how a start and its server end, however long that takes. `since`
    /// is when it was asked for; nothing for a server that was found running.
    pub fn follow(&self, entry: &Arc<Entry>, since: Option<Instant>) {
        let id = entry.sandbox.id().to_string();
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if entry.is_gone() || !followed.insert(id.clone()) {
            return;
        }
        let (auditor, entry) = (self.clone(), Arc::clone(entry));
        tokio::spawn(async move {
            auditor.attend(&entry, since).await;
            auditor.followed.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    async fn attend(&self, entry: &Entry, mut waiting: Option<Instant>) {
        let mut changes = entry.changes();
        // Given back once it is gone, and still worth knowing.
        let first = about(entry, Record::default());
        let tell = |record: Record| {
            let run_range_first = first.run_range_first;
            self.audit.write(Record { run_range_first, ..about(entry, record) });
        };
        loop {
            changes.borrow_and_update();
            let (gone, ready) = (entry.is_gone(), entry.phase() == v1::Phase::Ready);
            let exit = entry.describe().exit.unwrap_or_default();
            if let Some(since) = waiting.filter(|_| gone || ready) {
                tell(Record {
                    event: Event::Started,
                    decision: Some(if ready { Verdict::Allowed } else { Verdict::Failed }),
                    result: if ready { "ready".to_owned() } else { exit.message.clone() },
                    milliseconds: Some(milliseconds(since)),
                    ..Record::default()
                });
                waiting = None;
            }
            if gone {
                tell(Record {
                    event: Event::Ended,
                    result: exit.message,
                    exit_code: Some(exit.code),
                    ..Record::default()
                });
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Around all services.
#[derive(Clone)]
pub struct AuditLayer(pub Audit);

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited { inner, audit: self.0.clone() }
    }
}

#[derive(Clone)]
pub struct Audited<S> {
    inner: S,
    audit: Audit,
}

/// A call under way; written down when it is dropped, at the latest.
struct Call {
    audit: Audit,
    note: Note,
    since: Instant,
    status: Option<Status>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let status =
            self.status.take().unwrap_or_else(|| Status::cancelled("the caller went away"));
        let mut record = self.note.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        telemetry::called(&record.rpc, &format!("{:?}", status.code()), self.since.elapsed());
        // Looking whether anybody is there is no decision.
        let looks = record.rpc.starts_with("grpc.");
        let decision = verdict(status.code());
        if looks && decision == Verdict::Allowed {
            return;
        }
        record.decision = Some(decision);
        record.code = format!("{:?}", status.code());
        if record.rule.is_empty() {
            rule(status.message()).clone_into(&mut record.rule);
        }
        if status.code() != Code::Ok {
            status.message().clone_into(&mut record.result);
        }
        record.milliseconds = Some(milliseconds(self.since));
        self.audit.write(record);
    }
}

/// The rule that a refusal names.
fn rule(message: &str) -> &str {
    let named = message.rsplit_once("(rule ").and_then(|(_, rest)| rest.split_once(')'));
    named.map(|(rule, _)| rule).unwrap_or_default()
}

fn verdict(code: Code) -> Verdict {
    match code {
        Code::Ok => Verdict::Allowed,
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Unimplemented => Verdict::Denied,
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Verdict::Failed,
    }
}

impl<S, B, R> Service<http::Request<B>> for Audited<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let note = Note::default();
        let uid = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .map(|credentials| credentials.uid());
        note.add(|record| {
            record.uid = uid;
            // `/adrastea.v1.Launcher/Start`
            let path = request.uri().path().trim_start_matches('/');
            let path = path.strip_prefix("adrastea.v1.").unwrap_or(path);
            record.rpc = path.replace('/', ".");
        });
        request.extensions_mut().insert(note.clone());
        let call = Call { audit: self.audit.clone(), note, since: Instant::now(), status: None };
        let answering = self.inner.call(request);
        Box::pin(async move {
            // Whole: it must be written down also if nobody waits for the answer any more.
            let mut call = call;
            let response = answering.await?;
            // A refusal has its status before any content; what a stream says later is its own.
            call.status =
                Some(Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok("")));
            Ok(response)
        })
    }
}
