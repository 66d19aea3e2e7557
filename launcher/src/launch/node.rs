//! The real ground under a launch: this node's namespaces, mounts, links,
//! control groups and homes; and the observation that the proof is made from.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use adrastea_init::FirstLine;
use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::{
    Kernel, Runtime,
    engine::EngineImage,
    plan::{Plan, SandboxId},
    spec,
};
use async_trait::async_trait;
use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use oci_spec::runtime::Spec;
use tokio::{net::TcpStream, sync::Mutex, time::timeout};

use super::{
    channel::Channel,
    failure::{Failure, chain},
    ground::{Ground, Refusals, Waiting},
    home_trial::HomeTrial,
    log::Log,
    neighbours::Neighbours,
    observe::{observe, observe_jail},
    proof, runtime_state,
    sandbox::{Layout, Sandbox},
    traces::{Trace, Traces},
    user_config::{self, PLACES},
};
use crate::{
    home::HomeDriver,
    host::{
        Attempt as _, HostError,
        cgroups::Hierarchy,
        confinement, covers, directories, fifo,
        mounts::{self, MountLine},
        namespaces, processes, shims, tolerate_absence,
    },
    image::{self, Skeleton},
    network::{
        Attachment, Gate, Live, Network, NetworkError,
        rules::{self, EgressProfile},
    },
    store::{RetiredHome, Step},
};

/// A server that takes a connection must answer within this.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

pub struct NodeGround {
    pub layout: Layout,
    pub network: Arc<Network>,
    /// Who is attached, and whether open: what a repair of the network puts back.
    /// Held while a table or link changes, so that a repair never loses an element.
    pub attached: Mutex<BTreeMap<SandboxId, Live>>,
    /// Skeletons of this launcher's life, by home and resolver file: the init does not change meanwhile.
    pub skeletons: std::sync::Mutex<HashMap<(PathBuf, String), PathBuf>>,
    pub homes: &'static dyn HomeDriver,
    pub home_root: PathBuf,
    pub init: PathBuf,
    pub cgroups: Hierarchy,
    /// Who lives here, in which namespaces.
    pub neighbours: Neighbours,
}

pub fn attachment(sandbox: &Sandbox) -> Attachment {
    Attachment {
        own_stack: sandbox.runtime().is_some_and(|it| it.kernel() == Kernel::Own),
        own_links: sandbox.runtime().map_or(&[], Runtime::own_links),
        id: sandbox.id().clone(),
        address: sandbox.address,
        network_namespace: sandbox.network_namespace(),
        egress: sandbox.record.facts.egress.clone(),
    }
}

/// Takes the error by value, as what it is mapped from.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn home_failure(error: HostError) -> Failure {
    let hint = "look at the home root on the node; `adrastea doctor` says what is wrong with it";
    Failure::caused_by(FailureReason::Home, &error, hint)
}

fn walls_fell(broken: &[String]) -> Failure {
    Failure::new(
        FailureReason::Proof,
        format!("a promised wall does not stand: {}", broken.join("; ")),
        "nothing was started; try again, and report it if it stays so",
    )
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        let reason = if matches!(error, NetworkError::Wall { .. }) {
            FailureReason::Proof
        } else {
            FailureReason::Network
        };
        Self::caused_by(reason, &error, error.hint().unwrap_or("run `adrastea doctor` on the node"))
    }
}

impl NodeGround {
    async fn detach(&self, id: &SandboxId) -> Result<(), Failure> {
        self.attached.lock().await.remove(id);
        let detached = self.network.detach(id);
        detached.map_err(|errors| {
            errors.into_iter().next().map_or_else(Failure::cancelled, Failure::from)
        })
    }

    /// Puts the instance's tables right if somebody changed or removed them, or the
    /// node's addresses have changed; with everybody who is attached. True if there was something to do.
    pub async fn repair_network(&self) -> Result<bool, NetworkError> {
        if !self.network.is_stale()? {
            return Ok(false);
        }
        // Nobody is attached or opened meanwhile: their elements would be lost.
        let attached = self.attached.lock().await;
        let live: Vec<_> = attached.values().cloned().collect();
        self.network.install(&live).await?;
        Ok(true)
    }

