//! The audit log over the wire: one line for each call of every method, allowed or
//! denied, with the rule; one for each end; never a secret, whatever is sent.

use std::collections::BTreeMap;

use prost::Message as _;
use serde_json::Value;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use crate::world::{HUB, Hub, World, request, until};

/// Every line so far; each must be an object in ASCII.
fn lines(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.audit_settings().path).unwrap();
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub async fn until_lines(
    world: &World,
    what: &str,
    holds: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    until(what, || holds(&lines(world))).await;
    lines(world)
}

/// Calls a method with an empty message, and goes away.
async fn call(hub: &Hub, path: &str, streams: bool) -> Code {
    let mut grpc = Grpc::new(hub.channel.clone());
    grpc.ready().await.unwrap();
    let path: PathAndQuery = path.parse().unwrap();
    let result = if streams {
        grpc.server_streaming(Request::new(()), path, ProstCodec::<(), ()>::default())
            .await
            .map(|_| ())
    } else {
        grpc.unary(Request::new(()), path, ProstCodec::<(), ()>::default()).await.map(|_| ())
    };
    result.map_or_else(|status| status.code(), |()| Code::Ok)
}

#[tokio::test]
async fn every_method_is_written_down_once() {
    let world = World::new();
    let hub = world.boot().await;
    let set = prost_types::FileDescriptorSet::decode(adrastea_proto::DESCRIPTOR).unwrap();
    let mut called = BTreeMap::new();
    for service in set.file.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            let path = format!("/adrastea.v1.{}/{}", service.name(), method.name());
            let code = call(&hub, &path, method.server_streaming()).await;
            let decision = match code {
                Code::Ok => "allowed",
                Code::NotFound | Code::Internal | Code::Unknown | Code::Unavailable => "failed",
                _ => "denied",
            };
            let name = format!("{}.{}", service.name(), method.name());
            called.insert(name, (format!("{code:?}"), decision));
        }
    }
    assert!(called.len() > 20, "{called:?}");
    let found = until_lines(&world, "the lines", |lines| lines.len() >= called.len()).await;
    assert_eq!(found.len(), called.len(), "{found:#?}");
    for line in found {
        let (code, decision) = &called[line["rpc"].as_str().unwrap()];
        assert_eq!(
            (line["code"].as_str().unwrap(), line["decision"].as_str().unwrap()),
            (code.as_str(), *decision),
            "{line}"
        );
        assert_eq!(line["uid"], nix::unistd::geteuid().as_raw());
        assert_eq!(
            (&line["v"], &line["event"], &line["instance"]),
            (&1.into(), &"call".into(), &"functional".into())
        );
        assert!(line["time"].as_str().unwrap().ends_with('Z') && line["milliseconds"].is_u64());
    }
    // What does not exist is called, too.
    call(&hub, "/adrastea.v1.Admin/Nonesuch", false).await;
    until_lines(&world, "the unknown method", |lines| {
        lines.iter().any(|line| line["rpc"] == "Admin.Nonesuch" && line["decision"] == "denied")
    })
    .await;
}

