//! E10, E11, C8: images made to trick who starts them. Each is started for real;
//! what lies outside of the sandbox is the same afterwards.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use adrastea_tests::{
    Instance, Options, Suite, column,
    image::{self, Archive, Layer},
    place,
};
use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::{escape, tenant};

/// So many sandboxes of these images come and go before runc's binary is looked at again; where
/// each must first wait, every trick is played once.
fn spawns() -> usize {
    if column::claims() { TRICKS.len() } else { 100 }
}
/// How many come at once.
const AT_ONCE: usize = 4;

/// What a tenant of such an image tries to overwrite: where its image has links, and more.
const PLACES: [&str; 22] = [
    "/",
    "/dev",
    "/dev/null",
    "/dev/pts",
    "/dev/shm",
    "/dev/ptmx",
    "/dev/mqueue",
    "/dev/console",
    "/proc",
    "/proc/self",
    "/proc/sys/kernel",
    "/proc/kcore",
    "/sys",
    "/sys/firmware",
    "/run",
    "/tmp",
    "/etc",
    "/etc/resolv.conf",
    "/.adrastea",
    "/.adrastea/init",
    "/home/jovyan",
    "/volume",
];

/// A trick, and the layer that plays it; `outside` is a directory of the host.
type Trick = (&'static str, fn(&mut Layer, &str) -> anyhow::Result<()>);

/// Links by absolute path lead to the host if whoever follows them is outside; the ones with
/// `..` if whoever follows them does not keep to the root.
const TRICKS: [Trick; 20] = [
    ("trick-dev", |layer, outside| layer.link("dev", outside)),
    ("trick-dev-up", |layer, outside| layer.link("dev", &format!("../../../../../../..{outside}"))),
    ("trick-dev-null", |layer, outside| {
        layer.directory("dev", 0o755)?;
        layer.link("dev/null", &format!("{outside}/file"))
    }),
    ("trick-dev-pts", |layer, outside| {
        layer.directory("dev", 0o755)?;
        layer.link("dev/pts", outside)?;
        layer.link("dev/ptmx", &format!("{outside}/file"))
    }),
    ("trick-dev-inner", |layer, outside| {
        layer.directory("dev", 0o755)?;
        layer.link("dev/shm", outside)?;
        layer.link("dev/mqueue", outside)?;
        layer.link("dev/console", &format!("{outside}/file"))?;
        layer.link("dev/fd", outside)
    }),
    ("trick-proc", |layer, outside| layer.link("proc", outside)),
    ("trick-proc-host", |layer, _| layer.link("proc", "/proc/1/root/proc")),
    ("trick-proc-tree", |layer, outside| {
        // CVE-2019-19921 and CVE-2025-52881: something else where the runtime writes its own labels.
        layer.directory("proc", 0o755)?;
        layer.directory("proc/self", 0o755)?;
        layer.link("proc/self/attr", outside)?;
        layer.link("proc/self/fd", outside)?;
        layer.link("proc/sys", outside)
    }),
    ("trick-sys", |layer, outside| layer.link("sys", outside)),
    ("trick-sys-tree", |layer, outside| {
        layer.directory("sys", 0o755)?;
        layer.link("sys/firmware", outside)?;
        layer.link("sys/fs", outside)
    }),
    ("trick-run", |layer, outside| layer.link("run", outside)),
    ("trick-tmp", |layer, outside| layer.link("tmp", outside)),
    ("trick-etc", |layer, outside| layer.link("etc", outside)),
    ("trick-etc-files", |layer, outside| {
        layer.directory("etc", 0o755)?;
        for name in ["resolv.conf", "hosts", "hostname"] {
            layer.link(&format!("etc/{name}"), &format!("{outside}/file"))?;
        }
        Ok(())
    }),
    ("trick-home", |layer, outside| layer.link("home", outside)),
    ("trick-home-user", |layer, outside| {
        layer.directory("home", 0o755)?;
        layer.link("home/jovyan", outside)
    }),
    ("trick-init", |layer, outside| {
        layer.directory(".adrastea", 0o777)?;
        layer.link(".adrastea/init", &format!("{outside}/file"))
    }),
    ("trick-init-folder", |layer, _| layer.link(".adrastea", "/proc/self/fd")),
    ("trick-whiteout", |layer, _| {
        // These hide what lies below in an image; the launcher's own layer lies above.
        layer.directory(".adrastea", 0o755)?;
        layer.file(".adrastea/.wh..wh..opq", 0o644, b"")?;
        layer.directory("etc", 0o755)?;
        layer.file("etc/.wh.resolv.conf", 0o644, b"")
    }),
    ("trick-devices", |layer, _| {
        layer.device("memory", 1, 1)?;
        layer.device("kernel-log", 1, 11)?;
        layer.device("null", 1, 3)?;
        // cap_setuid,cap_sys_admin=ep for a program that tells what it has.
        let all: [u8; 20] = [1, 0, 0, 2, 0x80, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        layer.attributes(&[("security.capability", &all)])?;
        layer.file("bin/with-capabilities", 0o755, &fs::read(place::tenant())?)
    }),
];

pub fn add(suite: &mut Suite) {
    match Outside::new() {
        Ok(outside) => {
            let images = match archives(&outside.place) {
                Ok(images) => images,
                Err(error) => return suite.plain("e11_hostile_images", move || Err(error)),
            };
            suite.own(
                "e10_e11_c8_hostile_images_change_nothing_outside",
                options(&images),
                async move |instance| hostile(&instance, &images, &outside).await,
            );
        }
        Err(error) => suite.plain("e11_hostile_images", move || Err(error)),
    }
}

/// A directory of the host that everybody may write, and what is in it.
struct Outside {
    place: PathBuf,
}

impl Outside {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let place = place::scratch().join(format!("outside-{}", std::process::id()));
        fs::create_dir_all(&place)?;
        for name in ["file", "null", "shm", "trampled"] {
            fs::write(place.join(name), "of the host\n")?;
            fs::set_permissions(place.join(name), fs::Permissions::from_mode(0o666))?;
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777))?;
        Ok(Self { place })
    }

    /// Everything that a trick might have changed: files here, the host's devices and settings,
    /// the programs that start sandboxes.
    fn state(&self, instance: &Instance) -> anyhow::Result<BTreeMap<String, String>> {
        let mut state = BTreeMap::new();
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.place)?
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<_>>()?;
        paths.extend(
            ["/dev", "/dev/null", "/dev/pts", "/dev/ptmx", "/etc/resolv.conf"].map(PathBuf::from),
        );
        paths.push(self.place.clone());
        for path in paths {
            let metadata = fs::symlink_metadata(&path)?;
            let text = if metadata.is_file() { fs::read_to_string(&path)? } else { String::new() };
            let told = format!(
                "{:o} {} {} {} {text}",
                metadata.mode(),
                metadata.uid(),
                metadata.rdev(),
                metadata.ino()
            );
            state.insert(path.display().to_string(), told);
        }
        for (path, value) in escape::host_values() {
            state.insert(path.to_owned(), value.unwrap_or_default());
        }
        for name in ["bin", "runc-libraries"] {
            for entry in fs::read_dir(place::tools().join(name)).into_iter().flatten().flatten() {
                let program = fs::read(entry.path())?;
                state.insert(entry.path().display().to_string(), digest(&program));
            }
        }
        for program in [place::launcher(), place::init()] {
            state.insert(program.display().to_string(), digest(&fs::read(&program)?));
        }
        for skeleton in fs::read_dir(instance.state().join("skeleton"))?.flatten() {
            let init = skeleton.path().join(".adrastea/init");
            state.insert(init.display().to_string(), digest(&fs::read(&init)?));
        }
        Ok(state)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

fn digest(content: &[u8]) -> String {
    format!("{:x?}", Sha256::digest(content))
}

fn archives(outside: &Path) -> anyhow::Result<Vec<(&'static str, Archive)>> {
    let tenant = fs::read(place::tenant()).unwrap_or_default();
    let outside = outside.display().to_string();
    let make = |(name, play): &Trick| -> anyhow::Result<_> {
        let mut base = Layer::default();
        base.directory("bin", 0o755)?;
        base.directory("usr", 0o755)?;
        base.file("bin/tenant", 0o755, &tenant)?;
        image::can_wait(&mut base)?;
        let mut trick = Layer::default();
        play(&mut trick, &outside)?;
        Ok((*name, image::write(&[base, trick])?))
    };
    TRICKS.iter().map(make).collect()
}

/// An image and a profile for each trick.
fn options(images: &[(&str, Archive)]) -> Options {
    let append = images.iter().fold(tenant::options().append, |text, (name, archive)| {
        text + &format!(
            "[images.{name}]\nreference = \"localhost/adrastea/{name}:1\"\ndigest = \"{}\"\n",
            archive.digest
        ) + &tenant::profile(name, name)
    });
    Options { append, ..tenant::options() }
}

async fn hostile(
    instance: &Instance,
    images: &[(&str, Archive)],
    outside: &Outside,
) -> anyhow::Result<()> {
    for (name, archive) in images {
        let path = archive.path.display().to_string();
        let imported =
            instance.cli(&["image", "import", &path, &format!("localhost/adrastea/{name}:1")])?;
        ensure!(imported.code == 0, "{name}: {imported:?}");
    }
    // Their sandboxes are made now, where they are to wait.
    instance.turn_pool("refill")?;
    // The skeleton, whose init is watched, is made by the first start.
    ignored_wishes(instance, images[0].0)?;
    let before = outside.state(instance)?;
    every_trick(instance, images)?;
    let after = outside.state(instance)?;
    for (what, value) in &before {
        ensure!(
            after.get(what) == Some(value),
            "`{what}` was `{value}` and is {:?}",
            after.get(what)
        );
    }
    ensure!(after.len() == before.len(), "something was made outside: {:?}", after.keys());
    labels(instance, images).await
}

/// What the image wishes for itself: user, environment, directory, volume, entry point.
fn ignored_wishes(instance: &Instance, profile: &str) -> anyhow::Result<()> {
    let run = |command: &[&str]| tenant::run_program(instance, "i-wishes", profile, command);
    let who = run(&[image::TENANT, "who"])?;
    ensure!(who.stdout.contains("Uid:\t1000\t1000\t1000\t1000"), "USER counts: {who:?}");
    let environment = run(&[image::TENANT, "cat", "/proc/self/environ"])?;
    ensure!(environment.stdout.contains("FROM_IMAGE=a=b"), "{environment:?}");
    ensure!(!environment.stdout.contains("LD_PRELOAD"), "LD_PRELOAD counts: {environment:?}");
    let directory = run(&[image::TENANT, "link", "/proc/self/cwd"])?;
    ensure!(directory.stdout.trim() == "/home/jovyan", "WORKDIR counts: {directory:?}");
    let volume = run(&[image::TENANT, "list", "/volume"])?;
    ensure!(volume.stdout.contains("No such file"), "VOLUME counts: {volume:?}");
    // Not the runtime, but what runs already: the init, which is told nothing and says so. Where a
    // program has waited, it is that one.
    if column::claims() {
        return Ok(());
    }
    let again = run(&["/proc/self/exe"])?;
    ensure!(again.code == 125 && again.stdout.contains("refused"), "{again:?}");
    Ok(())
}

/// Starts every image, again and again, with a tenant that overwrites what it can.
fn every_trick(instance: &Instance, images: &[(&str, Archive)]) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let problems = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= spawns() {
                        break;
                    }
                    let name = images[number % images.len()].0;
                    if let Err(error) = trick(instance, name, number) {
                        let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
                        problems.push(format!("{name}: {error:#}"));
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

fn trick(instance: &Instance, name: &str, number: usize) -> anyhow::Result<()> {
    let user = format!("i-{number}");
    let command = [&[image::TENANT, "trample"][..], &PLACES].concat();
    let output = tenant::run_program(instance, &user, name, &command)?;
    // The launcher's own layer covers every one of these tricks, so none is even refused.
    ensure!(output.code == 0 && output.stdout.contains("done trampling"), "{output:?}");
    ensure!(!output.stdout.contains("overwrote"), "a running program: {}", output.stdout);
    if name == "trick-devices" {
        let nodes = ["/memory", "/kernel-log", "/null"];
        let command = [&[image::TENANT, "open"][..], &nodes].concat();
        let opened = tenant::run_program(instance, &user, name, &command)?;
        ensure!(
            nodes
                .iter()
                .all(|node| opened.stdout.contains(&format!("no {node}: Permission denied"))),
            "{opened:?}"
        );
        let who = tenant::run_program(instance, &user, name, &["/bin/with-capabilities", "who"])?;
        ensure!(who.stdout.contains("CapPrm:\t0000000000000000"), "{who:?}");
    }
    Ok(())
}

/// Nothing of the image's labels and annotations is a label of containerd's, which obeys some.
async fn labels(instance: &Instance, images: &[(&str, Archive)]) -> anyhow::Result<()> {
    let request = adrastea_proto::v1::StartRequest {
        profile: images[0].0.into(),
        ..tenant::wish("i-labels", &["hold"])
    };
    let ready = instance.start_with(request).await?;
    let ctr = |words: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(place::tools().join("bin/ctr"))
            .arg("--address")
            .arg(instance.containerd_socket())
            .args(["--namespace", &instance.name])
            .args(words)
            .output()
            .context("failed to run `ctr`")?;
        ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut told = ctr(&["containers", "info", ready.id()])?;
    for list in ["images", "containers", "content", "snapshots", "leases"] {
        told += &ctr(&[list, "ls"])?;
    }
    ensure!(told.contains(ready.id()) && told.contains("gc."), "ctr tells no labels: {told}");
    if let Some(line) = told.lines().find(|line| line.contains("evil")) {
        bail!("a label of the image is one of containerd's: {line}");
    }
    ensure!(instance.stop("i-labels", "").await?, "it was gone");
    Ok(())
}
