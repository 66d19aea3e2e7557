//! Kata's own side of a start, without Kata: a **double**, containerd's shim for runc under the
//! name of Kata's, which tells what it was called with and what it found. It knows nothing of
//! Kata's options and refuses to create; so what is shown here is which shim is called, what is
//! made for it beforehand, that nobody is offered a runtime that starts nothing, and that nothing
//! is left. It proves no promise of a virtual machine. In every column.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use adrastea_proto::v1::{FailureReason, OffersRequest, StartRequest};
use adrastea_tests::{Instance, Options, Suite, client::request, column, config, machines, place};
use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

use crate::ask::failed;

pub fn add(suite: &mut Suite) {
    let tries = "kata::a_double_is_tried_and_never_offered";
    let needs = "kata::a_double_gets_what_it_needs_and_leaves_nothing";
    let real = "kata::a_real_machine_starts_and_every_wall_stands";
    if column::is_of_machines() {
        for name in [tries, needs, real] {
            suite.ignored(name, "the whole column is of the real one");
        }
        return;
    }
    let double = || Options::default().with_kata(Path::new(Options::NO_SHIM));
    suite.own(tries, double(), |instance| async move { tried(&instance).await });
    suite.own(needs, double(), |instance| async move { gets_what_it_needs(&instance).await });
    match (machines::why_none(), machines::kata_shim()) {
        (None, Some(shim)) => {
            let options = Options::default().with_kata(&shim);
            suite.own(real, options, |instance| async move { starts(&instance).await });
        }
        (reason, _) => suite.ignored(real, &reason.unwrap_or_default()),
    }
}

fn under_kata(user: &str) -> StartRequest {
    StartRequest { runtime: "kata".into(), ..request(user) }
}

/// What people who choose are told of it; none if they are not let choose.
async fn offered(instance: &Instance) -> anyhow::Result<Option<String>> {
    let asked = OffersRequest { user: "ana".into() };
    let offers = instance.launcher().await?.offers(asked).await?.into_inner().offers;
    let standard = offers.into_iter().find(|offer| offer.profile == "standard");
    let standard = standard.context("there is no profile `standard`")?;
    ensure!(!standard.runtimes.is_empty());
    let is_there = standard.runtimes.iter().any(|name| name == "kata");
    Ok(standard.runtime_descriptions.get("kata").filter(|_| is_there).cloned())
}

