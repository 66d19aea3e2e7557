//! Puts a launcher together from its configuration: directories, store, engine,
//! runtimes, network, and takes over what already runs. And takes it apart.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use adrastea_runtimes::{
    engine::{
        Engine, ImageLimits, TaskState,
        containerd::{
            Containerd,
            managed::{ManagedContainerd, ManagedSettings},
        },
    },
    version::Checked,
};
use anyhow::{Context as _, anyhow};
use tokio::task::JoinHandle;

use crate::{
    config::{Config, ContainerdMode},
    config_check::network_settings,
    failpoint,
    home::{self, OwnedHome},
    host::{
        Attempt as _, HostError, cgroups::Hierarchy, commands, directories, lock::InstanceLock,
        mounts, users,
    },
    image,
    launch::{
        Launcher, Parts,
        failure::chain,
        home_trial,
        neighbours::Neighbours,
        node::{self, NodeGround},
        sandbox::{Layout, Sandbox},
    },
    names,
    network::{self, Gate, Live, Network, Subnet},
    node_runtimes,
    store::{Pools, SandboxState, Store, StoreError},
};

/// A launcher on its node.
pub struct Node {
    pub launcher: Arc<Launcher>,
    layout: Layout,
    network: Arc<Network>,
    ground: Arc<NodeGround>,
    cgroups: Hierarchy,
    managed: Option<ManagedSettings>,
    /// One launcher, or one repair, at a time.
    _lock: InstanceLock,
}

/// A launcher that was just killed may need a moment until the kernel lets go of its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The directories of an instance.
pub fn layout(config: &Config) -> Layout {
    Layout {
        instance: config.instance.clone(),
        state: config.state_directory(),
        run: config.run_directory(),
    }
}

fn subnet(config: &Config) -> Option<Subnet> {
    config.network.subnet.parse().ok()
}

/// The address behind a leased number.
fn address(config: &Config, index: u32) -> Ipv4Addr {
    subnet(config).and_then(|subnet| subnet.address(index)).unwrap_or(Ipv4Addr::UNSPECIFIED)
}

pub fn managed_settings(config: &Config, layout: &Layout) -> Option<ManagedSettings> {
    (config.containerd.mode == ContainerdMode::Managed).then(|| ManagedSettings {
        binary: config.containerd.binary.clone(),
        root: layout.state.join("containerd"),
        run: layout.run.join("containerd"),
    })
}

impl Node {
    /// Boots: nothing is served before what lives is known.
    pub async fn boot(config: Config) -> anyhow::Result<Self> {
        let layout = layout(&config);
        let group = users::gid_of(&config.access.group)?;
        directories::make_root_directory(&layout.state, 0o711, 0)?;
        let lock = InstanceLock::take(&layout.lock(), LOCK_PATIENCE)?;
        directories::make_root_directory(&layout.run, 0o711, 0)?;
        directories::make_root_directory(&layout.run.join("api"), 0o750, group)?;
        directories::make_root_directory(&layout.run.join("wrappers"), 0o700, 0)?;
        directories::make_root_directory(&layout.logs(), 0o700, 0)?;
        directories::make_root_directory(&layout.skeletons(), 0o711, 0)?;
        directories::make_root_directory(&layout.empty(), 0o555, 0)?;
        image::remove_unfinished(&layout.skeletons())?;
        directories::make_root_directory(&layout.sandboxes(), 0o711, 0)?;
        mounts::make_private(&layout.sandboxes())?;
        failpoint::hit("boot", "directories");

        let homes = home::driver(&config.home.driver)
            .ok_or_else(|| anyhow!("there is no home driver `{}`", config.home.driver))?;
        let home_root = config.home_root();
        if config.home.root.is_none() {
            directories::make_root_directory(&home_root, 0o711, 0)?;
        }
        // A home root that cannot be used shows at the first start, in words; it keeps nobody else from running.
        if let Err(error) = home_trial::remove(&home_root) {
            tracing::warn!(
                error = chain(&error),
                "failed to remove what a killed trial of homes may have left"
            );
        }
        let owners = homes.owners(&home_root).unwrap_or_default();
        let store = open_store(&layout, &owners, &home_root)?;
        let ids = config.identity.clone();
        let taken = owners.iter().map(|home| home.uid);
        if let Some(highest) =
            taken.filter(|uid| (ids.first_disk_id..=ids.last_disk_id).contains(uid)).max()
        {
            store.reserve_up_to(highest)?;
        }
        failpoint::hit("boot", "ledger");

        let managed = managed_settings(&config, &layout);
        // Beside the engine's start, because both take their time; and never left alone, because
        // it has something to take away.
        let asked = config.clone();
        let runtimes = tokio::task::spawn_blocking(move || node_runtimes::all(&asked));
        let engine = connect(&config, managed.as_ref()).await;
        let mut runtimes = runtimes.await?;
        let engine = engine?;
        node_runtimes::try_machines(&config, &engine, &mut runtimes).await?;
        failpoint::hit("boot", "engine");
        let cgroups = Hierarchy::detect();
        cgroups.make(&layout.cgroup_parent())?;
        let subnet = subnet(&config).context("network.subnet is no subnet")?;
        let pools = Pools {
            first_run_id: ids.first_run_id,
            last_run_id: ids.last_run_id,
            first_address: 0,
            last_address: subnet.capacity() - 1,
        };
        let server_uids = config
            .server_users()
            .iter()
            .map(|name| users::uid_of(name))
            .collect::<Result<_, _>>()?;
        let live = live_attachments(&config, &layout, &store, engine.as_ref(), pools).await?;
        let network =
            Arc::new(Network::open(network_settings(&config, subnet, server_uids), &live).await?);
        failpoint::hit("boot", "network");

        let config = Arc::new(config);
        let ground = Arc::new(NodeGround {
            layout: layout.clone(),
            network: Arc::clone(&network),
            attached: tokio::sync::Mutex::new(
                live.into_iter().map(|live| (live.attachment.id.clone(), live)).collect(),
            ),
            skeletons: std::sync::Mutex::default(),
            homes,
            home_root,
            init: config.init_binary(),
            cgroups: cgroups.clone(),
            neighbours: Neighbours::default(),
        });
        let launcher = Launcher::new(Parts {
            config,
            layout: layout.clone(),
            store,
            engine,
            ground: Arc::<NodeGround>::clone(&ground),
            runtimes,
            pools,
            address,
        });
        let done = launcher.reconcile().await.map_err(|failure| anyhow!("{}", failure.message))?;
        tracing::info!(?done, "took over what was there");
        failpoint::hit("boot", "reconciled");
        Ok(Self { launcher, layout, network, ground, cgroups, managed, _lock: lock })
    }

