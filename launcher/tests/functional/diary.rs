//! One account of all that is done to engine and ground, in the order it is
//! done, and the judge of it: whatever must never happen is noted as a
//! violation at the moment it does. Reads the journal through a connection of
//! its own, so that it sees what another process would find after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use adrastea::{
    launch::sandbox::Sandbox,
    names::ServerKey,
    store::{Step, Store},
};
use adrastea_runtimes::plan::SandboxId;

/// What exists of one sandbox.
#[derive(Debug, Default)]
pub struct Traces {
    pub made: BTreeSet<Step>,
    undo_tried: BTreeSet<Step>,
    pub proved: bool,
    pub home: bool,
    pub egress: bool,
    /// From the first step to the last undo.
    leases: Option<(Ipv4Addr, u32)>,
    key: Option<ServerKey>,
}

#[derive(Default)]
struct Pages {
    lines: Vec<String>,
    violations: Vec<String>,
    traces: BTreeMap<String, Traces>,
}

#[derive(Clone)]
pub struct Diary {
    pages: Arc<Mutex<Pages>>,
    journal: Arc<Store>,
}

impl Diary {
    pub fn new(store: &Path) -> Self {
        Self { pages: Arc::default(), journal: Arc::new(Store::open(store).unwrap()) }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done, as `verb thing`, without ids.
    pub fn lines(&self) -> Vec<String> {
        self.pages().lines.clone()
    }

    pub fn forget_lines(&self) {
        self.pages().lines.clear();
    }

    pub fn write(&self, line: impl Into<String>) {
        self.pages().lines.push(line.into());
    }

    pub fn violation(&self, text: impl Into<String>) {
        self.pages().violations.push(text.into());
    }

    /// Fails the test if anything happened that must never happen.
    pub fn assert_innocent(&self) {
        let violations = self.pages().violations.clone();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// The ids of which anything is left.
    pub fn left(&self) -> BTreeSet<SandboxId> {
        let pages = self.pages();
        let left = pages.traces.iter().filter(|(_, traces)| !traces.made.is_empty());
        left.map(|(id, _)| id.parse().unwrap()).collect()
    }

    pub fn with_traces<T>(&self, id: &SandboxId, read: impl FnOnce(&mut Traces) -> T) -> T {
        read(self.pages().traces.entry(id.to_string()).or_default())
    }

    fn must_be_journalled(&self, id: &SandboxId, step: Step, moment: &str) {
        if !self.journal.steps(id).unwrap().contains(&step) {
            self.violation(format!(
                "{id}: {moment} {} without its intent in the journal",
                step.name()
            ));
        }
    }

    /// Before a step changes anything.
    pub fn about_to_make(&self, id: &SandboxId, step: Step) {
        self.must_be_journalled(id, step, "making");
        let made = self.with_traces(id, |traces| traces.made.clone());
        let before: BTreeSet<_> = Step::ALL.into_iter().filter(|other| *other < step).collect();
        if made != before {
            self.violation(format!("{id}: making {} on top of {made:?}", step.name()));
        }
    }

    pub fn made(&self, id: &SandboxId, step: Step) {
        self.with_traces(id, |traces| traces.made.insert(step));
    }

    /// Notes the leases of a sandbox that begins; nobody else may hold them.
    pub fn begins(&self, sandbox: &Sandbox) {
        let id = sandbox.id();
        let leases = (sandbox.address, sandbox.record.run_range_first);
        self.with_traces(id, |traces| {
            traces.leases = Some(leases);
            traces.key = Some(sandbox.record.key.clone());
        });
        let mut pages = self.pages();
        let shared = pages.traces.iter().find_map(|(other, traces)| {
            let (address, range) = traces.leases?;
            (other != id.as_str() && (address == leases.0 || range == leases.1))
                .then(|| other.clone())
        });
        if let Some(other) = shared {
            pages.violations.push(format!("{id} and {other} share a lease: {leases:?}"));
        }
    }

    /// A home is attached: no other sandbox of this server may have it.
    pub fn attaches_home(&self, sandbox: &Sandbox) {
        let id = sandbox.id();
        let mut pages = self.pages();
        let other = pages.traces.iter().find(|(other, traces)| {
            other.as_str() != id.as_str()
                && traces.home
                && traces.key.as_ref() == Some(&sandbox.record.key)
        });
        if let Some((other, _)) = other {
            let text = format!("{id} and {other} are both alive for {}", sandbox.record.key);
            pages.violations.push(text);
        }
        // A slot becomes somebody's here.
        pages.traces.entry(id.to_string()).or_default().key = Some(sandbox.record.key.clone());
    }

    /// Before a step is undone.
    pub fn about_to_undo(&self, id: &SandboxId, step: Step) {
        self.must_be_journalled(id, step, "undoing");
        self.with_traces(id, |traces| traces.undo_tried.insert(step));
        let skipped: Vec<_> = self.with_traces(id, |traces| {
            let later = traces.made.iter().filter(|other| **other > step);
            later
                .filter(|other| !traces.undo_tried.contains(other))
                .map(|other| other.name())
                .collect()
        });
        if !skipped.is_empty() {
            self.violation(format!("{id}: undoing {} before {skipped:?}", step.name()));
        }
    }

    pub fn undone(&self, id: &SandboxId, step: Step) {
        self.with_traces(id, |traces| {
            traces.made.remove(&step);
            if traces.made.is_empty() {
                traces.leases = None;
            }
        });
    }
}
