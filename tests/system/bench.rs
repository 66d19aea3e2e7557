//! The benchmark of the command line: what it counts, what it leaves, and how it ends.
//! The measurements inside need Python and are tested with a real image (`tests/hub`).

use std::{
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use adrastea_proto::v1::{ListRequest, OffersRequest, Phase};
use adrastea_tests::{Instance, Options, Suite, column, image::ANSWER, place};
use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const ENDING: Duration = Duration::from_secs(60);

pub fn add(suite: &mut Suite) {
    let failing = format!(
        r#"[profiles.failing]
display_name = "failing"
image = "small"
runtimes = ["{}"]
egress = "hub"
command = ["{ANSWER}", "serve", "die", "7"]
user = {{ uid = 1000, gid = 1000, home = "/home/jovyan", name = "jovyan" }}
users = ["*"]
"#,
        column::runtime()
    );
    let options = Options { append: failing, ..Options::default() };
    let waiting = Options {
        pool: Some("{ minimum = 3, maximum = 3 }".into()),
        append: "[pool]\ncpu = 100.0\n".into(),
        ..Options::default()
    };
    suite.own("bench::a_warm_start_is_one_that_found_a_sandbox", waiting, |instance| async move {
        warm_starts_are_told_apart(&instance).await?;
        let drained = instance.cli(&["pool", "drain"])?;
        ensure!(drained.code == 0, "{drained:?}");
        instance.nothing_left(ENDING)
    });
    suite.own(
        "bench::measures_counts_failures_and_leaves_nothing",
        options,
        |instance| async move {
            a_report_has_its_numbers(&instance).await?;
            failures_are_counted(&instance).await?;
            an_interrupted_one_stops_its_servers(&instance).await?;
            instance.nothing_left(ENDING)
        },
    );
}

async fn a_report_has_its_numbers(instance: &Instance) -> anyhow::Result<()> {
    let folder = instance.scratch().join("bench");
    let output = folder.display().to_string();
    let words = ["bench", "--output", &output, "--rounds", "2", "--storms", "3,1", "--inside", "1"];
    let ended = instance.cli(&[&words[..], &["--profile", "standard"]].concat())?;
    ensure!(ended.code == 0, "{ended:?}");
    let report = read(&folder)?;
    ensure!(report["schema"] == "adrastea.bench/3" && report["profile"]["name"] == "standard");
    ensure!(report["machine"]["processor"] != "unknown", "{}", report["machine"]);
    ensure!(report["machine"]["containerd"] != "unknown", "{}", report["machine"]);
    let runtimes = report["runtimes"].as_array().context("no runtimes")?;
    let name = column::runtime();
    ensure!(runtimes.len() == 1 && runtimes[0]["runtime"] == *name, "{runtimes:?}");
    let runtime = &runtimes[0];
    let program = if name == "gvisor" { "runsc" } else { &name };
    ensure!(runtime["version"].as_str().is_some_and(|it| it.contains(program)), "{runtime}");
    let cold = &runtime["starts"]["cold"];
    ensure!(cold["failures"]["count"] == 0, "{cold}");
    spread(&cold["total_ms"], 2)?;
    spread(&cold["stop_ms"], 2)?;
    let steps = cold["steps"].as_array().context("no steps")?;
    for wanted in ["check", "engine-create", "prove", "server"] {
        let step = steps.iter().find(|step| step["step"] == wanted);
        spread(&step.with_context(|| format!("no step `{wanted}`: {cold}"))?["ms"], 2)?;
    }
    let storms = runtime["storms"]["cold"].as_array().context("no storms")?;
    ensure!(storms.len() == 2, "{storms:?}");
    for (storm, size) in storms.iter().zip([1, 3]) {
        ensure!(storm["at_once"] == size && storm["failures"]["count"] == 0, "{storm}");
        spread(&storm["start_ms"], size)?;
        positive(&storm["total_ms"])?;
    }
    let points = runtime["memory"]["points"].as_array().context("no memory")?;
    for (point, users) in points.iter().zip([1, 3]) {
        ensure!(point["users"] == users, "{point}");
        positive(&point["sandboxes_mib"])?;
        positive(&point["shims_mib"])?;
    }
    ensure!(points.len() == 2, "{points:?}");
    what_it_costs_is_offered(instance).await?;
    // The small image cannot: that is told, and is no failure.
    ensure!(runtime["inside"].as_array().is_some_and(Vec::is_empty), "{runtime}");
    let left_out = report["left_out"].to_string();
    ensure!(
        left_out.contains(&format!("inside, {name}")) && left_out.contains("python3"),
        "{left_out}"
    );
    // Nor does its server know kernels; it answers everything with 200, where one that was made is 201.
    let reason = format!("first cell, {name}, cold: the server makes no kernel");
    ensure!(cold["first_cell_ms"].is_null() && left_out.contains(&reason), "{left_out}");
    ensure!(left_out.matches("first cell").count() == 1, "{left_out}");
    for name in ["start", "storm", "memory"] {
        let png = std::fs::read(folder.join(format!("{name}.png")))?;
        ensure!(png.starts_with(b"\x89PNG") && folder.join(format!("{name}.svg")).exists());
    }
    nothing_lives(instance).await
}

/// The launcher tells it from the report that the benchmark left.
async fn what_it_costs_is_offered(instance: &Instance) -> anyhow::Result<()> {
    let kept = instance.state().join("bench-report.json");
    let mut report: Value = serde_json::from_slice(&std::fs::read(&kept)?)?;
    let hints = async || {
        let request = OffersRequest { user: "somebody".into() };
        let offers = instance.launcher().await?.offers(request).await?.into_inner().offers;
        let standard = offers.into_iter().find(|offer| offer.profile == "standard");
        anyhow::Ok(standard.context("no such profile")?.runtime_hints)
    };
    let told = hints().await?;
    let seconds = positive(&report["runtimes"][0]["starts"]["cold"]["total_ms"]["p50"])? / 1000.0;
    ensure!(told == [(column::runtime(), format!("{seconds:.1} s start"))].into(), "{told:?}");
    report["runtimes"][0]["runtime"] = "another".into();
    std::fs::write(&kept, report.to_string())?;
    ensure!(hints().await?.is_empty(), "the profile does not offer that one");
    Ok(())
}

/// A profile with a pool is measured both ways; what waits is taken by warm starts alone.
async fn warm_starts_are_told_apart(instance: &Instance) -> anyhow::Result<()> {
    let folder = instance.scratch().join("warm");
    let output = folder.display().to_string();
    let words = ["bench", "--output", &output, "--rounds", "2", "--storms", "3,4", "--inside", "0"];
    let ended = instance.cli(&[&words[..], &["--profile", "waiting"]].concat())?;
    ensure!(ended.code == 0, "{ended:?}");
    let report = read(&folder)?;
    let left_out = report["left_out"].to_string();
    let runtime = &report["runtimes"][0];
    let pool = instance.pool("waiting", 3).await;
    let (warm, cold) = (&runtime["starts"]["warm"], &runtime["starts"]["cold"]);
    let Ok(pool) = pool else {
        // The launcher's own words.
        ensure!(warm.is_null() && left_out.contains("warm starts"), "{report}");
        return Ok(());
    };
    for starts in [warm, cold] {
        ensure!(!starts.is_null(), "{left_out}");
        ensure!(starts["failures"]["count"] == 0 && starts["misses"] == 0, "{starts}");
        spread(&starts["total_ms"], 2)?;
    }
    let names = |starts: &Value| starts["steps"].to_string();
    ensure!(names(warm).contains("\"claim\"") && !names(warm).contains("engine-create"), "{warm}");
    ensure!(names(cold).contains("engine-create"), "{cold}");
    let storms = runtime["storms"]["warm"].as_array().context("no storms")?;
    ensure!(storms.len() == 1 && storms[0]["at_once"] == 3, "{storms:?}");
    ensure!(storms[0]["misses"] == 0 && storms[0]["failures"]["count"] == 0, "{storms:?}");
    spread(&storms[0]["start_ms"], 3)?;
    ensure!(left_out.contains("4 at once, warm") && left_out.contains("3 wait"), "{left_out}");
    // One start before those that count, two that count, three at once; every other one was cold.
    ensure!((pool.hits, pool.failures) == (6, 0), "{pool:?}");
    let request = OffersRequest { user: "somebody".into() };
    let offers = instance.launcher().await?.offers(request).await?.into_inner().offers;
    let hints = |profile: &str| {
        let offer = offers.iter().find(|offer| offer.profile == profile);
        offer.map(|offer| offer.runtime_hints[&column::runtime()].clone())
    };
    ensure!(hints("waiting").is_some_and(|hint| hint.contains("when one waits")), "{offers:?}");
    ensure!(hints("standard").is_some_and(|hint| !hint.contains("waits")), "{offers:?}");
    nothing_lives(instance).await
}

async fn failures_are_counted(instance: &Instance) -> anyhow::Result<()> {
    let folder = instance.scratch().join("failing");
    let output = folder.display().to_string();
    let words = ["bench", "--output", &output, "--rounds", "1", "--storms", "2", "--inside", "0"];
    let ended = instance.cli(&[&words[..], &["--profile", "failing"]].concat())?;
    ensure!(ended.code == 1 && ended.stderr.contains("4 starts failed"), "{ended:?}");
    let report = read(&folder)?;
    let runtime = &report["runtimes"][0];
    let cold = &runtime["starts"]["cold"];
    ensure!(cold["failures"]["count"] == 2 && cold["total_ms"].is_null(), "{cold}");
    let reason = cold["failures"]["reasons"][0].as_str().unwrap_or_default();
    ensure!(reason.contains("ended before it answered"), "{cold}");
    let storm = &runtime["storms"]["cold"][0];
    ensure!(storm["failures"]["count"] == 2 && storm["total_ms"].is_null(), "{storm}");
    ensure!(runtime["memory"].is_null(), "{runtime}");
    nothing_lives(instance).await
}

async fn an_interrupted_one_stops_its_servers(instance: &Instance) -> anyhow::Result<()> {
    let folder = instance.scratch().join("interrupted");
    let mut command = instance.namespace.command(place::launcher());
    command.arg("--config").arg(instance.config()).args(["bench", "--profile", "standard"]);
    command.arg("--output").arg(&folder).args(["--rounds", "1000"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut bench = command.spawn().context("failed to run the benchmark")?;
    let seen = until_something_lives(instance, &mut bench).await;
    kill(Pid::from_raw(bench.id().cast_signed()), Signal::SIGTERM)?;
    let status = bench.wait()?;
    seen?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(!folder.join("report.json").exists(), "half a report was written");
    nothing_lives(instance).await
}

async fn until_something_lives(instance: &Instance, bench: &mut Child) -> anyhow::Result<()> {
    let deadline = Instant::now() + ENDING;
    while live(instance).await? == 0 {
        ensure!(bench.try_wait()?.is_none(), "the benchmark ended by itself");
        ensure!(Instant::now() < deadline, "the benchmark starts nothing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn live(instance: &Instance) -> anyhow::Result<usize> {
    let list = instance.launcher().await?.list(ListRequest::default()).await?.into_inner();
    Ok(list.sandboxes.iter().filter(|sandbox| sandbox.phase() != Phase::Gone).count())
}

async fn nothing_lives(instance: &Instance) -> anyhow::Result<()> {
    let live = live(instance).await?;
    ensure!(live == 0, "{live} sandboxes still live");
    Ok(())
}

fn read(folder: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(folder.join("report.json"))?)?)
}

fn positive(value: &Value) -> anyhow::Result<f64> {
    value.as_f64().filter(|value| *value > 0.0).with_context(|| format!("`{value}` is not above 0"))
}

/// Numbers above nothing, of so many values, in order.
fn spread(spread: &Value, count: usize) -> anyhow::Result<()> {
    ensure!(spread["count"] == count, "not of {count} values: {spread}");
    let numbers: Vec<f64> = ["min", "p50", "p95", "p99", "max"]
        .iter()
        .map(|key| positive(&spread[*key]))
        .collect::<anyhow::Result<_>>()?;
    ensure!(numbers.is_sorted(), "{spread}");
    Ok(())
}
