//! Whether a runtime can start a sandbox on this node: it is tried, with the real spec, walls,
//! namespaces and init, but without network, home and anything of a user's. Installed is not
//! enough: a kernel without user namespaces, a library that is missing or a forbidden system
//! call show only then. A runtime that the engine alone can call is tried through the engine
//! ([`ask_machine`]), and there the whole proof has to hold.
//!
//! What was seen to work is remembered in the run directory, so that a boot of the node, and
//! another program, ask again. Bounded in time; must leave nothing behind but that, and must
//! never take its own want of something for the runtime's.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use adrastea_runtimes::{
    Runtime, RuntimeSettings, build_spec,
    engine::Engine,
    plan::{IDS_PER_SANDBOX, IdMap, ImageUser, Limits, Plan, SandboxId},
};

use tokio::runtime::Handle;

use crate::{
    config::Config,
    host::{
        Attempt as _, HostError, cgroups::Hierarchy, chain, confinement, directories,
        lock::InstanceLock, namespaces, tolerate_absence, trial,
    },
    image::{self, Skeleton},
    launch::{MachineTrial, broken_filter},
    tried::{self, TRIES, key},
};

/// As long as a start has until its init waits: what takes longer fails there, too.
const DEADLINE: Duration = Duration::from_secs(30);
/// The same for a machine, which boots a kernel of its own.
const MACHINE_DEADLINE: Duration = Duration::from_secs(60);
/// What ends the rest of one that is late.
const FORCE: Duration = Duration::from_secs(5);
const ID: &str = "selftest0000";
const USER: u32 = 1000;
const HOME: &str = "/home/user";

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It started one: now, in this time, or before.
    Starts(Option<Duration>),
    /// It does not, and why.
    Cannot(String),
    /// It could not be tried, and why: nothing is known.
    Unknown(String),
}

/// Puts what the engine would call into a directory that is there, or names what it calls anyway.
pub type Callable<'it> = &'it dyn Fn(&Path) -> Result<PathBuf, HostError>;

/// Tries it, or remembers that it was tried with the same program.
pub fn ask(
    config: &Config,
    name: &str,
    driver: &dyn Runtime,
    settings: &RuntimeSettings,
    callable: Callable<'_>,
) -> Answer {
    if !nix::unistd::geteuid().is_root() {
        return Answer::Unknown("only root can try it".into());
    }
    let directories = [config.run_directory(), config.state_directory()];
    // `doctor` also looks where no launcher has ever run: what it has to make goes again.
    let made: Vec<_> = directories.iter().filter(|directory| !directory.exists()).collect();
    let tried = Try::new(config, name);
    let answer = tried
        .ask(settings, |init| tried.start(driver, init, callable))
        .unwrap_or_else(|error| Answer::Unknown(chain(&error)));
    for directory in made {
        let _ = fs::remove_dir_all(directory.join(TRIES));
        let _ = fs::remove_dir(directory);
    }
    answer
}

/// The same for a runtime that starts machines: through the engine, so at the launcher's start
/// alone. Blocks; `work` is on what the engine's calls run.
pub fn ask_machine(
    config: &Config,
    name: &str,
    driver: &dyn Runtime,
    settings: &RuntimeSettings,
    engine: &dyn Engine,
    work: &Handle,
) -> Answer {
    let tried = Try::new(config, name);
    tried
        .ask(settings, |init| tried.start_machine(driver, settings, init, engine, work))
        .unwrap_or_else(|error| Answer::Unknown(chain(&error)))
}

/// What is remembered of the same program.
pub fn remembered(config: &Config, name: &str, settings: &RuntimeSettings) -> Option<Answer> {
    let key = key(settings, &config.init_binary()).ok()?;
    let text = fs::read_to_string(tried::starts(config, name)).ok()?;
    (text == key).then_some(Answer::Starts(None))
}

/// One runtime's try, and where it takes place.
struct Try<'config> {
    config: &'config Config,
    name: &'config str,
    /// What is remembered of all runtimes, and the locks.
    memory: PathBuf,
    /// Namespaces, the runtime's own state, and our program before it.
    run: PathBuf,
    /// The bundle: from a run directory the node may forbid to execute.
    bundle: PathBuf,
    group: String,
}

