//! The life of sandboxes: who may be started, what runs, and how it ends.
//!
//! One order for every runtime: prepare → prove → claim → ready → stop → gone.
//! The registry here holds one [`Entry`] per server; a [`keeper`] per sandbox is
//! the only one that moves it. Knows nothing of the wire's transport.

mod channel;
mod claim;
mod courtesy;
mod drain;
mod entry;
mod exit;
mod explain;
pub mod failure;
mod feed;
pub mod forget;
mod ground;
pub mod home_trial;
mod image_age;
pub mod images;
mod keeper;
mod log;
mod machine;
mod machine_trial;
pub mod neighbours;
pub mod node;
mod observe;
mod offered;
pub mod pool;
mod prepare;
mod proof;
mod queue;
mod ready;
mod reconcile;
mod registry;
mod runtime_state;
pub mod sandbox;
mod traces;
pub mod turn;
mod unrecorded;
mod user_config;

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

use adrastea_proto::v1::{self, Phase};
use adrastea_runtimes::{RuntimeSettings, engine::Engine, plan::SandboxId};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::unix::pipe,
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};

pub use channel::Channel;
pub use entry::{Entry, StartNews, StopCause, StopWish};
pub use feed::Feed;
pub use ground::{Ground, Refusals, Waiting};
pub use machine_trial::MachineTrial;
pub use proof::broken_filter;
pub use traces::{Trace, Traces};

use crate::{
    config::{Config, ConfigError},
    config_reload::{self, Reload},
    names::ServerKey,
    policy::Decision,
    store::{
        DiskIdentity, Facts, NewSandbox, Pools, SandboxRecord, SandboxState, Store, StoreError, now,
    },
};
use failure::{Failure, chain};
use keeper::Origin;
use queue::Bounds;
use registry::Registry;
use sandbox::{Layout, Sandbox};
use turn::Turns;

/// A runtime of this node: usable, or the reason why not.
pub type RuntimeState = Result<RuntimeSettings, Failure>;

/// Everything a launcher is made of; put together by [`node`] or by a test.
pub struct Parts {
    pub config: Arc<Config>,
    pub layout: Layout,
    pub store: Store,
    pub engine: Arc<dyn Engine>,
    pub ground: Arc<dyn Ground>,
    pub runtimes: BTreeMap<String, RuntimeState>,
    pub pools: Pools,
    /// The address behind a leased number.
    pub address: fn(&Config, u32) -> Ipv4Addr,
}

pub struct Launcher {
    config: RwLock<Arc<Config>>,
    pub engine: Arc<dyn Engine>,
    layout: Layout,
    store: Store,
    ground: Arc<dyn Ground>,
    runtimes: BTreeMap<String, RuntimeState>,
    pools: Pools,
    address: fn(&Config, u32) -> Ipv4Addr,
    /// Who is worked on, and who waits.
    turns: Arc<Turns>,
    /// Creates the engine works on at once: a storm must not take its breath.
    creates: Semaphore,
    /// Removals, apart: a stop does not wait for starts.
    removals: Semaphore,
    /// Starts give way to stops.
    courtesy: courtesy::Courtesy,
    /// Held while a start is entered: one at a time, and nobody else waits for the disk.
    beginning: tokio::sync::Mutex<()>,
    registry: Mutex<Registry>,
    pumps: Mutex<HashMap<SandboxId, Pump>>,
    /// No new start, by the administrator's word.
    drained: AtomicBool,
    /// Ends that wait until the ledger can be written.
    unrecorded: Mutex<Vec<unrecorded::End>>,
    images: images::Images,
    /// Held by the one sweep there may be at a time.
    sweeping: tokio::sync::Mutex<()>,
    /// Every change of every server, for Watch.
    pub feed: Arc<Feed>,
    homes: forget::Homes,
    pool: pool::Pool,
}

/// Removals the engine works on at once.
const CONCURRENT_REMOVALS: usize = 8;

