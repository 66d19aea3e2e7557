//! Inits that do not play their part, and servers that never answer.

use std::{sync::Arc, time::Duration};

use adrastea::policy;
use adrastea_proto::v1::{ExitCause, FailureReason, Phase};
use adrastea_runtimes::engine::fake::InitBehaviour;

use crate::world::{World, request, until};

#[tokio::test]
async fn an_init_that_refuses_the_claim_fails_the_start_in_its_words() {
    let world = World::new();
    world.fake.set_behaviour(InitBehaviour::Refuses);
    let hub = world.boot().await;
    let failed = hub.ask(request("ana")).await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::Internal);
    assert!(failed.message.contains("refused: told to refuse"), "{failed:?}");
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn an_init_that_ends_before_it_waits_fails_the_start() {
    let world = World::new();
    world.fake.set_behaviour(InitBehaviour::Ends(126));
    let hub = world.boot().await;
    let failed = hub.ask(request("ana")).await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::Internal);
    assert!(failed.message.contains("code 126"), "{failed:?}");
    assert!(!world.diary.lines().iter().any(|line| line == "prove" || line == "attach home"));
    world.assert_nothing_remains().await;
}

#[tokio::test(start_paused = true)]
async fn an_init_that_stays_silent_is_given_up() {
    let world = World::new();
    world.fake.set_behaviour(InitBehaviour::Silent);
    let launcher = world.launcher();
    let since = tokio::time::Instant::now();
    let entry =
        launcher.start(policy::decide(&world.config, &request("ana")).unwrap()).await.unwrap();
    entry.wait_gone().await;
    assert!(since.elapsed() >= Duration::from_secs(30));
    let exit = entry.describe().exit.unwrap();
    assert_eq!(exit.cause(), ExitCause::FailedStart);
    assert!(exit.message.contains("said nothing"), "{exit:?}");
    assert!(
        !world.diary.lines().iter().any(|line| line == "prove"),
        "nothing is proved of a sandbox that is not there"
    );
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_silent_init() {
    let world = World::new();
    world.fake.set_behaviour(InitBehaviour::Silent);
    let hub = world.boot().await;
    let starting = hub.begin(request("ana"));
    until("the init", || world.diary.lines().iter().any(|line| line == "start container")).await;
    let since = std::time::Instant::now();
    assert!(hub.stop("ana").await);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(starting.await.unwrap().failed().reason(), FailureReason::Cancelled);
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_server_that_ends_before_it_answers_tells_its_last_lines() {
    let world = World::new();
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let starting = hub.begin(request("ana"));
    let sandbox = hub.reaches("ana", Phase::Starting).await;
    world.say(
        &sandbox.sandbox_id,
        "Traceback (most recent call last):\nModuleNotFoundError: No module named 'lab'\n",
    );
    world.fake.end(&sandbox.sandbox_id, 1);
    let failed = starting.await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::ServerExited);
    assert!(failed.message.ends_with("ended with exit code 1"), "{failed:?}");
    assert!(failed.log_tail.ends_with("No module named 'lab'\n"), "{failed:?}");
    let exit = hub.reaches("ana", Phase::Gone).await.exit.unwrap();
    assert_eq!((exit.cause(), exit.log_tail), (ExitCause::FailedStart, failed.log_tail));
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_server_that_is_killed_for_memory_before_it_answers_is_told_so() {
    let world = World::new();
    world.ground.set_answers(false);
    world.ground.set_memory_kills(1);
    let hub = world.boot().await;
    let starting = hub.begin(request("ana"));
    let sandbox = hub.reaches("ana", Phase::Starting).await;
    world.fake.end(&sandbox.sandbox_id, 137);
    let failed = starting.await.unwrap().failed();
    assert!(failed.message.contains("out of memory"), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let world = World::with(|config| config.limits.ready_timeout = 1);
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let starting = hub.begin(request("ana"));
    let sandbox = hub.reaches("ana", Phase::Starting).await;
    world.say(&sandbox.sandbox_id, "still loading\n");
    let failed = starting.await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::Timeout);
    assert_eq!(failed.message, "the server did not answer within 1 s");
    assert_eq!(failed.log_tail, "still loading\n");
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn an_init_that_refuses_does_not_spoil_the_next_start() {
    let world = World::new();
    world.fake.set_behaviour(InitBehaviour::Refuses);
    let hub = world.boot().await;
    let launcher = Arc::clone(&hub.launcher);
    hub.ask(request("ana")).await.unwrap().failed();
    world.fake.set_behaviour(InitBehaviour::Claims);
    assert_eq!(hub.start("ana").await.generation, 2);
    assert!(launcher.has_live());
}
