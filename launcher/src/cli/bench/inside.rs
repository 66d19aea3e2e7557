//! What a program gets inside: a script of ours runs where a server would run, and
//! tells its figures on its standard output, line by line.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{ServerKey, run_event};
use anyhow::Context as _;
use serde::Deserialize;

use super::{
    network::{self, Network},
    node::Node,
    over,
    progress::Progress,
};
use crate::bench::{
    report::{Better, Measurement, Plan},
    statistics::Spread,
};

const SCRIPT: &str = include_str!("inside.py");
/// Longer than the script allows itself.
const PATIENCE: Duration = Duration::from_secs(240);

/// A line of the script.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Figure(Figure),
    Listening { listening: u16 },
    Done { done: bool },
}

#[derive(Deserialize)]
struct Figure {
    name: String,
    unit: String,
    better: Better,
    value: Option<f64>,
    missing: Option<String>,
}

impl Figure {
    fn of_network(name: &str, unit: &str, better: Better, value: Result<f64, &str>) -> Self {
        let (value, missing) = match value {
            Ok(value) => (Some(value), None),
            Err(reason) => (None, Some(reason.to_owned())),
        };
        Self { name: name.into(), unit: unit.into(), better, value, missing }
    }
}

/// For each runtime of the node, in its order.
pub async fn measure(
    node: &Node,
    plan: &Plan,
    deadline: Option<Instant>,
    progress: &Progress,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<Vec<Measurement>>> {
    progress.part("inside");
    let mut figures: Vec<Vec<Figure>> = node.runtimes.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.inside_rounds {
        if round > 0 && over(deadline) {
            let rest = plan.inside_rounds - round;
            left_out
                .push(format!("rounds inside: {rest} of {}, for want of time", plan.inside_rounds));
            break;
        }
        for turn in 0..node.runtimes.len() {
            let place = (turn + round) % node.runtimes.len();
            let runtime = &node.runtimes[place];
            progress.doing(format!("inside {} of {}, {runtime}", round + 1, plan.inside_rounds));
            let seen = &mut figures[place];
            let run = one(node, runtime, plan.quick, seen);
            match tokio::time::timeout(PATIENCE, run).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    left_out.push(format!(
                        "inside, {runtime}: {}",
                        crate::launch::failure::chain(error.as_ref())
                    ));
                }
                Err(_) => left_out.push(format!(
                    "inside, {runtime}: it took longer than {} s",
                    PATIENCE.as_secs()
                )),
            }
            progress.done();
        }
    }
    Ok(figures.iter().map(|seen| summed_up(seen)).collect())
}

async fn one(
    node: &Node,
    runtime: &str,
    quick: bool,
    seen: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    // In the user's home, beside no server.
    let key = ServerKey { server: "inside".into(), ..node.key(runtime, 1) };
    let mode = if quick { "quick" } else { "full" };
    let port = node.server_port.to_string();
    let command = ["python3", "-c", SCRIPT, &port, mode].map(str::to_owned).to_vec();
    let mut events = node.run(runtime, key.clone(), command).await?;
    let (mut text, mut done, mut read) = (String::new(), false, 0);
    loop {
        let event = events.message().await.map_err(|status| super::super::client::said(&status))?;
        match event.context("the launcher went away")?.event {
            Some(run_event::Event::Output(chunk)) => {
                text.push_str(&String::from_utf8_lossy(&chunk.data));
                while let Some(end) = text[read..].find('\n') {
                    let line = text[read..read + end].to_owned();
                    read += end + 1;
                    match serde_json::from_str(&line) {
                        Ok(Line::Figure(figure)) => seen.push(figure),
                        Ok(Line::Listening { listening }) => {
                            let address = node.get(key.clone()).await?.address;
                            let server = SocketAddr::new(address.parse()?, listening);
                            seen.extend(over_the_network(server, quick).await?);
                        }
                        Ok(Line::Done { done: true }) => done = true,
                        // Something a library says.
                        Ok(Line::Done { .. }) | Err(_) => {}
                    }
                }
            }
            Some(run_event::Event::Exit(exit)) => {
                anyhow::ensure!(done, "it ended early: {}: {}", exit.message, tail(&text));
                return Ok(());
            }
            Some(run_event::Event::Failed(failed)) => anyhow::bail!(failed.message),
            Some(run_event::Event::Progress(_)) | None => {}
        }
    }
}

/// The last words of somebody who said more.
fn tail(text: &str) -> String {
    let last: Vec<&str> =
        text.lines().rev().filter(|line| !line.starts_with('{')).take(3).collect();
    last.into_iter().rev().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

async fn over_the_network(server: SocketAddr, quick: bool) -> anyhow::Result<Vec<Figure>> {
    let measured = tokio::task::spawn_blocking(move || {
        let measured = network::measure(server, quick);
        network::end(server).map(|()| measured)
    });
    let measured = measured.await?.context("failed to reach the sandbox over the network")?;
    let reason = measured.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let of = |value: fn(&Network) -> f64| measured.as_ref().map(value).map_err(|_| reason.as_str());
    Ok(vec![
        Figure::of_network("network, there and back", "us", Better::Lower, of(|it| it.latency_us)),
        Figure::of_network(
            "network, to the sandbox",
            "MiB/s",
            Better::Higher,
            of(|it| it.to_sandbox_mib_s),
        ),
        Figure::of_network(
            "network, from the sandbox",
            "MiB/s",
            Better::Higher,
            of(|it| it.from_sandbox_mib_s),
        ),
    ])
}

/// One measurement for each name, in the order of the script.
fn summed_up(figures: &[Figure]) -> Vec<Measurement> {
    let mut names: Vec<&str> = Vec::new();
    for figure in figures {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    let of = |name: &str| {
        let own = || figures.iter().filter(|figure| figure.name == name);
        let first = own().next()?;
        let values: Vec<f64> = own().filter_map(|figure| figure.value).collect();
        let value = Spread::of(&values);
        let missing = own().find_map(|figure| figure.missing.clone()).filter(|_| value.is_none());
        Some(Measurement {
            name: first.name.clone(),
            unit: first.unit.clone(),
            better: first.better,
            value,
            missing,
        })
    };
    names.into_iter().filter_map(of).collect()
}
