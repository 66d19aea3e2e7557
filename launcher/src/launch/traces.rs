//! What can be left of a sandbox, kind by kind: what reconciliation looks for.
//!
//! Homes are no trace: they outlive every sandbox, and nothing here may ever name
//! one. Secrets are none either: they travel over a channel and are never a file.

use std::collections::{BTreeMap, BTreeSet};

use adrastea_runtimes::plan::SandboxId;

/// One kind of thing that carries a sandbox's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// A container without a running task.
    Container,
    Task,
    /// Elements in the router's firewall table.
    Firewall,
    /// The router's end of a link.
    Link,
    /// The sandbox's directory: channel, pinned namespaces, mount points.
    Directory,
    /// A pinned user or network namespace.
    Namespace,
    /// A layer or a root file system.
    Mount,
    ControlGroup,
    Log,
    /// What the OCI runtime keeps of a container.
    RuntimeState,
    /// The engine's process beside a sandbox.
    Shim,
    /// Steps in the journal of a sandbox that is gone.
    Journal,
}

impl Trace {
    /// As logs and metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Task => "task",
            Self::Firewall => "firewall",
            Self::Link => "link",
            Self::Directory => "directory",
            Self::Namespace => "namespace",
            Self::Mount => "mount",
            Self::ControlGroup => "cgroup",
            Self::Log => "log",
            Self::RuntimeState => "runtime-state",
            Self::Shim => "shim",
            Self::Journal => "journal",
        }
    }
}

/// The sandboxes of which anything exists, with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces(pub BTreeMap<SandboxId, BTreeSet<Trace>>);

impl Traces {
    pub fn add(&mut self, trace: Trace, ids: impl IntoIterator<Item = SandboxId>) {
        for id in ids {
            self.0.entry(id).or_default().insert(trace);
        }
    }
}

/// All kinds of one sandbox, in words.
pub fn names(traces: &BTreeSet<Trace>) -> String {
    traces.iter().map(|trace| trace.name()).collect::<Vec<_>>().join(", ")
}
