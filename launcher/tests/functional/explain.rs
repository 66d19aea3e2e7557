//! What explain and inspect tell is what a start gets, and telling changes nothing.

use adrastea_proto::v1::{self, admin_client::AdminClient};
use serde_json::Value;
use tonic::{Code, Status};

use crate::world::{Hub, World, key, request};

async fn explain(hub: &Hub, start: v1::StartRequest) -> Result<v1::ExplainResponse, Status> {
    let mut admin = AdminClient::new(hub.channel.clone());
    Ok(admin.explain(v1::ExplainRequest { start: Some(start) }).await?.into_inner())
}

fn rule<'answer>(answer: &'answer v1::ExplainResponse, name: &str) -> (&'answer str, &'answer str) {
    let found = answer.values.iter().find(|value| value.name == name).expect(name);
    (&found.value, &found.rule)
}

#[tokio::test]
async fn each_value_has_its_rule_and_nothing_changes() {
    const CANARY: &str = "canary-81aa";
    let world = World::new();
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.request_id.clear();
    asked.limits = Some(v1::Limits { memory_bytes: Some(300 << 20), cpu_millis: None });
    asked.secret_environment = [("JUPYTERHUB_API_TOKEN".into(), CANARY.into())].into();
    asked.arguments = vec![CANARY.into()];
    let answer = explain(&hub, asked.clone()).await.unwrap();
    assert_eq!(rule(&answer, "memory"), ("300.0 MiB", "request"));
    assert_eq!(rule(&answer, "cpu"), ("0.500", "profiles.standard.limits.cpu"));
    assert_eq!(
        rule(&answer, "profile"),
        ("standard", "profiles.*.users (the first this user may use)")
    );
    assert_eq!(rule(&answer, "disk id").0, "the next free one");
    assert_eq!(rule(&answer, "environment JUPYTERHUB_API_TOKEN"), ("", "request"));
    assert!(answer.obstacles.is_empty(), "{:?}", answer.obstacles);
    assert!(answer.firewall.contains("jump hub"), "{}", answer.firewall);
    assert!(!format!("{answer:?}").contains(CANARY));
    let spec: Value = serde_json::from_str(&answer.runtime_spec).unwrap();
    assert_eq!(spec["root"]["readonly"], true);
    assert!(world.diary.lines().is_empty() && world.records().is_empty());
    assert_eq!(world.store().identities().unwrap(), [], "a number was reserved");

    // The start gets what was told.
    asked.request_id = "real".into();
    let ready = hub.ask(asked).await.unwrap().end.unwrap();
    let mut admin = AdminClient::new(hub.channel.clone());
    let by_key = v1::InspectRequest { key: Some(key("ana")), ..Default::default() };
    let by_id = v1::InspectRequest { sandbox_id: ready.sandbox_id.clone(), key: None };
    for wanted in [by_key, by_id] {
        let got = admin.inspect(wanted).await.unwrap().into_inner();
        assert_eq!(got.sandbox.as_ref().unwrap().sandbox_id, ready.sandbox_id);
        let (told, plan): (Value, Value) =
            (serde_json::from_str(&answer.plan).unwrap(), serde_json::from_str(&got.plan).unwrap());
        assert_eq!((&told["limits"], &told["user"]), (&plan["limits"], &plan["user"]));
        assert_eq!(told["uid_map"], plan["uid_map"], "the first free numbers were told");
        assert_eq!(got.counters["memory_used_bytes"], 7);
        assert!(!got.sandbox.unwrap().steps.is_empty() && got.broken_walls.is_empty());
    }
    let unknown = v1::InspectRequest { sandbox_id: "s00000000000".into(), key: None };
    assert_eq!(admin.inspect(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_refusal_and_what_stands_in_the_way_are_told() {
    let world = World::with(|config| {
        config.profiles.get_mut("standard").unwrap().runtimes.push("kata".into());
        config.limits.servers_per_user = Some(1);
    });
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.profile = "zoo".into();
    let refused = explain(&hub, asked).await.unwrap_err();
    assert!(refused.message().contains("rule profiles.*.users"), "{refused}");
    let mut asked = request("ana");
    asked.runtime = "kata".into();
    let answer = explain(&hub, asked).await.unwrap();
    assert!(answer.obstacles.iter().any(|line| line.contains("kata")), "{:?}", answer.obstacles);
    hub.start("ana").await;
    let mut second = request("ana");
    second.key.as_mut().unwrap().server = "second".into();
    let answer = explain(&hub, second.clone()).await.unwrap();
    let rule = "rule limits.servers_per_user";
    assert!(answer.obstacles.iter().any(|line| line.contains(rule)), "{:?}", answer.obstacles);
    let denied = hub.ask(second).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().contains(rule), "{denied}");
    // The same server again takes its own place.
    assert!(explain(&hub, request("ana")).await.unwrap().obstacles.is_empty());
}
