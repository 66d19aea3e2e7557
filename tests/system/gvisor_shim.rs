//! gVisor driven by the shim of its own, `containerd-shim-runsc-v1`, where somebody has built
//! it: the same walls, ends and cleaning up as behind containerd's ordinary shim. In every
//! column, because the node's configuration offers it beside the column's runtime.

use std::{fs, path::Path, time::Duration};

use adrastea_proto::v1::{ExitCause, Phase, StartRequest};
use adrastea_tests::{Instance, Options, Suite, client::request, place};
use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{engine_faults::shim_of, freezes::processes_of};

const ABSENT: &str =
    "gVisor's own shim is not in target/tools/gvisor-shim (tools/get gvisor-shim builds it)";

pub fn add(suite: &mut Suite) {
    let walls = "gvisor_shim::runs_servers_behind_every_wall";
    let ends = "gvisor_shim::ends_are_told_and_leave_nothing";
    let Some(shim) = place::gvisor_shim() else {
        suite.ignored(walls, ABSENT);
        return suite.ignored(ends, ABSENT);
    };
    let mut options = Options::default()
        .replacing("runtimes = [\"runc\"]", "runtimes = [\"runc\", \"own-shim\"]")
        .replacing("runtimes = [\"gvisor\"]", "runtimes = [\"gvisor\", \"own-shim\"]");
    options.append = format!(
        "[runtimes.own-shim]\nkind = \"gvisor\"\nbinary = \"{}\"\nshim = \"{}\"\naccept_vulnerable = [\"CVE-2025-2713\"]\n",
        place::tools().join("bin/runsc").display(),
        shim.display()
    );
    suite.own(walls, options.clone(), |instance| async move { runs(&instance).await });
    suite.own(ends, options, |instance| async move { ends_well(&instance).await });
}

fn asked(user: &str) -> StartRequest {
    StartRequest { runtime: "own-shim".into(), ..request(user) }
}

async fn runs(instance: &Instance) -> anyhow::Result<()> {
    let server = instance.start_with(asked("ana")).await?;
    let id = server.id().to_owned();
    let shim = shim_of(instance, &id)?;
    let program = fs::read_link(format!("/proc/{shim}/exe"))?;
    ensure!(program.ends_with("containerd-shim-runsc-v1"), "`{}` drives it", program.display());
    let states = instance.run_directory().join("runtimes/own-shim").join(&instance.name);
    ensure!(states.is_dir(), "`{}` is not its state", states.display());
    // What the shim had to be told was not for the runtime.
    let bundle = fs::read_link(format!("/proc/{shim}/cwd"))?;
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    ensure!(spec.get("annotations").is_none(), "{}", spec["annotations"]);
    let looked = instance.cli(&["inspect", &id])?;
    ensure!(looked.stdout.contains("every wall stands"), "{looked:?}");
    let kernel = instance.http(server.address(), "/cat/proc/version")?.1;
    ensure!(kernel != fs::read_to_string("/proc/version")?, "it has the node's kernel");
    ensure!(instance.http(server.address(), "/write/kept/home/jovyan/mark")?.1 == "written");
    ensure!(instance.log("ana").await?.contains("answering"), "its output is not in its log");
    let doctor = instance.cli(&["doctor"])?;
    let found = doctor.stdout.lines().find(|line| line.contains("runtime own-shim starts"));
    ensure!(found.is_some_and(|line| line.starts_with("ok")), "{}", doctor.stdout);
    // A launcher and an engine that come back take it over.
    instance.restart_launcher(Signal::SIGKILL).await?;
    instance.kill_containerd(Signal::SIGKILL)?;
    instance.answers("ana").await?;
    ensure!(instance.get("ana").await?.sandbox_id == id, "it is another one");
    instance.stop("ana", "").await?;
    instance.nothing_left(Duration::from_secs(10))?;
    let again = instance.start_with(asked("ana")).await.context("the second start")?;
    ensure!(instance.http(again.address(), "/cat/home/jovyan/mark")?.1 == "kept");
    instance.stop("ana", "").await?;
    Ok(())
}

async fn ends_well(instance: &Instance) -> anyhow::Result<()> {
    let start = || instance.start_with(asked("ana"));
    let ready = start().await?;
    instance.http(ready.address(), "/exit/6").ok();
    let exit = instance.exit("ana", Duration::from_secs(10)).await?;
    ensure!(exit.cause() == ExitCause::Exited && exit.code == 6, "{exit:?}");

    let ready = start().await?;
    kill(Pid::from_raw(sentry(instance, ready.id())?), Signal::SIGKILL)?;
    let exit = instance.exit("ana", Duration::from_secs(10)).await?;
    ensure!(exit.cause() == ExitCause::Signaled && exit.signal == 9, "{exit:?}");

    let ready = start().await?;
    instance.http(ready.address(), "/eat/400").ok();
    let exit = instance.exit("ana", Duration::from_secs(20)).await?;
    ensure!(exit.cause() == ExitCause::OutOfMemory, "{exit:?}");

    // A shim that is killed takes its sandbox with it, and forgets where the runtime's state is.
    let ready = start().await?;
    kill(Pid::from_raw(shim_of(instance, ready.id())?), Signal::SIGKILL)?;
    instance.exit("ana", Duration::from_secs(20)).await?;
    ensure!(instance.get("ana").await?.phase() == Phase::Gone, "it is not gone");
    let left = processes_of(instance, ready.id());
    ensure!(left.is_empty(), "{left:?} run on");
    let elsewhere = Path::new("/run/containerd/runsc").join(&instance.name);
    ensure!(!elsewhere.exists(), "`{}` was made", elsewhere.display());
    instance.nothing_left(Duration::from_secs(10))
}

fn sentry(instance: &Instance, id: &str) -> anyhow::Result<i32> {
    let is_sentry = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it.starts_with(b"runsc-sandbox\0"))
    };
    processes_of(instance, id).into_iter().find(is_sentry).context("there is no sentry")
}