impl<'config> Try<'config> {
    fn new(config: &'config Config, name: &'config str) -> Self {
        let memory = tried::memory(config);
        Self {
            config,
            name,
            run: memory.join(name),
            memory,
            bundle: config.state_directory().join(TRIES).join(name),
            group: format!("/{}-{TRIES}-{name}", config.instance),
        }
    }

    fn ask(
        &self,
        settings: &RuntimeSettings,
        start: impl FnOnce(&Path) -> Result<Answer, HostError>,
    ) -> Result<Answer, HostError> {
        let init = self.config.init_binary();
        let key = key(settings, &init)?;
        for directory in [self.config.run_directory(), self.config.state_directory()] {
            directories::make_root_directory(&directory, 0o711, 0)?;
        }
        directories::make_root_directory(&self.memory, 0o711, 0)?;
        // Who comes second asks for the same, and finds the answer.
        let lock = self.memory.join(format!("{}.lock", self.name));
        let _lock = InstanceLock::take(&lock, DEADLINE + FORCE * 3)?;
        let remembered = tried::starts(self.config, self.name);
        if fs::read_to_string(&remembered).is_ok_and(|text| text == key) {
            return Ok(Answer::Starts(None));
        }
        // Of one that was killed meanwhile.
        self.clear()?;
        let answer = start(&init);
        self.clear()?;
        if matches!(answer, Ok(Answer::Starts(_))) {
            directories::write_atomically(&remembered, key.as_bytes(), 0o600)?;
        } else {
            tolerate_absence(fs::remove_file(&remembered)).attempt("remove", &remembered)?;
        }
        answer
    }

    fn start(
        &self,
        driver: &dyn Runtime,
        init: &Path,
        callable: Callable<'_>,
    ) -> Result<Answer, HostError> {
        let plan = self.place(driver, init)?;
        let file = self.bundle.join("config.json");
        build_spec(driver, &plan)
            .map_err(io::Error::other)
            .and_then(|spec| serde_json::to_vec(&spec).map_err(io::Error::other))
            .and_then(|text| fs::write(&file, text))
            .attempt("write", &file)?;
        pin_namespaces(&plan)?;
        let program = callable(&self.run.join("program"))?;
        let since = Instant::now();
        let run = self.words(&["run".as_ref(), "--bundle".as_ref(), self.bundle.as_ref()]);
        let waits = |line: &str| adrastea_init::first_line(line).is_some();
        let outcome = trial::run(&program, &run, DEADLINE, &waits)?;
        let took = since.elapsed();
        // The init ends by itself, for nobody can claim it.
        if let Some(said) = outcome.stdout.lines().find_map(adrastea_init::first_line) {
            return Ok(match (broken_filter(said.let_through.as_deref()), said.let_through) {
                (None, _) => Answer::Starts(Some(took)),
                (Some(broken), Some(_)) => Answer::Cannot(broken),
                // The init's fault, not the runtime's: the proof will say so.
                (Some(broken), None) => Answer::Unknown(broken),
            });
        }
        if outcome.status.is_none() {
            // It may know better how to end what it began; the group is emptied in any case.
            let delete = self.words(&["delete".as_ref(), "--force".as_ref()]);
            let _ = trial::run(&program, &delete, FORCE, &|_| false);
        }
        Ok(Answer::Cannot(reason(&outcome)))
    }

    /// Makes the directories and the root file system, and says what is to be started there.
    fn place(&self, driver: &dyn Runtime, init: &Path) -> Result<Plan, HostError> {
        let tries = self.config.state_directory().join(TRIES);
        for directory in [&tries, &self.bundle, &self.run] {
            directories::make_root_directory(directory, 0o711, 0)?;
        }
        let resolv_conf = image::resolv_conf(&[]);
        let skeleton = Skeleton { home: Path::new(HOME), resolv_conf: &resolv_conf, init };
        let rootfs = skeleton.ensure(&self.bundle)?;
        let id: Result<SandboxId, _> = ID.parse().map_err(io::Error::other);
        id.map(|id| self.plan(driver, rootfs, id)).attempt("plan", &self.bundle)
    }

