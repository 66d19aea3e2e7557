//! One server as the launcher sees it now: its sandbox, phase, and the events
//! of its start. Written by its keeper alone; read by everybody.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use adrastea_proto::v1::{self, Phase};
use adrastea_runtimes::engine::ExitStatus;
use tokio::sync::watch;

use super::{exit, failure::Failure, feed::Feed, log::Log, sandbox::Sandbox};
use crate::{store::ExitRecord, telemetry};

/// Who ends a sandbox that did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// Its hub, or whoever started it.
    Asked,
    /// A newer start of the same server.
    Replaced,
    Administrator,
    /// The node is being emptied.
    Drained,
}

/// Why somebody wants a sandbox to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopWish {
    pub grace: Duration,
    pub cause: StopCause,
    /// In words, for the user's page.
    pub why: String,
}

/// What one start has told so far. Late listeners get all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartNews {
    Progress { phase: Phase, percent: u32, message: String },
    Ready,
    Failed(Failure),
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    pid: u32,
    queue_place: u32,
    percent: u32,
    news: Vec<StartNews>,
    steps: Vec<(&'static str, Duration)>,
    exit: Option<ExitRecord>,
}

pub struct Entry {
    pub sandbox: Sandbox,
    /// Which entry of this launcher's life it is. Times do not order: clocks jump.
    pub number: u64,
    pub log: Log,
    /// The port the server listens on.
    pub port: u16,
    entered: Instant,
    state: Mutex<State>,
    /// Counts changes of `state`, to wake those who wait.
    changes: watch::Sender<u64>,
    pub stop_wish: watch::Sender<Option<StopWish>>,
    /// Set once the engine says that the task has ended.
    pub ended: watch::Sender<Option<ExitStatus>>,
    feed: Arc<Feed>,
}

