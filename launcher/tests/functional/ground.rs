//! A stand-in for the node's ground: it makes the channel's FIFOs and nothing
//! else, remembers what it was told, and fails or hangs where it is told to.
//!
//! It proves nothing about walls; it shows in which order the launcher asks for
//! them, and that everything asked for is taken back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use adrastea::{
    host::fifo,
    launch::{
        Channel, Ground, Refusals, Trace, Traces, Waiting, failure::Failure, sandbox::Sandbox,
    },
    store::{RetiredHome, Step},
};
use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::{
    engine::{EngineImage, fake::FakeEngine},
    plan::SandboxId,
};
use async_trait::async_trait;

use crate::diary::Diary;

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails and has done nothing.
    Before,
    /// Does it, and fails all the same.
    After,
    /// Does it and never returns, as for a launcher that dies here.
    Hang,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // each is an order of its own
struct Orders {
    calls: usize,
    fault: Option<(usize, Fault)>,
    stuck_undos: BTreeSet<Step>,
    silent: bool,
    refusals: Refusals,
    asked: Vec<String>,
    homes: BTreeSet<String>,
    stuck_homes: bool,
    unmapped_homes: bool,
    odd_homes: bool,
}

pub struct StandInGround {
    pub diary: Diary,
    engine: FakeEngine,
    sandboxes: PathBuf,
    logs: PathBuf,
    orders: Mutex<Orders>,
}

impl StandInGround {
    pub fn new(diary: Diary, engine: FakeEngine, sandboxes: PathBuf, logs: PathBuf) -> Self {
        Self { diary, engine, sandboxes, logs, orders: Mutex::default() }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At the nth step from now on (1 is the next one), once.
    pub fn fault_at(&self, nth: usize, fault: Fault) {
        let mut orders = self.orders();
        orders.fault = Some((orders.calls + nth, fault));
    }

    /// Whether the fault that was ordered is still to come.
    pub fn fault_is_pending(&self) -> bool {
        self.orders().fault.is_some()
    }

    pub fn no_fault(&self) {
        self.orders().fault = None;
    }

    /// Undoing this step fails, as long as it is so.
    pub fn stick_undo(&self, step: Step, stuck: bool) {
        let stuck_undos = &mut self.orders().stuck_undos;
        if stuck {
            stuck_undos.insert(step)
        } else {
            stuck_undos.remove(&step)
        };
    }

    /// Servers answer, or do not.
    pub fn set_answers(&self, answers: bool) {
        self.orders().silent = !answers;
    }

    /// The names of all homes, of both kinds.
    pub fn homes(&self) -> BTreeSet<String> {
        self.orders().homes.clone()
    }

    /// Homes can be moved, or cannot.
    pub fn stick_homes(&self, stuck: bool) {
        self.orders().stuck_homes = stuck;
    }

    /// Homes can be seen through other ids, or cannot.
    pub fn set_maps_homes(&self, maps: bool) {
        self.orders().unmapped_homes = !maps;
    }

    /// Homes that are attached late are as they must be, or are not.
    pub fn set_odd_homes(&self, odd: bool) {
        self.orders().odd_homes = odd;
    }

    pub fn set_memory_kills(&self, kills: u64) {
        self.orders().refusals.memory_kills = kills;
    }

    /// So many processes could not be made.
    pub fn set_refused_processes(&self, count: u64) {
        self.orders().refusals.processes = count;
    }

    /// The paths at which servers were asked, without repetitions.
    pub fn asked(&self) -> Vec<String> {
        let mut asked = self.orders().asked.clone();
        asked.dedup();
        asked
    }

    /// Counts a call and does it, unless an order says otherwise.
    async fn obey(
        &self,
        line: String,
        act: impl FnOnce() -> io::Result<()> + Send,
    ) -> Result<(), Failure> {
        self.diary.write(line.clone());
        let fault = {
            let mut orders = self.orders();
            orders.calls += 1;
            let due = orders.fault.filter(|(nth, _)| *nth == orders.calls).map(|(_, fault)| fault);
            if due.is_some() {
                orders.fault = None;
            }
            due
        };
        let failed = |why: &str| {
            let message = format!("failed to {line}: {why}");
            Failure::new(FailureReason::Network, message, "none: it was ordered")
        };
        if fault == Some(Fault::Before) {
            return Err(failed("told to fail"));
        }
        act().map_err(|error| failed(&error.to_string()))?;
        match fault {
            Some(Fault::After) => Err(failed("told to fail")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Before) | None => Ok(()),
        }
    }

    fn remove_directory(&self, id: &SandboxId) -> io::Result<()> {
        let directory = self.sandboxes.join(id.as_str());
        let tolerate = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let files = [directory.join("io/stdin"), directory.join("io/stdout")];
        let logs = ["log", "log.1"].map(|ending| self.logs.join(format!("{id}.{ending}")));
        for file in files.iter().chain(&logs) {
            tolerate(fs::remove_file(file))?;
        }
        tolerate(fs::remove_dir(directory.join("io")))?;
        tolerate(fs::remove_dir(directory))
    }

    /// As the kernel's cgroup.kill: needs no engine.
    fn kill(&self, id: &SandboxId) {
        self.engine.end(id.as_str(), 137);
        self.diary.with_traces(id, |traces| {
            traces.home = false;
            traces.egress = false;
        });
    }
}

#[async_trait]
impl Ground for StandInGround {
    async fn make(&self, step: Step, sandbox: &Sandbox, _: &EngineImage) -> Result<(), Failure> {
        let id = sandbox.id();
        self.diary.about_to_make(id, step);
        self.obey(format!("make {}", step.name()), || {
            if step == Step::Directory {
                self.diary.begins(sandbox);
                fs::create_dir_all(sandbox.channel_directory())?;
                fifo::make(&sandbox.stdin()).map_err(io::Error::other)?;
                fifo::make(&sandbox.stdout()).map_err(io::Error::other)?;
            }
            self.diary.made(id, step);
            Ok(())
        })
        .await
    }

