//! Random histories: starts, stops, ends, failures of engine and ground, drains,
//! and launchers that die, in any order, with servers of two hubs and a watcher of
//! each that comes back with its token. The diary judges every moment; the model
//! below judges answers, and what is left in the end.
//!
//! The seed is printed; `ADRASTEA_SEED` sets it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use adrastea::{
    launch::{Entry, Launcher, StartNews, StartRefused, StopCause, StopWish},
    names::ServerKey,
    policy::{self, Decision},
    store::StoreError,
};
use adrastea_proto::v1::{FailureReason, Phase};
use adrastea_runtimes::engine::{Engine as _, TaskState, fake::InitBehaviour};
use tokio::task::JoinSet;

use crate::{
    ground::Fault,
    witness::Witness,
    world::{HUB, Life, World, request, until},
};

const STEPS: usize = 3000;
/// An ordered failure of the engine comes after at most so many calls.
const MOST_CALLS: u64 = 4;
const USERS: [&str; 4] = ["ana", "ben", "eva", "zoe"];
const HUBS: [&str; 2] = [HUB, "other"];
const SERVERS: [&str; 2] = ["", "second"];

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.roll(items.len() as u64)).unwrap()]
    }

    fn nth(&mut self, most: u64) -> usize {
        usize::try_from(1 + self.roll(most)).unwrap()
    }
}

/// What is known from the answers alone.
#[derive(Default)]
struct Model {
    /// The highest generation each server was ever told to have.
    generations: HashMap<ServerKey, u64>,
    tally: BTreeMap<String, u32>,
    wrong: Vec<String>,
}

impl Model {
    fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    fn counted(&self, what: &str) -> u32 {
        self.tally.get(what).copied().unwrap_or_default()
    }

    fn judge(
        &mut self,
        key: &ServerKey,
        floor: u64,
        answer: Result<(u64, StartNews), StartRefused>,
    ) {
        match answer {
            Ok((generation, StartNews::Ready)) => {
                if generation <= floor {
                    self.wrong.push(format!("{key} has generation {generation} after {floor}"));
                }
                let highest = self.generations.entry(key.clone()).or_default();
                *highest = generation.max(*highest);
                self.count("ready");
            }
            Ok((_, StartNews::Failed(failure))) => {
                let possible = [
                    FailureReason::Internal,
                    FailureReason::Network,
                    FailureReason::EngineUnavailable,
                    FailureReason::Cancelled,
                    FailureReason::ServerExited,
                    FailureReason::Timeout,
                ];
                if !possible.contains(&failure.reason) || failure.message.is_empty() {
                    self.wrong.push(format!("{key} failed with {failure:?}"));
                }
                self.count(failure.reason.as_str_name());
            }
            Err(StartRefused::Store(StoreError::Exhausted { .. })) => self.count("no lease free"),
            Err(StartRefused::Drained) => self.count("drained"),
            other => self.wrong.push(format!("{key} was answered {other:?}")),
        }
    }
}

/// The end of a start, as a hub would hear it.
async fn end_of(entry: &Entry) -> StartNews {
    let mut changes = entry.changes();
    loop {
        changes.borrow_and_update();
        let end =
            entry.news(0).into_iter().find(|news| !matches!(news, StartNews::Progress { .. }));
        if let Some(end) = end {
            return end;
        }
        changes.changed().await.unwrap();
    }
}

struct History {
    world: World,
    dice: Dice,
    model: Arc<Mutex<Model>>,
    unavailable: bool,
    stubborn: bool,
    silent: bool,
    last: Option<Decision>,
    witnesses: [Witness; 2],
}

impl History {
    fn any_key(&mut self) -> ServerKey {
        ServerKey::new(self.dice.pick(&HUBS), self.dice.pick(&USERS), self.dice.pick(&SERVERS))
            .unwrap()
    }

    /// A new request, or now and then the last one again.
    fn any_decision(&mut self) -> Decision {
        let key = self.any_key();
        if let Some(last) = self.last.clone().filter(|_| self.dice.roll(5) == 0) {
            return last;
        }
        let mut asked = request(key.user.as_str());
        let named = asked.key.as_mut().unwrap();
        (named.hub, named.server) = (key.hub, key.server);
        policy::decide(&self.world.config, &asked).unwrap()
    }

    fn any_grace(&mut self) -> Duration {
        Duration::from_millis(self.dice.roll(20))
    }

    fn any_present(&mut self) -> Option<String> {
        let left: Vec<_> = self.world.diary.left().into_iter().collect();
        (!left.is_empty()).then(|| left[self.dice.nth(left.len() as u64) - 1].to_string())
    }

    fn set_unavailable(&mut self, unavailable: bool) {
        self.unavailable = unavailable;
        self.world.fake.set_unavailable(unavailable);
        self.world.engine.break_waits(unavailable);
    }

