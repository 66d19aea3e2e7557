//! A node to try launchers on: a directory, a fake engine and a stand-in ground
//! that outlive every launcher, and hubs that talk to it over the real socket.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea::{
    api::{self, peer::Callers},
    audit::{Audit, Settings},
    config::Config,
    launch::{Entry, Launcher, Parts, RuntimeState, sandbox::Layout},
    names::ServerKey,
    store::{Pools, SandboxRecord, SandboxState, Store},
};
use adrastea_proto::v1::{self, Phase, launcher_client::LauncherClient, start_event};
use adrastea_runtimes::{
    RuntimeSettings,
    engine::{Engine as _, EngineImage, fake::FakeEngine},
    plan::{IDS_PER_SANDBOX, SandboxId},
};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::UnixStream, runtime::Runtime};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{diary::Diary, engine::WatchedEngine, ground::StandInGround};

pub const HUB: &str = "campus";
/// The leases there are.
pub const LEASES: u32 = 10;

pub struct World {
    pub directory: TempDir,
    pub config: Config,
    pub fake: FakeEngine,
    pub engine: Arc<WatchedEngine>,
    pub ground: Arc<StandInGround>,
    pub diary: Diary,
    pub layout: Layout,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config =
            Config::parse(include_str!("policy.toml"), Path::new("policy.toml")).unwrap();
        change(&mut config);
        let directory = tempfile::tempdir().unwrap();
        let (state, run) = (directory.path().join("state"), directory.path().join("run"));
        let layout = Layout { instance: "functional".into(), state, run };
        for folder in [layout.logs(), layout.sandboxes()] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let fake = FakeEngine::new();
        for image in config.images.values() {
            fake.add_image(EngineImage {
                reference: image.reference.clone(),
                digest: image.digest.clone(),
                layers: vec!["/layer".into()],
                environment: [
                    "PATH=/image/bin",
                    "FROM_IMAGE=yes",
                    "LD_PRELOAD=/evil.so",
                    "LANG=image",
                ]
                .iter()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
                size_bytes: 1,
            });
        }
        let diary = Diary::new(&layout.store());
        let ground =
            StandInGround::new(diary.clone(), fake.clone(), layout.sandboxes(), layout.logs());
        let engine = WatchedEngine::new(fake.clone(), diary.clone());
        Self {
            directory,
            config,
            fake,
            engine: Arc::new(engine),
            ground: Arc::new(ground),
            diary,
            layout,
        }
    }

    pub fn pools(&self) -> Pools {
        let first_run_id = self.config.identity.first_run_id;
        Pools {
            first_run_id,
            last_run_id: first_run_id + LEASES * IDS_PER_SANDBOX - 1,
            first_address: 0,
            last_address: LEASES - 1,
        }
    }

    /// A launcher as it is before it looks around.
    pub fn launcher(&self) -> Arc<Launcher> {
        let settings = |name: &str| {
            let (program, version) = match name {
                "gvisor" => ("runsc", "20260914.0.0"),
                _ => ("runc", "1.3.6"),
            };
            RuntimeSettings {
                binary: format!("/usr/sbin/{program}").into(),
                program: program.into(),
                root: self.layout.runtime_root(name),
                version: version.parse().unwrap(),
                machine: None,
                shim: None,
            }
        };
        let names = self.config.runtimes.keys();
        let runtimes: BTreeMap<String, RuntimeState> =
            names.map(|name| (name.clone(), Ok(settings(name)))).collect();
        Launcher::new(Parts {
            config: Arc::new(self.config.clone()),
            layout: self.layout.clone(),
            store: self.store(),
            engine: self.engine.clone(),
            ground: self.ground.clone(),
            runtimes,
            pools: self.pools(),
            address: |_, index| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 88, 1, 0)) + index),
        })
    }

    pub fn store(&self) -> Store {
        Store::open(&self.layout.store()).unwrap()
    }

    pub fn records(&self) -> Vec<SandboxRecord> {
        self.store().sandboxes(self.pools().first_run_id).unwrap()
    }

    /// A launcher that has taken over what was there, and a hub at its socket.
    pub async fn boot(&self) -> Hub {
        let launcher = self.launcher();
        launcher.reconcile().await.unwrap();
        self.serve(launcher).await
    }

    pub async fn serve(&self, launcher: Arc<Launcher>) -> Hub {
        let socket = self.directory.path().join("launcher.sock");
        let _ = std::fs::remove_file(&socket);
        let callers = Callers::new([nix::unistd::geteuid().as_raw()]);
        let group = nix::unistd::getegid().as_raw();
        let audit = Audit::open(self.audit_settings(), "functional").unwrap();
        let (serving, path) = (Arc::clone(&launcher), socket.clone());
        tokio::spawn(async move {
            api::serve(serving, &path, group, callers, audit, std::future::pending())
                .await
                .unwrap();
        });
        until("the socket", || socket.exists()).await;
        let connector = service_fn(move |_: Uri| {
            let path = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap();
        Hub { launcher, client: LauncherClient::new(channel.clone()), channel }
    }

    pub fn audit_settings(&self) -> Settings {
        let path = self.directory.path().join("audit.jsonl");
        Settings { path, largest: 1 << 20, keep: 3 }
    }

    /// What the server of this sandbox writes.
    pub fn say(&self, id: &str, text: &str) {
        let path = self.layout.sandbox_directory(id).join("io/stdout");
        let mut fifo = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .unwrap();
        fifo.write_all(text.as_bytes()).unwrap();
    }

    /// The ids of all containers the engine has.
    pub async fn containers(&self) -> Vec<String> {
        self.fake.list().await.unwrap().into_iter().map(|found| found.id).collect()
    }

    /// Nothing of any sandbox is left: not on the ground, in the engine, on disk, or leased.
    pub async fn assert_nothing_remains(&self) {
        self.diary.assert_innocent();
        assert_eq!(self.containers().await, Vec::<String>::new(), "containers remain");
        assert!(self.diary.left().is_empty(), "the ground still has {:?}", self.diary.left());
        for folder in [self.layout.sandboxes(), self.layout.logs()] {
            let left: Vec<_> = std::fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert!(left.is_empty(), "{} still has {left:?}", folder.display());
        }
        let store = self.store();
        for record in self.records() {
            assert_eq!(record.state, SandboxState::Gone, "{} is not gone", record.id);
            assert_eq!(
                store.steps(&record.id).unwrap(),
                [],
                "{} has steps in the journal",
                record.id
            );
            assert_eq!(
                (record.run_range_first, record.address_index),
                (0, 0),
                "{} still holds leases",
                record.id
            );
        }
    }
}

/// A launcher in a runtime of its own: dropped, it dies at once, wherever it is.
pub struct Life {
    runtime: Runtime,
}

impl Life {
    pub fn new() -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    /// One whose clock jumps over every wait.
    pub fn paused() -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap(),
        }
    }

    /// Nothing moves but while this runs.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

