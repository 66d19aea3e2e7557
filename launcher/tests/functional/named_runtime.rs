//! Another program behind a driver: everywhere under the operator's name for it, and
//! everywhere treated as what drives it.

use adrastea::config_runtimes::RuntimeConfig;
use adrastea_proto::v1;

use crate::{
    audit::until_lines,
    world::{World, request},
};

fn world() -> World {
    World::with(|config| {
        let other = RuntimeConfig {
            kind: Some("runc".into()),
            binary: "/usr/local/bin/other".into(),
            version_floor: "0.5.7".parse().ok(),
            accept_vulnerable: Vec::new(),
            experimental: false,
            machine: None,
            shim: None,
        };
        config.runtimes.insert("other".into(), other);
        config.profiles.get_mut("standard").unwrap().runtimes.push("other".into());
    })
}

#[tokio::test]
async fn what_a_runtime_cannot_do_is_offered_with_the_reasons() {
    let world = World::with(|config| {
        let own = RuntimeConfig {
            kind: Some("gvisor".into()),
            binary: "/usr/local/bin/runsc".into(),
            version_floor: None,
            accept_vulnerable: Vec::new(),
            experimental: false,
            machine: None,
            shim: None,
        };
        config.runtimes.insert("own".into(), own);
        config.profiles.get_mut("standard").unwrap().runtimes.push("own".into());
    });
    let hub = world.boot().await;
    let asked = v1::OffersRequest { user: "ana".into() };
    let offers = hub.client.clone().offers(asked).await.unwrap().into_inner().offers;
    let told = &offers[0].runtime_limitations;
    let limitations = adrastea_runtimes::by_name("gvisor").unwrap().limitations();
    assert_eq!(told["own"].limitations.len(), limitations.len());
    assert_eq!(told["own"].limitations[0].what, limitations[0].what);
    assert_eq!(told["own"].limitations[0].why, limitations[0].why);
    assert!(!told.contains_key("runc"), "it has none: {told:?}");
}

fn of_other(user: &str) -> v1::StartRequest {
    v1::StartRequest { runtime: "other".into(), ..request(user) }
}

#[tokio::test]
async fn it_is_offered_started_recorded_and_audited_under_its_own_name() {
    let world = world();
    let hub = world.boot().await;
    let asked = v1::OffersRequest { user: "ana".into() };
    let offers = hub.client.clone().offers(asked).await.unwrap().into_inner().offers;
    assert_eq!(offers[0].runtimes, ["runc", "other"]);
    let said = &offers[0].runtime_descriptions;
    assert_eq!(said["other"], said["runc"]);
    let asked = v1::ExplainRequest { start: Some(of_other("ana")) };
    let mut admin = v1::admin_client::AdminClient::new(hub.channel.clone());
    let told = admin.explain(asked).await.unwrap().into_inner();
    let runtime = told.values.iter().find(|value| value.name == "runtime").unwrap();
    assert_eq!(runtime.value, "other");
    assert_eq!(told.obstacles, Vec::<String>::new());
    assert!(told.runtime_spec.contains("\"seccomp\""), "{}", told.runtime_spec);

    hub.ask(of_other("ana")).await.unwrap().end.unwrap();
    let facts = &world.records()[0].facts;
    assert_eq!((facts.runtime.as_str(), facts.driver_name()), ("other", "runc"));
    let lines = until_lines(&world, "the start", |lines| {
        lines.iter().any(|line| line["event"] == "started")
    })
    .await;
    let called = lines.iter().find(|line| line["rpc"] == "Launcher.Start").unwrap();
    assert_eq!(called["runtime"], "other");

    assert_eq!(hub.get("ana").await.runtime, "other");
    hub.stop("ana").await;
    world.assert_nothing_remains().await;
}
