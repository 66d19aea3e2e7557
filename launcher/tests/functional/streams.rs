//! Watch and Logs: nothing missing, nothing twice, nobody kept waiting for ever.

use std::{collections::HashMap, time::Duration};

use adrastea_proto::v1::{self, Phase, watch_event::Event};
use tokio::time::timeout;
use tonic::Streaming;

use crate::world::{HUB, Hub, World, key, request, until};

pub struct Watching {
    events: Streaming<v1::WatchEvent>,
    seen: Vec<(String, Phase)>,
}

impl Watching {
    pub async fn new(hub: &Hub, name: &str) -> Self {
        Self::resumed(hub, name, "").await
    }

    pub async fn resumed(hub: &Hub, name: &str, token: &str) -> Self {
        let request = v1::WatchRequest { hub: name.into(), resume_token: token.into() };
        let events = hub.client.clone().watch(request).await.unwrap().into_inner();
        Self { events, seen: Vec::new() }
    }

    pub async fn next_whole(&mut self) -> v1::WatchEvent {
        let event = timeout(Duration::from_secs(10), self.events.message())
            .await
            .expect("an event within 10 s")
            .unwrap()
            .expect("the stream goes on");
        if let Some(Event::Sandbox(sandbox)) = &event.event {
            self.seen.push((sandbox.key.clone().unwrap().user, sandbox.phase()));
        }
        event
    }

    pub async fn next(&mut self) -> Event {
        self.next_whole().await.event.unwrap()
    }

    /// Whether a server was told to be in this phase.
    pub fn saw(&self, user: &str, phase: Phase) -> bool {
        self.seen.iter().any(|seen| *seen == (user.to_owned(), phase))
    }

    /// Everything up to the marker.
    pub async fn snapshot(&mut self) -> Vec<v1::Sandbox> {
        let mut present = Vec::new();
        loop {
            match self.next().await {
                Event::Sandbox(sandbox) => present.push(sandbox),
                Event::Synced(_) => return present,
                Event::Resumed(_) => panic!("nothing was to be resumed"),
            }
        }
    }

    /// The phases told of, up to this one.
    pub async fn phases_until(&mut self, last: Phase) -> Vec<Phase> {
        let mut phases = Vec::new();
        while phases.last() != Some(&last) {
            match self.next().await {
                Event::Sandbox(sandbox) => phases.push(sandbox.phase()),
                Event::Synced(_) | Event::Resumed(_) => panic!("a second marker without need"),
            }
        }
        phases
    }
}

#[tokio::test]
async fn watch_shows_what_is_there_then_a_marker_then_every_change() {
    let world = World::new();
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    let mut watching = Watching::new(&hub, HUB).await;
    let present = watching.snapshot().await;
    assert_eq!(
        present.iter().map(|sandbox| &sandbox.sandbox_id).collect::<Vec<_>>(),
        [&ready.sandbox_id]
    );

    hub.start("ben").await;
    let up = [
        Phase::Queued,
        Phase::Preparing,
        Phase::Proving,
        Phase::Claiming,
        Phase::Starting,
        Phase::Ready,
    ];
    assert_eq!(watching.phases_until(Phase::Ready).await, up);
    hub.stop("ben").await;
    // Asked to stop; ended, with the cause; nothing left.
    let down = [Phase::Stopping, Phase::Stopping, Phase::Gone];
    assert_eq!(watching.phases_until(Phase::Gone).await, down);

    world.fake.end(&ready.sandbox_id, 9);
    for phase in [Phase::Stopping, Phase::Gone] {
        let Event::Sandbox(ended) = watching.next().await else { panic!("no marker now") };
        assert_eq!((ended.phase(), ended.exit.unwrap().code), (phase, 9));
    }
}

#[tokio::test]
async fn watch_shows_nothing_of_another_hub() {
    let world = World::new();
    let hub = world.boot().await;
    hub.start("ana").await;
    let mut watching = Watching::new(&hub, "other").await;
    assert!(watching.snapshot().await.is_empty());
    hub.start("ben").await;
    let mut other = request("eva");
    other.key.as_mut().unwrap().hub = "other".into();
    let ready = hub.ask(other).await.unwrap().end.unwrap();
    let Event::Sandbox(first) = watching.next().await else { panic!("no marker now") };
    assert_eq!(first.sandbox_id, ready.sandbox_id);
}

#[tokio::test]
async fn a_failed_start_is_watched_to_its_end() {
    let world = World::new();
    let hub = world.boot().await;
    let mut watching = Watching::new(&hub, HUB).await;
    watching.snapshot().await;
    world.fake.fail_at(2);
    hub.ask(request("ana")).await.unwrap().failed();
    assert_eq!(hub.get("ana").await.phase(), Phase::Gone, "gone when the failure is told");
    assert_eq!(
        watching.phases_until(Phase::Gone).await,
        [Phase::Queued, Phase::Preparing, Phase::Gone]
    );
}

