//! Sandboxes that wait for their user: taken once, by whom they fit, without a trace of anybody
//! before; and whatever happens to one, the start that took it comes up, or nothing is left.

use std::{path::Path, sync::Arc, time::Duration};

use adrastea::{
    config_pool::ProfilePool,
    config_runtimes::RuntimeConfig,
    launch::{Launcher, pool::PoolState},
    store::SandboxState,
};
use adrastea_init::claim::{self, Message};
use adrastea_proto::v1::{self, ExitCause, Phase, StartRequest};
use adrastea_runtimes::engine::fake::InitBehaviour;

use crate::{
    ground::Fault,
    world::{Hub, LEASES, Life, World, request, until},
};

fn world(minimum: u32, maximum: u32) -> World {
    World::with(|config| {
        config.profiles.get_mut("standard").unwrap().pool = Some(ProfilePool { minimum, maximum });
        // No rest between two.
        config.pool.cpu = adrastea::quantity::Cpus::from_millis(1_000_000);
    })
}

/// Makes slots until none is missing.
async fn fill(launcher: &Arc<Launcher>) {
    while launcher.tend_pool_once().await {}
}

fn state(launcher: &Launcher) -> PoolState {
    let pools = launcher.describe_pool();
    pools.into_iter().find(|pool| pool.profile == "standard").unwrap()
}

fn waiting(launcher: &Launcher) -> Vec<String> {
    state(launcher).slots.into_iter().map(|slot| slot.id).collect()
}

fn counts(launcher: &Launcher) -> (u64, u64, u64) {
    let counts = state(launcher).counts;
    (counts.hits, counts.misses, counts.failures)
}

async fn filled(world: &World) -> Hub {
    let hub = world.boot().await;
    fill(&hub.launcher).await;
    hub
}

