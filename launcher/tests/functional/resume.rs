//! A watch that breaks off and is taken up again: no change is missed, none is
//! told twice, and what cannot be continued is told whole.

use std::{collections::HashMap, time::Duration};

use adrastea_proto::v1::{self, Phase, watch_event::Event};
use futures_util::future::join_all;

use crate::{
    streams::Watching,
    world::{HUB, Hub, World, request},
};

/// What a reader believes: of each server the latest news.
#[derive(Default)]
struct Belief {
    servers: HashMap<(String, String), (u64, Phase)>,
    token: String,
    told: Vec<(String, u64, Phase)>,
    resumed: u32,
    whole: u32,
}

impl Belief {
    /// One stream, left after so many events or at an event that ends it.
    async fn read(&mut self, hub: &Hub, events: u32, last: impl Fn(&v1::Sandbox) -> bool) -> bool {
        let mut watching = Watching::resumed(hub, HUB, &self.token).await;
        let mut fresh = HashMap::new();
        let mut synced = false;
        for number in 0..events {
            let event = watching.next_whole().await;
            match event.event.unwrap() {
                Event::Resumed(_) => {
                    assert!(number == 0 && !self.token.is_empty(), "resumed out of the blue");
                    assert_eq!(event.resume_token, self.token);
                    self.resumed += 1;
                    // The truth goes on where it was left.
                    synced = true;
                    fresh.clone_from(&self.servers);
                }
                Event::Synced(_) => {
                    if !synced {
                        self.whole += 1;
                    }
                    synced = true;
                    self.servers.clone_from(&fresh);
                    self.token = event.resume_token;
                }
                Event::Sandbox(sandbox) => {
                    let key = sandbox.key.clone().unwrap();
                    assert_eq!(key.hub, HUB);
                    let news = (sandbox.generation, sandbox.phase());
                    fresh.insert((key.user.clone(), key.server), news);
                    assert_eq!(event.resume_token.is_empty(), !synced, "a place amid the whole");
                    if synced {
                        self.servers.clone_from(&fresh);
                        self.token = event.resume_token;
                        self.told.push((key.user, news.0, news.1));
                    }
                    if last(&sandbox) {
                        return true;
                    }
                }
            }
        }
        false
    }

    fn agrees_with(&self, hub: &Hub) {
        let truth: HashMap<_, _> = hub
            .launcher
            .list(Some(HUB))
            .iter()
            .map(|entry| {
                let key = &entry.sandbox.record.key;
                let news = (entry.sandbox.record.generation, entry.phase());
                ((key.user.as_str().to_owned(), key.server.clone()), news)
            })
            .collect();
        assert_eq!(self.servers, truth);
    }
}

async fn other_hubs_start(hub: &Hub, user: &str) {
    let mut other = request(user);
    other.key.as_mut().unwrap().hub = "other".into();
    hub.ask(other).await.unwrap().end.unwrap();
}

#[tokio::test]
async fn what_was_missed_is_told_in_order_and_nothing_else() {
    let world = World::new();
    let hub = world.boot().await;
    hub.start("ana").await;
    let mut watching = Watching::new(&hub, HUB).await;
    watching.snapshot().await;
    hub.start("ben").await;
    let mut token = String::new();
    while !watching.saw("ben", Phase::Claiming) {
        token = watching.next_whole().await.resume_token;
    }
    drop(watching);
    other_hubs_start(&hub, "ana").await;
    hub.stop("ana").await;
    hub.stop("ben").await;

    let mut watching = Watching::resumed(&hub, HUB, &token).await;
    let first = watching.next_whole().await;
    assert!(matches!(first.event, Some(Event::Resumed(_))) && first.resume_token == token);
    let mut missed = Vec::new();
    while let Event::Sandbox(sandbox) = watching.next().await {
        missed.push((sandbox.key.clone().unwrap().user, sandbox.phase()));
    }
    let of = |user: &str, phases: &[Phase]| {
        phases.iter().map(|phase| (user.to_owned(), *phase)).collect::<Vec<_>>()
    };
    let expected = [
        of("ben", &[Phase::Starting, Phase::Ready]),
        of("ana", &[Phase::Stopping, Phase::Gone]),
        of("ben", &[Phase::Stopping, Phase::Gone]),
    ]
    .concat();
    missed.dedup();
    assert_eq!(missed, expected);
    // And from the marker on what happens now.
    hub.start("eva").await;
    assert_eq!(watching.phases_until(Phase::Ready).await[0], Phase::Queued);
}

