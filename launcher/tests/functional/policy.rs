//! What policy says no to, over the wire: the rule is named and nothing happens.

use adrastea::config::ImageConfig;
use adrastea_proto::v1::{self, FailureReason};
use adrastea_runtimes::engine::EngineImage;
use tonic::Code;

use crate::world::{LEASES, World, key, request};

type Change = fn(&mut v1::StartRequest);

#[tokio::test]
async fn what_is_beyond_policy_is_denied_with_its_rule() {
    let world = World::new();
    let hub = world.boot().await;
    let cases: [(Change, &str); 9] = [
        (|asked| asked.profile = "nonesuch".into(), "profiles.*.users"),
        (|asked| asked.profile = "zoo".into(), "profiles.*.users"),
        (|asked| asked.runtime = "kata".into(), "profiles.standard.runtimes"),
        (|asked| asked.image = "docker.io/library/evil".into(), "profiles.standard.images"),
        (
            |asked| {
                asked.limits =
                    Some(v1::Limits { memory_bytes: Some((512 << 20) + 1), cpu_millis: None });
            },
            "profiles.standard.limits.memory_ceiling",
        ),
        (
            |asked| asked.limits = Some(v1::Limits { memory_bytes: None, cpu_millis: Some(1501) }),
            "profiles.standard.limits.cpu_ceiling",
        ),
        (
            |asked| asked.environment = [("LD_PRELOAD".into(), "x".into())].into(),
            "profiles.standard.environment_allowed",
        ),
        (
            |asked| asked.secret_environment = [("PATH".into(), "x".into())].into(),
            "profiles.standard.environment_allowed",
        ),
        (
            |asked| asked.environment = [("TZ".into(), "x".into())].into(),
            "profiles.standard.environment_allowed",
        ),
    ];
    for (change, rule) in cases {
        let mut asked = request("ana");
        change(&mut asked);
        let status = hub.ask(asked).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{rule}: {status}");
        assert!(status.message().contains(&format!("(rule {rule})")), "{status}");
    }
    assert!(
        world.diary.lines().is_empty() && world.records().is_empty(),
        "a refusal changes nothing"
    );
}

#[tokio::test]
async fn what_is_at_the_ceiling_is_granted() {
    let world = World::new();
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.limits = Some(v1::Limits { memory_bytes: Some(512 << 20), cpu_millis: Some(1500) });
    hub.ask(asked).await.unwrap().end.unwrap();
    let facts = world.records().remove(0).facts;
    assert_eq!((facts.memory_bytes, facts.cpu_millis), (512 << 20, 1500));
}

#[tokio::test]
async fn what_makes_no_sense_is_an_invalid_argument() {
    let world = World::new();
    let hub = world.boot().await;
    let cases: [Change; 6] = [
        |asked| asked.key = None,
        |asked| asked.key.as_mut().unwrap().user.clear(),
        |asked| asked.key.as_mut().unwrap().user = "a\u{202e}b".into(),
        |asked| asked.request_id.clear(),
        |asked| asked.ready_path = "http://elsewhere/".into(),
        |asked| asked.arguments = vec!["a\0b".into()],
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let mut asked = request("ana");
        change(&mut asked);
        assert_eq!(
            hub.ask(asked).await.unwrap_err().code(),
            Code::InvalidArgument,
            "case {number}"
        );
    }
    assert!(world.records().is_empty());
}

#[tokio::test]
async fn a_user_has_at_most_the_profiles_number_of_servers() {
    let world = World::new();
    let hub = world.boot().await;
    let named = |server: &str| {
        let mut asked = request("ana");
        asked.key.as_mut().unwrap().server = server.into();
        asked
    };
    hub.ask(named("")).await.unwrap().end.unwrap();
    hub.ask(named("two")).await.unwrap().end.unwrap();
    let status = hub.ask(named("three")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("rule profiles.standard.limits.servers_per_user"),
        "{status}"
    );
    // Another user's are not counted, and one that is gone is not either.
    hub.start("ben").await;
    hub.stop("ana").await;
    hub.ask(named("three")).await.unwrap().end.unwrap();
}