    fn make_directory(sandbox: &Sandbox) -> Result<(), HostError> {
        // The runtime's process must pass through it with the sandbox's own ids.
        directories::make_root_directory(&sandbox.directory, 0o711, 0)?;
        directories::make_root_directory(&sandbox.channel_directory(), 0o700, 0)?;
        fifo::make(&sandbox.stdin())?;
        fifo::make(&sandbox.stdout())
    }

    fn skeleton(&self, home: &Path, resolv_conf: String) -> Result<PathBuf, HostError> {
        let key = (home.to_owned(), resolv_conf);
        let mut skeletons = self.skeletons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = skeletons.get(&key).filter(|path| path.is_dir()) {
            return Ok(known.clone());
        }
        let made = Skeleton { home, resolv_conf: &key.1, init: &self.init }
            .ensure(&self.layout.skeletons())?;
        skeletons.insert(key, made.clone());
        Ok(made)
    }

    fn remove_directory(directory: &Path, log: &Path) -> Result<(), HostError> {
        let channel = directory.join("io");
        fifo::remove(&channel.join("stdin"))?;
        fifo::remove(&channel.join("stdout"))?;
        // Never recursive: what is unexpectedly there must be seen, not deleted.
        for folder in [channel.as_path(), directory] {
            tolerate_absence(fs::remove_dir(folder)).attempt("remove", folder)?;
        }
        Log::remove(log)
    }

    fn mount_rootfs(&self, sandbox: &Sandbox, image: &EngineImage) -> Result<(), HostError> {
        let reaches_world =
            rules::by_name(&sandbox.record.facts.egress).is_some_and(EgressProfile::needs_uplink);
        let resolvers: &[_] = if reaches_world { &self.network.settings().resolvers } else { &[] };
        let skeleton = self.skeleton(sandbox.home_inside(), image::resolv_conf(resolvers))?;
        image::mount(&sandbox.directory, &skeleton, &image.layers, &sandbox.user_namespace())
            .map(|_| ())
    }

