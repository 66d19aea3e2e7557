//! The life of sandboxes: who may be started, what runs, and how it ends.
//!
//! One order for every runtime: prepare → prove → claim → ready → stop → gone.
//! The registry here holds one [`Entry`] per server; a [`keeper`] per sandbox is
//! the only one that moves it. Knows nothing of the wire's transport.

mod channel;
mod claim;
mod entry;
mod exit;
mod failpoint;
pub mod failure;
mod ground;
mod keeper;
mod log;
pub mod node;
mod prepare;
mod proof;
mod ready;
mod reconcile;
pub mod sandbox;

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use adrastea_proto::v1::{self, Phase};
use adrastea_runtimes::{Runtime, RuntimeSettings, engine::Engine, plan::SandboxId};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::unix::pipe,
    sync::{Semaphore, broadcast, watch},
    task::JoinHandle,
};

pub use entry::{Entry, StartNews, StopWish};
pub use ground::Ground;

use crate::{
    config::Config,
    names::ServerKey,
    policy::Decision,
    store::{DiskIdentity, Facts, NewSandbox, Pools, Store, StoreError, now},
};
use failure::{Failure, chain};
use keeper::Origin;
use sandbox::{Layout, Sandbox};

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
    pub config: Arc<Config>,
    pub engine: Arc<dyn Engine>,
    layout: Layout,
    store: Store,
    ground: Arc<dyn Ground>,
    runtimes: BTreeMap<String, RuntimeState>,
    pools: Pools,
    address: fn(&Config, u32) -> Ipv4Addr,
    /// Starts that are worked on at once; the others queue in order.
    places: Semaphore,
    registry: Mutex<HashMap<ServerKey, Arc<Entry>>>,
    pumps: Mutex<HashMap<SandboxId, Pump>>,
    /// Held by the one sweep there may be at a time.
    sweeping: tokio::sync::Mutex<()>,
    feed: broadcast::Sender<v1::Sandbox>,
}