    async fn unmake(&self, step: Step, sandbox: &Sandbox) -> Result<(), Failure> {
        let id = sandbox.id();
        self.diary.about_to_undo(id, step);
        if step == Step::Container {
            // What the kernel is told to kill dies, whatever fails afterwards.
            self.kill(id);
        }
        let stuck = self.orders().stuck_undos.contains(&step);
        self.obey(format!("unmake {}", step.name()), || {
            if stuck {
                return Err(io::Error::other("it is stuck"));
            }
            if step == Step::Directory {
                self.remove_directory(id)?;
            }
            self.diary.undone(id, step);
            Ok(())
        })
        .await
    }

    async fn surround(&self, _: &Sandbox, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn prove(&self, sandbox: &Sandbox, _: &Waiting) -> Result<(), Failure> {
        let id = sandbox.id();
        let claimed = self.engine.claim(id.as_str()).is_some();
        self.diary
            .with_traces(id, |traces| {
                if claimed || traces.home || traces.egress || traces.made.len() != Step::ALL.len() {
                    Err("proved too late or too early")
                } else {
                    Ok(())
                }
            })
            .unwrap_or_else(|text| self.diary.violation(format!("{id}: {text}")));
        self.obey("prove".into(), || {
            self.diary.with_traces(id, |traces| traces.proved = true);
            Ok(())
        })
        .await
    }

    async fn prove_again(&self, sandbox: &Sandbox, _: u32) -> Result<(), Failure> {
        let id = sandbox.id();
        let claimed = self.engine.claim(id.as_str()).is_some();
        let too_late = self
            .diary
            .with_traces(id, |traces| claimed || traces.home || traces.egress || !traces.proved);
        if too_late {
            self.diary.violation(format!("{id}: proved again too late, or never before"));
        }
        self.obey("prove again".into(), || Ok(())).await
    }

    fn hold_back(&self, _: &Sandbox) -> Result<String, Failure> {
        self.diary.write("hold back");
        Ok("7".into())
    }

    fn let_go(&self, _: &Sandbox, weight: &str) -> Result<(), Failure> {
        self.diary.write(format!("let go {weight}"));
        Ok(())
    }

    fn maps_homes(&self) -> Result<(), Failure> {
        if self.orders().unmapped_homes {
            let hint = "none: it was ordered";
            return Err(Failure::new(FailureReason::Home, "homes cannot be mapped", hint));
        }
        Ok(())
    }

    async fn try_home(&self, sandbox: &Sandbox, _: u32, _: &mut Channel) -> Result<(), Failure> {
        if !self.diary.with_traces(sandbox.id(), |traces| traces.proved) {
            self.diary.violation(format!("{}: a home for an unproved sandbox", sandbox.id()));
        }
        self.diary.write("try home");
        if self.orders().odd_homes {
            let hint = "none: it was ordered";
            return Err(Failure::new(FailureReason::Home, "the home is odd", hint));
        }
        Ok(())
    }

    async fn attach_home(&self, sandbox: &Sandbox, _: u32) -> Result<(), Failure> {
        let id = sandbox.id();
        if !self.diary.with_traces(id, |traces| traces.proved) {
            self.diary.violation(format!("{id}: a home for an unproved sandbox"));
        }
        self.diary.attaches_home(sandbox);
        self.orders().homes.insert(sandbox.record.key.owner().on_disk());
        self.obey("attach home".into(), || {
            self.diary.with_traces(id, |traces| traces.home = true);
            Ok(())
        })
        .await
    }

    async fn open_egress(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        let id = sandbox.id();
        if !self.diary.with_traces(id, |traces| traces.proved)
            || self.engine.claim(id.as_str()).is_some()
        {
            self.diary
                .violation(format!("{id}: egress opened before the proof or after the claim"));
        }
        self.obey("open egress".into(), || {
            self.diary.with_traces(id, |traces| traces.egress = true);
            Ok(())
        })
        .await
    }

    async fn answers(&self, sandbox: &Sandbox, path: &str) -> bool {
        let id = sandbox.id().as_str();
        // A sandbox that has just been lost has no claim either.
        if self.engine.spec(id).is_some() && self.engine.claim(id).is_none() {
            self.diary.violation(format!("{}: asked before it was claimed", sandbox.id()));
        }
        let mut orders = self.orders();
        orders.asked.push(path.to_owned());
        !orders.silent
    }

    async fn present(&self) -> Result<Traces, Failure> {
        let mut present = Traces::default();
        present.add(Trace::Link, self.diary.left());
        let entries = fs::read_dir(&self.sandboxes).unwrap().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        present.add(Trace::Directory, ids);
        Ok(present)
    }

    async fn remove_all_of(&self, id: &SandboxId) -> Result<(), Failure> {
        self.diary.write("remove all");
        self.kill(id);
        self.remove_directory(id).unwrap();
        for step in Step::ALL {
            self.diary.undone(id, step);
        }
        Ok(())
    }

    async fn look(&self, _: &Sandbox, _: u32) -> Vec<String> {
        Vec::new()
    }

    fn counters(&self, _: &Sandbox) -> BTreeMap<String, u64> {
        BTreeMap::from([("memory_used_bytes".into(), 7)])
    }

    fn proportional_memory(&self, _: &Sandbox) -> u64 {
        5
    }

    fn has_home(&self, on_disk: &str) -> Result<bool, Failure> {
        Ok(self.orders().homes.contains(on_disk))
    }

    fn set_home_aside(&self, home: &RetiredHome) -> Result<bool, Failure> {
        let mut orders = self.orders();
        if orders.stuck_homes {
            let hint = "none: it was ordered";
            return Err(Failure::new(FailureReason::Home, "homes cannot be moved", hint));
        }
        let moved = orders.homes.remove(&home.on_disk);
        if moved {
            orders.homes.insert(home.name());
        }
        Ok(moved || orders.homes.contains(&home.name()))
    }

    fn bring_home_back(&self, home: &RetiredHome) -> Result<(), Failure> {
        let mut orders = self.orders();
        orders.homes.remove(&home.name());
        orders.homes.insert(home.on_disk.clone());
        Ok(())
    }

    fn purge_home(&self, home: &RetiredHome) -> Result<(), Failure> {
        self.orders().homes.remove(&home.name());
        Ok(())
    }

    fn refusals(&self, _: &Sandbox) -> Refusals {
        self.orders().refusals
    }
}