#[tokio::test]
async fn a_start_takes_a_slot_and_goes_on_from_its_proof() {
    let world = world(1, 1);
    let hub = filled(&world).await;
    let slots = waiting(&hub.launcher);
    assert_eq!(slots.len(), 1);
    // Nobody sees it who asks for servers.
    assert!(hub.launcher.list(None).is_empty());
    let standby = world.fake.standby(&slots[0]).unwrap();
    assert!(world.fake.claim(&slots[0]).is_none());
    world.diary.forget_lines();

    let mut asked = request("ana");
    asked.arguments = vec!["--debug".into()];
    asked.secret_environment = [("JUPYTERHUB_API_TOKEN".into(), "t0ken".into())].into();
    let story = hub.ask(asked).await.unwrap();
    let phases = [Phase::Queued, Phase::Proving, Phase::Claiming, Phase::Starting];
    assert_eq!(story.phases(), phases);
    let ready = story.end.unwrap();
    assert_eq!(ready.sandbox_id, slots[0]);
    assert_eq!(world.diary.lines(), ["let go 7", "prove again", "attach home", "open egress"]);
    // What it knew beforehand holds for everybody; what is the user's came with the claim.
    let message = |magic: &[u8], payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        claim::read_message(&mut [magic, &length, payload].concat().as_slice()).unwrap()
    };
    let Message::Standby(before) = message(b"ADRSTAND1\n", &standby) else { panic!() };
    let claimed = world.fake.claim(&slots[0]).unwrap();
    let Message::Claim(after) = message(b"ADRCLAIM1\n", &claimed) else { panic!() };
    assert_eq!(before.arguments, ["jupyterhub-singleuser", "--from-profile"]);
    assert_eq!(after.arguments, ["jupyterhub-singleuser", "--from-profile", "--debug"]);
    assert_eq!(before.directory, std::path::Path::new("/"));
    let added: Vec<_> =
        after.environment.iter().filter(|one| !before.environment.contains(one)).collect();
    assert_eq!(added, [&("JUPYTERHUB_API_TOKEN".to_owned(), "t0ken".to_owned())]);
    assert!(before.environment.iter().all(|one| after.environment.contains(one)));

    let record = world.records().into_iter().find(|record| !record.key.is_slot()).unwrap();
    assert_eq!((record.state, record.generation), (SandboxState::Running, 1));
    // The number on disk is the user's own, the numbers inside are the slot's.
    assert!(record.facts.home_mapped && record.facts.disk_uid >= 1_879_048_192);
    assert_eq!(counts(&hub.launcher), (1, 0, 0));

    assert!(hub.stop("ana").await);
    assert_eq!(hub.get("ana").await.exit.unwrap().cause(), ExitCause::Stopped);
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_slot_is_taken_once() {
    let world = world(2, 2);
    let hub = filled(&world).await;
    let slots = waiting(&hub.launcher);
    let starts: Vec<_> = (0..4).map(|index| hub.begin(request(&format!("user-{index}")))).collect();
    let mut ids = Vec::new();
    for start in starts {
        ids.push(start.await.unwrap().end.unwrap().sandbox_id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert_eq!(ids.iter().filter(|id| slots.contains(id)).count(), 2);
    assert_eq!(counts(&hub.launcher), (2, 2, 0));
    // The pool is filled again, and with one for each recent start if the maximum allows.
    fill(&hub.launcher).await;
    assert_eq!(waiting(&hub.launcher).len(), 2);
    hub.launcher.close_pool().await;
    for index in 0..4 {
        assert!(hub.stop(&format!("user-{index}")).await);
    }
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn what_differs_from_its_profile_takes_no_slot() {
    let world = world(1, 1);
    let hub = filled(&world).await;
    let slots = waiting(&hub.launcher);
    let changes: [fn(&mut StartRequest); 5] = [
        |asked| asked.limits = Some(v1::Limits { memory_bytes: Some(300 << 20), cpu_millis: None }),
        |asked| asked.image = "science".into(),
        |asked| asked.disable_user_config = true,
        |asked| {
            asked.environment.insert("LANG".into(), "hub".into());
        },
        |asked| {
            asked.environment.insert("JUPYTERHUB_SINGLEUSER_APP".into(), "notebook".into());
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let user = format!("user-{index}");
        let mut asked = request(&user);
        change(&mut asked);
        let ready = hub.ask(asked).await.unwrap().end.unwrap();
        assert!(!slots.contains(&ready.sandbox_id), "{index}");
        assert!(hub.stop(&user).await);
    }
    assert_eq!(waiting(&hub.launcher), slots);
    assert_eq!(counts(&hub.launcher), (0, 5, 0));
    let mut asked = request("zoe");
    asked.environment.insert("MEM_NOTE".into(), "its own".into());
    assert_eq!(hub.ask(asked).await.unwrap().end.unwrap().sandbox_id, slots[0]);
    hub.launcher.close_pool().await;
    hub.stop("zoe").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_claim_that_fails_is_a_cold_start() {
    // Refused by the init; a program that ends; a fault at each step of the ground.
    for nth in 0..8 {
        let world = world(1, 1);
        if nth == 0 {
            world.fake.set_behaviour(InitBehaviour::Refuses);
        }
        let hub = filled(&world).await;
        world.fake.set_behaviour(InitBehaviour::Claims);
        let slots = waiting(&hub.launcher);
        let fault = if nth % 2 == 0 { Fault::Before } else { Fault::After };
        match nth {
            0 => {}
            1 => world.fake.end(&slots[0], 3),
            nth => world.ground.fault_at((nth - 2) / 2 + 1, fault),
        }
        let story = hub.ask(request("ana")).await.unwrap();
        assert!(story.progress.is_sorted_by_key(|progress| progress.percent), "{nth}: {story:?}");
        let ready = story.end.unwrap();
        assert!(!world.ground.fault_is_pending(), "{nth}");
        // Under the same id, but one whose end was known already is not taken at all.
        assert!(nth == 1 || ready.sandbox_id == slots[0], "{nth}");
        assert_eq!(counts(&hub.launcher).2, u64::from(nth != 1), "{nth}");
        assert_eq!(hub.get("ana").await.phase(), Phase::Ready);
        world.say(&ready.sandbox_id, "hello\n");
        until("the log", || hub.entry("ana").unwrap().log.tail(100) == "hello\n").await;
        assert!(hub.stop("ana").await, "{nth}");
        hub.launcher.close_pool().await;
        world.assert_nothing_remains().await;
    }
}

#[tokio::test]
async fn a_server_that_ends_at_its_claim_is_started_cold() {
    let world = world(1, 1);
    world.ground.set_answers(false);
    let hub = filled(&world).await;
    let slot = waiting(&hub.launcher).remove(0);
    let start = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    world.say(&slot, "of the first\n");
    until("the log", || !hub.entry("ana").unwrap().log.tail(100).is_empty()).await;
    world.fake.end(&slot, 1);
    until("its end", || world.diary.lines().contains(&"unmake directory".into())).await;
    world.ground.set_answers(true);
    let ready = start.await.unwrap().end.unwrap();
    assert_eq!((ready.sandbox_id.as_str(), ready.generation), (slot.as_str(), 1));
    assert_eq!(counts(&hub.launcher), (1, 0, 1));
    world.say(&slot, "of the second\n");
    until("the log", || hub.entry("ana").unwrap().log.tail(100) == "of the second\n").await;
    hub.stop("ana").await;
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_command_that_ends_at_once_runs_once() {
    let world = world(1, 1);
    world.fake.set_behaviour(InitBehaviour::ClaimsAndEnds);
    let hub = filled(&world).await;
    let slot = waiting(&hub.launcher).remove(0);
    let asked = StartRequest { ready_path: String::new(), ..request("ana") };
    // Its end is known before its word on the claim is.
    assert_eq!(hub.ask(asked).await.unwrap().end.unwrap().sandbox_id, slot);
    assert_eq!(counts(&hub.launcher), (1, 0, 0));
    hub.reaches("ana", Phase::Gone).await;
    let made = format!("create {slot}");
    let calls = world.fake.calls();
    assert_eq!(calls.iter().filter(|call| **call == made).count(), 1, "{calls:?}");
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_program_that_steps_aside_at_the_claim_is_counted() {
    let world = world(1, 1);
    world.fake.set_behaviour(InitBehaviour::ClaimsAnew);
    let hub = filled(&world).await;
    let slot = waiting(&hub.launcher).remove(0);
    assert_eq!(hub.start("ana").await.sandbox_id, slot);
    assert_eq!(counts(&hub.launcher), (1, 0, 1));
    hub.stop("ana").await;
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn an_image_that_cannot_wait_starts_cold_and_says_so() {
    let world = world(1, 1);
    world.fake.set_behaviour(InitBehaviour::StepsAside);
    let hub = filled(&world).await;
    assert_eq!(state(&hub.launcher).aside.as_deref(), Some("told to step aside"));
    assert!(waiting(&hub.launcher).is_empty());
    hub.start("ana").await;
    // It is not tried again at once, unless the administrator says so.
    world.fake.set_behaviour(InitBehaviour::Claims);
    fill(&hub.launcher).await;
    assert!(waiting(&hub.launcher).is_empty());
    hub.launcher.refill_pool(Some("standard")).unwrap();
    fill(&hub.launcher).await;
    assert_eq!((waiting(&hub.launcher).len(), state(&hub.launcher).aside), (1, None));
    hub.stop("ana").await;
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn an_image_that_comes_is_tried_at_once() {
    let world = world(1, 1);
    world.fake.set_behaviour(InitBehaviour::StepsAside);
    let hub = filled(&world).await;
    world.fake.set_behaviour(InitBehaviour::Claims);
    let reference = hub.launcher.config().images["singleuser"].reference.clone();
    hub.launcher.import_image(Path::new("/archive"), &reference, &|_| {}).await.unwrap();
    fill(&hub.launcher).await;
    assert_eq!((waiting(&hub.launcher).len(), state(&hub.launcher).aside), (1, None));
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn homes_that_cannot_be_mapped_have_no_slots() {
    let world = world(1, 1);
    world.ground.set_maps_homes(false);
    let hub = filled(&world).await;
    assert!(waiting(&hub.launcher).is_empty());
    assert_eq!(state(&hub.launcher).aside.as_deref(), Some("homes cannot be mapped"));
    hub.start("ana").await;
    hub.stop("ana").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_runtime_waits_only_after_a_home_of_nobodys_was_right() {
    let world = World::with(|config| {
        // Of a program that is not there nothing is remembered.
        let gvisor = RuntimeConfig {
            binary: "/nonexistent/runsc".into(),
            ..config.runtimes["runc"].clone()
        };
        config.runtimes.insert("gvisor".into(), gvisor);
        let profile = config.profiles.get_mut("standard").unwrap();
        profile.runtimes = vec!["gvisor".into()];
        profile.pool = Some(ProfilePool { minimum: 1, maximum: 1 });
    });
    world.ground.set_odd_homes(true);
    let hub = filled(&world).await;
    assert!(waiting(&hub.launcher).is_empty());
    let told = state(&hub.launcher).aside.unwrap();
    assert_eq!(told, "under `gvisor` no server waits for its user: the home is odd");
    world.assert_nothing_remains().await;
    // The start is a cold one, and what was odd is tried again when the administrator says so.
    hub.start("ana").await;
    hub.stop("ana").await;
    world.ground.set_odd_homes(false);
    fill(&hub.launcher).await;
    assert!(waiting(&hub.launcher).is_empty(), "it was tried again at once");
    hub.launcher.refill_pool(None).unwrap();
    fill(&hub.launcher).await;
    assert_eq!((waiting(&hub.launcher).len(), state(&hub.launcher).aside), (1, None));
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn servers_that_ignore_their_users_configuration_do_not_wait() {
    let world = World::with(|config| {
        let profile = config.profiles.get_mut("standard").unwrap();
        profile.pool = Some(ProfilePool { minimum: 1, maximum: 1 });
        profile.user_config = adrastea::config::UserConfig::Ignored;
    });
    let hub = filled(&world).await;
    let told = state(&hub.launcher).aside.unwrap();
    assert!(told.contains("ignores its user's configuration"), "{told}");
    hub.start("ana").await;
    hub.stop("ana").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_slot_that_cannot_be_made_leaves_nothing() {
    for nth in 1..=5 {
        for fault in [Fault::Before, Fault::After] {
            let world = world(1, 1);
            let hub = world.boot().await;
            world.ground.fault_at(nth, fault);
            fill(&hub.launcher).await;
            assert!(!world.ground.fault_is_pending(), "{nth}");
            assert!(waiting(&hub.launcher).is_empty(), "{nth}");
            world.assert_nothing_remains().await;
        }
    }
}

#[tokio::test]
async fn a_slot_that_ends_or_is_too_old_is_made_anew() {
    let world = world(1, 1);
    let hub = filled(&world).await;
    let first = waiting(&hub.launcher);
    world.fake.end(&first[0], 0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    fill(&hub.launcher).await;
    let second = waiting(&hub.launcher);
    assert!(second.len() == 1 && second != first);
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;

    let world = World::with(|config| {
        let pool = Some(ProfilePool { minimum: 1, maximum: 1 });
        config.profiles.get_mut("standard").unwrap().pool = pool;
        config.pool.cpu = adrastea::quantity::Cpus::from_millis(1_000_000);
        config.pool.max_age = 0;
    });
    let hub = world.boot().await;
    hub.launcher.tend_pool_once().await;
    let first = waiting(&hub.launcher);
    hub.launcher.tend_pool_once().await;
    assert!(waiting(&hub.launcher) != first);
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_drained_pool_and_a_drained_node_have_no_slots() {
    let world = world(2, 2);
    let hub = filled(&world).await;
    assert_eq!(hub.launcher.drain_pool(Some("zoo")).await, None);
    assert_eq!(hub.launcher.drain_pool(None).await, Some(2));
    world.assert_nothing_remains().await;
    fill(&hub.launcher).await;
    assert!(waiting(&hub.launcher).is_empty() && state(&hub.launcher).drained);
    hub.launcher.refill_pool(None).unwrap();
    fill(&hub.launcher).await;
    assert_eq!(waiting(&hub.launcher).len(), 2);

    hub.launcher.drain(None).await;
    world.assert_nothing_remains().await;
    fill(&hub.launcher).await;
    assert!(waiting(&hub.launcher).is_empty());
    hub.launcher.undrain();
    fill(&hub.launcher).await;
    assert_eq!(waiting(&hub.launcher).len(), 2);
    hub.launcher.close_pool().await;
    fill(&hub.launcher).await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn slots_make_room_for_users() {
    let world = world(3, 3);
    let hub = filled(&world).await;
    // As many as there are leases: the slots are in the way, and give way.
    let mut taken = 0;
    for index in 0..LEASES {
        let mut asked = request(&format!("user-{index}"));
        asked.image = "science".into();
        hub.ask(asked).await.unwrap().end.unwrap();
        taken += 1;
    }
    assert_eq!((taken, waiting(&hub.launcher).len()), (LEASES, 0));
    // There is no lease for another one, and nobody is harmed by the attempt.
    fill(&hub.launcher).await;
    assert!(waiting(&hub.launcher).is_empty());
    for index in 0..LEASES {
        assert!(hub.stop(&format!("user-{index}")).await);
    }
    world.assert_nothing_remains().await;
}

#[test]
fn slots_of_a_launcher_that_died_are_removed() {
    let world = world(2, 2);
    let life = Life::new();
    life.run(async { filled(&world).await });
    drop(life);
    assert_eq!(world.records().len(), 2);
    Life::new().run(async {
        let launcher = world.launcher();
        let done = launcher.reconcile().await.unwrap();
        assert_eq!((done.adopted, done.removed, done.orphans), (0, 2, 0));
        assert!(launcher.list(None).is_empty());
        world.assert_nothing_remains().await;
    });
}

#[test]
fn a_launcher_that_dies_in_a_claim_leaves_a_server_or_nothing() {
    // The proof, the home, the egress; then the claim is with the init.
    for nth in 1..=3 {
        let world = world(1, 1);
        let life = Life::new();
        life.run(async {
            let hub = filled(&world).await;
            world.ground.fault_at(nth, Fault::Hang);
            drop(hub.begin(request("ana")));
            until("the fault", || !world.ground.fault_is_pending()).await;
        });
        drop(life);
        Life::new().run(async {
            let hub = world.boot().await;
            assert_eq!(hub.get("ana").await.exit.unwrap().cause(), ExitCause::FailedStart);
            world.assert_nothing_remains().await;
            // The next start is a newer one.
            assert_eq!(hub.start("ana").await.generation, 2);
            hub.stop("ana").await;
            world.assert_nothing_remains().await;
        });
    }
    let world = world(1, 1);
    let life = Life::new();
    let ready = life.run(async { filled(&world).await.start("ana").await });
    drop(life);
    Life::new().run(async {
        let hub = world.boot().await;
        let sandbox = hub.get("ana").await;
        assert_eq!((sandbox.phase(), sandbox.sandbox_id), (Phase::Ready, ready.sandbox_id));
        hub.stop("ana").await;
        world.assert_nothing_remains().await;
    });
}

#[tokio::test]
async fn a_start_given_up_while_its_slot_is_claimed_is_over() {
    let world = world(1, 1);
    world.ground.set_answers(false);
    let hub = filled(&world).await;
    let start = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    assert!(hub.stop("ana").await);
    let failed = start.await.unwrap().failed();
    assert!(failed.message.contains("given up"), "{failed:?}");
    hub.launcher.close_pool().await;
    world.assert_nothing_remains().await;
}
