//! Who waits while the node is busy, and what they are told.

use adrastea_proto::v1::{self, Phase};

use crate::world::{Story, World, key, request};

fn named(user: &str, server: &str) -> v1::StartRequest {
    let key = v1::ServerKey { server: server.into(), ..key(user) };
    v1::StartRequest { key: Some(key), ..request(user) }
}

fn places(story: &Story) -> Vec<(u32, &str)> {
    let queued = story.progress.iter().filter(|step| step.phase() == Phase::Queued);
    queued.map(|step| (step.queue_place, step.message.as_str())).collect()
}

#[tokio::test]
async fn the_place_in_the_queue_is_told_as_it_moves() {
    let world = World::with(|config| {
        config.limits.concurrent_starts = 1;
        config.limits.starting_servers = Some(1);
    });
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let first = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    let second = hub.begin(request("ben"));
    hub.reaches("ben", Phase::Queued).await;
    let greedy = hub.begin(named("ben", "another"));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let third = hub.begin(request("eva"));
    hub.reaches("eva", Phase::Queued).await;
    // So that everybody's first place has been told.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    hub.stop("ana").await;
    first.await.unwrap().failed();
    hub.reaches("ben", Phase::Starting).await;
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    world.ground.set_answers(true);
    for (who, start) in [("ben", second), ("eva", third), ("another of ben's", greedy)] {
        let story = start.await.unwrap();
        let told = places(&story);
        assert_eq!(told[0], (0, "Waiting for a place"));
        let has = |place: u32, words: &str| {
            assert!(told.contains(&(place, words)), "{who} was not told {place}: {told:?}");
        };
        if who == "ben" {
            assert_eq!(told[1..], [(1, "Waiting: yours is the next start")]);
        } else if who == "eva" {
            has(2, "Waiting: 1 start is before yours");
            has(1, "Waiting: yours is the next start");
        } else {
            // Asked before eva, and goes after her: its owner has one under way.
            has(3, "Waiting: 2 starts are before yours");
        }
        assert!(story.end.is_ok());
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_no_place_to_prepare_in() {
    let world = World::with(|config| {
        config.limits.concurrent_starts = 1;
        config.limits.starting_servers = Some(3);
    });
    world.ground.set_answers(false);
    let hub = world.boot().await;
    for user in ["ana", "ben", "eva"] {
        hub.begin(request(user));
        hub.reaches(user, Phase::Starting).await;
    }
    // Three servers load: the fourth waits for one of them.
    let fourth = hub.begin(request("zoe"));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(hub.get("zoe").await.phase(), Phase::Queued);
    hub.stop("ben").await;
    hub.reaches("zoe", Phase::Starting).await;
    world.ground.set_answers(true);
    fourth.await.unwrap().end.unwrap();
}