impl Entry {
    pub fn new(sandbox: Sandbox, port: u16, phase: Phase, feed: Arc<Feed>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let log = Log::new(sandbox.log.clone(), sandbox.record.facts.log_bytes);
        let exit = sandbox.record.exit.clone();
        // Whoever repeats the request of a sandbox that was found gets an answer too.
        let news = match (phase, &exit) {
            (Phase::Ready, _) => vec![StartNews::Ready],
            (Phase::Gone, Some(exit)) => vec![StartNews::Failed(exit::as_failure(exit))],
            _ => Vec::new(),
        };
        Self {
            sandbox,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            log,
            port,
            entered: Instant::now(),
            state: Mutex::new(State { phase, news, exit, ..State::default() }),
            changes: watch::Sender::new(0),
            stop_wish: watch::Sender::new(None),
            ended: watch::Sender::new(None),
            feed,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change that only those who follow this one entry are told of.
    fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
    }

    /// A change that Watch tells, too, if it moves the phase or brings the end.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.feed.publish(|| {
            let mut state = self.state();
            let before = (state.phase, state.exit.is_some());
            change(&mut state);
            let told = before != (state.phase, state.exit.is_some());
            ((), told.then(|| self.describe_as(&state)))
        });
        self.changes.send_modify(|count| *count += 1);
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state())
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn phase(&self) -> Phase {
        self.read(|state| state.phase)
    }

    pub fn pid(&self) -> u32 {
        self.read(|state| state.pid)
    }

    pub fn set_pid(&self, pid: u32) {
        self.note(|state| state.pid = pid);
    }

    pub fn progress(&self, phase: Phase, percent: u32, message: impl Into<String>) {
        let message = message.into();
        self.change(|state| {
            state.phase = phase;
            // A start that goes another way after all does not go back for who watches it.
            state.percent = state.percent.max(percent);
            let percent = state.percent;
            state.news.push(StartNews::Progress { phase, percent, message });
        });
    }

    /// Its place while it waits in the queue.
    pub fn queued(&self, place: u32) {
        self.note(|state| state.queue_place = place);
    }

    /// 0: it does not wait.
    pub fn queue_place(&self) -> u32 {
        self.read(|state| if state.phase == Phase::Queued { state.queue_place } else { 0 })
    }

    fn runtime(&self) -> &str {
        &self.sandbox.record.facts.runtime
    }

    pub fn ready(&self) {
        telemetry::started("ready", self.runtime(), self.entered.elapsed());
        self.change(|state| {
            state.phase = Phase::Ready;
            state.news.push(StartNews::Ready);
        });
    }

    /// The start has failed and nothing is left: both at once, so that nobody who
    /// hears of the failure finds the sandbox still there.
    pub fn failed(&self, failure: Failure, exit: ExitRecord) {
        telemetry::started(failure.reason.as_str_name(), self.runtime(), self.entered.elapsed());
        self.log.close();
        self.change(|state| {
            state.news.push(StartNews::Failed(failure));
            state.phase = Phase::Gone;
            state.exit = Some(exit);
        });
    }

    pub fn stopping(&self) {
        self.change(|state| state.phase = Phase::Stopping);
    }

    /// The task has ended and its remains are being cleared away: the cause is told at once.
    pub fn ending(&self, exit: ExitRecord) {
        telemetry::ended(v1::ExitCause::try_from(exit.cause).unwrap_or_default().as_str_name());
        self.change(|state| {
            state.phase = Phase::Stopping;
            state.exit = Some(exit);
        });
    }

    pub fn gone(&self, exit: ExitRecord) {
        self.log.close();
        self.change(|state| {
            state.phase = Phase::Gone;
            state.exit = Some(exit);
        });
    }

    /// The news from number `from` on.
    pub fn news(&self, from: usize) -> Vec<StartNews> {
        self.read(|state| state.news.get(from..).unwrap_or_default().to_vec())
    }

    /// Notes how long a step took, measured from `since`.
    pub fn took(&self, step: &'static str, since: Instant) {
        let duration = since.elapsed();
        // What a slot takes is nobody's start.
        if !self.sandbox.record.key.is_slot() {
            telemetry::stepped(step, self.runtime(), duration);
        }
        self.note(|state| state.steps.push((step, duration)));
    }

    pub fn is_gone(&self) -> bool {
        self.phase() == Phase::Gone
    }

    /// Asks for the end. The first wish counts; a later one can only shorten the grace.
    pub fn wish_to_stop(&self, wish: StopWish) {
        self.stop_wish.send_modify(|present| match present {
            Some(present) => present.grace = present.grace.min(wish.grace),
            None => *present = Some(wish),
        });
    }

    pub fn is_unwanted(&self) -> bool {
        self.stop_wish.borrow().is_some()
    }

    pub fn present_wish(&self) -> Option<StopWish> {
        self.stop_wish.borrow().clone()
    }

    /// Returns when somebody has asked for the end.
    pub async fn unwanted(&self) -> StopWish {
        let mut wishes = self.stop_wish.subscribe();
        loop {
            if let Some(wish) = wishes.borrow_and_update().clone() {
                return wish;
            }
            if wishes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when the task has ended.
    pub async fn task_ended(&self) -> ExitStatus {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(status) = *ended.borrow_and_update() {
                return status;
            }
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when nothing of the sandbox is left.
    pub async fn wait_gone(&self) {
        let mut changes = self.changes();
        while !self.is_gone() {
            changes.borrow_and_update();
            if self.is_gone() || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// As the wire has it, without the steps: there are many listeners and few who ask for those.
    pub fn describe(&self) -> v1::Sandbox {
        self.describe_as(&self.state())
    }

    /// As the wire has it, with what each step of its start took.
    pub fn describe_with_steps(&self) -> v1::Sandbox {
        let state = self.state();
        let steps = state.steps.iter().map(|(step, duration)| v1::StepTime {
            step: (*step).to_owned(),
            microseconds: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        });
        v1::Sandbox { steps: steps.collect(), ..self.describe_as(&state) }
    }

    fn describe_as(&self, state: &State) -> v1::Sandbox {
        let record = &self.sandbox.record;
        let facts = &record.facts;
        v1::Sandbox {
            sandbox_id: record.id.to_string(),
            key: Some(v1::ServerKey {
                hub: record.key.hub.clone(),
                user: record.key.user.as_str().to_owned(),
                server: record.key.server.clone(),
            }),
            generation: record.generation,
            phase: state.phase.into(),
            profile: facts.profile.clone(),
            runtime: facts.runtime.clone(),
            image_digest: facts.image_digest.clone(),
            address: self.sandbox.address.to_string(),
            port: self.port.into(),
            started_at: facts.started_at,
            disk_uid: facts.disk_uid,
            disk_gid: facts.disk_gid,
            run_range_first: record.run_range_first,
            exit: state.exit.as_ref().map(|exit| v1::Exit {
                cause: exit.cause,
                code: exit.code,
                signal: exit.signal,
                message: exit.message.clone(),
                log_tail: exit.log_tail.clone(),
            }),
            steps: Vec::new(),
        }
    }
}