    /// Keeps the node in order until dropped: the managed engine runs, and what
    /// nobody owns is swept away.
    pub async fn tend(&self) {
        const ENGINE: Duration = Duration::from_secs(2);
        const SWEEP: u32 = 30;
        let launcher = Arc::clone(&self.launcher);
        // Ends when the pool is closed.
        tokio::spawn(async move { launcher.tend_pool().await });
        let mut round = 0;
        let mut tending: Option<JoinHandle<()>> = None;
        loop {
            tokio::time::sleep(ENGINE).await;
            round = (round + 1) % SWEEP;
            if let Some(settings) = &self.managed {
                match ManagedContainerd::ensure(settings).await {
                    Ok(containerd) if !containerd.adopted() => {
                        // What could not be removed without it is not left for a minute.
                        round = 0;
                        tracing::warn!(
                            pid = containerd.pid(),
                            "containerd was gone and has been started again"
                        );
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(
                        error = chain(&error),
                        "containerd is gone and cannot be started"
                    ),
                }
            }
            match self.ground.repair_network().await {
                Ok(false) => {}
                Ok(true) => tracing::warn!(
                    "the instance's firewall tables, or the node's addresses, were changed; the tables are right again"
                ),
                Err(error) => tracing::error!(
                    error = chain(&error),
                    "the instance's firewall tables are damaged and cannot be put back"
                ),
            }
            if round == 0
                && let Err(failure) = self.launcher.sweep().await
            {
                tracing::warn!(message = failure.message, "failed to sweep");
            }
            // A large home takes its time; the next look waits for it, and nothing else does.
            if round == 1 && tending.as_ref().is_none_or(JoinHandle::is_finished) {
                let launcher = Arc::clone(&self.launcher);
                tending = Some(tokio::spawn(async move {
                    if let Err(failure) = launcher.tend_homes().await {
                        tracing::warn!(
                            message = failure.message,
                            "failed to tend the homes that are set aside"
                        );
                    }
                    if let Err(error) = launcher.tend_images().await {
                        tracing::warn!(error = chain(&error), "failed to remove unused images");
                    }
                }));
            }
        }
    }

    /// Takes the instance-wide parts away if no sandbox is left; otherwise they
    /// stay, because servers outlive their launcher.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.launcher.close().await;
        self.launcher.close_pool().await;
        failpoint::hit("shutdown", "pool");
        if self.launcher.has_live() {
            tracing::info!("sandboxes keep running; the next launcher takes them over");
            return Ok(());
        }
        let mut problems = Vec::new();
        failpoint::hit("shutdown", "begun");
        if let Err(errors) = self.network.remove_all().await {
            problems.extend(errors.iter().map(|error| chain(error)));
        }
        failpoint::hit("shutdown", "network");
        let settings = self.network.settings().clone();
        drop((self.launcher, self.ground, self.network));
        let router = network::remove_namespace(&settings);
        problems.extend(router.err().map(|error| chain(&error)));
        failpoint::hit("shutdown", "router");
        if let Some(settings) = &self.managed {
            let stopped = match ManagedContainerd::ensure(settings).await {
                Ok(containerd) => containerd.stop().await,
                Err(error) => Err(error),
            };
            problems.extend(stopped.err().map(|error| chain(&error)));
            failpoint::hit("shutdown", "engine");
        }
        problems.extend(
            self.cgroups.remove(&self.layout.cgroup_parent()).err().map(|error| chain(&error)),
        );
        problems
            .extend(mounts::unmount_all(&self.layout.sandboxes()).err().map(|error| chain(&error)));
        failpoint::hit("shutdown", "mounts");
        if problems.is_empty() {
            problems
                .extend(remove_run_directory(&self.layout.run).err().map(|error| chain(&error)));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(anyhow!("failed to leave nothing behind: {}", problems.join("; ")))
        }
    }
}