/// Moves one sandbox's output into its log until told to finish.
struct Pump {
    finish: watch::Sender<bool>,
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
    #[error("this node has {0} sandboxes (rule limits.sandboxes)")]
    NodeFull(u32),
    #[error("this launcher is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Launcher {
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(parts.config.limits.concurrent_starts),
            config: parts.config,
            engine: parts.engine,
            layout: parts.layout,
            store: parts.store,
            ground: parts.ground,
            runtimes: parts.runtimes,
            pools: parts.pools,
            address: parts.address,
            registry: Mutex::default(),
            pumps: Mutex::default(),
            sweeping: tokio::sync::Mutex::default(),
            feed: broadcast::Sender::new(4096),
        })
    }

    /// Begins a start, or joins the one that has the same request id and content.
    pub async fn start(self: &Arc<Self>, decision: Decision) -> Result<Arc<Entry>, StartRefused> {
        let hash = request_hash(&decision);
        loop {
            let in_the_way = {
                let mut registry = lock(&self.registry);
                match registry.get(&decision.key) {
                    Some(entry)
                        if entry.sandbox.record.request_id == decision.request_id.as_str() =>
                    {
                        return if entry.sandbox.record.request_hash == hash {
                            Ok(Arc::clone(entry))
                        } else {
                            Err(StartRefused::RequestReused(
                                decision.request_id.as_str().to_owned(),
                            ))
                        };
                    }
                    Some(entry) if !entry.is_gone() => Arc::clone(entry),
                    _ => return self.begin(&mut registry, decision, hash),
                }
            };
            // The hub starts anew what it believes to be gone: the older one is fenced off first.
            in_the_way.wish_to_stop(StopWish {
                grace: Duration::from_secs(self.config.limits.stop_grace),
                why: "replaced by a newer start".into(),
            });
            in_the_way.wait_gone().await;
        }
    }

    fn begin(
        self: &Arc<Self>,
        registry: &mut HashMap<ServerKey, Arc<Entry>>,
        decision: Decision,
        request_hash: [u8; 32],
    ) -> Result<Arc<Entry>, StartRefused> {
        if self.places.is_closed() {
            return Err(StartRefused::ShuttingDown);
        }
        let live = registry.values().filter(|entry| !entry.is_gone());
        let (mut all, mut of_user) = (0, 0);
        for entry in live {
            all += 1;
            let record = &entry.sandbox.record;
            if record.key.owner() == decision.key.owner()
                && record.facts.profile == decision.profile
            {
                of_user += 1;
            }
        }
        if of_user >= decision.servers_per_user {
            return Err(StartRefused::TooManyServers {
                user: decision.key.user.as_str().to_owned(),
                profile: decision.profile,
                count: of_user,
            });
        }
        if all >= self.config.limits.sandboxes {
            return Err(StartRefused::NodeFull(all));
        }
        let ids = &self.config.identity;
        let identity = self
            .store
            .disk_identity(&decision.key.owner(), ids.first_disk_id..=ids.last_disk_id)?;
        let record = self.store.record_sandbox(
            &NewSandbox {
                id: new_id(),
                key: decision.key.clone(),
                request_id: decision.request_id.clone(),
                request_hash,
                facts: facts(&decision, identity),
            },
            self.pools,
        )?;
        let address = (self.address)(&self.config, record.address_index);
        let sandbox = Sandbox::new(record, address, &self.layout);
        tracing::info!(sandbox = %sandbox.id(), key = %decision.key, ?decision, "starting");
        let entry = Arc::new(Entry::new(
            sandbox,
            self.config.network.server_port,
            Phase::Queued,
            self.feed.clone(),
        ));
        forget_oldest_gone(registry);
        registry.insert(decision.key.clone(), Arc::clone(&entry));
        // Nobody watching is fine.
        let _ = self.feed.send(entry.describe());
        tokio::spawn(keeper::keep(
            Arc::clone(self),
            Arc::clone(&entry),
            Origin::New(Box::new(decision)),
        ));
        Ok(entry)
    }

    /// The runtime of that name, if this node can run it.
    fn runtime(&self, name: &str) -> Result<(&'static dyn Runtime, RuntimeSettings), Failure> {
        let missing = || {
            Failure::new(
                v1::FailureReason::RuntimeMissing,
                format!("runtime `{name}` is not on this node"),
                "an administrator can look with `adrastea doctor`",
            )
        };
        let settings = self.runtimes.get(name).ok_or_else(missing)?.clone()?;
        Ok((adrastea_runtimes::by_name(name).ok_or_else(missing)?, settings))
    }

    pub fn get(&self, key: &ServerKey) -> Option<Arc<Entry>> {
        lock(&self.registry).get(key).cloned()
    }

    /// The servers of one hub, or of all.
    pub fn list(&self, hub: Option<&str>) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = lock(&self.registry)
            .values()
            .filter(|entry| hub.is_none_or(|hub| entry.sandbox.record.key.hub == hub))
            .cloned()
            .collect();
        entries.sort_by(|first, second| first.sandbox.record.key.cmp(&second.sandbox.record.key));
        entries
    }

    /// Every change from now on.
    pub fn feed(&self) -> broadcast::Receiver<v1::Sandbox> {
        self.feed.subscribe()
    }

    pub fn default_grace(&self) -> Duration {
        Duration::from_secs(self.config.limits.stop_grace)
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

    /// No new start from now on; what is queued is given up.
    pub fn close(&self) {
        self.places.close();
    }

    pub fn has_live(&self) -> bool {
        lock(&self.registry).values().any(|entry| !entry.is_gone())
    }

    /// Notices the end of the task, however long that takes.
    fn watch_task(&self, entry: &Arc<Entry>) {
        let (engine, entry) = (Arc::clone(&self.engine), Arc::clone(entry));
        tokio::spawn(async move {
            loop {
                match engine.wait(entry.sandbox.id()).await {
                    Ok(status) => {
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

    /// From now on what the sandbox writes is its log.
    fn pump_log(&self, entry: &Arc<Entry>, receiver: pipe::Receiver) {
        let finish = watch::Sender::new(false);
        let (entry, finished) = (Arc::clone(entry), finish.subscribe());
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
            finish.send_replace(true);
            if tokio::time::timeout(Duration::from_secs(2), &mut task).await.is_err() {
                // A follower that stalls must not have the log written anew after its removal.
                task.abort();
            }
        }
    }
}

/// The answer to "what happened?" is kept for the last thousand servers.
fn forget_oldest_gone(registry: &mut HashMap<ServerKey, Arc<Entry>>) {
    const KEPT: usize = 1000;
    let mut gone: Vec<_> = registry
        .iter()
        .filter(|(_, entry)| entry.is_gone())
        .map(|(key, entry)| (entry.sandbox.record.facts.started_at, key.clone()))
        .collect();
    if gone.len() > KEPT {
        gone.sort();
        for (_, key) in gone.drain(..gone_surplus(gone.len(), KEPT)) {
            registry.remove(&key);
        }
    }
}

/// How many to forget at once, so that it is not done at every start.
const fn gone_surplus(count: usize, kept: usize) -> usize {
    count - kept + kept / 10
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
    hash.finalize().into()
}

fn facts(decision: &Decision, disk: DiskIdentity) -> Facts {
    Facts {
        profile: decision.profile.clone(),
        runtime: decision.runtime.clone(),
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
        started_at: now(),
    }
}
