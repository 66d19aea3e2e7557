//! A stop in every phase, and servers that do not want to end.

use std::time::{Duration, Instant};

use adrastea_proto::v1::{ExitCause, FailureReason, Phase};

use crate::{
    ground::Fault,
    world::{HUB, World, request},
};

#[tokio::test]
async fn a_stop_while_queued_changes_nothing_on_the_host() {
    let world = World::with(|config| {
        config.limits.concurrent_starts = 1;
        config.limits.starting_servers = Some(1);
    });
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let first = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    world.diary.forget_lines();
    let second = hub.begin(request("ben"));
    hub.reaches("ben", Phase::Queued).await;
    assert!(hub.stop("ben").await);
    let story = second.await.unwrap();
    assert!(story.phases().iter().all(|phase| *phase == Phase::Queued), "{story:?}");
    assert_eq!(story.failed().reason(), FailureReason::Cancelled);
    assert!(world.diary.lines().is_empty(), "{:?}", world.diary.lines());
    world.ground.set_answers(true);
    first.await.unwrap().end.unwrap();
    hub.stop("ana").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn the_queue_is_served_in_order_and_a_failure_frees_its_place() {
    let world = World::with(|config| {
        config.limits.concurrent_starts = 1;
        config.limits.starting_servers = Some(1);
    });
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let (before, _) = hub.launcher.snapshot(HUB);
    let first = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    let mut waiting = Vec::new();
    for user in ["zoe", "ben", "eva", "dan"] {
        waiting.push(hub.begin(request(user)));
        hub.reaches(user, Phase::Queued).await;
    }
    // Whoever gives up while queued holds nobody up, nor does the one that fails in the middle.
    hub.stop("ben").await;
    world.fake.end(&hub.get("ana").await.sandbox_id, 1);
    first.await.unwrap().failed();
    world.ground.set_answers(true);
    let mut started = Vec::new();
    for start in waiting {
        started.push(start.await.unwrap().end.is_ok());
    }
    assert_eq!(started, [true, false, true, true]);
    let mut prepared = Vec::new();
    for change in hub.launcher.feed.after(before).unwrap() {
        if change.sandbox.phase() == Phase::Preparing {
            prepared.push(change.sandbox.key.clone().unwrap().user);
        }
    }
    assert_eq!(prepared, ["ana", "zoe", "eva", "dan"]);
}

#[tokio::test]
async fn a_stop_during_each_step_finishes_the_step_and_undoes_it() {
    // A step that is under way is never cut; the wish counts between two.
    for nth in 1..=7 {
        let world = World::new();
        let hub = world.boot().await;
        let starting = hub.begin(request("ana"));
        let steps = [
            "make directory",
            "make namespaces",
            "make network",
            "make rootfs",
            "prove",
            "attach home",
            "open egress",
        ];
        let step = steps[nth - 1];
        crate::world::until(step, || {
            world.diary.lines().iter().any(|line| line == step) || starting.is_finished()
        })
        .await;
        assert!(hub.stop("ana").await || starting.is_finished());
        if let Err(failed) = starting.await.unwrap().end {
            assert_eq!(failed.reason(), FailureReason::Cancelled, "{step}: {failed:?}");
        }
        assert_eq!(hub.get("ana").await.phase(), Phase::Gone);
        world.assert_nothing_remains().await;
    }
}

#[tokio::test]
async fn a_stop_while_preparing_is_heard_at_the_next_step() {
    let world = World::new();
    let launcher = world.launcher();
    let decision = adrastea::policy::decide(&world.config, &request("ana")).unwrap();
    let key = decision.key.clone();
    let entry = launcher.start(decision).await.unwrap();
    // Wished before the keeper has run at all.
    let wish = adrastea::launch::StopWish {
        grace: Duration::ZERO,
        cause: adrastea::launch::StopCause::Asked,
        why: "no more".into(),
    };
    assert!(launcher.stop(&key, 0, wish).await);
    assert_eq!(entry.phase(), Phase::Gone);
    assert!(
        !world.diary.lines().iter().any(|line| line == "create container"),
        "{:?}",
        world.diary.lines()
    );
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_stop_while_the_server_is_awaited_cancels_the_start() {
    let world = World::new();
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let starting = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    assert!(hub.stop("ana").await);
    assert_eq!(starting.await.unwrap().failed().reason(), FailureReason::Cancelled);
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn whoever_asked_may_go_away_and_the_start_goes_on() {
    let world = World::new();
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let asked = request("ana");
    let starting = hub.begin(asked.clone());
    hub.reaches("ana", Phase::Starting).await;
    starting.abort();
    world.ground.set_answers(true);
    hub.reaches("ana", Phase::Ready).await;
    hub.ask(asked).await.unwrap().end.unwrap();
}

#[tokio::test]
async fn a_stubborn_server_gets_sigterm_and_after_the_grace_sigkill() {
    let world = World::new();
    world.fake.set_stubborn(true);
    let hub = world.boot().await;
    hub.start("ana").await;
    world.diary.forget_lines();
    let since = Instant::now();
    assert!(hub.stop_with("ana", Some(300), 0).await);
    assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
    assert_eq!(world.diary.lines()[..3], ["kill 15", "kill 9", "delete container"]);
    assert_eq!(hub.get("ana").await.exit.unwrap().cause(), ExitCause::Stopped);
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_server_that_heeds_sigterm_gets_no_sigkill_and_nobody_waits() {
    let world = World::new();
    let hub = world.boot().await;
    hub.start("ana").await;
    world.diary.forget_lines();
    let since = Instant::now();
    assert!(hub.stop_with("ana", None, 0).await);
    assert!(since.elapsed() < Duration::from_secs(10), "the grace of a minute is not waited for");
    assert_eq!(world.diary.lines()[..2], ["kill 15", "delete container"]);
}

#[tokio::test]
async fn a_second_stop_can_shorten_the_grace_but_not_prolong_it() {
    let world = World::new();
    world.fake.set_stubborn(true);
    let hub = world.boot().await;
    hub.start("ana").await;
    let patient = hub.clone();
    let first = tokio::spawn(async move { patient.stop_with("ana", Some(300_000), 0).await });
    hub.reaches("ana", Phase::Stopping).await;
    let since = Instant::now();
    let late = hub.clone();
    let third = tokio::spawn(async move { late.stop_with("ana", Some(200_000), 0).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(hub.stop_with("ana", Some(100), 0).await);
    assert!(first.await.unwrap() && third.await.unwrap());
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_stop_goes_on_when_its_caller_has_gone() {
    let world = World::new();
    world.fake.set_stubborn(true);
    let hub = world.boot().await;
    hub.start("ana").await;
    let caller = hub.clone();
    let stopping = tokio::spawn(async move { caller.stop_with("ana", Some(100), 0).await });
    hub.reaches("ana", Phase::Stopping).await;
    stopping.abort();
    hub.reaches("ana", Phase::Gone).await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_start_that_hangs_in_a_step_holds_only_its_own_server_up() {
    let world = World::new();
    let hub = world.boot().await;
    world.ground.fault_at(3, Fault::Hang);
    let stuck = hub.begin(request("ana"));
    crate::world::until("the hang", || !world.ground.fault_is_pending()).await;
    hub.start("ben").await;
    assert!(hub.stop("ben").await);
    assert!(!stuck.is_finished());
    world.diary.assert_innocent();
}
