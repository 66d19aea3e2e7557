//! A launcher that dies anywhere, and the next one on the same store, engine and
//! ground: what runs is adopted, what was half made is removed, what ended
//! meanwhile is told as lost.

use adrastea::store::{SandboxState, Step};
use adrastea_proto::v1::{ExitCause, FailureReason, Phase};

use crate::{
    ground::Fault,
    world::{Life, World, id, request, until},
};

#[test]
fn a_running_server_is_adopted() {
    let world = World::new();
    let life = Life::new();
    let asked = request("ana");
    let ready =
        life.run(async { world.boot().await.ask(asked.clone()).await.unwrap().end.unwrap() });
    drop(life);
    world.diary.forget_lines();

    let life = Life::new();
    life.run(async {
        let launcher = world.launcher();
        let done = launcher.reconcile().await.unwrap();
        assert_eq!((done.adopted, done.removed, done.orphans), (1, 0, 0));
        assert!(
            world.diary.lines().is_empty(),
            "adopting touches nothing: {:?}",
            world.diary.lines()
        );
        let hub = world.serve(launcher).await;
        let sandbox = hub.get("ana").await;
        assert_eq!((sandbox.phase(), &sandbox.sandbox_id), (Phase::Ready, &ready.sandbox_id));
        assert_eq!((sandbox.generation, &sandbox.address), (ready.generation, &ready.address));
        // The hub that asked may ask again: it is told at once.
        let again = hub.ask(asked.clone()).await.unwrap().end.unwrap();
        assert_eq!(again, ready);
        // Its log goes on.
        world.say(&ready.sandbox_id, "after the restart\n");
        until("the log", || hub.entry("ana").unwrap().log.tail(100) == "after the restart\n").await;
        assert!(hub.stop("ana").await);
        assert_eq!(hub.get("ana").await.exit.unwrap().cause(), ExitCause::Stopped);
        world.assert_nothing_remains().await;
    });
}

#[test]
fn an_adopted_servers_end_is_noticed() {
    let world = World::new();
    let ready = Life::new().run(async { world.boot().await.start("ana").await });
    Life::new().run(async {
        let hub = world.boot().await;
        world.fake.end(&ready.sandbox_id, 5);
        let exit = hub.reaches("ana", Phase::Gone).await.exit.unwrap();
        assert_eq!((exit.cause(), exit.code), (ExitCause::Exited, 5));
        assert_eq!(hub.start("ana").await.generation, 2);
    });
}

#[test]
fn a_launcher_that_dies_in_any_step_of_a_start_leaves_nothing() {
    for nth in 1..=7 {
        let world = World::new();
        let asked = request("ana");
        let life = Life::new();
        life.run(async {
            let hub = world.boot().await;
            world.ground.fault_at(nth, Fault::Hang);
            hub.begin(asked.clone());
            until("the step", || !world.ground.fault_is_pending()).await;
        });
        drop(life);
        let record = world.records().remove(0);
        assert_eq!(record.state, SandboxState::Starting, "step {nth}");
        Life::new().run(async {
            let launcher = world.launcher();
            let done = launcher.reconcile().await.unwrap();
            assert_eq!((done.adopted, done.removed, done.orphans), (0, 1, 0), "step {nth}");
            world.assert_nothing_remains().await;
            let hub = world.serve(launcher).await;
            let exit = hub.get("ana").await.exit.unwrap();
            assert_eq!(exit.cause(), ExitCause::FailedStart);
            assert!(exit.message.contains("in the middle of the start"), "{exit:?}");
            // The hub that asked and asks again is answered, not kept waiting.
            let failed = hub.ask(asked).await.unwrap().failed();
            assert_eq!((failed.reason(), failed.message), (FailureReason::Internal, exit.message));
            assert_eq!(hub.start("ana").await.generation, 2);
        });
    }
}

#[test]
fn a_launcher_that_dies_in_any_step_of_a_stop_leaves_nothing() {
    for nth in 1..=5 {
        let world = World::new();
        let life = Life::new();
        life.run(async {
            let hub = world.boot().await;
            hub.start("ana").await;
            world.ground.fault_at(nth, Fault::Hang);
            let stopping = hub.clone();
            tokio::spawn(async move { stopping.stop("ana").await });
            until("the step", || !world.ground.fault_is_pending()).await;
        });
        drop(life);
        Life::new().run(async {
            let done = world.launcher().reconcile().await.unwrap();
            assert_eq!((done.adopted, done.removed), (0, 1), "undo {nth}");
            world.assert_nothing_remains().await;
        });
    }
}

