//! What is counted, as a Prometheus server sees it, and what it can and cannot ask.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
    time::Duration,
};

use adrastea_tests::{Instance, Options, Suite, User, column, place};
use anyhow::{Context as _, ensure};

const LISTEN: &str = "127.0.0.1:9464";

pub fn add(suite: &mut Suite) {
    let append = format!("[metrics]\nlisten = \"{LISTEN}\"\n");
    let options = Options { append, ..Options::default() };
    suite.own("metrics::of_starts_ends_and_calls", options, |instance| async move {
        counted(&instance).await
    });
}

/// An answer to a raw request: its head and its body.
fn ask(instance: &Instance, request: &str) -> anyhow::Result<(String, String)> {
    let request = request.to_owned();
    let answer =
        instance.namespace.within(User::other(4321), move || -> anyhow::Result<String> {
            let mut stream = TcpStream::connect(LISTEN)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    Ok((head.to_owned(), body.to_owned()))
}

fn get(instance: &Instance, method: &str, path: &str) -> anyhow::Result<(String, String)> {
    ask(instance, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

/// The number of the series that has this name and these labels.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .find(|line| labels.iter().all(|label| line.contains(label)))
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

async fn counted(instance: &Instance) -> anyhow::Result<()> {
    // The instance itself has run something before.
    let (_, before) = get(instance, "GET", "/metrics")?;
    let grown = |now: &str, name: &str, labels: &[&str]| {
        value(now, name, labels).map(|count| count - value(&before, name, labels).unwrap_or(0.0))
    };
    instance.start("zuzanna").await?;
    let (head, text) = get(instance, "GET", "/metrics")?;
    ensure!(
        head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    let runtime = format!("runtime=\"{}\"", column::runtime());
    let sandboxes = |text: &str, phase: &str| {
        value(text, "adrastea_sandboxes", &[phase, &runtime, "profile=\"standard\""])
    };
    let one = Some(1.0);
    ensure!(grown(&text, "adrastea_starts_total", &["result=\"ready\""]) == one, "{text}");
    ensure!(grown(&text, "adrastea_start_seconds_count", &["result=\"ready\""]) == one, "{text}");
    for step in
        ["check", "spec", "engine-create", "engine-start", "prove", "home", "claim", "server"]
    {
        let label = format!("step=\"{step}\"");
        let count = grown(&text, "adrastea_start_step_seconds_count", &[&label, &runtime]);
        ensure!(count == one, "{step}: {count:?} in\n{text}");
        let beyond = grown(&text, "adrastea_start_step_seconds_bucket", &[&label, "le=\"+Inf\""]);
        ensure!(beyond == one, "{step}: {beyond:?} in\n{text}");
    }
    let calls = grown(&text, "adrastea_rpcs_total", &["method=\"Launcher.Start\"", "code=\"Ok\""]);
    ensure!(calls == one, "{text}");
    ensure!(sandboxes(&text, "phase=\"ready\"") == one, "{text}");
    ensure!(!text.contains("zuzanna"), "a user's name is in it:\n{text}");

    instance.stop("zuzanna", "").await?;
    let (_, text) = get(instance, "GET", "/metrics")?;
    ensure!(sandboxes(&text, "phase=\"ready\"") == Some(0.0), "{text}");
    ensure!(grown(&text, "adrastea_ends_total", &["cause=\"stopped\""]) == one, "{text}");
    let printed = instance.cli(&["metrics"])?.stdout;
    ensure!(grown(&printed, "adrastea_ends_total", &["cause=\"stopped\""]) == one, "{printed}");

    for (method, path, status) in [
        ("GET", "/", "404"),
        ("GET", "/metrics/../../etc/passwd", "404"),
        ("POST", "/metrics", "405"),
        ("DELETE", "/metrics", "405"),
    ] {
        let (head, _) = get(instance, method, path)?;
        ensure!(head.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {head}");
    }
    // Who says nothing, or nonsense, keeps nobody from asking.
    let silent = (0..8)
        .map(|_| instance.namespace.within(User::other(4321), || TcpStream::connect(LISTEN)))
        .collect::<Result<Vec<_>, _>>()?;
    ensure!(ask(instance, "nonsense\r\n\r\n")?.0.starts_with("HTTP/1.1 400"));
    ensure!(get(instance, "HEAD", "/metrics")?.0.starts_with("HTTP/1.1 200"));
    drop(silent);
    a_reader_goes_away(instance)
}

/// As in `adrastea metrics | head -0`: an end without a panic.
fn a_reader_goes_away(instance: &Instance) -> anyhow::Result<()> {
    for arguments in [&["metrics"][..], &["doctor", "--json"], &["image", "ls"]] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = instance
            .namespace
            .command(place::launcher())
            .arg("--config")
            .arg(instance.config())
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(141) && said.is_empty(), "{arguments:?}: {output:?}");
    }
    Ok(())
}
