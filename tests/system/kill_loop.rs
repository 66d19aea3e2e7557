//! A seeded random loop: starts and stops of a few users while the launcher,
//! containerd, shims and servers are killed at random moments. In the end nothing is
//! left, and every home is what its user wrote last.
//!
//! `ADRASTEA_SEED` repeats one, `ADRASTEA_KILLS` makes it longer (`make soak`).

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use adrastea_proto::v1::Phase;
use adrastea_tests::{
    Instance, Options, Suite,
    client::{Started, request},
};
use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{engine_faults::shim_of, freezes::processes_of};

const USERS: [&str; 3] = ["ana", "ben", "cleo"];
/// How many kills the gate tries.
const KILLS: u64 = 12;

pub fn add(suite: &mut Suite) {
    suite.own("kill_loop::any_order_of_deaths_heals", Options::default(), |instance| async move {
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seed = number("ADRASTEA_SEED").unwrap_or(1);
        let kills = number("ADRASTEA_KILLS").unwrap_or(KILLS);
        run(&instance, seed, kills).await.with_context(|| format!("ADRASTEA_SEED={seed}"))
    });
}

/// SplitMix64: short, seeded, good enough to choose moments.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// What each user has certainly written last.
type Written = Arc<Mutex<BTreeMap<&'static str, String>>>;

async fn run(instance: &Arc<Instance>, seed: u64, kills: u64) -> anyhow::Result<()> {
    let mut random = Random(seed);
    let written: Written = Arc::default();
    let identities = settle(instance).await?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let users: Vec<_> = USERS
        .iter()
        .enumerate()
        .map(|(number, user)| {
            let random = Random(seed.wrapping_add(1 + number as u64));
            tokio::spawn(live(
                Arc::clone(instance),
                user,
                random,
                Arc::clone(&written),
                stopped.clone(),
            ))
        })
        .collect();
    let mut outcome = Ok(());
    for round in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.below(700))).await;
        let what = random.below(5);
        outcome = strike(instance, what, &mut random)
            .await
            .with_context(|| format!("kill {round}, kind {what}"));
        if outcome.is_err() {
            break;
        }
    }
    stop.send_replace(true);
    for user in users {
        tokio::time::timeout(Duration::from_secs(120), user)
            .await
            .context("a user's call never ended")??;
    }
    outcome?;
    converge(instance, &written, &identities).await
}

/// Each has a home and a number before anything dies.
async fn settle(instance: &Instance) -> anyhow::Result<BTreeMap<&'static str, u32>> {
    let mut identities = BTreeMap::new();
    for user in USERS {
        instance.start(user).await?;
        identities.insert(user, instance.get(user).await?.disk_uid);
        instance.stop(user, "").await?;
    }
    Ok(identities)
}

/// Starts, writes, stops, as the dice say; whatever fails meanwhile is tried again.
async fn live(
    instance: Arc<Instance>,
    user: &'static str,
    mut random: Random,
    written: Written,
    stop: tokio::sync::watch::Receiver<bool>,
) {
    let mut round = 0;
    while !*stop.borrow() {
        round += 1;
        if let Ok(Started::Ready(ready)) = instance.try_start(request(user)).await {
            let text = format!("{user}{round}");
            let path = format!("/write/{text}/home/jovyan/file");
            let done =
                instance.http(ready.address(), &path).is_ok_and(|(_, body)| body == "written");
            let mut all = written.lock().unwrap_or_else(PoisonError::into_inner);
            if done {
                all.insert(user, text);
            } else {
                // It may or may not have been written before the server died.
                all.remove(user);
            }
        }
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        if random.below(3) > 0 {
            instance.stop(user, "").await.ok();
        }
        // A launcher that is down answers at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kills something.
async fn strike(instance: &Instance, what: u64, random: &mut Random) -> anyhow::Result<()> {
    match what {
        0 | 1 => {
            instance.end_launcher(Signal::SIGKILL)?;
            tokio::time::sleep(Duration::from_millis(random.below(300))).await;
            instance.serve(None).await?;
        }
        // Gone in the moment between two of them.
        2 => drop(instance.kill_containerd(Signal::SIGKILL)),
        _ => {
            let live = instance.live().await.unwrap_or_default();
            if live.is_empty() {
                return Ok(());
            }
            let index = usize::try_from(random.below(live.len() as u64))?;
            let id = &live[index].sandbox_id;
            let pid = if what == 3 {
                shim_of(instance, id).ok()
            } else {
                processes_of(instance, id).first().copied()
            };
            if let Some(pid) = pid {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
    Ok(())
}

/// After the storm: everybody starts with the old number and the last file, and nothing stays.
async fn converge(
    instance: &Instance,
    written: &Written,
    identities: &BTreeMap<&'static str, u32>,
) -> anyhow::Result<()> {
    for user in USERS {
        instance.stop(user, "").await?;
        let mut tries = 0;
        let ready = loop {
            match instance.try_start(request(user)).await? {
                Started::Ready(ready) => break ready,
                Started::Failed(failed) if tries == 50 => {
                    bail!("{user} does not start: {failed:?}")
                }
                Started::Failed(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            tries += 1;
        };
        let now = instance.get(user).await?;
        ensure!(now.phase() == Phase::Ready && now.disk_uid == identities[user], "{now:?}");
        let text = written.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned();
        if let Some(text) = text {
            let kept = instance.http(ready.address(), "/cat/home/jovyan/file")?.1;
            ensure!(kept == text, "{user} wrote {text} and finds {kept}");
        }
        ensure!(instance.stop(user, "").await?);
    }
    // A shim that died may have left what only the next look removes.
    instance.restart_launcher(Signal::SIGKILL).await?;
    instance.nothing_left(Duration::from_secs(20))
}