    fn start_machine(
        &self,
        driver: &dyn Runtime,
        settings: &RuntimeSettings,
        init: &Path,
        engine: &dyn Engine,
        work: &Handle,
    ) -> Result<Answer, HostError> {
        let plan = self.place(driver, init)?;
        // An empty one, of nobody: what is bound before the start must be there.
        directories::make_root_directory(&plan.bound_home(), 0o711, 0)?;
        pin_namespaces(&plan)?;
        let cgroups = Hierarchy::detect();
        cgroups.make(&self.group)?;
        let trial = MachineTrial { driver, settings, plan: &plan, place: &self.run, cgroups };
        let since = Instant::now();
        let outcome = work.block_on(trial.run(engine, MACHINE_DEADLINE));
        Ok(match outcome {
            Ok(()) => Answer::Starts(Some(since.elapsed())),
            Err(reason) => Answer::Cannot(reason),
        })
    }

    fn words(&self, command: &[&OsStr]) -> Vec<OsString> {
        let mut words = vec![OsString::from("--root"), self.run.join("containers").into()];
        words.extend(command.iter().map(OsString::from));
        words.push(ID.into());
        words
    }

    fn plan(&self, driver: &dyn Runtime, rootfs: PathBuf, id: SandboxId) -> Plan {
        let ids = &self.config.identity;
        // The last range there is: the one that users get last.
        let range = ids.last_run_id.saturating_sub(IDS_PER_SANDBOX - 1);
        let map = IdMap::with_hole(range, USER, ids.last_disk_id);
        Plan {
            id,
            hostname: "sandbox".into(),
            rootfs,
            init: image::INIT.into(),
            user_namespace: self.run.join("user.ns"),
            network_namespace: self.run.join("net.ns"),
            uid_map: map.clone(),
            gid_map: map,
            user: ImageUser { uid: USER, gid: USER, home: HOME.into() },
            cgroup: format!("{}/{ID}", self.group),
            apparmor_profile: confinement::apparmor_profile(),
            limits: Limits {
                memory_bytes: 256 << 20,
                cpu_millis: 1000,
                processes: driver.host_processes(64),
                open_files: 1024,
                tmp_bytes: 1 << 20,
                shm_bytes: 1 << 20,
            },
        }
    }

    /// Takes away all that a try can have left.
    fn clear(&self) -> Result<(), HostError> {
        let cgroups = Hierarchy::detect();
        let own = format!("{}/{ID}", self.group);
        let deadline = Instant::now() + FORCE;
        loop {
            cgroups.kill(&own);
            match cgroups.remove(&self.group) {
                // Processes that were killed need a moment until the kernel lets go of them.
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                outcome => break outcome?,
            }
        }
        for namespace in ["user.ns", "net.ns"] {
            namespaces::unpin(&self.run.join(namespace))?;
        }
        for directory in [&self.run, &self.bundle] {
            tolerate_absence(fs::remove_dir_all(directory)).attempt("remove", directory)?;
        }
        // With that of the last runtime it goes, too.
        let _ = fs::remove_dir(self.config.state_directory().join(TRIES));
        Ok(())
    }
}

fn pin_namespaces(plan: &Plan) -> Result<(), HostError> {
    namespaces::create_pinned(
        &plan.user_namespace,
        &plan.network_namespace,
        &plan.uid_map.to_proc_text(),
        &plan.gid_map.to_proc_text(),
    )
}

fn reason(outcome: &trial::Outcome) -> String {
    let last = |text: &str| {
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        line.map(|line| line.trim().chars().take(400).collect::<String>())
    };
    let said = last(&outcome.stderr).or_else(|| last(&outcome.stdout));
    let ended = match outcome.status {
        None => format!("it took longer than {} s", DEADLINE.as_secs()),
        Some(status) => format!("its init did not come up ({status})"),
    };
    said.map_or_else(|| ended.clone(), |said| format!("{ended}: {said}"))
}
