//! Ends that somebody brought about, what the kernel refused, and how soon the
//! cause is told.

use std::{sync::Arc, time::Duration};

use adrastea::{
    launch::{Entry, StopCause, StopWish},
    policy,
};
use adrastea_proto::v1::{self, ExitCause, FailureReason, Phase};
use tonic::Code;

use crate::{
    ground::Fault,
    streams::Watching,
    world::{HUB, Hub, World, request, until},
};

fn wish(cause: StopCause, why: &str) -> StopWish {
    StopWish { grace: Duration::ZERO, cause, why: why.into() }
}

/// The first news of this server's end.
async fn first_exit(watching: &mut Watching, user: &str) -> v1::Sandbox {
    loop {
        if let v1::watch_event::Event::Sandbox(sandbox) = watching.next().await
            && sandbox.key.as_ref().is_some_and(|key| key.user == user)
            && sandbox.exit.is_some()
        {
            return sandbox;
        }
    }
}

async fn watch(hub: &Hub) -> Watching {
    let mut watching = Watching::new(hub, HUB).await;
    watching.snapshot().await;
    watching
}

#[tokio::test]
async fn an_end_is_told_at_once_and_does_not_wait_for_teardown() {
    let world = World::new();
    let hub = world.boot().await;
    let mut watching = watch(&hub).await;
    let ready = hub.start("ana").await;
    world.say(&ready.sandbox_id, "goodbye\n");
    // Teardown never gets anywhere.
    world.ground.fault_at(1, Fault::Hang);
    world.fake.end(&ready.sandbox_id, 7);
    let told = first_exit(&mut watching, "ana").await;
    assert_eq!(told.phase(), Phase::Stopping, "not gone: something is left");
    let exit = told.exit.unwrap();
    assert_eq!((exit.cause(), exit.code), (ExitCause::Exited, 7));
    let asked = hub.get("ana").await;
    assert_eq!((asked.phase(), asked.exit.unwrap().code), (Phase::Stopping, 7));
    // And a launcher that dies now is followed by one that knows.
    until("the record", || world.records()[0].exit.is_some()).await;
    drop((hub, watching));
    let hub = world.boot().await;
    let exit = hub.reaches("ana", Phase::Gone).await.exit.unwrap();
    assert_eq!((exit.cause(), exit.code), (ExitCause::Exited, 7), "{exit:?}");
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_server_that_was_replaced_is_told_so() {
    let world = World::new();
    let hub = world.boot().await;
    let mut watching = watch(&hub).await;
    let old = hub.start("ana").await;
    hub.start("ana").await;
    let told = first_exit(&mut watching, "ana").await;
    assert_eq!(told.sandbox_id, old.sandbox_id);
    let exit = told.exit.unwrap();
    assert_eq!(exit.cause(), ExitCause::Replaced);
    assert_eq!(exit.message, "replaced by a newer start of the same server");
}

#[tokio::test]
async fn the_administrators_reason_reaches_the_user() {
    let world = World::new();
    let hub = world.boot().await;
    hub.start("ana").await;
    let entry = hub.entry("ana").unwrap();
    let why = "stopped by the administrator of this node: too loud";
    let wished = wish(StopCause::Administrator, why);
    assert!(hub.launcher.stop(&entry.sandbox.record.key, 0, wished.clone()).await);
    let exit = hub.get("ana").await.exit.unwrap();
    assert_eq!((exit.cause(), exit.message.as_str()), (ExitCause::KilledByAdministrator, why));

    // One that is on its way up, too.
    world.ground.set_answers(false);
    let starting = hub.begin(request("ben"));
    hub.reaches("ben", Phase::Starting).await;
    let key = hub.entry("ben").unwrap().sandbox.record.key.clone();
    hub.launcher.stop(&key, 0, wished).await;
    let failed = starting.await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::Cancelled);
    assert_eq!(failed.message, format!("the start was given up: {why}"));
    let exit = hub.get("ben").await.exit.unwrap();
    assert_eq!(exit.cause(), ExitCause::KilledByAdministrator);
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_drained_node_refuses_new_starts_and_touches_nobody() {
    let world = World::new();
    let hub = world.boot().await;
    let asked = request("ana");
    let ready = hub.ask(asked.clone()).await.unwrap().end.unwrap();
    let drained = hub.launcher.drain(None).await;
    assert_eq!((drained.stopped, drained.running), (0, 1));

    // Neither a new server nor a newer one in place of a live one.
    for user in ["ben", "ana"] {
        let status = hub.ask(request(user)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("being drained"), "{status:?}");
    }
    assert_eq!(hub.get("ana").await.sandbox_id, ready.sandbox_id);
    assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
    // Whoever asks again for what it has is answered.
    assert_eq!(hub.ask(asked).await.unwrap().end.unwrap(), ready);

    let drained = hub.launcher.drain(Some(&wish(StopCause::Drained, "the node is drained"))).await;
    assert_eq!((drained.stopped, drained.running), (1, 0));
    let exit = hub.get("ana").await.exit.unwrap();
    assert_eq!((exit.cause(), exit.message.as_str()), (ExitCause::Drained, "the node is drained"));
    hub.ask(request("ben")).await.unwrap_err();
    world.assert_nothing_remains().await;

    hub.launcher.undrain();
    hub.start("ben").await;
    // And a restart forgets it.
    hub.launcher.drain(None).await;
    drop(hub);
    world.boot().await.start("ana").await;
}

async fn ready(world: &World) -> Arc<Entry> {
    let decision = policy::decide(&world.config, &request("ana")).unwrap();
    let entry = world.launcher().start(decision).await.unwrap();
    until("ready", || entry.phase() == Phase::Ready).await;
    entry
}

#[tokio::test(start_paused = true)]
async fn processes_that_could_not_be_made_are_the_cause_only_if_it_was_lately() {
    for (seconds, code, expected) in [
        (0, 1, ExitCause::TooManyProcesses),
        (0, 134, ExitCause::TooManyProcesses),
        (5, 1, ExitCause::TooManyProcesses),
        (0, 0, ExitCause::Exited),
        (0, 137, ExitCause::Signaled),
        // A fork bomb that it has survived.
        (60, 1, ExitCause::Exited),
    ] {
        let world = World::new();
        let entry = ready(&world).await;
        world.ground.set_refused_processes(3);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        world.fake.end(entry.sandbox.id().as_str(), code);
        entry.wait_gone().await;
        let exit = entry.describe().exit.unwrap();
        assert_eq!(exit.cause(), expected, "{seconds} s, code {code}: {exit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn memory_that_ran_out_long_ago_is_not_the_cause() {
    for (seconds, expected) in [(0, ExitCause::OutOfMemory), (60, ExitCause::Signaled)] {
        let world = World::new();
        let entry = ready(&world).await;
        world.ground.set_memory_kills(1);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        world.fake.end(entry.sandbox.id().as_str(), 137);
        entry.wait_gone().await;
        assert_eq!(entry.describe().exit.unwrap().cause(), expected);
    }
}

#[tokio::test]
async fn a_server_that_can_make_no_process_while_it_starts_is_told_so() {
    let world = World::new();
    world.ground.set_answers(false);
    world.ground.set_refused_processes(1);
    let hub = world.boot().await;
    let starting = hub.begin(request("ana"));
    let sandbox = hub.reaches("ana", Phase::Starting).await;
    world.fake.end(&sandbox.sandbox_id, 1);
    let failed = starting.await.unwrap().failed();
    assert!(failed.message.contains("too many processes: its limit is"), "{failed:?}");
}
