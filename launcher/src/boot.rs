//! Puts a launcher together from its configuration: directories, store, engine,
//! runtimes, network, and takes over what already runs. And takes it apart.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::{
    RuntimeSettings,
    engine::{
        Engine, TaskState,
        containerd::{
            Containerd,
            managed::{ManagedContainerd, ManagedSettings},
        },
    },
};
use anyhow::{Context as _, anyhow};

use crate::{
    config::{Config, ContainerdMode, RuntimeConfig},
    config_check::network_settings,
    home,
    host::{Attempt as _, HostError, cgroups::Hierarchy, commands, directories, mounts, users},
    launch::{
        Launcher, Parts, RuntimeState,
        failure::{Failure, chain},
        node::NodeGround,
        sandbox::{Layout, Sandbox},
    },
    network::{Attachment, Gate, Live, Network, Subnet},
    store::{Pools, SandboxState, Store},
};

/// A launcher on its node.
pub struct Node {
    pub launcher: Arc<Launcher>,
    config: Arc<Config>,
    layout: Layout,
    network: Arc<Network>,
    ground: Arc<NodeGround>,
    cgroups: Hierarchy,
    managed: Option<ManagedSettings>,
}

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

/// Whether this node can run a runtime: it is installed and not below the floor.
pub fn runtime_state(name: &str, runtime: &RuntimeConfig, layout: &Layout) -> RuntimeState {
    let missing =
        |message: String, hint: &str| Failure::new(FailureReason::RuntimeMissing, message, hint);
    let driver = adrastea_runtimes::by_name(name)
        .ok_or_else(|| missing(format!("there is no runtime `{name}`"), ""))?;
    let printed = commands::output(&runtime.binary, &["--version"])
        .map_err(|error| missing(chain(&error), "install it, or set its path under [runtimes]"))?;
    let checked = driver.version_floor().check(&printed, &runtime.accept_vulnerable).map_err(|error| {
        missing(chain(&error), "install a fixed version; to accept the risk, name each hole in runtimes.<name>.accept_vulnerable")
    })?;
    for hole in &checked.accepted {
        tracing::warn!(runtime = name, version = %checked.version, hole = hole.name, "running a runtime with a known way out, because the configuration accepts it");
    }
    Ok(RuntimeSettings { binary: runtime.binary.clone(), root: layout.run.join(name) })
}

impl Node {
    /// Boots: nothing is served before what lives is known.
    pub async fn boot(config: Config) -> anyhow::Result<Self> {
        let layout = layout(&config);
        let group = users::gid_of(&config.access.group)?;
        directories::make_root_directory(&layout.state, 0o711, 0)?;
        directories::make_root_directory(&layout.run, 0o711, 0)?;
        directories::make_root_directory(&layout.run.join("api"), 0o750, group)?;
        directories::make_root_directory(&layout.logs(), 0o700, 0)?;
        directories::make_root_directory(&layout.skeletons(), 0o711, 0)?;
        directories::make_root_directory(&layout.sandboxes(), 0o711, 0)?;
        mounts::make_private(&layout.sandboxes())?;

        let homes = home::driver(&config.home.driver)
            .ok_or_else(|| anyhow!("there is no home driver `{}`", config.home.driver))?;
        let home_root = config.home_root();
        if config.home.root.is_none() {
            directories::make_root_directory(&home_root, 0o711, 0)?;
        }
        let store = Store::open(&layout.store())?;
        let ids = config.identity.clone();
        // A home root that cannot be read shows at the first start, in words; it keeps nobody else from running.
        let highest = homes.highest_owner(&home_root).ok().flatten();
        if let Some(highest) =
            highest.filter(|highest| (ids.first_disk_id..=ids.last_disk_id).contains(highest))
        {
            store.reserve_up_to(highest)?;
        }

        let managed = managed_settings(&config, &layout);
        let engine = connect(&config, managed.as_ref()).await?;
        let runtimes: BTreeMap<_, _> = config
            .runtimes
            .iter()
            .map(|(name, runtime)| (name.clone(), runtime_state(name, runtime, &layout)))
            .collect();
        for (name, state) in &runtimes {
            match state {
                Ok(settings) => {
                    tracing::info!(runtime = name, binary = %settings.binary.display(), "runtime is ready");
                }
                Err(failure) => tracing::error!(
                    runtime = name,
                    message = failure.message,
                    hint = failure.hint,
                    "runtime cannot be used"
                ),
            }
        }

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
        });
        let launcher = Launcher::new(Parts {
            config: Arc::clone(&config),
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
        Ok(Self { launcher, config, layout, network, ground, cgroups, managed })
    }

    /// Keeps the node in order until dropped: the managed engine runs, and what
    /// nobody owns is swept away.
    pub async fn tend(&self) {
        const ENGINE: Duration = Duration::from_secs(2);
        const SWEEP: u32 = 30;
        let mut round = 0;
        loop {
            tokio::time::sleep(ENGINE).await;
            round = (round + 1) % SWEEP;
            if let Some(settings) = &self.managed {
                match ManagedContainerd::ensure(settings).await {
                    Ok(containerd) if !containerd.adopted() => tracing::warn!(
                        pid = containerd.pid(),
                        "containerd was gone and has been started again"
                    ),
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
        }
    }

    /// Takes the instance-wide parts away if no sandbox is left; otherwise they
    /// stay, because servers outlive their launcher.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.launcher.close();
        if self.launcher.has_live() {
            tracing::info!("sandboxes keep running; the next launcher takes them over");
            return Ok(());
        }
        let mut problems = Vec::new();
        if let Err(errors) = self.network.remove_all().await {
            problems.extend(errors.iter().map(|error| chain(error)));
        }
        drop((self.launcher, self.ground, self.network));
        let router =
            crate::host::namespaces::unpin(&Path::new("/run/netns").join(&self.config.instance));
        problems.extend(router.err().map(|error| chain(&error)));
        if let Some(settings) = &self.managed {
            let stopped = match ManagedContainerd::ensure(settings).await {
                Ok(containerd) => containerd.stop().await,
                Err(error) => Err(error),
            };
            problems.extend(stopped.err().map(|error| chain(&error)));
        }
        problems.extend(
            self.cgroups.remove(&self.layout.cgroup_parent()).err().map(|error| chain(&error)),
        );
        problems
            .extend(mounts::unmount_all(&self.layout.sandboxes()).err().map(|error| chain(&error)));
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

async fn connect(
    config: &Config,
    managed: Option<&ManagedSettings>,
) -> anyhow::Result<Arc<dyn Engine>> {
    let socket = match managed {
        Some(settings) => ManagedContainerd::ensure(settings)
            .await
            .context("failed to start containerd")?
            .socket(),
        None => config.containerd.socket.clone(),
    };
    let engine = Containerd::connect(socket, &config.instance)?;
    let version = engine.version().await?;
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
            let attachment = Attachment {
                id: sandbox.id().clone(),
                address,
                network_namespace: sandbox.network_namespace(),
                egress: sandbox.record.facts.egress.clone(),
            };
            live.push(Live { attachment, gate: Gate::Open });
        }
    }
    Ok(live)
}
