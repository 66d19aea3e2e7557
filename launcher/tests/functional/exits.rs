//! How an end is told: its cause, and never an end that is not known.

use std::time::Duration;

use adrastea_proto::v1::{ExitCause, FailureReason, Phase};

use crate::world::{World, request, until};

#[tokio::test]
async fn every_cause_of_an_end_is_told_apart() {
    let cases = [
        (0, 0, ExitCause::Exited, 0, "ended with exit code 0"),
        (7, 0, ExitCause::Exited, 0, "ended with exit code 7"),
        (139, 0, ExitCause::Signaled, 11, "ended by signal 11 (SIGSEGV)"),
        (137, 0, ExitCause::Signaled, 9, "ended by signal 9 (SIGKILL)"),
        (137, 2, ExitCause::OutOfMemory, 9, "out of memory: its limit is 256.0 MiB"),
        (7, 2, ExitCause::Exited, 0, "ended with exit code 7"),
    ];
    for (code, kills, cause, signal, message) in cases {
        let world = World::new();
        world.ground.set_memory_kills(kills);
        let hub = world.boot().await;
        let ready = hub.start("ana").await;
        world.say(&ready.sandbox_id, "goodbye\n");
        world.fake.end(&ready.sandbox_id, code);
        let exit = hub.reaches("ana", Phase::Gone).await.exit.unwrap();
        assert_eq!((exit.cause(), exit.signal, exit.message.as_str()), (cause, signal, message));
        assert_eq!(
            (exit.code, exit.log_tail.as_str()),
            (i32::try_from(code).unwrap(), "goodbye\n")
        );
        let recorded = world.records().remove(0).exit.unwrap();
        assert_eq!((recorded.cause, recorded.message), (i32::from(cause), exit.message));
        world.assert_nothing_remains().await;
    }
}

#[tokio::test]
async fn a_sandbox_that_vanished_is_lost() {
    let world = World::new();
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    world.fake.lose(&ready.sandbox_id);
    let exit = hub.reaches("ana", Phase::Gone).await.exit.unwrap();
    assert_eq!(exit.cause(), ExitCause::Lost);
    assert!(exit.message.contains("lost"));
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn an_engine_that_is_down_fails_starts_and_ends_nobody() {
    let world = World::new();
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    world.fake.set_unavailable(true);
    world.engine.break_waits(true);
    let failed = hub.ask(request("ben")).await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::EngineUnavailable);
    assert!(
        failed.message.contains("does not answer")
            && failed.hint.contains("running servers are not touched"),
        "{failed:?}"
    );
    assert!(hub.launcher.sweep().await.is_err(), "nothing is swept while nothing is known");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
    assert!(!world.diary.lines().iter().any(|line| line.starts_with("unmake container")));

    world.fake.set_unavailable(false);
    world.engine.break_waits(false);
    hub.start("ben").await;
    assert_eq!(hub.get("ana").await.sandbox_id, ready.sandbox_id);
    // The end is noticed again.
    world.fake.end(&ready.sandbox_id, 3);
    assert_eq!(hub.reaches("ana", Phase::Gone).await.exit.unwrap().code, 3);
    hub.stop("ben").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn waits_that_break_end_no_server() {
    let world = World::new();
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    for _ in 0..3 {
        world.engine.break_waits(true);
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.engine.break_waits(false);
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
    world.fake.end(&ready.sandbox_id, 0);
    assert_eq!(hub.reaches("ana", Phase::Gone).await.exit.unwrap().cause(), ExitCause::Exited);
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_an_engine_ends_what_the_kernel_can_reach_and_the_rest_later() {
    let world = World::new();
    let launcher = world.launcher();
    let decision = adrastea::policy::decide(&world.config, &request("ana")).unwrap();
    let key = decision.key.clone();
    let entry = launcher.start(decision).await.unwrap();
    until("ready", || entry.phase() == Phase::Ready).await;
    world.fake.set_unavailable(true);
    world.engine.break_waits(true);
    let wish = adrastea::launch::StopWish {
        grace: Duration::from_millis(10),
        cause: adrastea::launch::StopCause::Asked,
        why: "stopped".into(),
    };
    assert!(launcher.stop(&key, 0, wish).await);
    world.fake.set_unavailable(false);
    world.engine.break_waits(false);
    // No process of it is alive, though the engine still has its container.
    let state = world.engine.fake.clone();
    let found = adrastea_runtimes::engine::Engine::list(&state).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].state, adrastea_runtimes::engine::TaskState::Stopped);
    assert_eq!(launcher.sweep().await.unwrap(), 1);
    world.assert_nothing_remains().await;
}
