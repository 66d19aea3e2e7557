//! Whether a runtime can start a sandbox is tried, not believed: one that cannot is told
//! with its reason, one that can is remembered, and neither leaves anything behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use adrastea_proto::v1::FailureReason;
use adrastea_tests::{Instance, Options, Suite, client::request, column, config, place};
use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::ask::failed;

pub fn add(suite: &mut Suite) {
    suite.own(
        "self_test::a_runtime_that_starts_nothing_is_told_and_never_replaced",
        Options::default(),
        |instance| async move { starts_nothing(&instance).await },
    );
    suite.own(
        "self_test::is_remembered_for_the_same_program_only",
        Options::default(),
        |instance| async move { is_remembered(&instance).await },
    );
}

/// The column's runtime, with this said in between where it is told to run a bundle.
fn put_between(instance: &Instance, script: &str) -> anyhow::Result<PathBuf> {
    let real = real();
    let between = instance.scratch().join("between");
    let text = format!(
        "#!/bin/bash\ncase \" $* \" in *\" run \"*)\n{script}\n;; esac\nexec '{}' \"$@\"\n",
        real.display()
    );
    fs::write(&between, text)?;
    fs::set_permissions(&between, fs::Permissions::from_mode(0o755))?;
    let text = instance.config_text();
    let text = text.replace(&real.display().to_string(), &between.display().to_string());
    config::write(&instance.config(), &text)?;
    Ok(between)
}

fn real() -> PathBuf {
    let program = if column::runtime() == "gvisor" { "runsc" } else { "runc" };
    place::tools().join("bin").join(program)
}

async fn starts_nothing(instance: &Instance) -> anyhow::Result<()> {
    // It dies, and leaves a process in the control group it was given.
    let group = format!("/{}-self-test-{}/selftest0000", instance.name, column::runtime());
    put_between(
        instance,
        &format!(
            "for controller in /sys/fs/cgroup/*/; do
  mkdir -p \"$controller{group}\" 2>/dev/null && echo $$ > \"$controller{group}/cgroup.procs\"
done
sleep 4711 </dev/null >/dev/null 2>&1 &
echo 'this kernel has no such thing' >&2; exit 3"
        ),
    )?;
    instance.restart_launcher(Signal::SIGTERM).await?;
    let failure = instance.start_failing(request("ana")).await?;
    failed(&failure, FailureReason::RuntimeMissing, "this kernel has no such thing")?;
    failed(&failure, FailureReason::RuntimeMissing, "starts no sandbox on this node")?;
    let doctor = instance.cli(&["doctor"])?;
    let told = |line: &str| line.starts_with("PROBLEM") && line.contains("no such thing");
    ensure!(doctor.code == 1 && doctor.stdout.lines().any(told), "{}", doctor.stdout);
    instance.nothing_left(Duration::from_secs(5))?;
    ensure!(left(instance)?.is_empty(), "{:?}", left(instance)?);
    config::write(&instance.config(), instance.config_text())?;
    instance.restart_launcher(Signal::SIGTERM).await?;
    instance.start("ana").await?;
    instance.stop("ana", "").await?;
    Ok(())
}

/// Control groups, bundles and state of tries.
fn left(instance: &Instance) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for controller in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        for group in fs::read_dir(controller.path()).into_iter().flatten().flatten() {
            if group.file_name().to_string_lossy().contains(&format!("{}-self-", instance.name)) {
                found.push(group.path());
            }
        }
    }
    let places = [
        instance.state().join("self-test"),
        instance.run_directory().join("self-test").join(column::runtime()),
    ];
    found.extend(places.into_iter().filter(|place| place.exists()));
    Ok(found)
}

fn tries(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().lines().count()
}

async fn is_remembered(instance: &Instance) -> anyhow::Result<()> {
    let log = instance.scratch().join("tries");
    let between = put_between(instance, &format!("echo tried >> '{}'", log.display()))?;
    // Killed, so that its run directory stays.
    let again = || async {
        instance.end_launcher(Signal::SIGKILL)?;
        instance.serve(None).await
    };
    again().await?;
    ensure!(tries(&log) == 1, "{} tries at the first boot", tries(&log));
    again().await?;
    let doctor = instance.cli(&["doctor"])?;
    ensure!(doctor.stdout.contains("starts a sandbox here (since this boot"), "{doctor:?}");
    ensure!(tries(&log) == 1, "it was tried again");
    // Another program under the same path.
    fs::write(&between, fs::read_to_string(&between)? + "\n")?;
    let doctor = instance.cli(&["doctor"])?;
    ensure!(doctor.stdout.contains("starts a sandbox here (just now"), "{}", doctor.stdout);
    again().await?;
    ensure!(tries(&log) == 2, "{} tries after a change", tries(&log));
    ensure!(left(instance)?.is_empty(), "{:?}", left(instance)?);
    instance.start("ana").await?;
    instance.stop("ana", "").await?;
    Ok(())
}
