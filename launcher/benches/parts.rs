//! The pure parts of a start: policy, plan, spec, firewall elements. `make bench-load`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{hint::black_box, net::Ipv4Addr, path::Path};

use adrastea::{
    config::Config,
    launch::{
        sandbox::{Layout, Sandbox},
        sketch,
    },
    network::nft::elements,
    policy::decide,
};
use adrastea_proto::v1::{ServerKey, StartRequest};
use adrastea_runtimes::build_spec;
use criterion::{Criterion, criterion_group, criterion_main};

fn parts(criterion: &mut Criterion) {
    let text = include_str!("../../docs/adrastea.example.toml");
    let config = Config::parse(text, Path::new("example")).expect("the example is valid");
    let key = ServerKey { hub: "hub".into(), user: "ana".into(), server: String::new() };
    let environment = (0..20).map(|number| (format!("JUPYTERHUB_{number}"), "value".to_owned()));
    let request = StartRequest {
        request_id: "r".into(),
        key: Some(key),
        environment: environment.collect(),
        ..StartRequest::default()
    };
    criterion.bench_function("policy", |bencher| {
        bencher.iter(|| decide(black_box(&config), black_box(&request)).unwrap());
    });

    let decision = decide(&config, &request).unwrap();
    let disk = config.identity.first_disk_id;
    let id = "saaaaaaaaaaa".parse().unwrap();
    let record = sketch(id, &decision, disk, config.identity.first_run_id);
    let layout =
        Layout { instance: "adrastea".into(), state: "/var/lib/a".into(), run: "/run/a".into() };
    let sandbox = Sandbox::new(record, Ipv4Addr::LOCALHOST, &layout);
    criterion.bench_function("plan", |bencher| bencher.iter(|| black_box(&sandbox).plan()));

    let plan = sandbox.plan();
    for runtime in adrastea_runtimes::all() {
        criterion.bench_function(&format!("spec {}", runtime.name()), |bencher| {
            bencher.iter(|| build_spec(*runtime, black_box(&plan)).unwrap());
        });
    }
    criterion.bench_function("spec as JSON", |bencher| {
        let spec = build_spec(adrastea_runtimes::all()[0], &plan).unwrap();
        bencher.iter(|| serde_json::to_vec(black_box(&spec)).unwrap());
    });
    criterion.bench_function("firewall elements", |bencher| {
        bencher.iter(|| {
            let mut messages = elements::attach(black_box(sandbox.id()), Ipv4Addr::LOCALHOST);
            messages.extend(elements::open(sandbox.id(), "hub"));
            messages
        });
    });
}

criterion_group!(benches, parts);
criterion_main!(benches);
