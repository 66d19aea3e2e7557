//! Before a sandbox of gVisor waits for its user, a home of nobody's is attached to one: a program
//! that does not make files in it as it must keeps none waiting, and says why. In every column, for
//! the node's configuration offers it anyway.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use adrastea_proto::v1::StartRequest;
use adrastea_tests::{Instance, Options, Suite, client, config, place};
use anyhow::ensure;
use nix::sys::signal::Signal;

const CONVERGED: Duration = Duration::from_secs(30);
const PASSED: &str = "adrastea_pool_trial_passed{runtime=\"gvisor\"}";

pub fn add(suite: &mut Suite) {
    let options = Options {
        pool: Some("{ minimum = 1, maximum = 1 }".into()),
        append: "[pool]\ncpu = 100.0\n".into(),
        ..Options::default()
    };
    // Once, whatever the column is called.
    let options = options.replacing("runtimes = [\"runc\"]", "runtimes = [\"gvisor\"]");
    suite.own(
        "pool::a_runtime_that_does_not_keep_homes_right_has_no_waiting_sandbox",
        options,
        |instance| async move { is_tried(&instance).await },
    );
}

/// What the doctor says of sandboxes that wait.
fn told_by_doctor(instance: &Instance) -> anyhow::Result<String> {
    let doctor = instance.cli(&["doctor"])?.stdout;
    let about = |line: &&str| line.contains("gvisor") && line.contains("wait");
    Ok(doctor.lines().filter(about).filter(|line| !line.contains("cannot")).collect())
}

/// The instance's runsc, with `script` in between, which may change its words.
fn put_between(instance: &Instance, script: &str) -> anyhow::Result<()> {
    let real = place::tools().join("bin/runsc").display().to_string();
    let between = instance.scratch().join("between");
    fs::write(&between, format!("#!/bin/bash\n{script}\nexec '{real}' \"$@\"\n"))?;
    fs::set_permissions(&between, fs::Permissions::from_mode(0o755))?;
    let text = instance.config_text().replace(&real, &between.display().to_string());
    config::write(&instance.config(), &text)
}

async fn is_tried(instance: &Instance) -> anyhow::Result<()> {
    instance.pool("waiting", 1).await?;
    ensure!(instance.cli(&["metrics"])?.stdout.contains(&format!("{PASSED} 1")));
    let said = told_by_doctor(instance)?;
    ensure!(said.contains("homes can be attached") && said.contains("since this boot"), "{said}");

    // What is written inside never reaches the disk.
    put_between(instance, "set -- \"${@/--overlay2=none/--overlay2=all:memory}\"")?;
    instance.restart_launcher(Signal::SIGTERM).await?;
    let deadline = Instant::now() + CONVERGED;
    let reason = loop {
        let pool = instance.pool("waiting", 0).await?;
        if !pool.problem.is_empty() {
            break pool.problem;
        }
        ensure!(Instant::now() < deadline, "it was never tried: {pool:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let what = "under `gvisor` no server waits for its user: a home that is attached late is not as it must be";
    ensure!(reason.starts_with(what) && reason.contains("is not on the disk"), "{reason}");
    ensure!(instance.cli(&["pool"])?.stdout.contains("is not on the disk"));
    ensure!(instance.cli(&["metrics"])?.stdout.contains(&format!("{PASSED} 0")));
    ensure!(instance.launcher_log().contains("is not on the disk"));
    let said = told_by_doctor(instance)?;
    ensure!(
        said.to_lowercase().starts_with("note") && said.contains("is not on the disk"),
        "{said}"
    );
    let request = StartRequest { profile: "waiting".into(), ..client::request("ana") };
    let cold = instance.start_with(request).await?;
    ensure!(instance.http(cold.address(), "/")?.0 == 200);
    ensure!(!instance.log("ana").await?.contains("waited"), "it was no cold start");
    instance.stop("ana", "").await?;
    instance.nothing_left(CONVERGED)?;
    let homes = fs::read_dir(instance.state().join("homes"))?.flatten();
    let odd: Vec<_> = homes.map(|home| home.file_name()).filter(|name| name == ".trial").collect();
    ensure!(odd.is_empty(), "a home of nobody's is left");

    // With the right program again, they wait again.
    config::write(&instance.config(), instance.config_text())?;
    instance.restart_launcher(Signal::SIGTERM).await?;
    instance.pool("waiting", 1).await?;
    ensure!(instance.cli(&["pool", "drain"])?.code == 0);
    instance.nothing_left(CONVERGED)
}