    fn heal(&mut self) {
        self.set_unavailable(false);
        self.stubborn = false;
        self.silent = false;
        self.world.fake.set_stubborn(false);
        self.world.fake.set_behaviour(InitBehaviour::Claims);
        self.world.ground.set_answers(true);
        self.world.ground.no_fault();
    }

    fn begin(&mut self, launcher: &Arc<Launcher>, tasks: &mut JoinSet<()>) {
        let decision = self.any_decision();
        let repeated = self.last.as_ref() == Some(&decision);
        self.last = Some(decision.clone());
        let (launcher, model, key) =
            (Arc::clone(launcher), Arc::clone(&self.model), decision.key.clone());
        // A repeated request may be answered with what it was told before.
        let known = model.lock().unwrap().generations.get(&key).copied().unwrap_or_default();
        let floor = if repeated { 0 } else { known };
        tasks.spawn(async move {
            let answer = match launcher.start(decision).await {
                Ok(entry) => Ok((entry.sandbox.record.generation, end_of(&entry).await)),
                Err(refused) => Err(refused),
            };
            model.lock().unwrap().judge(&key, floor, answer);
        });
    }

    fn step(&mut self, launcher: &Arc<Launcher>, tasks: &mut JoinSet<()>) {
        match self.dice.roll(100) {
            0..35 => self.begin(launcher, tasks),
            35..55 => {
                let (key, grace) = (self.any_key(), self.any_grace());
                let launcher = Arc::clone(launcher);
                tasks.spawn(async move {
                    launcher
                        .stop(
                            &key,
                            0,
                            StopWish { grace, cause: StopCause::Asked, why: "stopped".into() },
                        )
                        .await;
                });
            }
            55..65 => {
                let code = self.dice.pick(&[0, 1, 137, 143]);
                if let Some(id) = self.any_present() {
                    self.world.fake.end(&id, code);
                }
            }
            65..68 => {
                if let Some(id) = self.any_present() {
                    self.world.fake.lose(&id);
                }
            }
            68..76 => self.world.fake.fail_at(self.dice.nth(MOST_CALLS)),
            76..84 => {
                let fault = self.dice.pick(&[Fault::Before, Fault::After]);
                self.world.ground.fault_at(self.dice.nth(8), fault);
            }
            84..86 => self.set_unavailable(!self.unavailable),
            86..89 => {
                let behaviours = [
                    InitBehaviour::Claims,
                    InitBehaviour::Claims,
                    InitBehaviour::Refuses,
                    InitBehaviour::Ends(1),
                    InitBehaviour::Silent,
                ];
                self.world.fake.set_behaviour(self.dice.pick(&behaviours));
            }
            89..91 => {
                self.stubborn = !self.stubborn;
                self.world.fake.set_stubborn(self.stubborn);
            }
            91..94 => {
                self.silent = !self.silent;
                self.world.ground.set_answers(!self.silent);
            }
            94..96 => {
                self.heal();
                launcher.undrain();
            }
            96..98 => {
                let launcher = Arc::clone(launcher);
                // Now and then it is emptied, too.
                let wish = (self.dice.roll(3) == 0).then(|| StopWish {
                    grace: Duration::ZERO,
                    cause: StopCause::Drained,
                    why: "drained".into(),
                });
                let pause = Duration::from_millis(self.dice.roll(120));
                tasks.spawn(async move {
                    launcher.drain(wish.as_ref()).await;
                    tokio::time::sleep(pause).await;
                    launcher.undrain();
                });
            }
            _ => {
                let launcher = Arc::clone(launcher);
                tasks.spawn(async move {
                    // Refused while the engine does not answer.
                    let _ = launcher.sweep().await;
                });
            }
        }
    }

    fn assert_innocent(&self) {
        self.world.diary.assert_innocent();
        let wrong = &self.model.lock().unwrap().wrong;
        assert!(wrong.is_empty(), "{wrong:#?}");
        for witness in &self.witnesses {
            assert!(witness.wrong.is_empty(), "{:#?}", witness.wrong);
        }
    }

    /// A launcher that came up. One that does not ends, and is started again.
    fn boot(&mut self) -> (Life, Arc<Launcher>) {
        loop {
            let life = Life::paused();
            let launcher = life.run(async {
                let launcher = self.world.launcher();
                launcher.reconcile().await.map(|_| launcher)
            });
            match launcher {
                Ok(launcher) => return (life, launcher),
                Err(_) => self.set_unavailable(false),
            }
        }
    }