/// Looks again and again, for ten seconds at most.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn key(user: &str) -> v1::ServerKey {
    v1::ServerKey { hub: HUB.into(), user: user.into(), server: String::new() }
}

/// A start with an id nobody has used.
pub fn request(user: &str) -> v1::StartRequest {
    v1::StartRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        key: Some(key(user)),
        ready_path: format!("/user/{user}/api"),
        ..Default::default()
    }
}

/// How a start went: the phases it told of, in order, and its end.
#[derive(Debug)]
pub struct Story {
    pub progress: Vec<v1::Progress>,
    pub end: Result<v1::Ready, v1::Failed>,
}

impl Story {
    pub fn phases(&self) -> Vec<Phase> {
        self.progress.iter().map(v1::Progress::phase).collect()
    }

    pub fn failed(self) -> v1::Failed {
        self.end.expect_err("it started")
    }
}

#[derive(Clone)]
pub struct Hub {
    pub launcher: Arc<Launcher>,
    pub client: LauncherClient<Channel>,
    pub channel: Channel,
}

impl Hub {
    pub async fn ask(&self, request: v1::StartRequest) -> Result<Story, Status> {
        let mut events = self.client.clone().start(request).await?.into_inner();
        let mut progress = Vec::new();
        while let Some(event) = events.message().await? {
            match event.event.unwrap() {
                start_event::Event::Progress(step) => progress.push(step),
                start_event::Event::Ready(ready) => return Ok(Story { progress, end: Ok(ready) }),
                start_event::Event::Failed(failed) => {
                    return Ok(Story { progress, end: Err(failed) });
                }
            }
        }
        panic!("the start told no end")
    }

    /// A start under way.
    pub fn begin(&self, request: v1::StartRequest) -> tokio::task::JoinHandle<Story> {
        let hub = self.clone();
        tokio::spawn(async move { hub.ask(request).await.unwrap() })
    }

    pub async fn start(&self, user: &str) -> v1::Ready {
        self.ask(request(user)).await.unwrap().end.expect("it started")
    }

    pub async fn stop(&self, user: &str) -> bool {
        self.stop_with(user, Some(0), 0).await
    }

    pub async fn stop_with(&self, user: &str, grace_ms: Option<u32>, generation: u64) -> bool {
        let request = v1::StopRequest { key: Some(key(user)), grace_ms, generation };
        self.client.clone().stop(request).await.unwrap().into_inner().stopped
    }

    pub async fn get(&self, user: &str) -> v1::Sandbox {
        self.client.clone().get(v1::GetRequest { key: Some(key(user)) }).await.unwrap().into_inner()
    }

    pub fn entry(&self, user: &str) -> Option<Arc<Entry>> {
        self.launcher.get(&ServerKey::new(HUB, user, "").unwrap())
    }

    pub async fn reaches(&self, user: &str, phase: Phase) -> v1::Sandbox {
        let what = format!("{user} is {}", phase.as_str_name());
        until(&what, || self.entry(user).is_some_and(|entry| entry.phase() == phase)).await;
        self.get(user).await
    }
}

pub fn id(text: &str) -> SandboxId {
    text.parse().unwrap()
}
