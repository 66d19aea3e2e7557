//! Every single step fails once, before and after it had its effect: the user is
//! told why, everything is undone in reverse, and the next start works.

use adrastea::store::Step;
use adrastea_proto::v1::{ExitCause, FailureReason, Phase};

use crate::{
    ground::Fault,
    world::{HUB, Hub, World, id, request},
};

/// What must hold after a start that failed, whatever failed.
async fn assert_recovered(world: &World, hub: &Hub, after: &str) {
    let sandbox = hub.reaches("ana", Phase::Gone).await;
    let exit = sandbox.exit.unwrap();
    assert_eq!(exit.cause(), ExitCause::FailedStart, "{after}");
    assert!(!exit.message.is_empty(), "{after}");
    world.assert_nothing_remains().await;
    // Undone newest first, and only what had been begun.
    let lines = world.diary.lines();
    let begun = |name: &&&str| {
        lines
            .iter()
            .any(|line| line == &format!("make {name}") || line == &format!("create {name}"))
    };
    let expected: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
    let expected: Vec<_> =
        expected.iter().rev().filter(begun).map(|name| format!("unmake {name}")).collect();
    let undone: Vec<_> = lines.iter().filter(|line| line.starts_with("unmake")).cloned().collect();
    assert_eq!(undone, expected, "{after}");

    let next = hub.start("ana").await;
    assert_eq!(next.generation, sandbox.generation + 1, "{after}");
    assert!(hub.stop("ana").await);
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn the_ground_fails_at_every_step_of_a_start() {
    for fault in [Fault::Before, Fault::After] {
        let mut failed_steps = Vec::new();
        for nth in 1.. {
            let world = World::new();
            let hub = world.boot().await;
            world.ground.fault_at(nth, fault);
            let story = hub.ask(request("ana")).await.unwrap();
            if story.end.is_ok() {
                assert!(world.ground.fault_is_pending());
                break;
            }
            let failed = story.failed();
            assert_eq!(failed.reason(), FailureReason::Network, "{failed:?}");
            assert!(
                failed.message.ends_with("told to fail") && !failed.hint.is_empty(),
                "{failed:?}"
            );
            let step = failed
                .message
                .trim_start_matches("failed to ")
                .split(':')
                .next()
                .unwrap()
                .to_owned();
            assert_recovered(&world, &hub, &format!("{step} failed ({fault:?})")).await;
            failed_steps.push(step);
        }
        let every = [
            "make directory",
            "make namespaces",
            "make network",
            "make rootfs",
            "prove",
            "attach home",
            "open egress",
        ];
        assert_eq!(failed_steps, every);
    }
}

#[tokio::test]
async fn the_engine_fails_at_every_call_of_a_start() {
    let mut failed_calls = Vec::new();
    for nth in 1.. {
        let world = World::new();
        let hub = world.boot().await;
        world.fake.fail_at(nth);
        let before = world.fake.calls().len();
        let story = hub.ask(request("ana")).await.unwrap();
        if story.end.is_ok() {
            break;
        }
        let failed = story.failed();
        assert_eq!(failed.reason(), FailureReason::Internal, "{failed:?}");
        assert!(
            failed.message.starts_with("failed to ") && failed.message.ends_with(": told to fail"),
            "{failed:?}"
        );
        let call = world.fake.calls()[before + nth - 1].split(' ').next().unwrap().to_owned();
        assert_recovered(&world, &hub, &format!("{call} failed")).await;
        failed_calls.push(call);
    }
    assert_eq!(failed_calls, ["image", "create", "start"]);
}

#[tokio::test]
async fn the_engine_fails_at_every_call_of_a_stop() {
    for (nth, call) in [(1, "kill"), (2, "delete")] {
        let world = World::new();
        let hub = world.boot().await;
        let ready = hub.start("ana").await;
        world.fake.fail_at(nth);
        assert!(hub.stop_with("ana", Some(20), 0).await);
        let calls = world.fake.calls();
        assert!(calls.iter().any(|line| line.starts_with(call)), "{calls:?}");
        assert_eq!(hub.get("ana").await.exit.unwrap().cause(), ExitCause::Stopped);
        let left = if call == "delete" { vec![Step::Container] } else { vec![] };
        assert_eq!(world.store().steps(&id(&ready.sandbox_id)).unwrap(), left, "{call}");
        // The engine could not remove it, but the kernel has killed it.
        assert_eq!(world.fake.spec(&ready.sandbox_id).is_some(), call == "delete");
        assert!(hub.launcher.sweep().await.unwrap() <= 1);
        world.assert_nothing_remains().await;
        hub.start("ana").await;
    }
}

#[tokio::test]
async fn an_undo_that_fails_stays_journalled_until_a_sweep_succeeds() {
    for step in Step::ALL {
        let world = World::new();
        let hub = world.boot().await;
        let first = hub.start("ana").await;
        world.ground.stick_undo(step, true);
        assert!(hub.stop("ana").await, "a stop ends even if something is left");
        let record = |world: &World| {
            world.records().into_iter().find(|record| record.id == id(&first.sandbox_id))
        };
        assert_eq!(world.store().steps(&id(&first.sandbox_id)).unwrap(), [step]);
        assert_eq!(world.diary.left().len(), 1, "all others are undone");
        let kept = record(&world).unwrap();
        assert!(
            kept.run_range_first != 0,
            "a lease is not given back while {} is left",
            step.name()
        );

        // A sweep that fails changes nothing; a newer start does not wait for it, nor get its leases.
        hub.launcher.sweep().await.unwrap();
        assert_eq!(world.store().steps(&id(&first.sandbox_id)).unwrap(), [step]);
        let second = hub.start("ana").await;
        assert_ne!(second.address, first.address);

        let (before, _) = hub.launcher.snapshot(HUB);
        world.ground.stick_undo(step, false);
        assert_eq!(hub.launcher.sweep().await.unwrap(), 1, "{}", step.name());
        assert!(world.store().steps(&id(&first.sandbox_id)).unwrap().is_empty());
        assert!(record(&world).is_none_or(|record| record.run_range_first == 0));
        assert_eq!(hub.get("ana").await.sandbox_id, second.sandbox_id);
        assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
        assert_eq!(
            hub.launcher.snapshot(HUB).0,
            before,
            "nobody is told once more of an end long past"
        );
        assert_eq!(hub.launcher.sweep().await.unwrap(), 0);
        hub.stop("ana").await;
        world.assert_nothing_remains().await;
    }
}

#[tokio::test]
async fn what_nobody_owns_is_swept_away_and_what_lives_is_not() {
    let world = World::new();
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    let stranger = id("sdeadbeefdea");
    let folder = world.directory.path().join("run/sandboxes").join(stranger.as_str());
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(hub.launcher.sweep().await.unwrap(), 1);
    assert!(!folder.exists());
    assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
    assert_eq!(world.containers().await, [ready.sandbox_id]);
}