#[tokio::test]
async fn a_reader_that_lags_gets_the_whole_again() {
    let world = World::new();
    let hub = world.boot().await;
    hub.start("ana").await;
    let mut watching = Watching::new(&hub, HUB).await;
    watching.snapshot().await;
    // More changes than all queues on the way hold, while nobody reads.
    let entry = hub.entry("ana").unwrap();
    for round in 0..8000 {
        entry.stopping();
        entry.ready();
        if round % 500 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let ben = hub.start("ben").await;
    let mut last: HashMap<String, v1::Sandbox> = HashMap::new();
    let mut markers = 0;
    while markers == 0 || last.get("ben").is_none_or(|sandbox| sandbox.phase() != Phase::Ready) {
        match watching.next().await {
            Event::Synced(_) => markers += 1,
            Event::Resumed(_) => panic!("nothing was to be resumed"),
            Event::Sandbox(sandbox) => {
                last.insert(sandbox.key.clone().unwrap().user, sandbox);
            }
        }
    }
    assert_eq!(last["ben"].sandbox_id, ben.sandbox_id);
    assert_eq!(last["ana"].phase(), Phase::Ready);
    // And from then on changes again.
    hub.stop("ben").await;
    assert_eq!(watching.phases_until(Phase::Gone).await.last(), Some(&Phase::Gone));
}

async fn logs(hub: &Hub, tail_bytes: u64, follow: bool) -> Streaming<v1::LogChunk> {
    let request = v1::LogsRequest { key: Some(key("ana")), tail_bytes, follow };
    hub.client.clone().logs(request).await.unwrap().into_inner()
}

/// Everything until the stream ends.
async fn all(mut stream: Streaming<v1::LogChunk>) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = timeout(Duration::from_secs(10), stream.message())
        .await
        .expect("an end within 10 s")
        .unwrap()
    {
        text.extend(chunk.data);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn logs_follow_until_the_end() {
    let world = World::new();
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    let kept = |text: &'static str| {
        let entry = hub.entry("ana").unwrap();
        async move { until("the log", || entry.log.tail(0) == text).await }
    };
    world.say(&ready.sandbox_id, "one\n");
    kept("one\n").await;
    assert_eq!(all(logs(&hub, 0, false).await).await, "one\n");
    assert_eq!(all(logs(&hub, 2, false).await).await, "e\n");
    let (whole, tail) = (logs(&hub, 0, true).await, logs(&hub, 3, true).await);
    let (whole, tail) = (tokio::spawn(all(whole)), tokio::spawn(all(tail)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.say(&ready.sandbox_id, "two\n");
    kept("one\ntwo\n").await;
    world.say(&ready.sandbox_id, "three\n");
    world.fake.end(&ready.sandbox_id, 0);
    assert_eq!(whole.await.unwrap(), "one\ntwo\nthree\n");
    assert_eq!(tail.await.unwrap(), "ne\ntwo\nthree\n");
    hub.reaches("ana", Phase::Gone).await;
    assert_eq!(
        all(logs(&hub, 0, true).await).await,
        "one\ntwo\nthree\n",
        "the tail outlives the server"
    );
}

#[tokio::test]
async fn following_a_start_that_fails_early_ends() {
    let world = World::with(|config| {
        config.limits.concurrent_starts = 1;
        config.limits.starting_servers = Some(1);
    });
    world.ground.set_answers(false);
    let hub = world.boot().await;
    hub.begin(request("ben"));
    hub.reaches("ben", Phase::Starting).await;
    let queued = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Queued).await;
    let following = tokio::spawn(all(logs(&hub, 0, true).await));
    tokio::time::sleep(Duration::from_millis(50)).await;
    hub.stop("ana").await;
    queued.await.unwrap().failed();
    assert_eq!(following.await.unwrap(), "");
}

#[tokio::test]
async fn a_follower_that_does_not_read_holds_nobody_up() {
    let world = World::with(|config| {
        config.profiles.get_mut("standard").unwrap().limits.log =
            adrastea::quantity::ByteSize::mebibytes(16);
    });
    let hub = world.boot().await;
    let ready = hub.start("ana").await;
    let _stalled = logs(&hub, 0, true).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Many small pieces, so that the follower's queue fills up; the pump takes one after the other.
    let entry = hub.entry("ana").unwrap();
    let line = format!("{}\n", "x".repeat(16_000));
    let mut written = 0;
    let since = std::time::Instant::now();
    while written < 200 && since.elapsed() < Duration::from_secs(2) {
        world.say(&ready.sandbox_id, &line);
        let before = entry.log.tail_bytes(0).len();
        let _ = timeout(
            Duration::from_millis(100),
            until("the pump", || entry.log.tail_bytes(0).len() > before),
        )
        .await;
        written += 1;
    }
    let since = std::time::Instant::now();
    assert!(hub.stop("ana").await);
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.assert_nothing_remains().await;
}
