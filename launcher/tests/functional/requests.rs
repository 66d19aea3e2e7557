//! Requests that are repeated, that collide, and that come too late.

use std::collections::BTreeSet;

use adrastea_proto::v1::{self, ExitCause, FailureReason, Phase};
use futures_util::future::join_all;
use tonic::Code;

use crate::world::{World, id, key, request};

#[tokio::test]
async fn fifty_times_the_same_request_is_one_start() {
    let world = World::new();
    let hub = world.boot().await;
    let asked = request("ana");
    let stories = join_all((0..50).map(|_| hub.ask(asked.clone()))).await;
    let told: BTreeSet<_> = stories
        .into_iter()
        .map(|story| {
            let story = story.unwrap();
            // Those who join late are told the whole story.
            assert_eq!(story.phases()[0], Phase::Queued);
            story.end.unwrap().sandbox_id
        })
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(world.containers().await.len(), 1);
    assert_eq!(world.fake.calls().iter().filter(|call| call.starts_with("create")).count(), 1);
    // And long after it is ready.
    let again = hub.ask(asked).await.unwrap().end.unwrap();
    assert!(told.contains(&again.sandbox_id));
    hub.stop("ana").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_request_id_with_other_content_is_refused() {
    let world = World::new();
    let hub = world.boot().await;
    let asked = request("ana");
    let ready = hub.ask(asked.clone()).await.unwrap().end.unwrap();
    let changes: [fn(&mut v1::StartRequest); 7] = [
        |request| request.arguments.push("--more".into()),
        |request| request.image = "science".into(),
        |request| request.ready_path = "/other".into(),
        |request| {
            request.limits = Some(v1::Limits { memory_bytes: Some(300 << 20), cpu_millis: None });
        },
        |request| request.limits = Some(v1::Limits { memory_bytes: None, cpu_millis: Some(600) }),
        |request| request.environment = [("LANG".into(), "C".into())].into(),
        |request| request.secret_environment = [("JUPYTERHUB_API_TOKEN".into(), "x".into())].into(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = asked.clone();
        change(&mut other);
        let status = hub.ask(other).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists, "change {number}");
    }
    assert_eq!(hub.get("ana").await.sandbox_id, ready.sandbox_id);
    assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
}

#[tokio::test]
async fn a_request_that_failed_answers_with_its_failure() {
    let world = World::new();
    let hub = world.boot().await;
    let asked = request("ana");
    world.fake.fail_at(2);
    let first = hub.ask(asked.clone()).await.unwrap().failed();
    let second = hub.ask(asked).await.unwrap().failed();
    assert_eq!(first, second);
    assert_eq!(world.records().len(), 1, "no second attempt");
}

#[tokio::test]
async fn a_newer_start_replaces_a_live_server() {
    let world = World::new();
    let hub = world.boot().await;
    let mut before = hub.start("ana").await;
    for _ in 0..3 {
        let story = hub.ask(v1::StartRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            ..request("ana")
        });
        let after = story.await.unwrap().end.unwrap();
        assert_eq!(after.generation, before.generation + 1);
        assert_ne!(after.sandbox_id, before.sandbox_id);
        assert_ne!(after.address, before.address, "an address rests before it is used again");
        assert_eq!(world.containers().await, std::slice::from_ref(&after.sandbox_id));
        before = after;
    }
    hub.stop("ana").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_newer_start_replaces_one_under_way() {
    let world = World::new();
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let first = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    let second = hub.begin(request("ana"));
    let failed = first.await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::Cancelled);
    world.ground.set_answers(true);
    assert_eq!(second.await.unwrap().end.unwrap().generation, 2);
    assert_eq!(world.containers().await.len(), 1);
}

#[tokio::test]
async fn a_generation_survives_everything() {
    let world = World::new();
    let hub = world.boot().await;
    hub.start("ana").await;
    hub.stop("ana").await;
    world.fake.fail_at(3);
    hub.ask(request("ana")).await.unwrap().failed();
    drop(hub);
    let hub = world.boot().await;
    assert_eq!(hub.start("ana").await.generation, 3);
}

#[tokio::test]
async fn a_late_stop_never_hits_a_newer_server() {
    let world = World::new();
    let hub = world.boot().await;
    let old = hub.start("ana").await;
    hub.stop("ana").await;
    let new = hub.start("ana").await;
    assert!(!hub.stop_with("ana", Some(0), old.generation).await);
    assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
    assert!(hub.stop_with("ana", Some(0), new.generation).await);
    assert!(!hub.stop("ana").await, "stopping what is not there succeeds, and says so");
    assert!(!hub.stop("nobody").await);
}

#[tokio::test]
async fn what_the_launcher_never_had_is_not_found() {
    let world = World::new();
    let hub = world.boot().await;
    let get = v1::GetRequest { key: Some(key("ana")) };
    assert_eq!(hub.client.clone().get(get).await.unwrap_err().code(), Code::NotFound);
    let logs = v1::LogsRequest { key: Some(key("ana")), ..Default::default() };
    assert_eq!(hub.client.clone().logs(logs).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn one_hubs_list_shows_nothing_of_anothers() {
    let world = World::new();
    let hub = world.boot().await;
    hub.start("ana").await;
    let mut other = request("ana");
    other.key.as_mut().unwrap().hub = "other".into();
    let other = hub.ask(other).await.unwrap().end.unwrap();
    let list = v1::ListRequest { hub: "other".into() };
    let list = hub.client.clone().list(list).await.unwrap().into_inner().sandboxes;
    assert_eq!(
        list.iter().map(|sandbox| &sandbox.sandbox_id).collect::<Vec<_>>(),
        [&other.sandbox_id]
    );
    let disk_ids: BTreeSet<_> =
        world.records().iter().map(|record| record.facts.disk_uid).collect();
    assert_eq!(disk_ids.len(), 2, "two hubs' users of one name are two owners");
}

#[tokio::test]
async fn a_stop_of_everything_leaves_nothing() {
    let world = World::new();
    let hub = world.boot().await;
    join_all(["ana", "ben", "eva"].map(|user| hub.start(user))).await;
    let wish = adrastea::launch::StopWish {
        grace: std::time::Duration::ZERO,
        cause: adrastea::launch::StopCause::Asked,
        why: "for the night".into(),
    };
    assert_eq!(hub.launcher.stop_all(&wish).await, 3);
    let exit = hub.get("ben").await.exit.unwrap();
    assert_eq!((exit.cause(), exit.message.as_str()), (ExitCause::Stopped, "for the night"));
    assert!(!hub.launcher.has_live());
    hub.launcher.close().await;
    assert_eq!(hub.ask(request("ana")).await.unwrap_err().code(), Code::Unavailable);
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn the_same_user_keeps_the_same_disk_id() {
    let world = World::new();
    let hub = world.boot().await;
    let first = hub.start("ana").await;
    let second = hub.start("ana").await;
    let record =
        |sandbox: &str| world.records().into_iter().find(|record| record.id == id(sandbox));
    assert!(record(&first.sandbox_id).is_none(), "the row of the replaced one is forgotten");
    let uid = record(&second.sandbox_id).unwrap().facts.disk_uid;
    assert_eq!(uid, world.config.identity.first_disk_id);
}