/// What the double found, beside its own words.
const FINDS: &str = r#"
id=; while [ $# -gt 0 ]; do [ "$1" = -id ] && id=$2; shift; done
if [ "$id" = selftest0000 ]; then
  place=$RUN/self-test/kata group=$NAME-self-test-kata/$id
else
  place=$RUN/sandboxes/$id group=$NAME/$id
fi
echo "sandbox $id"
sed 's/^/file /' "$place/runtime.toml"
for limit in memory/$group/memory.limit_in_bytes pids/$group/pids.max cpu/$group/cpu.cfs_quota_us \
             $group/memory.max $group/pids.max $group/cpu.max; do
  [ -e "/sys/fs/cgroup/$limit" ] && echo "limit ${limit##*/} $(cat "/sys/fs/cgroup/$limit")"
done
grep " $place/home " /proc/self/mountinfo | sed 's/^/home /'
nsenter --net="$place/network.ns" ip -o -4 address 2>/dev/null | sed 's/^/address /'
nsenter --net="$place/network.ns" ip route 2>/dev/null | sed 's/^/route /'
"#;

/// Puts the double where the configuration has Kata's shim, and files for what it never starts.
fn put_double(instance: &Instance) -> anyhow::Result<PathBuf> {
    let scratch = instance.scratch();
    let double = scratch.join("containerd-shim-kata-v2");
    let log = scratch.join("double.log");
    let version = "Kata Containers containerd shim (double): id: io.containerd.kata.v2, version: 4.1.0, commit: 0";
    let text = format!(
        "#!/bin/bash\ncase $1 in --version) echo '{version}'; exit;; esac\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         RUN='{}' NAME='{}'\ncase \" $* \" in *' start ')\n\
         ( echo \"called $*\"; {FINDS} ) >> '{}' 2>&1;; esac\nexec '{}' \"$@\"\n",
        instance.run_directory().display(),
        instance.name,
        log.display(),
        place::tools().join("bin/containerd-shim-runc-v2").display(),
    );
    fs::write(&double, text)?;
    fs::set_permissions(&double, fs::Permissions::from_mode(0o755))?;
    let mut machine = Vec::new();
    for key in ["monitor", "file_server", "kernel", "image"] {
        let file = scratch.join(key);
        fs::write(&file, "")?;
        machine.push(format!("{key} = \"{}\"\n", file.display()));
    }
    let machine = machine.concat();
    let text = instance.config_text().replace(Options::NO_SHIM, &double.display().to_string());
    let text =
        text.replace("[runtimes.kata.machine]\n", &format!("[runtimes.kata.machine]\n{machine}"));
    config::write(&instance.config(), &text)?;
    Ok(log)
}

async fn tried(instance: &Instance) -> anyhow::Result<()> {
    // Without the shim: told, and nothing else in its place.
    let failure = instance.start_failing(under_kata("ana")).await?;
    failed(&failure, FailureReason::RuntimeMissing, Options::NO_SHIM)?;
    let log = put_double(instance)?;
    instance.restart_launcher(Signal::SIGTERM).await?;
    let told = fs::read_to_string(&log).context("the double was not called")?;
    let says = |line: &str| told.lines().any(|told| told.starts_with(line));
    ensure!(says("sandbox selftest0000"), "{told}");
    ensure!(told.contains(&format!("-namespace {}", instance.name)), "{told}");
    ensure!(says("file sandbox_cgroup_only = true") && says("limit pids.max 513"), "{told}");
    let failure = instance.start_failing(under_kata("ana")).await?;
    failed(&failure, FailureReason::RuntimeMissing, "starts no sandbox on this node")?;
    failed(&failure, FailureReason::RuntimeMissing, "runtimeoptions.v1.Options")?;
    // A part of its machines is gone.
    let kernel = instance.scratch().join("kernel");
    fs::remove_file(&kernel)?;
    let doctor = instance.cli(&["doctor"])?;
    let told = format!("there is no file `{}`", kernel.display());
    ensure!(doctor.code == 1 && doctor.stdout.contains(&told), "{}", doctor.stdout);
    fs::write(&kernel, "")?;
    ensure!(offered(instance).await?.is_none(), "it is offered");
    let doctor = instance.cli(&["doctor"])?;
    let noted = |text: &str| {
        doctor.stdout.lines().any(|line| line.starts_with("note") && line.contains(text))
    };
    ensure!(noted("runtime kata is experimental"), "{}", doctor.stdout);
    ensure!(noted("runtime kata: it was not tried"), "{}", doctor.stdout);
    nothing_left(instance)?;
    // The others serve as ever.
    instance.start("ana").await?;
    instance.stop("ana", "").await?;
    Ok(())
}

/// Writes down that the double was seen to work, as root could: what follows is a start of the
/// ordinary kind, up to where the double refuses.
fn remember_as_passed(instance: &Instance) -> anyhow::Result<()> {
    let scratch = instance.scratch();
    let shim = scratch.join("containerd-shim-kata-v2");
    let machine = ["monitor", "file_server", "kernel", "image"].map(|key| scratch.join(key));
    let mut key = vec![format!("adrastea {} 4.1.0", env!("CARGO_PKG_VERSION"))];
    for path in [shim, place::init()].into_iter().chain(machine) {
        let file = fs::metadata(&path)?;
        let changed = (file.mtime(), file.mtime_nsec());
        let (device, inode, length) = (file.dev(), file.ino(), file.len());
        key.push(format!("{} {device}:{inode} {changed:?} {length}", path.display()));
    }
    key.push(fs::read_to_string("/proc/sys/kernel/random/boot_id")?);
    fs::write(instance.run_directory().join("self-test/kata.passed"), key.join(" "))?;
    Ok(())
}

async fn gets_what_it_needs(instance: &Instance) -> anyhow::Result<()> {
    let log = put_double(instance)?;
    // Killed, so that its run directory stays.
    instance.end_launcher(Signal::SIGKILL)?;
    remember_as_passed(instance)?;
    instance.serve(None).await?;
    let said = offered(instance).await?.context("it is not offered")?;
    ensure!(said.contains("experimental: never proved"), "{said}");
    ensure!(!log.exists(), "it was tried again: {}", fs::read_to_string(&log)?);
    let failure = instance.start_failing(under_kata("ana")).await?;
    // The double cannot read what Kata reads: exactly that ends the start.
    failed(&failure, FailureReason::Internal, "runtimeoptions.v1.Options")?;
    let told = fs::read_to_string(&log).context("the double was not called")?;
    let line = |beginning: &str| {
        let found = told.lines().find(|line| line.starts_with(beginning));
        found.with_context(|| format!("`{beginning}` is not in\n{told}"))
    };
    // 64 MiB of the tenant's, and what machine and node need beside.
    ensure!(line("limit memory.")?.ends_with(&((64 + 768) << 20).to_string()), "{told}");
    ensure!(line("limit pids.max")?.ends_with(" 513"), "{told}");
    let home = line("home ")?;
    ensure!(home.contains("nosuid,nodev") && home.contains("/homes/"), "{home}");
    // Its ids, and the address that it takes into the machine.
    let words = line("file virtio_fs_extra_args")?;
    ensure!(
        words.contains("--translate-uid=map:1000:18") && words.contains("forbid-guest"),
        "{words}"
    );
    ensure!(line("address ").is_ok() && told.contains(&instance.subnet), "{told}");
    ensure!(line("route default").is_ok(), "{told}");
    ensure!(line("called")?.contains(&instance.name), "{told}");
    nothing_left(instance)?;
    // What was in the home is there still.
    instance.start("ana").await?;
    instance.stop("ana", "").await?;
    Ok(())
}

fn nothing_left(instance: &Instance) -> anyhow::Result<()> {
    instance.nothing_left(std::time::Duration::from_secs(10))?;
    for place in ["self-test/kata", "sandboxes"] {
        let place = instance.run_directory().join(place);
        let left: Vec<_> = fs::read_dir(&place).into_iter().flatten().flatten().collect();
        ensure!(left.is_empty(), "left in {}: {left:?}", place.display());
    }
    Ok(())
}

/// Where there is Kata and KVM.
async fn starts(instance: &Instance) -> anyhow::Result<()> {
    let server = instance.start_with(under_kata("ana")).await?;
    let looked = instance.cli(&["inspect", instance.get("ana").await?.sandbox_id.as_str()])?;
    ensure!(looked.stdout.contains("every wall stands"), "{looked:?}");
    ensure!(instance.http(server.address(), "/write/kept/home/jovyan/mark")?.1 == "written");
    instance.stop("ana", "").await?;
    let again = instance.start_with(under_kata("ana")).await?;
    ensure!(instance.http(again.address(), "/cat/home/jovyan/mark")?.1 == "kept");
    instance.stop("ana", "").await?;
    instance.nothing_left(std::time::Duration::from_secs(10))
}