/// Moves one sandbox's output into its log until told to finish.
struct Pump {
    finish: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Why a start was not even begun. Nothing has changed on the host.
#[derive(Debug, thiserror::Error)]
pub enum StartRefused {
    #[error("request `{0}` was used before with other content")]
    RequestReused(String),
    #[error(
        "user `{user}` has {count} servers of profile `{profile}` (rule profiles.{profile}.limits.servers_per_user)"
    )]
    TooManyServers { user: String, profile: String, count: u32 },
    #[error("user `{user}` has {count} servers (rule limits.servers_per_user)")]
    TooManyOfUser { user: String, count: u32 },
    #[error("this node has {0} sandboxes (rule limits.sandboxes)")]
    NodeFull(u32),
    #[error(
        "the disk of the launcher's state directory `{}` is full; running servers are not touched, an administrator has to make room",
        .0.display()
    )]
    DiskFull(PathBuf),
    #[error("this launcher is shutting down")]
    ShuttingDown,
    #[error("this node is being drained: it starts no servers until its administrator says so")]
    Drained,
    #[error(
        "user `{user}` has a running server that {has}; all servers of a user share the home, so this one cannot differ (rule profiles.{profile}.user_config)"
    )]
    MixedUserConfig { user: String, profile: String, has: &'static str },
    #[error("the home of user `{0}` is being moved; try again in a moment")]
    HomeMoving(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Launcher {
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            turns: Turns::new(Bounds {
                preparing: parts.config.limits.concurrent_starts,
                under_way: parts.config.limits.starting_servers(),
            }),
            creates: Semaphore::new(parts.config.limits.concurrent_creates),
            removals: Semaphore::new(CONCURRENT_REMOVALS),
            courtesy: courtesy::Courtesy::default(),
            beginning: tokio::sync::Mutex::default(),
            config: RwLock::new(parts.config),
            engine: parts.engine,
            layout: parts.layout,
            store: parts.store,
            ground: parts.ground,
            runtimes: parts.runtimes,
            pools: parts.pools,
            address: parts.address,
            registry: Mutex::default(),
            pumps: Mutex::default(),
            drained: AtomicBool::new(false),
            unrecorded: Mutex::default(),
            images: images::Images::default(),
            sweeping: tokio::sync::Mutex::default(),
            feed: Arc::default(),
            homes: forget::Homes::default(),
            pool: pool::Pool::default(),
        })
    }

    /// Begins a start, or joins the one that has the same request id and content.
    pub async fn start(self: &Arc<Self>, decision: Decision) -> Result<Arc<Entry>, StartRefused> {
        let hash = request_hash(&decision);
        loop {
            let in_the_way = {
                let _alone = self.beginning.lock().await;
                match self.get(&decision.key) {
                    Some(entry)
                        if entry.sandbox.record.request_id == decision.request_id.as_str() =>
                    {
                        return if entry.sandbox.record.request_hash == hash {
                            Ok(entry)
                        } else {
                            Err(StartRefused::RequestReused(
                                decision.request_id.as_str().to_owned(),
                            ))
                        };
                    }
                    Some(entry) if !entry.is_gone() => entry,
                    _ => match self.begin(&decision, hash) {
                        // What waits for nobody in particular holds what somebody needs.
                        Err(StartRefused::Store(StoreError::Exhausted { .. }))
                            if self.give_slot_up().await =>
                        {
                            continue;
                        }
                        begun => return begun,
                    },
                }
            };
            // A start that will be refused must not end anybody.
            self.may_begin()?;
            // The hub starts anew what it believes to be gone: the older one is fenced off first.
            in_the_way.wish_to_stop(StopWish {
                grace: Duration::from_secs(self.config().limits.stop_grace),
                cause: StopCause::Replaced,
                why: "replaced by a newer start of the same server".into(),
            });
            in_the_way.wait_gone().await;
        }
    }

    /// The configuration as it holds now. Whoever decides takes it once.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the configuration again. What runs keeps what it was given; on an error the old one holds on.
    pub fn reload(&self) -> Result<Reload, ConfigError> {
        let mut held = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let reload = config_reload::merge(&held, Config::load(&held.source, true)?)?;
        *held = Arc::new(reload.config.clone());
        drop(held);
        self.pool.wake();
        tracing::info!(changed = ?reload.changed, needs_restart = ?reload.needs_restart, "took over the configuration");
        Ok(reload)
    }

    /// Whether this start fits with what runs. Looks only.
    fn may_begin_this(&self, decision: &Decision) -> Result<(), StartRefused> {
        let owner = decision.key.owner();
        let user = decision.key.user.as_str().to_owned();
        if self.home_is_moving(&owner)? {
            return Err(StartRefused::HomeMoving(user));
        }
        let (mut of_user, mut of_profile, mut other_config) = (0, 0, false);
        let too_many = {
            let registry = lock(&self.registry);
            // A newer start of the same server takes its place.
            let live = registry
                .of_owner(&owner)
                .filter(|(key, entry)| **key != decision.key && !entry.is_gone());
            for (_, entry) in live {
                let facts = &entry.sandbox.record.facts;
                of_user += 1;
                of_profile += u32::from(facts.profile == decision.profile);
                other_config |= facts.ignore_user_config != decision.ignore_user_config;
            }
            registry.too_many_besides(&decision.key, self.config().limits.sandboxes)
        };
        let profile = decision.profile.clone();
        if of_profile >= decision.servers_per_user {
            return Err(StartRefused::TooManyServers { user, profile, count: of_profile });
        }
        if self.config().limits.servers_per_user.is_some_and(|most| of_user >= most) {
            return Err(StartRefused::TooManyOfUser { user, count: of_user });
        }
        if other_config {
            // One could uncover, in the shared home, what is covered for the other.
            let has = if decision.ignore_user_config {
                "uses the user's configuration"
            } else {
                "ignores the user's configuration"
            };
            return Err(StartRefused::MixedUserConfig { user, profile, has });
        }
        too_many.map_or(Ok(()), |all| Err(StartRefused::NodeFull(all)))
    }

    /// Enters a new start. The caller holds [`Self::beginning`]; the registry is
    /// not locked while the disk is waited for.
    fn begin(
        self: &Arc<Self>,
        decision: &Decision,
        request_hash: [u8; 32],
    ) -> Result<Arc<Entry>, StartRefused> {
        self.may_begin()?;
        self.may_begin_this(decision)?;
        let (record, slot) = self.record(decision, request_hash).map_err(|error| {
            if error.is_full() {
                StartRefused::DiskFull(self.layout.state.clone())
            } else {
                StartRefused::Store(error)
            }
        })?;
        let address = (self.address)(&self.config(), record.address_index);
        let sandbox = Sandbox::new(record, address, &self.layout);
        tracing::info!(sandbox = %sandbox.id(), key = %decision.key, waited = slot.is_some(), ?decision, "starting");
        let entry = Arc::new(Entry::new(
            sandbox,
            self.config().network.server_port,
            Phase::Queued,
            Arc::clone(&self.feed),
        ));
        {
            let mut registry = lock(&self.registry);
            registry.forget_oldest_gone();
            self.feed.publish(|| {
                registry.insert(decision.key.clone(), Arc::clone(&entry));
                ((), Some(entry.describe()))
            });
        }
        tokio::spawn(keeper::keep(
            Arc::clone(self),
            Arc::clone(&entry),
            Origin::New(Box::new(decision.clone()), slot.map(Box::new)),
        ));
        Ok(entry)
    }

    /// Reserves what a sandbox needs, and writes it down; or takes a slot that has it.
    fn record(
        self: &Arc<Self>,
        decision: &Decision,
        request_hash: [u8; 32],
    ) -> Result<(SandboxRecord, Option<pool::Slot>), StoreError> {
        // The server's earlier sandbox may have ended while nothing could be written.
        self.settle()?;
        let config = self.config();
        let range = config.identity.first_disk_id..=config.identity.last_disk_id;
        let identity = self.store.disk_identity(&decision.key.owner(), range)?;
        let new = NewSandbox {
            id: new_id(),
            key: decision.key.clone(),
            request_id: decision.request_id.clone(),
            request_hash,
            facts: facts(decision, identity),
        };
        if let Some((record, slot)) = self.take_slot(decision, &new)? {
            return Ok((record, Some(slot)));
        }
        Ok((self.store.record_sandbox(&new, self.pools)?, None))
    }

    pub fn get(&self, key: &ServerKey) -> Option<Arc<Entry>> {
        lock(&self.registry).get(key).cloned()
    }

    /// The servers of one hub, or of all, in the order of their keys.
    pub fn list(&self, hub: Option<&str>) -> Vec<Arc<Entry>> {
        lock(&self.registry)
            .values()
            .filter(|entry| hub.is_none_or(|hub| entry.sandbox.record.key.hub == hub))
            .cloned()
            .collect()
    }

    /// The servers of one hub as they are at one moment, and that moment's number in the feed.
    pub fn snapshot(&self, hub: &str) -> (u64, Vec<v1::Sandbox>) {
        let registry = lock(&self.registry);
        self.feed.snapshot(|| {
            let of_hub = registry.values().filter(|entry| entry.sandbox.record.key.hub == hub);
            of_hub.map(|entry| entry.describe()).collect()
        })
    }

    pub fn default_grace(&self) -> Duration {
        Duration::from_secs(self.config().limits.stop_grace)
    }

    /// Stops a server and returns when nothing of it is left. True if there was one.
    pub async fn stop(&self, key: &ServerKey, generation: u64, wish: StopWish) -> bool {
        let Some(entry) = self.get(key) else { return false };
        if entry.is_gone() || (generation != 0 && entry.sandbox.record.generation != generation) {
            return false;
        }
        entry.wish_to_stop(wish);
        entry.wait_gone().await;
        true
    }

    /// Stops every server; returns how many there were.
    pub async fn stop_all(&self, wish: &StopWish) -> u32 {
        let live: Vec<_> = self.list(None).into_iter().filter(|entry| !entry.is_gone()).collect();
        for entry in &live {
            entry.wish_to_stop(wish.clone());
        }
        for entry in &live {
            entry.wait_gone().await;
        }
        u32::try_from(live.len()).unwrap_or(u32::MAX)
    }

    /// No new start from now on; what is queued is given up. Returns when none is being entered.
    pub async fn close(&self) {
        self.turns.close();
        drop(self.beginning.lock().await);
    }

    pub fn has_live(&self) -> bool {
        lock(&self.registry).values().any(|entry| !entry.is_gone())
    }

    /// Notices the end of the task, however long that takes.
    fn watch_task(&self, entry: &Arc<Entry>) {
        let (engine, entry) = (Arc::clone(&self.engine), Arc::clone(entry));
        let killed = self.code_of_killed(&entry);
        tokio::spawn(async move {
            loop {
                match engine.wait(entry.sandbox.id()).await {
                    Ok(mut status) => {
                        if killed == Some(status.code) {
                            status.code = exit::KILLED;
                        }
                        entry.ended.send_replace(Some(status));
                        return;
                    }
                    // Unknown is not dead: ask again.
                    Err(error) => {
                        tracing::warn!(sandbox = %entry.sandbox.id(), error = chain(&error), "failed to wait for the task");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
        });
    }

    /// What the shim says instead of [`exit::KILLED`], if it is one of the runtime's own.
    fn code_of_killed(&self, entry: &Entry) -> Option<u32> {
        let facts = &entry.sandbox.record.facts;
        let settings = self.runtimes.get(&facts.runtime)?.as_ref().ok()?;
        settings.shim.as_ref()?;
        Some(adrastea_runtimes::by_name(facts.driver_name())?.own_shim()?.killed)
    }

    /// From now on what the sandbox writes is its log.
    fn pump_log(&self, entry: &Arc<Entry>, receiver: pipe::Receiver) {
        let (finish, finished) = oneshot::channel();
        let entry = Arc::clone(entry);
        let id = entry.sandbox.id().clone();
        let task = tokio::spawn(async move {
            log::pump(receiver, &entry.log, finished).await;
        });
        lock(&self.pumps).insert(id, Pump { finish, task });
    }

    /// Takes what is still in the channel, then ends the pump.
    async fn finish_log(&self, id: &SandboxId) {
        let pump = lock(&self.pumps).remove(id);
        if let Some(Pump { finish, mut task }) = pump {
            let _ = finish.send(());
            if tokio::time::timeout(Duration::from_secs(2), &mut task).await.is_err() {
                // A follower that stalls must not have the log written anew after its removal.
                task.abort();
            }
        }
    }
}

/// A letter and eleven characters of a random number.
fn new_id() -> SandboxId {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let text = format!("s{}", &random[..SandboxId::LENGTH - 1]);
    // Twelve characters of [s0-9a-f] are always a valid id.
    text.parse().unwrap_or_else(|_| new_id())
}

/// Names a request's content. Not the content: the hash is stored, secrets are not.
fn request_hash(decision: &Decision) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(decision.key.to_string().as_bytes());
    for text in [&decision.profile, &decision.runtime, &decision.image.digest, &decision.ready_path]
    {
        part(text.as_bytes());
    }
    for number in [decision.memory_bytes, decision.cpu_millis, decision.command.len() as u64] {
        part(&number.to_le_bytes());
    }
    for argument in &decision.command {
        part(argument.as_bytes());
    }
    for (name, value) in &decision.environment {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    part(&[u8::from(decision.ignore_user_config)]);
    hash.finalize().into()
}

/// The record that a granted start would have: to explain it, and to try what comes of it.
pub fn sketch(
    id: SandboxId,
    decision: &Decision,
    disk_id: u32,
    run_range_first: u32,
) -> SandboxRecord {
    SandboxRecord {
        id,
        key: decision.key.clone(),
        generation: 0,
        request_id: String::new(),
        request_hash: Vec::new(),
        state: SandboxState::Starting,
        facts: facts(decision, DiskIdentity { uid: disk_id, gid: disk_id }),
        run_range_first,
        address_index: 0,
        exit: None,
    }
}

fn facts(decision: &Decision, disk: DiskIdentity) -> Facts {
    Facts {
        profile: decision.profile.clone(),
        runtime: decision.runtime.clone(),
        runtime_kind: decision.runtime_kind.clone(),
        image_reference: decision.image.reference.clone(),
        image_digest: decision.image.digest.clone(),
        egress: decision.egress.clone(),
        uid_inside: decision.user.uid,
        gid_inside: decision.user.gid,
        home_inside: decision.user.home.clone(),
        disk_uid: disk.uid,
        disk_gid: disk.gid,
        memory_bytes: decision.memory_bytes,
        cpu_millis: decision.cpu_millis,
        processes: decision.processes,
        open_files: decision.open_files,
        tmp_bytes: decision.tmp_bytes,
        shm_bytes: decision.shm_bytes,
        log_bytes: decision.log_bytes,
        ignore_user_config: decision.ignore_user_config,
        home_mapped: false,
        started_at: now(),
    }
}

#[cfg(test)]
mod any_request;
