//! The launcher alone, with many sandboxes: what Start, Get, List and Watch take, what a
//! sandbox costs in memory, what a start writes and allocates. `make bench-load`.
//!
//! Real: wire, policy, queue, ledger with its syncs, registry, feed, logs. Not: engine,
//! host. Measures and never judges.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Figures for people.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod allocations;
mod engine;
mod ground;

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea::{
    api::{self, peer::Callers},
    audit::Audit,
    config::Config,
    launch::{Launcher, Parts, sandbox::Layout},
    store::{Pools, Store},
};
use adrastea_proto::v1::{self, launcher_client::LauncherClient, start_event, watch_event};
use adrastea_runtimes::{RuntimeSettings, engine::EngineImage, plan::IDS_PER_SANDBOX};
use allocations::Counting;
use engine::LeanEngine;
use ground::BareGround;
use hyper_util::rt::TokioIo;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::{net::UnixStream, task::JoinSet};
use tonic::transport::{Channel, Endpoint, Uri};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HUB: &str = "bench";
/// Starts that are asked for at once.
const AT_ONCE: usize = 32;
/// Starts one after the other, before the crowd.
const SINGLE: usize = 20;
/// Descriptors for everything but sandboxes.
const SPARE: u64 = 600;

fn config(sandboxes: usize) -> Config {
    let text = include_str!("../../../docs/adrastea.example.toml");
    let mut config = Config::parse(text, Path::new("example")).expect("the example is valid");
    config.limits.sandboxes = u32::try_from(sandboxes).unwrap() + 1;
    config.limits.concurrent_creates = AT_ONCE;
    config.limits.concurrent_starts = AT_ONCE;
    config
}

struct Bench {
    directory: tempfile::TempDir,
    launcher: Arc<Launcher>,
    layout: Layout,
}

impl Bench {
    fn new(sandboxes: usize) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (state, run) = (directory.path().join("state"), directory.path().join("run"));
        let layout = Layout { instance: "bench".into(), state, run };
        for folder in [layout.logs(), layout.sandboxes()] {
            fs::create_dir_all(folder).unwrap();
        }
        let config = config(sandboxes);
        let named = &config.images["singleuser"];
        let image = EngineImage {
            reference: named.reference.clone(),
            digest: named.digest.clone(),
            layers: vec!["/layer".into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            size_bytes: 1,
        };
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        // Each open log is one here and one in the launcher.
        let open_logs =
            usize::try_from(most.saturating_sub(SPARE)).unwrap().saturating_sub(sandboxes);
        if open_logs < sandboxes {
            println!(
                "of {sandboxes} servers only {open_logs} keep their log open: the hard limit of open files is {most}"
            );
        }
        let engine = LeanEngine::new(image, open_logs);
        let settings = RuntimeSettings {
            binary: "/usr/sbin/runc".into(),
            root: layout.run.join("runc"),
            program: "runc".into(),
            version: "1.3.6".parse().unwrap(),
            machine: None,
            shim: None,
        };
        // Below 2^31 there is room for so many nowhere else.
        let first_run_id = 200_000_000;
        let last = u32::try_from(sandboxes).unwrap();
        let launcher = Launcher::new(Parts {
            layout: layout.clone(),
            store: Store::open(&layout.store()).unwrap(),
            engine: Arc::new(engine),
            ground: Arc::new(BareGround),
            runtimes: BTreeMap::from([("runc".into(), Ok(settings))]),
            pools: Pools {
                first_run_id,
                // Ids are only numbers here: they need not fit below 2^31.
                last_run_id: first_run_id
                    .saturating_add((last + 1).saturating_mul(IDS_PER_SANDBOX)),
                first_address: 0,
                last_address: last + 1,
            },
            address: |_, index| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 1, 0)) + index),
            config: Arc::new(config),
        });
        Self { directory, launcher, layout }
    }

    async fn serve(&self) -> LauncherClient<Channel> {
        self.launcher.reconcile().await.unwrap();
        let socket = self.directory.path().join("launcher.sock");
        let callers = Callers::new([nix::unistd::geteuid().as_raw()]);
        let group = nix::unistd::getegid().as_raw();
        let (serving, path) = (Arc::clone(&self.launcher), socket.clone());
        tokio::spawn(async move {
            api::serve(serving, &path, group, callers, Audit::none(), std::future::pending())
                .await
                .unwrap();
        });
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let connector = tower::service_fn(move |_: Uri| {
            let path = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap();
        LauncherClient::new(channel).max_decoding_message_size(64 << 20)
    }
}

fn key(number: usize) -> v1::ServerKey {
    v1::ServerKey { hub: HUB.into(), user: format!("user-{number}"), server: String::new() }
}

async fn start(client: &mut LauncherClient<Channel>, number: usize) -> Duration {
    let since = Instant::now();
    let request = v1::StartRequest {
        request_id: format!("request-{number}"),
        key: Some(key(number)),
        ready_path: "/api".into(),
        ..Default::default()
    };
    let mut events = client.start(request).await.unwrap().into_inner();
    while let Some(event) = events.message().await.unwrap() {
        match event.event.unwrap() {
            start_event::Event::Ready(_) => return since.elapsed(),
            start_event::Event::Failed(failed) => panic!("{failed:?}"),
            start_event::Event::Progress(_) => {}
        }
    }
    panic!("no end")
}

/// Median, and the worst of a hundred.
fn summary(times: &mut [Duration]) -> serde_json::Value {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        (times[place.min(times.len() - 1)].as_secs_f64() * 1e5).round() / 100.0
    };
    json!({"p50_ms": at(0.5), "p99_ms": at(0.99)})
}