/// What lies in memory for one life of the instance. Only once everything below
/// it has ended, and only if nothing is mounted there.
fn remove_run_directory(run: &Path) -> Result<(), HostError> {
    let mounted = mounts::mount_points().attempt("read", "/proc/self/mountinfo")?;
    if let Some(point) = mounted.iter().find(|point| point.starts_with(run)) {
        return Err(HostError::new(
            "remove",
            run,
            std::io::Error::other(format!("`{}` is still mounted", point.display())),
        ));
    }
    fs::remove_dir_all(run).attempt("remove", run)
}

/// Opens the ledger. One that is absent while homes are there was lost: a new one would
/// turn every user away, and take what runs for nobody's.
fn open_store(
    layout: &Layout,
    owners: &[OwnedHome],
    home_root: &Path,
) -> Result<Store, StoreError> {
    let path = layout.store();
    let homes = owners.iter().filter(|home| names::is_on_disk(&home.name_on_disk)).count();
    if homes > 0 && !Store::is_there(&path) {
        return Err(StoreError::Lost { path, homes, root: home_root.into() });
    }
    Store::open(&path)
}

/// Refuses a containerd with a known hole that the configuration does not accept by name.
pub fn containerd_floor(config: &Config, printed: &str) -> anyhow::Result<Checked> {
    let accepted = &config.containerd.accept_vulnerable;
    adrastea_runtimes::advisories::CONTAINERD.check(printed, accepted).context(
        "this containerd is not used (install a fixed version; to accept the risk, name each hole in containerd.accept_vulnerable)",
    )
}

/// As [`containerd_floor`], and says aloud what was accepted.
fn admit_containerd(config: &Config, printed: &str) -> anyhow::Result<()> {
    let checked = containerd_floor(config, printed)?;
    for hole in &checked.accepted {
        tracing::warn!(version = %checked.version, hole = hole.name, "using a containerd with a known hole, because the configuration accepts it");
    }
    Ok(())
}

/// What the containerd at the configured socket says it is.
pub async fn existing_containerd_version(config: &Config) -> anyhow::Result<String> {
    let socket = config.containerd.socket.clone();
    Ok(Containerd::connect(socket, &config.instance)?.version().await?)
}

async fn connect(
    config: &Config,
    managed: Option<&ManagedSettings>,
) -> anyhow::Result<Arc<dyn Engine>> {
    if let Some(settings) = managed {
        // Before it is started: one with a known hole is not to run at all.
        admit_containerd(config, &commands::output(&settings.binary, &["--version"])?)?;
    }
    let socket = match managed {
        Some(settings) => ManagedContainerd::ensure(settings)
            .await
            .context("failed to start containerd")?
            .socket(),
        None => config.containerd.socket.clone(),
    };
    let engine = Containerd::connect_limited(
        socket,
        &config.instance,
        ImageLimits {
            unpacked_bytes: config.image_store.max_unpacked_size.bytes(),
            files: config.image_store.max_files,
        },
    )?;
    let version = engine.version().await?;
    admit_containerd(config, &version)?;
    tracing::info!(version, "containerd answers");
    Ok(Arc::new(engine))
}

/// The sandboxes that run now: their walls must not open for a moment.
async fn live_attachments(
    config: &Config,
    layout: &Layout,
    store: &Store,
    engine: &dyn Engine,
    pools: Pools,
) -> anyhow::Result<Vec<Live>> {
    let running: Vec<_> = engine
        .list()
        .await?
        .into_iter()
        .filter(|found| found.state == TaskState::Running)
        .map(|found| found.id)
        .collect();
    let mut live = Vec::new();
    for record in store.sandboxes(pools.first_run_id)? {
        if record.state == SandboxState::Running
            && running.iter().any(|id| id == record.id.as_str())
        {
            let address = address(config, record.address_index);
            let sandbox = Sandbox::new(record, address, layout);
            let attachment = node::attachment(&sandbox);
            live.push(Live { attachment, gate: Gate::Open });
        }
    }
    Ok(live)
}
