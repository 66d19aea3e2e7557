//! What becomes of a user whom the hub has deleted: servers, numbers, the home,
//! and what the next user of that name may see of it.

use std::time::Duration;

use adrastea::config::OnDelete;
use adrastea_proto::v1::{self, HomeFate, HomeState, admin_client::AdminClient};
use tonic::{Code, Status};

use crate::world::{HUB, Hub, World, request, until};

fn world(on_delete: OnDelete, retention_days: Option<u32>) -> World {
    World::with(|config| {
        config.home.on_delete = on_delete;
        config.home.retention_days = retention_days;
        config.limits.stop_grace = 0;
    })
}

async fn forget(hub: &Hub, user: &str) -> Result<v1::ForgetResponse, Status> {
    let request = v1::ForgetRequest { hub: HUB.into(), user: user.into() };
    Ok(hub.client.clone().forget(request).await?.into_inner())
}

async fn homes(hub: &Hub) -> Vec<v1::Home> {
    let mut admin = AdminClient::new(hub.channel.clone());
    admin.list_homes(v1::ListHomesRequest {}).await.unwrap().into_inner().homes
}

#[tokio::test]
async fn a_kept_home_waits_for_the_same_name() {
    let world = world(OnDelete::Keep, None);
    let hub = world.boot().await;
    assert_eq!(forget(&hub, "nobody").await.unwrap().home(), HomeFate::Absent);
    hub.start("ana").await;
    let id = hub.get("ana").await.disk_uid;
    for _ in 0..2 {
        assert_eq!(forget(&hub, "ana").await.unwrap().home(), HomeFate::Kept);
    }
    hub.start("ana").await;
    assert_eq!(hub.get("ana").await.disk_uid, id);
    forget(&hub, "ana").await.unwrap();
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn who_comes_later_gets_another_number_and_no_last_words() {
    let world = world(OnDelete::Archive, None);
    let hub = world.boot().await;
    let mut named = request("ana");
    named.key.as_mut().unwrap().server = "second".into();
    hub.ask(named).await.unwrap().end.unwrap();
    hub.start("ana").await;
    hub.start("ben").await;
    let id = hub.get("ana").await.disk_uid;
    let answer = forget(&hub, "ana").await.unwrap();
    assert_eq!((answer.home(), answer.purged_at), (HomeFate::Archived, 0));
    // Again, and by a launcher that comes later: the same answer, and nothing more happens.
    assert_eq!(forget(&hub, "ana").await.unwrap(), answer);
    assert!(hub.entry("ana").is_none(), "what was told of her servers is told to nobody");
    assert_eq!(world.records().len(), 1, "only ben's is left");
    let listed = homes(&hub).await;
    let aside: Vec<_> = listed.iter().filter(|home| home.state() == HomeState::SetAside).collect();
    assert_eq!((aside.len(), aside[0].disk_uid, aside[0].user.as_str()), (1, id, "ana"));
    hub.start("ana").await;
    let second = hub.get("ana").await.disk_uid;
    assert!(second > id && second != hub.get("ben").await.disk_uid);
    hub.start("ben").await;

    // The old one goes back to nobody while the name has another home, and to its owner after.
    let mut admin = AdminClient::new(hub.channel.clone());
    let restore = v1::RestoreHomeRequest { name: aside[0].name.clone() };
    let refused = admin.restore_home(restore.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    forget(&hub, "ana").await.unwrap();
    admin.restore_home(restore.clone()).await.unwrap();
    hub.start("ana").await;
    assert_eq!(hub.get("ana").await.disk_uid, id);
    assert_eq!(admin.restore_home(restore).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_purge_waits_for_its_day_and_no_longer() {
    let world = world(OnDelete::Purge, Some(1));
    let hub = world.boot().await;
    hub.start("ana").await;
    let answer = forget(&hub, "ana").await.unwrap();
    assert_eq!(answer.home(), HomeFate::ToBePurged);
    let in_a_day = adrastea::store::now() + 24 * 60 * 60;
    assert!(answer.purged_at.abs_diff(in_a_day) < 60, "{answer:?}");
    hub.launcher.tend_homes().await.unwrap();
    assert_eq!(world.ground.homes().len(), 1, "it is not due yet");
    let name = homes(&hub).await.remove(0).name;
    let mut admin = AdminClient::new(hub.channel.clone());
    admin.purge_home(v1::PurgeHomeRequest { name: name.clone() }).await.unwrap();
    assert!(world.ground.homes().is_empty());
    let again = admin.purge_home(v1::PurgeHomeRequest { name }).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    assert_eq!(forget(&hub, "ana").await.unwrap().home(), HomeFate::Absent);
}

#[tokio::test]
async fn without_a_retention_time_it_is_purged_at_once() {
    let world = world(OnDelete::Purge, Some(0));
    let hub = world.boot().await;
    hub.start("ana").await;
    forget(&hub, "ana").await.unwrap();
    until("the purge", || world.ground.homes().is_empty()).await;
    assert!(homes(&hub).await.is_empty());
}

#[tokio::test]
async fn a_home_that_cannot_be_moved_keeps_its_user_waiting_and_is_tried_again() {
    let world = world(OnDelete::Archive, None);
    let hub = world.boot().await;
    hub.start("ana").await;
    world.ground.stick_homes(true);
    let failed = forget(&hub, "ana").await.unwrap_err();
    assert!(failed.message().contains("cannot be moved"), "{failed}");
    let waits = hub.ask(request("ana")).await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    assert!(homes(&hub).await[0].problem.contains("cannot be moved"));
    hub.start("ben").await;
    world.ground.stick_homes(false);
    // Another launcher finds it in the journal.
    let hub = world.boot().await;
    hub.launcher.tend_homes().await.unwrap();
    assert_eq!(homes(&hub).await[1].state(), HomeState::SetAside);
    hub.start("ana").await;
}

#[tokio::test]
async fn a_start_beside_it_is_stopped_or_waits() {
    let world = world(OnDelete::Archive, None);
    let hub = world.boot().await;
    for _ in 0..10 {
        let start = tokio::spawn({
            let hub = hub.clone();
            async move { hub.ask(request("ana")).await }
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
        forget(&hub, "ana").await.unwrap();
        let _ = start.await.unwrap();
    }
    forget(&hub, "ana").await.unwrap();
    world.assert_nothing_remains().await;
}
