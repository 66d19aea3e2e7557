//! The real ground under a launch: this node's namespaces, mounts, links,
//! control groups and homes; and the observation that the proof is made from.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::{engine::EngineImage, plan::SandboxId};
use async_trait::async_trait;
use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Mutex, time::timeout};

use super::{
    failure::Failure,
    ground::Ground,
    log::Log,
    proof::{self, NAMESPACES, Observed, WORLD_WRITABLE},
    sandbox::{Layout, Sandbox},
};
use crate::{
    home::HomeDriver,
    host::{
        Attempt as _, HostError, cgroups::Hierarchy, directories, fifo, mounts, namespaces,
        processes, tolerate_absence,
    },
    image::{self, Skeleton},
    network::{
        Attachment, Gate, Live, Network, NetworkError,
        rules::{self, EgressProfile},
    },
    store::Step,
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
}

fn attachment(sandbox: &Sandbox) -> Attachment {
    Attachment {
        id: sandbox.id().clone(),
        address: sandbox.address,
        network_namespace: sandbox.network_namespace(),
        egress: sandbox.record.facts.egress.clone(),
    }
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
        let detached = self.network.detach(id).await;
        detached.map_err(|errors| {
            errors.into_iter().next().map_or_else(Failure::cancelled, Failure::from)
        })
    }

    /// Puts the instance's tables right if somebody changed or removed them, or the
    /// node's addresses have changed; with everybody who is attached. True if there was something to do.
    pub async fn repair_network(&self) -> Result<bool, NetworkError> {
        if !self.network.is_stale().await? {
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

    fn observe(&self, sandbox: &Sandbox, pid: u32) -> Result<Observed, HostError> {
        let mut own = BTreeMap::new();
        let mut host = BTreeMap::new();
        for kind in NAMESPACES {
            own.insert(kind, processes::namespace(pid, kind)?);
            host.insert(kind, processes::namespace(std::process::id(), kind)?);
        }
        let modes = WORLD_WRITABLE
            .into_iter()
            .filter_map(|directory| {
                let metadata = fs::symlink_metadata(format!("/proc/{pid}/root{directory}")).ok()?;
                Some((directory, metadata.permissions().mode() & 0o7777))
            })
            .collect();
        Ok(Observed {
            status: processes::status(pid)?,
            uid_map: processes::read(pid, "uid_map")?,
            gid_map: processes::read(pid, "gid_map")?,
            namespaces: own,
            host_namespaces: host,
            pinned_user: processes::namespace_at(&sandbox.user_namespace())?,
            pinned_network: processes::namespace_at(&sandbox.network_namespace())?,
            mounts: mounts::parse_mountinfo(&processes::read(pid, "mountinfo")?),
            modes,
            descriptors: processes::open_descriptors(pid)?,
            cgroup: processes::read(pid, "cgroup")?,
            memory: self.cgroups.memory(&sandbox.cgroup)?,
            process_limit: self.cgroups.process_limit(&sandbox.cgroup)?,
            cpu_millis: self.cgroups.cpu_millis(&sandbox.cgroup)?,
        })
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
                self.network.attach(&attachment).await?;
                attached.insert(sandbox.id().clone(), Live { attachment, gate: Gate::Closed });
                Ok(())
            }
            Step::Rootfs => Ok(self.mount_rootfs(sandbox, image)?),
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
            Step::Container => Ok(self.remove_cgroup(&sandbox.cgroup).await?),
        }
    }

    async fn prove(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure> {
        let broken = proof::broken_walls(&self.observe(sandbox, pid)?, &sandbox.plan());
        if !broken.is_empty() {
            let message = format!("a promised wall does not stand: {}", broken.join("; "));
            return Err(Failure::new(
                FailureReason::Proof,
                message,
                "nothing was started; look at the runtime's version with `adrastea doctor`",
            ));
        }
        Ok(self.network.verify(&attachment(sandbox), Gate::Closed).await?)
    }

    async fn attach_home(&self, sandbox: &Sandbox, pid: u32) -> Result<(), Failure> {
        let facts = &sandbox.record.facts;
        let hint =
            "look at the home root on the node; `adrastea doctor` says what is wrong with it";
        let attached = self
            .homes
            .open(
                &self.home_root,
                &sandbox.record.key.owner().on_disk(),
                facts.disk_uid,
                facts.disk_gid,
            )
            .and_then(|home| mounts::attach_into(pid, home.as_fd(), sandbox.home_inside()));
        attached.map_err(|error| Failure::caused_by(FailureReason::Home, &error, hint))
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

    async fn present(&self) -> Result<BTreeSet<SandboxId>, Failure> {
        let mut ids = self.network.list().await?;
        let folder = self.layout.sandboxes();
        let names = fs::read_dir(&folder)
            .attempt("read", &folder)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        ids.extend(
            names
                .chain(self.cgroups.children(&self.layout.cgroup_parent()))
                .filter_map(|name| name.parse().ok()),
        );
        Ok(ids)
    }

    async fn remove_all_of(&self, id: &SandboxId) -> Result<(), Failure> {
        let directory = self.layout.sandbox_directory(id.as_str());
        let mut failures: Vec<Failure> = Vec::new();
        let mut note = |result: Result<(), Failure>| failures.extend(result.err());
        note(
            self.remove_cgroup(&format!("{}/{id}", self.layout.cgroup_parent()))
                .await
                .map_err(Failure::from),
        );
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

    fn memory_kills(&self, sandbox: &Sandbox) -> u64 {
        self.cgroups.memory(&sandbox.cgroup).map_or(0, |memory| memory.kills)
    }
}