#[tokio::test]
async fn a_full_node_says_so() {
    let world = World::with(|config| config.limits.sandboxes = 2);
    let hub = world.boot().await;
    hub.start("ana").await;
    hub.start("ben").await;
    let status = hub.ask(request("eva")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("rule limits.sandboxes"), "{status}");
}

#[tokio::test]
async fn a_node_without_free_leases_says_so_and_recovers() {
    let world = World::new();
    let hub = world.boot().await;
    for number in 0..LEASES {
        hub.start(&format!("user-{number}")).await;
    }
    let status = hub.ask(request("ana")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("is free on this node"), "{status}");
    hub.stop("user-3").await;
    hub.start("ana").await;
    world.diary.assert_innocent();
}

#[tokio::test]
async fn an_image_that_is_not_the_pinned_one_is_not_run() {
    let world = World::new();
    let hub = world.boot().await;
    let image = world.config.images["singleuser"].clone();
    let other = format!("sha256:{}", "3".repeat(64));
    world.fake.add_image(EngineImage {
        reference: image.reference,
        digest: other.clone(),
        layers: vec![],
        environment: vec![],
        size_bytes: 1,
    });
    let failed = hub.ask(request("ana")).await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::ImageMissing);
    assert!(
        failed.message.contains(&other) && failed.message.contains(&image.digest),
        "{failed:?}"
    );
    assert!(world.diary.lines().is_empty(), "checked before anything is changed");
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn an_image_that_is_missing_is_named() {
    let world = World::new();
    let missing = "localhost/functional/absent:1";
    let image =
        ImageConfig { reference: missing.into(), digest: format!("sha256:{}", "4".repeat(64)) };
    let mut config = world.config.clone();
    config.images.insert("science".into(), image);
    let hub = World { config, ..world }.boot().await;
    let mut asked = request("ana");
    asked.image = "science".into();
    let failed = hub.ask(asked).await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::ImageMissing);
    assert!(failed.message.contains(missing) && failed.hint.contains("image import"), "{failed:?}");
}

#[tokio::test]
async fn a_runtime_that_is_missing_is_named() {
    let world = World::with(|config| {
        config.profiles.get_mut("standard").unwrap().runtimes.push("kata".into());
    });
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.runtime = "kata".into();
    let failed = hub.ask(asked).await.unwrap().failed();
    assert_eq!(failed.reason(), FailureReason::RuntimeMissing);
    assert!(failed.message.contains("`kata`"), "{failed:?}");
    assert!(world.diary.lines().is_empty(), "never another runtime instead");
    world.assert_nothing_remains().await;
}

#[tokio::test]
async fn offers_are_what_this_user_may_choose() {
    let world = World::new();
    let hub = world.boot().await;
    let offers = async |user: &str| {
        let offers =
            hub.client.clone().offers(v1::OffersRequest { user: user.into() }).await.unwrap();
        offers.into_inner().offers
    };
    let ana = offers("ana").await;
    let expected = v1::Offer {
        profile: "standard".into(),
        display_name: "Standard".into(),
        description: "One CPU".into(),
        runtimes: vec!["runc".into()],
        images: vec!["singleuser".into(), "science".into()],
        memory_default_bytes: 256 << 20,
        memory_ceiling_bytes: 512 << 20,
        cpu_default_millis: 500,
        cpu_ceiling_millis: 1500,
        // Nothing was measured here.
        runtime_hints: std::collections::HashMap::new(),
        runtime_limitations: std::collections::HashMap::new(),
        runtime_descriptions: [(
            "runc".to_owned(),
            "Containers of the node's own kernel: the fastest start, walls of the kernel"
                .to_owned(),
        )]
        .into(),
    };
    assert_eq!(ana, [expected]);
    let zoe: Vec<_> = offers("zoe").await.into_iter().map(|offer| offer.profile).collect();
    assert_eq!(zoe, ["standard", "zoo"]);
    // Whatever is offered, starts.
    let mut asked = request("zoe");
    asked.profile = "zoo".into();
    hub.ask(asked).await.unwrap().end.unwrap();
    assert_eq!(
        hub.client
            .clone()
            .get(v1::GetRequest { key: Some(key("zoe")) })
            .await
            .unwrap()
            .into_inner()
            .profile,
        "zoo"
    );
}
