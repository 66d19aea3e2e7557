//! The fake does what tests of the launcher lean on.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nix::{sys::stat::Mode, unistd::mkfifo};
use tokio::{io::AsyncBufReadExt, time::timeout};

use super::*;
use crate::engine::HandlerOptions;

async fn started(engine: &FakeEngine, io: &Path) -> (SandboxId, pipe::Receiver, pipe::Sender) {
    let stdio = Stdio { stdin: io.join("stdin"), stdout: io.join("stdout") };
    for path in [&stdio.stdin, &stdio.stdout] {
        mkfifo(path, Mode::S_IRWXU).unwrap();
    }
    let mut options = pipe::OpenOptions::new();
    let output = options.read_write(true).open_receiver(&stdio.stdout).unwrap();
    let input = options.open_sender(&stdio.stdin).unwrap();
    let id: SandboxId = "abcdefghijkl".parse().unwrap();
    let options = HandlerOptions::Runc { binary: "/r".into(), root: "/s".into() };
    let handler = Handler { runtime: "x".to_owned(), options, annotation: None };
    engine.create(&id, &Spec::default(), &handler, &stdio).await.unwrap();
    engine.start(&id).await.unwrap();
    (id, output, input)
}

async fn line(output: &mut tokio::io::BufReader<pipe::Receiver>) -> String {
    let mut line = String::new();
    timeout(Duration::from_secs(5), output.read_line(&mut line)).await.unwrap().unwrap();
    line
}

#[tokio::test]
async fn it_plays_the_init_from_waiting_to_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let engine = FakeEngine::new();
    let (id, output, mut input) = started(&engine, directory.path()).await;
    let mut output = tokio::io::BufReader::new(output);
    assert_eq!(
        line(&mut output).await,
        "adrastea-init 1 waiting, landlock 0, filter lets through:\n"
    );
    input.write_all(b"ADRCLAIM1\n\x03\x00\x00\x00abc").await.unwrap();
    assert_eq!(line(&mut output).await, "adrastea-init 1 claimed\n");
    assert_eq!(engine.claim(id.as_str()).unwrap(), b"abc");

    engine.end(id.as_str(), 3);
    let status = ExitStatus { code: 3, known: true };
    assert_eq!(engine.wait(&id).await.unwrap(), status);
    engine.delete(&id).await.unwrap();
    engine.delete(&id).await.unwrap();
    assert!(engine.list().await.unwrap().is_empty());
    assert_eq!(engine.calls()[..2], ["create abcdefghijkl", "start abcdefghijkl"]);
}

#[tokio::test]
async fn it_refuses_a_wrong_claim_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let engine = FakeEngine::new();
    let (id, output, mut input) = started(&engine, directory.path()).await;
    let mut output = tokio::io::BufReader::new(output);
    line(&mut output).await;
    input.write_all(b"ADRCLAIM9\n\x00\x00\x00\x00").await.unwrap();
    assert!(line(&mut output).await.starts_with("adrastea-init 1 refused: "));
    assert_eq!(engine.wait(&id).await.unwrap().code, 125);
}

#[tokio::test]
async fn it_fails_at_the_call_it_was_told_and_only_there() {
    let engine = FakeEngine::new();
    engine.fail_at(2);
    engine.version().await.unwrap();
    assert!(matches!(engine.list().await, Err(EngineError::Failed { .. })));
    engine.list().await.unwrap();
    engine.set_unavailable(true);
    assert!(matches!(engine.list().await, Err(EngineError::Unavailable { .. })));
}
