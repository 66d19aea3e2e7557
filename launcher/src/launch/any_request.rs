//! Whatever a request holds, what comes of it is refused or stands behind every wall.
#![allow(clippy::unwrap_used)]

use std::{net::Ipv4Addr, path::Path, sync::LazyLock};

use adrastea_runtimes::{build_spec, floor};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::policy::decide;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = include_str!("../../../docs/adrastea.example.toml");
    Config::parse(text, Path::new("example")).unwrap()
});

/// What a compromised hub would try, and what means something here.
fn text() -> impl Strategy<Value = String> {
    let mut words = vec![
        "",
        "ana",
        "..",
        "/",
        "root",
        "runc",
        "crun",
        "LD_PRELOAD",
        "JUPYTERHUB_API_TOKEN",
        "PATH",
        "/proc/self/fd/7",
        "/.adrastea/init",
        "privileged",
        "containerd.io/gc.root",
        "a\0b",
        "%2e",
    ];
    words.extend(CONFIG.profiles.keys().chain(CONFIG.images.keys()).map(String::as_str));
    prop_oneof![
        4 => prop::sample::select(words.into_iter().map(str::to_owned).collect::<Vec<_>>()),
        1 => any::<String>(),
    ]
}

fn request() -> impl Strategy<Value = v1::StartRequest> {
    let number = || prop::option::of(prop_oneof![any::<u64>(), 0..(8_u64 << 30)]);
    let map = || prop::collection::btree_map(text(), text(), 0..3);
    let names = (text(), text(), text(), text(), text(), text(), text(), text());
    (names, number(), number(), prop::collection::vec(text(), 0..4), map(), map()).prop_map(
        |(names, memory_bytes, cpu_millis, arguments, environment, secrets)| {
            let (request_id, hub, user, server, profile, runtime, image, ready_path) = names;
            v1::StartRequest {
                request_id,
                key: Some(v1::ServerKey { hub, user, server }),
                profile,
                runtime,
                image,
                limits: Some(v1::Limits { memory_bytes, cpu_millis }),
                arguments,
                environment: environment.into_iter().collect(),
                secret_environment: secrets.into_iter().collect(),
                ready_path,
                ..v1::StartRequest::default()
            }
        },
    )
}

/// One that is granted as it stands, to have something to change.
fn ordinary() -> v1::StartRequest {
    v1::StartRequest {
        request_id: "r-1".into(),
        key: Some(v1::ServerKey { hub: "hub".into(), user: "ana".into(), server: String::new() }),
        ..v1::StartRequest::default()
    }
}

/// Decides; what is granted must make a spec that is not below the floor. True if granted.
fn stands(request: &v1::StartRequest) -> Result<bool, TestCaseError> {
    let Ok(decision) = decide(&CONFIG, request) else { return Ok(false) };
    let (disk, run) = (CONFIG.identity.first_disk_id, CONFIG.identity.first_run_id);
    let record = sketch("saaaaaaaaaaa".parse().unwrap(), &decision, disk, run);
    let layout =
        Layout { instance: "adrastea".into(), state: "/var/lib/a".into(), run: "/run/a".into() };
    let plan = Sandbox::new(record, Ipv4Addr::LOCALHOST, &layout).plan();
    let runtime = adrastea_runtimes::by_name(&decision.runtime_kind).unwrap();
    let spec = build_spec(runtime, &plan);
    prop_assert!(spec.is_ok(), "{:?}", spec.err());
    let spec = spec.unwrap();
    prop_assert!(floor::check(spec.clone(), &plan, runtime.kernel()).is_ok());
    // Nothing of the request's own texts is in it.
    let text = format!("{spec:?}");
    let secrets = request.secret_environment.values().chain(&request.arguments);
    for word in secrets.filter(|word| word.len() > 16) {
        prop_assert!(!text.contains(word.as_str()), "{word}");
    }
    Ok(true)
}

#[test]
fn an_ordinary_request_is_granted() {
    assert!(stands(&ordinary()).unwrap());
}

/// A home that is mapped shows the user's number, and under a runtime whose kernel makes files as
/// root the sandbox's own root, as itself; no other.
#[test]
fn a_mapped_home_shows_no_number_but_the_users_and_its_makers() {
    use crate::host::namespaces::Shown;
    let layout =
        Layout { instance: "adrastea".into(), state: "/var/lib/a".into(), run: "/run/a".into() };
    let (disk, run) = (CONFIG.identity.first_disk_id, CONFIG.identity.first_run_id);
    let user = Shown { on_disk: disk, seen: run + 1000 };
    let root = Shown { on_disk: run, seen: run };
    for (runtime, gid, uids, gids) in [
        ("runc", 1000, vec![user], vec![user]),
        ("gvisor", 1000, vec![user, root], vec![user, root]),
        // The group that images of OpenShift have: the number is there once.
        ("gvisor", 0, vec![user, root], vec![Shown { on_disk: disk, seen: run }]),
    ] {
        let decision = decide(&CONFIG, &ordinary()).unwrap();
        let mut record = sketch("saaaaaaaaaaa".parse().unwrap(), &decision, disk, run);
        record.facts.home_mapped = true;
        record.facts.runtime = runtime.into();
        record.facts.runtime_kind = runtime.into();
        (record.facts.uid_inside, record.facts.gid_inside) = (1000, gid);
        let sandbox = Sandbox::new(record, Ipv4Addr::LOCALHOST, &layout);
        assert_eq!(sandbox.home_ids(), (uids, gids), "{runtime} {gid}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_request_gets_below_the_floor(request in request()) {
        stands(&request)?;
    }

    #[test]
    fn no_change_of_an_ordinary_request_gets_below_the_floor(other in request(), kept: u16) {
        // Field by field, so that most of it is granted.
        let mut request = ordinary();
        let takes = |bit: u16| kept >> bit & 1 == 1;
        if takes(0) { request.profile = other.profile; }
        if takes(1) { request.runtime = other.runtime; }
        if takes(2) { request.image = other.image; }
        if takes(3) { request.limits = other.limits; }
        if takes(4) { request.arguments = other.arguments; }
        if takes(5) { request.environment = other.environment; }
        if takes(6) { request.secret_environment = other.secret_environment; }
        if takes(7) { request.key = other.key; }
        stands(&request)?;
    }

    #[test]
    fn no_bytes_make_decoding_or_deciding_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..512),
        request in request(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        if let Ok(request) = v1::StartRequest::decode(bytes.as_slice()) {
            stands(&request)?;
        }
        let mut message = request.encode_to_vec();
        for (place, byte) in damage {
            if !message.is_empty() {
                let place = place.index(message.len());
                message[place] ^= byte;
            }
        }
        if let Ok(request) = v1::StartRequest::decode(message.as_slice()) {
            stands(&request)?;
        }
    }
}
