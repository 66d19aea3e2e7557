//! The commands that tell what a sandbox gets, or got, and why.

use std::{path::Path, process::ExitCode};

use adrastea_proto::v1;
use serde_json::{Value, json};

use super::{client, commands::phase_name};
use crate::say::say;

fn values(values: &[v1::ExplainedValue]) {
    for value in values {
        say!("{:<28} {:<40} {}", value.name, value.value, value.rule);
    }
}

fn values_json(values: &[v1::ExplainedValue]) -> Value {
    let one = |value: &v1::ExplainedValue| json!({"name": value.name, "value": value.value, "rule": value.rule});
    values.iter().map(one).collect()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn parts(plan: &str, spec: &str, firewall: &str) {
    for (title, text) in [("PLAN", plan), ("OCI SPEC", spec), ("FIREWALL", firewall)] {
        say!("\n{title}\n{}", text.trim_end());
    }
}

/// Fails if something stands in the way of such a start.
pub async fn explain(
    config: &Path,
    start: v1::StartRequest,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .explain(v1::ExplainRequest { start: Some(start) })
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    if as_json {
        say!(
            "{:#}",
            json!({
                "values": values_json(&answer.values),
                "plan": parsed(&answer.plan),
                "oci_spec": parsed(&answer.runtime_spec),
                "firewall": answer.firewall,
                "obstacles": answer.obstacles,
            })
        );
    } else {
        values(&answer.values);
        parts(&answer.plan, &answer.runtime_spec, &answer.firewall);
        for obstacle in &answer.obstacles {
            say!("\nin the way: {obstacle}");
        }
    }
    Ok(if answer.obstacles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fails if a wall does not stand.
pub async fn inspect(
    config: &Path,
    sandbox_id: String,
    key: Option<v1::ServerKey>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .inspect(v1::InspectRequest { sandbox_id, key })
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    let sandbox = answer.sandbox.unwrap_or_default();
    let key = sandbox.key.unwrap_or_default();
    let steps: Vec<_> = sandbox
        .steps
        .iter()
        .map(|step| json!({"step": step.step, "microseconds": step.microseconds}))
        .collect();
    if as_json {
        say!(
            "{:#}",
            json!({
                "sandbox": sandbox.sandbox_id, "hub": key.hub, "user": key.user, "server": key.server,
                "generation": sandbox.generation, "phase": phase_name(sandbox.phase),
                "address": sandbox.address, "port": sandbox.port, "started_at": sandbox.started_at,
                "disk_uid": sandbox.disk_uid, "disk_gid": sandbox.disk_gid,
                "run_range_first": sandbox.run_range_first,
                "exit": sandbox.exit.map(|exit| exit.message), "steps": steps,
                "values": values_json(&answer.values), "plan": parsed(&answer.plan),
                "oci_spec": parsed(&answer.runtime_spec), "firewall": answer.firewall,
                "broken_walls": answer.broken_walls, "counters": answer.counters,
            })
        );
    } else {
        say!("{} {}/{} {}", sandbox.sandbox_id, key.hub, key.user, key.server);
        say!("{:<28} {}", "phase", phase_name(sandbox.phase));
        say!("{:<28} {}:{}", "address", sandbox.address, sandbox.port);
        say!("{:<28} {}", "run ids from", sandbox.run_range_first);
        values(&answer.values);
        for step in &sandbox.steps {
            say!(
                "{:<28} {:>10.3} ms",
                format!("step {}", step.step),
                std::time::Duration::from_micros(step.microseconds).as_secs_f64() * 1000.0
            );
        }
        let mut counters: Vec<_> = answer.counters.iter().collect();
        counters.sort();
        for (name, count) in counters {
            say!("{name:<28} {count}");
        }
        if let Some(exit) = sandbox.exit {
            say!("{:<28} {}", "ended", exit.message);
        } else if answer.broken_walls.is_empty() {
            say!("{:<28} every wall stands", "proof");
        }
        parts(&answer.plan, &answer.runtime_spec, &answer.firewall);
    }
    for wall in &answer.broken_walls {
        eprintln!("broken: {wall}");
    }
    Ok(if answer.broken_walls.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