#[tokio::test]
async fn a_token_that_is_worth_nothing_gets_the_whole() {
    let world = World::new();
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    let mut watching = Watching::new(&hub, HUB).await;
    let token = loop {
        let event = watching.next_whole().await;
        if matches!(event.event, Some(Event::Synced(_))) {
            break event.resume_token;
        }
    };
    assert!(!token.is_empty());
    let mut others = Watching::resumed(&hub, "other", &token).await;
    assert!(others.snapshot().await.is_empty(), "another hub's token");
    for nonsense in ["x", "0.0", &token[1..], &format!("{token}0")] {
        let mut watching = Watching::resumed(&hub, HUB, nonsense).await;
        assert_eq!(watching.snapshot().await.len(), 1, "{nonsense}");
    }
    // Another launcher: its numbers are others.
    drop((hub, watching, others));
    let hub = world.boot().await;
    let present = Watching::resumed(&hub, HUB, &token).await.snapshot().await;
    assert_eq!(present[0].sandbox_id, ready.sandbox_id);
}

#[tokio::test]
async fn a_token_that_is_too_old_gets_the_whole() {
    let world = World::new();
    let hub = world.boot().await;
    let mut watching = Watching::new(&hub, HUB).await;
    let token = watching.next_whole().await.resume_token;
    drop(watching);
    hub.start("ana").await;
    let mut again = Watching::resumed(&hub, HUB, &token).await;
    assert!(matches!(again.next().await, Event::Resumed(_)));
    let entry = hub.entry("ana").unwrap();
    for _ in 0..3000 {
        entry.stopping();
        entry.ready();
    }
    let mut late = Watching::resumed(&hub, HUB, &token).await;
    assert_eq!(late.snapshot().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_that_breaks_off_again_and_again_ends_with_the_truth() {
    const ROUNDS: u32 = 12;
    let world = World::with(|config| config.limits.stop_grace = 0);
    let hub = world.boot().await;
    let last = |sandbox: &v1::Sandbox| {
        sandbox.key.as_ref().is_some_and(|key| key.user == "last") && sandbox.phase() == Phase::Gone
    };
    let acting = async {
        join_all(["ana", "ben", "eva"].map(|user| {
            let hub = hub.clone();
            async move {
                for round in 0..ROUNDS {
                    hub.start(user).await;
                    if round % 3 == 0 {
                        other_hubs_start(&hub, user).await;
                    }
                    if round % 2 == 0 {
                        hub.stop(user).await;
                    }
                }
            }
        }))
        .await;
        hub.start("last").await;
        hub.stop("last").await;
    };
    let faithful = async {
        let mut belief = Belief::default();
        assert!(belief.read(&hub, u32::MAX, last).await);
        belief
    };
    let flighty = async {
        let mut belief = Belief::default();
        // Now after the first event, now after some, now in the middle of what was missed.
        let mut patience = [7, 1, 3, 2, 12, 1].into_iter().cycle();
        while !belief.read(&hub, patience.next().unwrap(), last).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        belief
    };
    let ((), faithful, flighty) = tokio::join!(acting, faithful, flighty);
    assert!(flighty.resumed > 10, "it broke off {} times only", flighty.resumed);
    assert_eq!(flighty.whole, 1, "told whole again without need");
    // The same changes in the same order: without a gap, and none twice.
    let both = faithful.told.len().min(flighty.told.len());
    assert!(both > 100, "{both}");
    let ends = |told: &[(String, u64, Phase)]| told[told.len() - both..].to_vec();
    assert_eq!(ends(&faithful.told), ends(&flighty.told));
    for belief in [faithful, flighty] {
        belief.agrees_with(&hub);
    }
}