#[test]
fn a_server_that_ended_while_nobody_watched_is_lost_with_a_message() {
    for vanished in [false, true] {
        let world = World::new();
        let asked = request("ana");
        let ready = Life::new()
            .run(async { world.boot().await.ask(asked.clone()).await.unwrap().end.unwrap() });
        if vanished {
            world.fake.lose(&ready.sandbox_id);
        } else {
            world.fake.end(&ready.sandbox_id, 0);
        }
        let told = Life::new().run(async {
            let hub = world.boot().await;
            let sandbox = hub.get("ana").await;
            assert_eq!(sandbox.phase(), Phase::Gone);
            let exit = sandbox.exit.unwrap();
            assert_eq!(exit.cause(), ExitCause::Lost);
            assert!(exit.message.contains("while the launcher was down"), "{exit:?}");
            assert_eq!(
                hub.ask(asked.clone()).await.unwrap().failed().reason(),
                FailureReason::ServerExited
            );
            world.assert_nothing_remains().await;
            exit
        });
        // And the launcher after that one still knows.
        Life::new()
            .run(async { assert_eq!(world.boot().await.get("ana").await.exit.unwrap(), told) });
    }
}

#[test]
fn what_could_not_be_undone_before_is_undone_by_the_next_launcher() {
    let world = World::new();
    let ready = Life::new().run(async {
        let hub = world.boot().await;
        let ready = hub.start("ana").await;
        world.ground.stick_undo(Step::Network, true);
        hub.stop("ana").await;
        ready
    });
    assert_eq!(world.store().steps(&id(&ready.sandbox_id)).unwrap(), [Step::Network]);
    world.ground.stick_undo(Step::Network, false);
    Life::new().run(async {
        let hub = world.boot().await;
        assert_eq!(
            hub.get("ana").await.exit.unwrap().cause(),
            ExitCause::Stopped,
            "the cause is kept"
        );
        world.assert_nothing_remains().await;
    });
}

#[test]
fn a_launcher_that_dies_before_it_gives_the_leases_back_loses_none() {
    let world = World::new();
    let ready = Life::new().run(async { world.boot().await.start("ana").await });
    // All undone and crossed out, the end recorded; the leases are the last thing.
    let (store, sandbox) = (world.store(), id(&ready.sandbox_id));
    world.fake.lose(&ready.sandbox_id);
    Life::new().run(async {
        adrastea::launch::Ground::remove_all_of(&*world.ground, &sandbox).await.unwrap();
    });
    for step in Step::ALL {
        store.cross_out(&sandbox, step).unwrap();
    }
    let exit = adrastea::store::ExitRecord {
        cause: 4,
        code: 0,
        signal: 0,
        message: "stopped".into(),
        log_tail: String::new(),
    };
    store.record_exit(&sandbox, &exit).unwrap();
    Life::new().run(async {
        world.boot().await;
        world.assert_nothing_remains().await;
    });
}

#[test]
fn a_launcher_does_not_boot_while_the_engine_is_silent() {
    let world = World::new();
    let ready = Life::new().run(async { world.boot().await.start("ana").await });
    Life::new().run(async {
        world.fake.set_unavailable(true);
        let failure = world.launcher().reconcile().await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::EngineUnavailable);
        world.fake.set_unavailable(false);
        assert_eq!(world.containers().await, [ready.sandbox_id]);
        assert_eq!(world.boot().await.get("ana").await.phase(), Phase::Ready);
    });
}

#[test]
fn a_container_that_no_store_knows_is_removed() {
    let world = World::new();
    let ready = Life::new().run(async { world.boot().await.start("ana").await });
    // The store of another world: this launcher never heard of the sandbox.
    let empty = World::new();
    let stray = World {
        fake: world.fake.clone(),
        engine: world.engine.clone(),
        ground: world.ground.clone(),
        ..empty
    };
    Life::new().run(async {
        let launcher = stray.launcher();
        assert_eq!(
            launcher.reconcile().await.unwrap().orphans,
            1,
            "one sandbox, in the engine and on the ground"
        );
        assert!(world.containers().await.is_empty(), "{} is still there", ready.sandbox_id);
    });
}