    /// Before any code of the tenant runs: what the user has configured is out of the way.
    fn cover_user_config(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure> {
        let owner = sandbox.host_owner();
        let (home, empty) = (sandbox.home_inside(), self.layout.empty());
        covers::cover(pid, home, owner, &empty, PLACES).map_err(home_failure)?;
        let seen = covers::observe(pid, home, &empty, PLACES)?;
        let mounts = mounts::parse_mountinfo(&processes::read(pid, "mountinfo")?);
        let broken = user_config::broken(home, &seen, &mounts);
        if broken.is_empty() {
            return Ok(());
        }
        Err(walls_fell(&broken))
    }

    /// The home of this name, seen through the sandbox's ids where those are not the user's own.
    fn mount_home(&self, sandbox: &Sandbox, name: &str, pid: u32) -> Result<(), HostError> {
        let facts = &sandbox.record.facts;
        let home = self.homes.open(&self.home_root, name, facts.disk_uid, facts.disk_gid)?;
        let ids = if facts.home_mapped {
            let (uids, gids) = sandbox.home_ids();
            Some(namespaces::id_map(&uids, &gids)?)
        } else {
            None
        };
        let ids = ids.as_ref().map(AsFd::as_fd);
        mounts::attach_into(pid, home.as_fd(), sandbox.home_inside(), ids)
    }

    /// Attaches the home of this name, and returns the process in whose mount namespace it is now.
    fn attach_named(&self, sandbox: &Sandbox, name: &str, pid: u32) -> Result<u32, Failure> {
        let pid = self.opens_files(sandbox, pid)?;
        self.mount_home(sandbox, name, pid).map_err(home_failure)?;
        if sandbox.record.facts.home_mapped {
            let mounts = mounts::parse_mountinfo(&processes::read(pid, "mountinfo")?);
            let broken = proof::broken_home(sandbox.home_inside(), &mounts);
            if !broken.is_empty() {
                return Err(walls_fell(&broken));
            }
        }
        Ok(pid)
    }

    async fn remove_cgroup(&self, group: &str) -> Result<(), HostError> {
        let mut result = self.cgroups.remove(group);
        // Processes that were killed need a moment until the kernel lets go of them.
        for _ in 0..50 {
            if result.is_ok() {
                break;
            }
            self.cgroups.kill(group);
            tokio::time::sleep(Duration::from_millis(20)).await;
            result = self.cgroups.remove(group);
        }
        result
    }

    /// What an engine that died in the middle of a start has forgotten: processes
    /// first, then its shim, then what the runtime keeps of a container.
    async fn remove_container(&self, id: &SandboxId) -> Result<(), HostError> {
        let group = self.remove_cgroup(&format!("{}/{id}", self.layout.cgroup_parent())).await;
        let shim = self.end_shim(id).await;
        // containerd hides a bundle before it removes it, and forgets the hidden one when killed.
        let bundles = self.layout.run.join("containerd/state/io.containerd.runtime.v2.task");
        let bundles = bundles.join(&self.layout.instance);
        let hidden = bundles.join(format!(".{id}"));
        // Where the runtime could not be asked any more, it keeps the other one, too.
        let bundle = bundles.join(id.as_str());
        let states = runtime_state::remove(&self.layout, id).and(self.remove_machine(id));
        let bundles = [hidden, bundle]
            .into_iter()
            .map(|bundle| tolerate_absence(fs::remove_dir_all(&bundle)).attempt("remove", &bundle));
        group.and(shim).and(states).and(bundles.collect())
    }

    /// Before the claim: what does not stand.
    fn broken_walls(
        &self,
        sandbox: &Sandbox,
        plan: &Plan,
        base: &Spec,
        waiting: &Waiting,
    ) -> Result<Vec<String>, HostError> {
        let runtime = sandbox.runtime();
        if let Some(runtime) = runtime.filter(|it| it.kernel() == Kernel::Machine) {
            let report = waiting.report.as_ref();
            return self.broken_walls_of_machine(sandbox, runtime, plan, base, waiting.pid, report);
        }
        if let (Some(runtime), Some(report)) = (runtime, &waiting.report) {
            let seen = observe_jail(sandbox, plan, waiting.pid, &self.cgroups, &self.neighbours)?;
            let report = Some(report);
            Ok(proof::broken_walls_of_own_kernel(&seen, report, runtime, plan, base))
        } else {
            let look = || observe(sandbox, plan, base, waiting, &self.cgroups, &self.neighbours);
            let mut seen = look()?;
            // The runtime makes devices in it, and not each closes it then (youki 0.7 does not).
            // What is closed already is not entered for nothing: that takes a thread of its own.
            let devices = Path::new("/dev");
            if !mounts::is_read_only(&seen.mounts, devices) {
                mounts::make_read_only_inside(waiting.pid, devices)?;
                seen = look()?;
            }
            Ok(proof::broken_walls(&seen, plan, base))
        }
    }

    /// While it runs: what no longer stands.
    fn walls_that_broke(
        &self,
        sandbox: &Sandbox,
        plan: &Plan,
        base: &Spec,
        pid: u32,
    ) -> Result<Vec<String>, HostError> {
        // Attached after the proof; the walls around it are the same.
        let is_home = |mount: &MountLine| mount.point.starts_with(sandbox.home_inside());
        if let Some(runtime) = sandbox.runtime().filter(|it| it.kernel() == Kernel::Machine) {
            return self.broken_walls_of_machine(sandbox, runtime, plan, base, pid, None);
        }
        if let Some(runtime) = sandbox.runtime().filter(|it| it.kernel() == Kernel::Own) {
            let mut seen = observe_jail(sandbox, plan, pid, &self.cgroups, &self.neighbours)?;
            for process in &mut seen.processes {
                process.mounts.retain(|mount| !is_home(mount));
            }
            return Ok(proof::broken_walls_of_own_kernel(&seen, None, runtime, plan, base));
        }
        // What the init said of itself was judged by the proof, and cannot be asked again.
        let said = FirstLine { landlock: confinement::landlock(), let_through: Some(Vec::new()) };
        let waiting = Waiting { pid, said, report: None };
        let mut seen = observe(sandbox, plan, base, &waiting, &self.cgroups, &self.neighbours)?;
        // By now the tenant's own processes are there.
        seen.processes.retain(|process| *process == pid);
        seen.mounts.retain(|mount| !is_home(mount));
        Ok(proof::broken_walls(&seen, plan, base))
    }

    /// The process in whose mount namespace the tenant's files are opened.
    fn opens_files(&self, sandbox: &Sandbox, pid: u32) -> Result<u32, Failure> {
        let Some(name) = sandbox.runtime().and_then(Runtime::file_server) else { return Ok(pid) };
        let processes = self.cgroups.processes(&sandbox.cgroup);
        let is_it = |pid: &u32| processes::name(*pid).is_ok_and(|found| found == name);
        processes.into_iter().find(is_it).ok_or_else(|| {
            Failure::new(
                FailureReason::Home,
                format!("there is no `{name}` in the sandbox's control group"),
                "the runtime's version may not fit; look at `adrastea doctor`",
            )
        })
    }

    async fn end_shim(&self, id: &SandboxId) -> Result<(), HostError> {
        // One that was told to go takes its socket along, and needs a moment.
        const MOMENT: u32 = 100;
        for round in 0..=MOMENT {
            let mut ours = shims::list(&self.layout.instance)?;
            ours.retain(|shim| shim.sandbox == id.as_str());
            if ours.is_empty() {
                break;
            }
            if round == MOMENT {
                tracing::warn!(sandbox = %id, "ending a shim by force");
                ours.iter().try_for_each(shims::end)?;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Ground for NodeGround {
    async fn make(
        &self,
        step: Step,
        sandbox: &Sandbox,
        image: &EngineImage,
    ) -> Result<(), Failure> {
        match step {
            Step::Directory => Ok(Self::make_directory(sandbox)?),
            Step::Namespaces => Ok(namespaces::create_pinned(
                &sandbox.user_namespace(),
                &sandbox.network_namespace(),
                &sandbox.uid_map().to_proc_text(),
                &sandbox.gid_map().to_proc_text(),
            )?),
            Step::Network => {
                let attachment = attachment(sandbox);
                let mut attached = self.attached.lock().await;
                self.network.attach(&attachment)?;
                attached.insert(sandbox.id().clone(), Live { attachment, gate: Gate::Closed });
                Ok(())
            }
            Step::Rootfs => {
                self.mount_rootfs(sandbox, image)?;
                if sandbox.runtime().is_some_and(Runtime::binds_home) {
                    self.bind_home(sandbox)?;
                }
                Ok(())
            }
            Step::Container => Ok(()),
        }
    }

    async fn unmake(&self, step: Step, sandbox: &Sandbox) -> Result<(), Failure> {
        match step {
            Step::Directory => Ok(Self::remove_directory(&sandbox.directory, &sandbox.log)?),
            Step::Namespaces => {
                let undone = [
                    namespaces::unpin(&sandbox.user_namespace()),
                    namespaces::unpin(&sandbox.network_namespace()),
                ];
                Ok(undone.into_iter().collect::<Result<_, _>>()?)
            }
            Step::Network => self.detach(sandbox.id()).await,
            Step::Rootfs => Ok(mounts::unmount_rootfs(&sandbox.directory)?),
            Step::Container => Ok(self.remove_container(sandbox.id()).await?),
        }
    }

    async fn surround(&self, sandbox: &Sandbox, configuration: &str) -> Result<(), Failure> {
        Ok(self.surround_machine(sandbox, configuration)?)
    }

    async fn prove(&self, sandbox: &Sandbox, waiting: &Waiting) -> Result<(), Failure> {
        let plan = sandbox.plan();
        let base = spec::base(&plan).map_err(|error| {
            Failure::caused_by(FailureReason::Internal, &error, "report this defect")
        })?;
        confinement::separate_cores(waiting.pid)?;
        self.end_machine_early(sandbox, &plan, &base)?;
        let mut broken = self.broken_walls(sandbox, &plan, &base, waiting).map_err(|error| {
            let hint = "a wall that cannot be seen does not stand; nothing was started";
            Failure::caused_by(FailureReason::Proof, &error, hint)
        })?;
        broken.extend(proof::broken_filter(waiting.said.let_through.as_deref()));
        if !broken.is_empty() {
            let message = format!("a promised wall does not stand: {}", broken.join("; "));
            return Err(Failure::new(
                FailureReason::Proof,
                message,
                "nothing was started; look at the runtime's version with `adrastea doctor`",
            ));
        }
        Ok(self.network.verify(&attachment(sandbox), Gate::Closed)?)
    }

    async fn prove_again(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure> {
        let plan = sandbox.plan();
        let base = spec::base(&plan).map_err(|error| {
            Failure::caused_by(FailureReason::Internal, &error, "report this defect")
        })?;
        let broken = self.walls_that_broke(sandbox, &plan, &base, pid)?;
        if !broken.is_empty() {
            return Err(walls_fell(&broken));
        }
        Ok(self.network.verify(&attachment(sandbox), Gate::Closed)?)
    }

    fn hold_back(&self, sandbox: &Sandbox) -> Result<String, Failure> {
        let weight = self.cgroups.weight(&sandbox.cgroup)?;
        self.cgroups.set_weight(&sandbox.cgroup, self.cgroups.least_weight())?;
        Ok(weight)
    }

    fn let_go(&self, sandbox: &Sandbox, weight: &str) -> Result<(), Failure> {
        Ok(self.cgroups.set_weight(&sandbox.cgroup, weight)?)
    }

    fn maps_homes(&self) -> Result<(), Failure> {
        mounts::can_be_mapped(&self.home_root).map_err(home_failure)
    }

    async fn try_home(
        &self,
        sandbox: &Sandbox,
        pid: u32,
        channel: &mut Channel,
    ) -> Result<(), Failure> {
        let trial = HomeTrial { sandbox, homes: self.homes, root: &self.home_root };
        trial.run(channel, |name| self.attach_named(sandbox, name, pid).map(drop)).await
    }

    async fn attach_home(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure> {
        if sandbox.runtime().is_some_and(Runtime::binds_home) {
            // It is there since before the start, and the proof has seen it.
            return Ok(());
        }
        let pid = self.attach_named(sandbox, &sandbox.record.key.owner().on_disk(), pid)?;
        if sandbox.record.facts.ignore_user_config {
            self.cover_user_config(sandbox, pid)?;
        }
        Ok(())
    }

    async fn open_egress(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        let attachment = attachment(sandbox);
        let mut attached = self.attached.lock().await;
        self.network.open_egress(&attachment)?;
        attached.insert(sandbox.id().clone(), Live { attachment, gate: Gate::Open });
        Ok(())
    }

    async fn answers(&self, sandbox: &Sandbox, path: &str) -> bool {
        let asking = async {
            let stream = TcpStream::connect((sandbox.address, self.network.settings().server_port))
                .await
                .ok()?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            let driver = tokio::spawn(connection);
            let request = Request::get(path)
                .header("host", sandbox.address.to_string())
                .body(Empty::<Bytes>::new())
                .ok()?;
            let status = sender.send_request(request).await.ok().map(|response| response.status());
            driver.abort();
            status
        };
        matches!(timeout(ANSWER_PATIENCE, asking).await, Ok(Some(status)) if !status.is_server_error())
    }

    async fn present(&self) -> Result<Traces, Failure> {
        let mut traces = Traces::default();
        traces.add(Trace::Firewall, self.network.with_elements()?);
        traces.add(Trace::Link, self.network.with_links()?);
        let ids = |names: Vec<String>| names.into_iter().filter_map(|name| name.parse().ok());
        let folder = self.layout.sandboxes();
        traces.add(Trace::Directory, ids(directories::names(&folder)?));
        for point in mounts::mount_points().attempt("read", "/proc/self/mountinfo")? {
            let Ok(below) = point.strip_prefix(&folder) else { continue };
            let id = below.iter().next().and_then(|name| name.to_str()?.parse().ok());
            let pinned = below.extension().is_some_and(|ending| ending == "ns");
            traces.add(if pinned { Trace::Namespace } else { Trace::Mount }, id);
        }
        let groups = self.cgroups.children(&self.layout.cgroup_parent());
        traces.add(Trace::ControlGroup, ids(groups));
        let logs = directories::names(&self.layout.logs())?;
        traces.add(Trace::Log, logs.iter().filter_map(|name| Log::owner(name)));
        traces.add(Trace::RuntimeState, runtime_state::owners(&self.layout)?);
        let shims = shims::list(&self.layout.instance)?;
        traces.add(Trace::Shim, ids(shims.into_iter().map(|shim| shim.sandbox).collect()));
        Ok(traces)
    }

    async fn remove_all_of(&self, id: &SandboxId) -> Result<(), Failure> {
        let directory = self.layout.sandbox_directory(id.as_str());
        let mut failures: Vec<Failure> = Vec::new();
        let mut note = |result: Result<(), Failure>| failures.extend(result.err());
        note(self.remove_container(id).await.map_err(Failure::from));
        note(mounts::unmount_rootfs(&directory).map_err(Failure::from));
        note(self.detach(id).await);
        for name in ["user.ns", "network.ns"] {
            note(namespaces::unpin(&directory.join(name)).map_err(Failure::from));
        }
        note(
            Self::remove_directory(&directory, &self.layout.logs().join(format!("{id}.log")))
                .map_err(Failure::from),
        );
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    async fn look(&self, sandbox: &Sandbox, pid: u32) -> Vec<String> {
        let plan = sandbox.plan();
        let base = match spec::base(&plan) {
            Ok(base) => base,
            Err(error) => return vec![chain(&error)],
        };
        let mut broken = self
            .walls_that_broke(sandbox, &plan, &base, pid)
            .unwrap_or_else(|error| vec![chain(&error)]);
        if let Err(error) = self.network.verify(&attachment(sandbox), Gate::Open) {
            broken.push(chain(&error));
        }
        broken
    }

    fn counters(&self, sandbox: &Sandbox) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        if let Ok(memory) = self.cgroups.memory(&sandbox.cgroup) {
            counters.insert("memory_used_bytes".into(), memory.used_bytes);
            counters.insert("memory_kills".into(), memory.kills);
        }
        if let Ok(refused) = self.cgroups.refused_processes(&sandbox.cgroup) {
            counters.insert("processes_refused".into(), refused);
        }
        if let Ok(used) = self.cgroups.cpu_used(&sandbox.cgroup) {
            counters.insert("cpu_used_microseconds".into(), used);
        }
        counters
    }

    fn proportional_memory(&self, sandbox: &Sandbox) -> u64 {
        let processes = self.cgroups.processes(&sandbox.cgroup).into_iter();
        processes.filter_map(|pid| processes::proportional_memory(pid).ok()).sum()
    }

    fn has_home(&self, on_disk: &str) -> Result<bool, Failure> {
        self.homes.is_there(&self.home_root, on_disk).map_err(home_failure)
    }

    fn set_home_aside(&self, home: &RetiredHome) -> Result<bool, Failure> {
        self.homes
            .set_aside(&self.home_root, &home.on_disk, &home.name(), home.id)
            .map_err(home_failure)
    }

    fn bring_home_back(&self, home: &RetiredHome) -> Result<(), Failure> {
        self.homes.bring_back(&self.home_root, &home.name(), &home.on_disk).map_err(home_failure)
    }

    fn purge_home(&self, home: &RetiredHome) -> Result<(), Failure> {
        self.homes.purge(&self.home_root, &home.name(), home.id, home.id).map_err(home_failure)
    }

    fn refusals(&self, sandbox: &Sandbox) -> Refusals {
        Refusals {
            memory_kills: self.cgroups.memory(&sandbox.cgroup).map_or(0, |memory| memory.kills),
            processes: self.cgroups.refused_processes(&sandbox.cgroup).unwrap_or(0),
        }
    }
}
