//! A canary token goes through a start, a refusal and a failure: it reaches the
//! init's channel and appears nowhere else.

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use adrastea::policy;
use adrastea_runtimes::engine::fake::InitBehaviour;
use tracing::level_filters::LevelFilter;

use crate::world::{World, request};

const CANARY: &str = "canary-4f1b7a9e-token";
/// Arguments can hold a token too.
const ARGUMENT_CANARY: &str = "canary-argument-77c1";

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn contains(data: &[u8], text: &str) -> bool {
    data.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The files below a directory that hold a canary.
fn files_with_canary(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with_canary(&entry.path()));
        } else if kind.is_file() {
            let data = std::fs::read(entry.path()).unwrap();
            if contains(&data, CANARY) || contains(&data, ARGUMENT_CANARY) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

fn with_secrets(user: &str) -> adrastea_proto::v1::StartRequest {
    let mut asked = request(user);
    asked.secret_environment = [("JUPYTERHUB_API_TOKEN".into(), CANARY.into())].into();
    asked.environment = [("MEM_NOTE".into(), CANARY.into())].into();
    asked.arguments = vec![format!("--token={ARGUMENT_CANARY}")];
    asked
}

#[tokio::test]
async fn a_secret_reaches_the_init_and_appears_nowhere_else() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With one dispatcher alone, an event that another test's thread reaches first would be
    // switched off for all threads; with two, each of them is asked.
    let _second = tracing::Dispatch::new(
        tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(io::sink).finish(),
    );
    // One thread runs it all, so this sees everything.
    let _guard = tracing::subscriber::set_default(subscriber);

    let world = World::new();
    let hub = world.boot().await;
    let asked = with_secrets("ana");
    let ready = hub.ask(asked.clone()).await.unwrap().end.unwrap();
    let claim = world.fake.claim(&ready.sandbox_id).unwrap();
    assert!(contains(&claim, CANARY) && contains(&claim, ARGUMENT_CANARY), "the canary is alive");

    let spec = serde_json::to_vec(&world.fake.spec(&ready.sandbox_id).unwrap()).unwrap();
    assert!(!contains(&spec, CANARY) && !contains(&spec, ARGUMENT_CANARY), "the engine was told");
    assert_eq!(files_with_canary(world.directory.path()), Vec::<String>::new(), "while it runs");

    let mut told = format!(
        "{:?} {:?} {:?}",
        hub.get("ana").await,
        world.records(),
        hub.entry("ana").unwrap().sandbox
    );
    let decision = policy::decide(&world.config, &asked).unwrap();
    write!(told, "{decision:?} {asked:?} {decision:#?} {asked:#?}").unwrap();

    // Refusals of every kind.
    let mut reused = asked.clone();
    reused.arguments.push("x".into());
    write!(told, "{:?}", hub.ask(reused).await.unwrap_err()).unwrap();
    let mut denied = with_secrets("ana");
    denied.secret_environment.insert("LD_PRELOAD".into(), CANARY.into());
    write!(told, "{:?}", hub.ask(denied).await.unwrap_err()).unwrap();
    let mut invalid = with_secrets("ana");
    invalid.secret_environment.insert("JUPYTERHUB_X".into(), format!("{CANARY}\0"));
    write!(told, "{:?}", hub.ask(invalid).await.unwrap_err()).unwrap();

    // Failures at every step that can fail.
    for nth in 1..=7 {
        world.ground.fault_at(nth, crate::ground::Fault::Before);
        write!(told, "{:?}", hub.ask(with_secrets("ben")).await).unwrap();
        world.ground.no_fault();
    }
    world.fake.set_behaviour(InitBehaviour::Refuses);
    write!(told, "{:?}", hub.ask(with_secrets("ben")).await).unwrap();
    hub.stop("ana").await;
    hub.stop("ben").await;

    assert!(!told.contains(CANARY) && !told.contains(ARGUMENT_CANARY), "{told}");
    assert_eq!(
        files_with_canary(world.directory.path()),
        Vec::<String>::new(),
        "after it has ended"
    );
    let log = captured.0.lock().unwrap().clone();
    assert!(contains(&log, "starting") && contains(&log, "TRACE"), "the log was captured");
    let line = String::from_utf8_lossy(&log)
        .lines()
        .find(|line| line.contains("canary"))
        .map(str::to_owned);
    assert_eq!(line, None);
    world.assert_nothing_remains().await;
}