fn resident_kib() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

async fn measure(client: &mut LauncherClient<Channel>) -> serde_json::Value {
    let (mut get, mut list, mut watch) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..200 {
        let since = Instant::now();
        client.get(v1::GetRequest { key: Some(key(number % 50)) }).await.unwrap();
        get.push(since.elapsed());
    }
    for _ in 0..10 {
        let since = Instant::now();
        client.list(v1::ListRequest { hub: HUB.into() }).await.unwrap();
        list.push(since.elapsed());
        let since = Instant::now();
        let request = v1::WatchRequest { hub: HUB.into(), resume_token: String::new() };
        let mut events = client.watch(request).await.unwrap().into_inner();
        while let Some(event) = events.message().await.unwrap() {
            if matches!(event.event, Some(watch_event::Event::Synced(_))) {
                break;
            }
        }
        watch.push(since.elapsed());
    }
    json!({"get": summary(&mut get), "list": summary(&mut list), "watch_until_synced": summary(&mut watch)})
}

async fn run(sandboxes: usize) -> serde_json::Value {
    let bench = Bench::new(sandboxes);
    let mut client = bench.serve().await;
    // One before anything is counted: connections, caches, prepared statements.
    start(&mut client, 0).await;
    let wal = bench.layout.state.join("launcher.sqlite-wal");
    let written = || fs::metadata(&wal).map_or(0, |file| file.len());
    let (before, log) = (allocations::so_far(), written());
    let mut alone = Vec::new();
    for number in 1..=SINGLE {
        alone.push(start(&mut client, number).await);
    }
    let (after, grown) = (allocations::so_far(), written().saturating_sub(log));
    let resident = resident_kib();
    let mut starts = JoinSet::new();
    let (mut times, mut next, since) = (Vec::new(), SINGLE + 1, Instant::now());
    while next < sandboxes || !starts.is_empty() {
        while next < sandboxes && starts.len() < AT_ONCE {
            let mut client = client.clone();
            starts.spawn(async move { start(&mut client, next).await });
            next += 1;
        }
        times.push(starts.join_next().await.unwrap().unwrap());
        if times.len().is_multiple_of(1000) {
            println!("{} of {sandboxes} sandboxes", times.len() + SINGLE + 1);
        }
    }
    let whole = since.elapsed();
    let growth = resident_kib().saturating_sub(resident) as f64 / times.len() as f64;
    let answers = measure(&mut client).await;
    bench.directory.close().unwrap();
    json!({
        "sandboxes": sandboxes,
        "start_alone": summary(&mut alone),
        "start_in_a_crowd": summary(&mut times),
        "starts_per_second": (times.len() as f64 / whole.as_secs_f64()).round(),
        "answers": answers,
        "resident_kib_per_sandbox": (growth * 10.0).round() / 10.0,
        "per_start": {
            "allocations": (after.count - before.count) / SINGLE as u64,
            "allocated_kib": (after.bytes - before.bytes) / SINGLE as u64 / 1024,
            "ledger_log_kib": grown / SINGLE as u64 / 1024,
        },
    })
}

fn main() {
    // Cargo passes `--bench`; a test run of benches passes nothing and measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let wanted =
        std::env::var("SANDBOXES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let report = runtime.block_on(run(wanted));
    let text = format!("{report:#}");
    println!("{text}");
    if let Ok(path) = std::env::var("REPORT") {
        fs::write(path, text + "\n").unwrap();
    }
    // Thousands of sandboxes have no end of their own.
    std::process::exit(0)
}