#[tokio::test]
async fn a_life_is_told_with_its_ids_and_without_its_secrets() {
    const CANARY: &str = "canary-7c4e";
    let world = World::new();
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.secret_environment = [("JUPYTERHUB_API_TOKEN".into(), CANARY.into())].into();
    asked.environment = [("LANG".into(), CANARY.into())].into();
    asked.arguments = vec![CANARY.into()];
    asked.ready_path = format!("/{CANARY}");
    let ready = hub.ask(asked.clone()).await.unwrap().end.unwrap();
    hub.ask(asked.clone()).await.unwrap().end.unwrap();
    hub.stop("ana").await;
    let mut denied = asked.clone();
    denied.request_id = "another".into();
    denied.environment.insert(format!("LD_{CANARY}").replace('-', "_"), CANARY.into());
    denied.secret_environment.insert("PATH".into(), CANARY.into());
    hub.ask(denied).await.unwrap_err();
    let found = until_lines(&world, "the end", |lines| {
        lines.len() >= 6 && lines.iter().any(|line| line["event"] == "ended")
    })
    .await;
    let of = |event: &str, rpc: &str| -> Vec<&Value> {
        let this = |line: &&Value| line["event"] == event && (rpc.is_empty() || line["rpc"] == rpc);
        found.iter().filter(this).collect()
    };
    let starts = of("call", "Launcher.Start");
    assert_eq!(starts.len(), 3, "{found:#?}");
    let sandbox = &world.records()[0];
    for line in starts[..2].iter().chain(&of("started", "")).chain(&of("ended", "")) {
        assert_eq!(line["sandbox"], ready.sandbox_id, "{line}");
        assert_eq!(
            (&line["hub"], &line["user"], &line["server"]),
            (&HUB.into(), &"ana".into(), &"".into())
        );
        assert_eq!((&line["profile"], &line["runtime"]), (&"standard".into(), &"runc".into()));
        assert_eq!(line["image_digest"], sandbox.facts.image_digest);
        assert_eq!(line["disk_uid"], sandbox.facts.disk_uid);
        assert!(line["run_range_first"].as_u64().unwrap() > 0);
    }
    assert_eq!(starts[0]["request_id"], asked.request_id);
    assert_eq!(starts[2]["decision"], "denied");
    assert_eq!(starts[2]["rule"], "profiles.standard.environment_allowed");
    assert_eq!((of("started", "").len(), of("ended", "").len()), (1, 1), "a joined start is one");
    assert_eq!(of("started", "")[0]["result"], "ready");
    assert_eq!(of("call", "Launcher.Stop").len(), 1);
    let text = std::fs::read_to_string(world.audit_settings().path).unwrap();
    assert!(!text.contains(CANARY), "{text}");
}

#[tokio::test]
async fn a_start_that_fails_is_told_with_the_reason() {
    let world = World::with(|config| {
        config.profiles.get_mut("standard").unwrap().runtimes.push("kata".into());
    });
    let hub = world.boot().await;
    let mut asked = request("ana");
    asked.runtime = "kata".into();
    hub.ask(asked).await.unwrap().failed();
    let found = until_lines(&world, "the end", |lines| lines.len() >= 3).await;
    let started = found.iter().find(|line| line["event"] == "started").unwrap();
    assert_eq!(started["decision"], "failed");
    assert!(started["result"].as_str().unwrap().contains("kata"), "{started}");
}

#[tokio::test]
async fn hostile_names_stay_one_line_each() {
    let world = World::new();
    let hub = world.boot().await;
    let names =
        ["a\nb", "\u{1b}[31mred", "\u{202e}evil", "\"}\n{\"decision\":\"allowed\"", "\u{2028}", ""];
    for name in names {
        let mut asked = request("ana");
        asked.key.as_mut().unwrap().user = name.into();
        hub.ask(asked).await.unwrap_err();
    }
    let mut large = request("ana");
    large.key.as_mut().unwrap().user = "x".repeat(1 << 20);
    hub.ask(large).await.unwrap_err();
    let mut long = request("ana");
    long.key.as_mut().unwrap().user = "x".repeat(1 << 18);
    hub.ask(long).await.unwrap_err();
    let found = until_lines(&world, "the lines", |lines| lines.len() >= names.len() + 2).await;
    assert_eq!(found.len(), names.len() + 2);
    assert!(found.iter().all(|line| line["decision"] == "denied"), "{found:#?}");
    for name in names {
        let told = found.iter().any(|line| line["user"].as_str().unwrap_or_default() == name);
        assert!(told, "{name:?}");
    }
    let size = std::fs::metadata(world.audit_settings().path).unwrap().len();
    assert!(size < 16 << 10, "{size} bytes");
}
