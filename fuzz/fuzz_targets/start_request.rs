//! Bytes as a hub could send them: whatever they are, they are no request, are refused,
//! or make a sandbox that stands behind every wall. Nothing panics.

#![no_main]

use std::{net::Ipv4Addr, path::Path, sync::LazyLock};

use adrastea::{
    config::Config,
    launch::{
        sandbox::{Layout, Sandbox},
        sketch,
    },
    policy::decide,
};
use adrastea_proto::v1::StartRequest;
use adrastea_runtimes::{build_spec, by_name, floor};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = include_str!("../../docs/adrastea.example.toml");
    Config::parse(text, Path::new("example")).expect("the example is valid")
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = StartRequest::decode(bytes) else { return };
    let Ok(decision) = decide(&CONFIG, &request) else { return };
    let disk = CONFIG.identity.first_disk_id;
    let id = "saaaaaaaaaaa".parse().expect("an id");
    let record = sketch(id, &decision, disk, CONFIG.identity.first_run_id);
    let layout =
        Layout { instance: "adrastea".into(), state: "/var/lib/a".into(), run: "/run/a".into() };
    let plan = Sandbox::new(record, Ipv4Addr::LOCALHOST, &layout).plan();
    let runtime = by_name(&decision.runtime_kind).expect("a granted runtime exists");
    let spec = build_spec(runtime, &plan).expect("a granted request has a spec");
    floor::check(spec, &plan, runtime.kernel()).expect("the floor holds");
});
