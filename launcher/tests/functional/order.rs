//! The order of a life: each step journalled before it changes anything, nothing
//! of the tenant before the proof, undoing in reverse, everything crossed out.

use adrastea::store::Step;
use adrastea_init::claim;
use adrastea_proto::v1::{ExitCause, Phase};

use crate::world::{World, id, request};

#[tokio::test]
async fn a_life_goes_through_every_step_in_order_and_back() {
    let world = World::new();
    let hub = world.boot().await;
    let story = hub.ask(request("ana")).await.unwrap();
    let phases =
        [Phase::Queued, Phase::Preparing, Phase::Proving, Phase::Claiming, Phase::Starting];
    assert_eq!(story.phases(), phases);
    assert!(story.progress.is_sorted_by_key(|progress| progress.percent));
    let ready = story.end.unwrap();
    let up = [
        "make directory",
        "make namespaces",
        "make network",
        "make rootfs",
        "create container",
        "start container",
        "prove",
        "attach home",
        "open egress",
    ];
    assert_eq!(world.diary.lines(), up);
    assert_eq!(world.ground.asked(), ["/user/ana/api"]);
    let mut journal = world.store().steps(&id(&ready.sandbox_id)).unwrap();
    journal.reverse();
    assert_eq!(journal, Step::ALL);
    let sandbox = hub.get("ana").await;
    assert_eq!(
        (sandbox.phase(), &sandbox.address, sandbox.port),
        (Phase::Ready, &ready.address, ready.port)
    );
    assert_eq!(sandbox.sandbox_id, ready.sandbox_id);

    world.diary.forget_lines();
    assert!(hub.stop("ana").await);
    let down = [
        "kill 15",
        "delete container",
        "unmake container",
        "unmake rootfs",
        "unmake network",
        "unmake namespaces",
        "unmake directory",
    ];
    assert_eq!(world.diary.lines(), down);
    let sandbox = hub.get("ana").await;
    assert_eq!(sandbox.phase(), Phase::Gone);
    let exit = sandbox.exit.unwrap();
    assert_eq!((exit.cause(), exit.message.as_str()), (ExitCause::Stopped, "stopped"));
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn the_claim_is_the_profiles_command_and_the_layered_environment() {
    let world = World::new();
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.arguments = vec!["--port=8888".into(), "a b".into(), String::new()];
    asked.environment = [("MEM_LIMIT", "1"), ("MEM_NOTE", "x"), ("LANG", "hub")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    asked.secret_environment = [("JUPYTERHUB_API_TOKEN".into(), "t0ken".into())].into();
    let ready = hub.ask(asked).await.unwrap().end.unwrap();

    let payload = world.fake.claim(&ready.sandbox_id).unwrap();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let claim = claim::decode(&[b"ADRCLAIM1\n".as_slice(), &length, &payload].concat()).unwrap();
    assert_eq!(
        claim.arguments,
        ["jupyterhub-singleuser", "--from-profile", "--port=8888", "a b", ""]
    );
    assert_eq!(claim.directory, std::path::Path::new("/home/jovyan"));
    // The image's first, the profile's over it, the hub's over both, and the truth about the
    // limits over all; never a variable of the loader's.
    let expected = [
        ("CPU_LIMIT", "0.500"),
        ("FROM_IMAGE", "yes"),
        ("FROM_PROFILE", "yes"),
        ("HOME", "/home/jovyan"),
        ("JUPYTERHUB_API_TOKEN", "t0ken"),
        ("LANG", "hub"),
        ("LOGNAME", "jovyan"),
        ("MEM_LIMIT", "268435456"),
        ("MEM_NOTE", "x"),
        ("PATH", "/image/bin"),
        ("USER", "jovyan"),
    ];
    assert_eq!(
        claim.environment,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn a_start_without_an_address_to_ask_is_ready_once_it_is_claimed() {
    let world = World::new();
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.ready_path = String::new();
    hub.ask(asked).await.unwrap().end.unwrap();
    assert!(world.ground.asked().is_empty());
    hub.stop("ana").await;
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn a_server_that_answers_late_is_asked_until_it_does() {
    let world = World::new();
    world.ground.set_answers(false);
    let hub = world.boot().await;
    let starting = hub.begin(request("ana"));
    hub.reaches("ana", Phase::Starting).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!starting.is_finished());
    world.ground.set_answers(true);
    starting.await.unwrap().end.unwrap();
}
