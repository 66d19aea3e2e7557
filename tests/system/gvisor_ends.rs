//! How a server of gVisor ends when the node takes something from the kernel that is its
//! own: a process of it, or one more process. In every column, like all of gVisor's own tests.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use adrastea_proto::v1::{ExitCause, Phase};
use adrastea_tests::{Instance, Suite};
use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    freezes::processes_of,
    gvisor::{beside_runc, under_gvisor},
};

pub fn add(suite: &mut Suite) {
    suite.own(
        "gvisor::its_kernel_or_its_file_server_killed_is_told_and_cleaned_up",
        beside_runc(),
        |instance| async move { killed(&instance).await },
    );
    suite.own(
        "gvisor::the_end_at_its_limit_of_processes_is_told",
        beside_runc(),
        |instance| async move { too_many(&instance).await },
    );
}

/// The process of this sandbox that calls itself so.
fn named(instance: &Instance, id: &str, name: &str) -> anyhow::Result<Pid> {
    let calls_itself = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    };
    let pid = processes_of(instance, id).into_iter().find(calls_itself);
    pid.map(Pid::from_raw).with_context(|| format!("`{id}` has no `{name}`"))
}

async fn killed(instance: &Instance) -> anyhow::Result<()> {
    instance.start("ben").await?;
    for which in ["runsc-sandbox", "runsc-gofer"] {
        let ready = instance.start_with(under_gvisor("ana")).await?;
        let wrote = instance.http(ready.address(), &format!("/write/{which}/home/jovyan/mark"))?;
        ensure!(wrote.1 == "written", "{which}: {wrote:?}");
        kill(named(instance, ready.id(), which)?, Signal::SIGKILL)?;
        let exit = instance.exit("ana", Duration::from_secs(10)).await?;
        ensure!(exit.cause() == ExitCause::Signaled && exit.signal == 9, "{which}: {exit:?}");
        ensure!(instance.get("ana").await?.phase() == Phase::Gone, "{which}: it is not gone");
        let left = processes_of(instance, ready.id());
        ensure!(left.is_empty(), "{which}: {left:?} run on");
        instance.answers("ben").await?;
        // What was written to the home is there, whoever starts next.
        let again = instance.start_with(under_gvisor("ana")).await?;
        let kept = instance.http(again.address(), "/cat/home/jovyan/mark")?;
        ensure!(kept.1 == which, "{which}: {kept:?}");
        instance.stop("ana", "").await?;
    }
    instance.stop("ben", "").await?;
    instance.nothing_left(Duration::from_secs(10))
}

async fn too_many(instance: &Instance) -> anyhow::Result<()> {
    let ready = instance.start_with(under_gvisor("ana")).await?;
    // The limit is far off, and the way there takes long: it comes to meet the server.
    let now = processes_of(instance, ready.id()).len();
    fs::write(limit_of_processes(instance, ready.id())?, (now + 60).to_string())?;
    for _ in 0..100 {
        if instance.http(ready.address(), "/spawn/sleep/600").is_err() {
            break;
        }
    }
    let exit = instance.exit("ana", Duration::from_secs(20)).await?;
    ensure!(exit.cause() == ExitCause::TooManyProcesses, "{exit:?}");
    ensure!(exit.message.contains("limit is 2048 processes"), "{exit:?}");
    instance.start_with(under_gvisor("ana")).await?;
    instance.stop("ana", "").await?;
    instance.nothing_left(Duration::from_secs(10))
}

fn limit_of_processes(instance: &Instance, id: &str) -> anyhow::Result<PathBuf> {
    let group = Path::new(&instance.name).join(id).join("pids.max");
    let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
    let found = roots.iter().map(|root| Path::new(root).join(&group)).find(|path| path.exists());
    found.context("the sandbox has no limit of processes")
}