    /// One launcher's life, until it dies in the middle of something.
    fn live(&mut self, steps: usize, last: bool) {
        let (life, launcher) = self.boot();
        let mut tasks = JoinSet::new();
        life.run(async {
            for _ in 0..steps {
                self.step(&launcher, &mut tasks);
                tokio::time::sleep(Duration::from_millis(self.dice.roll(30))).await;
                for number in 0..self.witnesses.len() {
                    if self.dice.roll(4) == 0 {
                        self.witnesses[number].look(&launcher);
                    }
                }
                self.assert_innocent();
                while tasks.try_join_next().transpose().unwrap().is_some() {}
            }
            if last {
                self.finish(&launcher, tasks).await;
            }
        });
    }

    async fn finish(&mut self, launcher: &Arc<Launcher>, mut tasks: JoinSet<()>) {
        self.heal();
        launcher.undrain();
        while let Some(ended) = tokio::time::timeout(Duration::from_secs(600), tasks.join_next())
            .await
            .expect("everybody is answered")
        {
            ended.unwrap();
        }
        // Whatever was ordered to fail has failed now.
        for _ in 0..MOST_CALLS {
            let _ = self.world.fake.list().await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        launcher.undrain();
        self.assert_agrees(launcher).await;
        launcher
            .stop_all(&StopWish {
                grace: Duration::ZERO,
                cause: StopCause::Asked,
                why: "the end".into(),
            })
            .await;
        launcher.sweep().await.unwrap();
        assert_eq!(launcher.sweep().await.unwrap(), 0, "a second sweep finds nothing");
        self.world.assert_nothing_remains().await;
        for user in USERS {
            let decision = policy::decide(&self.world.config, &request(user)).unwrap();
            let known = self
                .model
                .lock()
                .unwrap()
                .generations
                .get(&decision.key)
                .copied()
                .unwrap_or_default();
            let entry = launcher.start(decision).await.unwrap();
            assert_eq!(end_of(&entry).await, StartNews::Ready);
            assert!(entry.sandbox.record.generation > known);
        }
        launcher
            .stop_all(&StopWish {
                grace: Duration::ZERO,
                cause: StopCause::Asked,
                why: "the end".into(),
            })
            .await;
        self.world.assert_nothing_remains().await;
    }

    /// What the launcher says is ready is what the engine runs.
    async fn assert_agrees(&self, launcher: &Arc<Launcher>) {
        let mut agreement = (BTreeSet::new(), BTreeSet::new());
        let found = self.world.fake.list().await.unwrap();
        agreement.0.extend(
            found
                .iter()
                .filter(|found| found.state == TaskState::Running)
                .map(|found| found.id.clone()),
        );
        let ready = launcher.list(None).into_iter().filter(|entry| entry.phase() == Phase::Ready);
        agreement.1.extend(ready.map(|entry| entry.sandbox.id().to_string()));
        assert_eq!(agreement.0, agreement.1);
        until("nothing in between", || {
            launcher
                .list(None)
                .iter()
                .all(|entry| matches!(entry.phase(), Phase::Ready | Phase::Gone))
        })
        .await;
    }
}

fn seed() -> u64 {
    std::env::var("ADRASTEA_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        |text| text.parse().expect("ADRASTEA_SEED is a number"),
    )
}

#[test]
fn any_history_keeps_the_promises() {
    let seed = seed();
    println!("ADRASTEA_SEED={seed}");
    let world = World::with(|config| {
        config.limits.stop_grace = 0;
        config.limits.concurrent_starts = 2;
        config.limits.starting_servers = Some(3);
    });
    let (dice, model) = (Dice(seed), Arc::default());
    let mut history = History {
        world,
        dice,
        model,
        unavailable: false,
        stubborn: false,
        silent: false,
        last: None,
        witnesses: HUBS.map(Witness::new),
    };
    // `make soak` asks for longer ones.
    let mut left = std::env::var("ADRASTEA_STEPS")
        .map_or(STEPS, |text| text.parse().expect("ADRASTEA_STEPS is a number"));
    let mut lives = 0;
    while left > 0 {
        let steps = history.dice.nth(80).min(left);
        left -= steps;
        lives += 1;
        history.live(steps, left == 0);
    }
    let model = history.model.lock().unwrap();
    let [one, two] = &history.witnesses;
    let (resumed, whole) = (one.resumed + two.resumed, one.whole + two.whole);
    println!("{lives} lives, {resumed} resumed and {whole} whole, {:?}", model.tally);
    assert!(resumed > 100 && whole > 10, "{resumed} {whole}");
    assert!(model.counted("drained") > 0, "{:?}", model.tally);
    // A history in which nothing happens proves nothing.
    assert!(model.counted("ready") > 50 && lives > 10, "{lives} lives, {:?}", model.tally);
    for reason in [
        FailureReason::Internal,
        FailureReason::Network,
        FailureReason::Cancelled,
        FailureReason::EngineUnavailable,
    ] {
        assert!(model.counted(reason.as_str_name()) > 0, "no {reason:?}: {:?}", model.tally);
    }
}
