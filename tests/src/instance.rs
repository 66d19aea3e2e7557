//! One launcher with a managed containerd, a namespace and an image of its own.
//!
//! Ends with [`Instance::finish`], which tells what was left behind; dropped, it
//! ends all the same, even in a panic. Must never signal what it did not start.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

use crate::{Namespace, Options, config, image, place, remains};

/// How long the launcher may take to answer, with everything to reconcile.
const BOOT: Duration = Duration::from_secs(60);
const SHUTDOWN: Duration = Duration::from_secs(60);

pub struct Instance {
    /// Its name, in front of everything it shares with the host.
    pub name: String,
    /// The first two numbers of its addresses.
    pub subnet: String,
    /// The host's place: the launcher's own network namespace.
    pub namespace: Namespace,
    /// The pretended internet, if the options asked for one.
    pub world: Option<Namespace>,
    pub archive: image::Archive,
    text: String,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    disk: Option<PathBuf>,
    baseline: BTreeSet<String>,
    /// Held from the moment at which a sandbox is seen to wait until a start has taken it.
    pub(crate) claiming: tokio::sync::Mutex<()>,
    child: Mutex<Option<Child>>,
    finished: AtomicBool,
    _slot: Flock<File>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Instance {
    /// Starts a launcher and imports the small image. Refuses without root.
    pub async fn new(options: &Options) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure!(geteuid().is_root(), "this test needs root: it runs a real launcher");
        if let Some(path) = place::missing() {
            bail!("`{}` is missing; run `tools/get` and `tools/build` first", path.display());
        }
        remains::sweep_dead_runs();
        let archive = image::small()?;
        let (slot, held) = take_slot()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("at{}-{number}", std::process::id());
        let directory = place::scratch().join(&name);
        fs::create_dir_all(&directory)?;
        let mut text = config::text(&name, slot, &archive.digest, options);
        let disk = options.disk.map(|bytes| make_disk(&directory, bytes)).transpose()?;
        if let Some(disk) = &disk {
            text = text.replace("[paths]\n", &format!("[paths]\nstate = \"{}\"\n", disk.display()));
        }
        let namespace = options.beside.clone().map_or_else(Namespace::new, Ok)?;
        let world = if options.world { Some(make_world(&namespace)?) } else { None };
        let mut instance = Self {
            subnet: config::subnet(slot),
            baseline: BTreeSet::new(),
            claiming: tokio::sync::Mutex::new(()),
            child: Mutex::new(None),
            finished: AtomicBool::new(false),
            _slot: held,
            name,
            namespace,
            world,
            archive,
            text,
            environment: options.environment.clone(),
            directory,
            disk,
        };
        config::write(&instance.config(), &instance.text)?;
        instance.serve(None).await?;
        let archive = instance.archive.path.display().to_string();
        let imported = instance.cli(&["image", "import", &archive, image::REFERENCE])?;
        ensure!(imported.code == 0, "failed to import the image: {}", imported.stderr);
        // Nothing that waits counts as what there was before the first test.
        instance.turn_pool("drain")?;
        // The first start makes what is kept for later ones (the skeleton of the rootfs).
        let first = instance.run("first-user", &[image::ANSWER, "exit", "0"])?;
        ensure!(
            first.code == 0,
            "the first sandbox failed: {first:?}\n{}",
            instance.launcher_log()
        );
        instance.baseline = remains::of_sandboxes(&instance)?;
        // What could not be made without its image is tried again now, and not after a while.
        instance.turn_pool("refill")?;
        Ok(instance)
    }

    /// `drain` or `refill`, where a profile has a pool.
    pub fn turn_pool(&self, word: &str) -> anyhow::Result<()> {
        if self.text.contains("\npool = ") {
            let said = self.cli(&["pool", word])?;
            ensure!(said.code == 0, "failed to {word} the pool: {said:?}");
        }
        Ok(())
    }

    pub fn config(&self) -> PathBuf {
        self.directory.join("adrastea.toml")
    }

    /// The configuration the instance was made with.
    pub fn config_text(&self) -> &str {
        &self.text
    }

    /// Where tests may put files of their own.
    pub fn scratch(&self) -> &Path {
        &self.directory
    }

    pub fn state(&self) -> PathBuf {
        if let Some(disk) = &self.disk {
            return disk.clone();
        }
        Path::new("/var/lib").join(&self.name)
    }

    pub fn run_directory(&self) -> PathBuf {
        Path::new("/run").join(&self.name)
    }

    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("api/launcher.sock")
    }

    pub fn containerd_socket(&self) -> PathBuf {
        self.run_directory().join("containerd/containerd.sock")
    }

    /// The address where the hub would listen.
    pub fn gateway(&self) -> String {
        format!("{}.0.1", self.subnet)
    }

    /// What the launcher said on its standard error, the newest lines.
    pub fn launcher_log(&self) -> String {
        let log = fs::read_to_string(self.directory.join("serve.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Starts the launcher and returns when it answers; with `Some`, the one that dies at failpoints.
    pub async fn serve(&self, failpoints: Option<&str>) -> anyhow::Result<()> {
        let log =
            OpenOptions::new().create(true).append(true).open(self.directory.join("serve.log"))?;
        let binary = failpoints.map_or_else(place::launcher, |_| place::launcher_with_failpoints());
        ensure!(binary.exists(), "`{}` is missing", binary.display());
        let mut command = self.namespace.command(binary);
        command.arg("--config").arg(self.config()).arg("serve").stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).env("RUST_BACKTRACE", "1");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let scratch = self.directory.display().to_string();
        let named = self.environment.iter();
        command.envs(named.map(|(name, value)| (name, value.replace("{scratch}", &scratch))));
        if let Some(points) = failpoints {
            command.env("FAILPOINTS", points);
        }
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("failed to start the launcher")?;
        *lock(&self.child) = Some(child);
        let deadline = Instant::now() + BOOT;
        loop {
            if let Ok(mut admin) = self.admin().await
                && admin.list_images(adrastea_proto::v1::ListImagesRequest {}).await.is_ok()
            {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                bail!("the launcher ended ({status}):\n{}", self.launcher_log());
            }
            ensure!(
                Instant::now() < deadline,
                "the launcher does not answer:\n{}",
                self.launcher_log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The launcher's process.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.child).as_ref().map(Child::id)
    }

    /// How the launcher ended, if it did by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = lock(&self.child);
        let status = child.as_mut()?.try_wait().ok().flatten();
        if status.is_some() {
            *child = None;
        }
        status
    }

    /// Waits until the launcher has ended by itself.
    pub fn wait_ended(&self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            ensure!(self.pid().is_some(), "the launcher does not run");
            ensure!(Instant::now() < deadline, "the launcher still runs after {patience:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the launcher alone.
    pub fn end_launcher(&self, signal: Signal) -> anyhow::Result<ExitStatus> {
        let pid = self.pid().context("the launcher does not run")?;
        kill(Pid::from_raw(pid.cast_signed()), signal).context("failed to signal the launcher")?;
        self.wait_ended(SHUTDOWN)
    }

    /// Ends the launcher with this signal and starts it again.
    pub async fn restart_launcher(&self, signal: Signal) -> anyhow::Result<()> {
        self.end_launcher(signal)?;
        self.serve(None).await
    }

    /// The process id of this instance's containerd.
    pub fn containerd_pid(&self) -> anyhow::Result<i32> {
        let file = self.run_directory().join("containerd/containerd.pid");
        let text = fs::read_to_string(&file)
            .with_context(|| format!("failed to read `{}`", file.display()))?;
        let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        pid.context("the pidfile of containerd holds no number")
    }

    /// Signals this instance's containerd.
    pub fn kill_containerd(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.containerd_pid()?), signal).context("failed to signal containerd")
    }

    /// What of sandboxes is there that was not there before the first test; waits for it to go.
    pub fn leaks(&self, patience: Duration) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + patience;
        loop {
            let now = remains::of_sandboxes(self)?;
            let mut found: Vec<_> =
                now.difference(&self.baseline).map(|line| format!("+ {line}")).collect();
            found.extend(self.baseline.difference(&now).map(|line| format!("- {line}")));
            if found.is_empty() || Instant::now() > deadline {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// An error that names everything that is left of sandboxes.
    pub fn nothing_left(&self, patience: Duration) -> anyhow::Result<()> {
        let leaks = self.leaks(patience)?;
        ensure!(leaks.is_empty(), "sandboxes left something behind:\n{}", leaks.join("\n"));
        Ok(())
    }

    /// Stops everything, once, and tells what of the instance is still on the host.
    pub async fn finish(&self) -> anyhow::Result<()> {
        if self.finished.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let ended = self.end_in_order().await;
        let left = remains::of_instance(&self.name, Duration::from_secs(5));
        remains::remove_by_force(&self.name);
        self.remove_disk();
        let log = self.launcher_log();
        ended.with_context(|| format!("failed to end the instance; its log ends:\n{log}"))?;
        let left = left?;
        ensure!(left.is_empty(), "the instance left something behind:\n{}", left.join("\n"));
        Ok(fs::remove_dir_all(&self.directory)?)
    }

    fn remove_disk(&self) {
        if let Some(disk) = &self.disk {
            let _ = umount2(disk, MntFlags::MNT_DETACH);
        }
    }

    async fn end_in_order(&self) -> anyhow::Result<()> {
        // A test may have stopped it.
        let _ = self.kill_containerd(Signal::SIGCONT);
        config::write(&self.config(), &self.text)?;
        if self.ended().is_some() || self.pid().is_none() {
            self.serve(None).await?;
        }
        let request = adrastea_proto::v1::StopAllRequest { grace_ms: Some(0) };
        self.admin().await?.stop_all(request).await.context("failed to stop all servers")?;
        let status = self.end_launcher(Signal::SIGTERM)?;
        ensure!(status.success(), "the launcher ended with {status}");
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.finished.load(Ordering::Relaxed) {
            return;
        }
        // A panic or an early error: no order, but nothing stays.
        if let Some(mut child) = lock(&self.child).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        remains::remove_by_force(&self.name);
        self.remove_disk();
    }
}

/// A small file system of its own for what must last.
fn make_disk(directory: &Path, bytes: u64) -> anyhow::Result<PathBuf> {
    let disk = directory.join("state");
    fs::create_dir(&disk)?;
    let size = format!("size={bytes},mode=0711");
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
        .context("failed to mount a disk")?;
    Ok(disk)
}

/// A number that no other test process on this host has now.
fn take_slot() -> anyhow::Result<(u32, Flock<File>)> {
    let directory = place::scratch().join("slots");
    fs::create_dir_all(&directory)?;
    for slot in 0..config::SLOTS {
        let file = File::create(directory.join(slot.to_string()))?;
        if let Ok(held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            return Ok((slot, held));
        }
    }
    bail!("{} test instances run on this host; there is no room for one more", config::SLOTS)
}

/// A pretended internet behind the link `world`: public, private and metadata addresses.
fn make_world(host: &Namespace) -> anyhow::Result<Namespace> {
    let world = Namespace::new()?;
    host.join(("world", "203.0.113.2/24"), &world, ("uplink", "203.0.113.1/24"))?;
    for address in [
        "203.0.113.53/32",
        "203.0.113.80/32",
        "10.99.0.1/32",
        "192.168.77.1/32",
        "169.254.169.254/32",
    ] {
        world.ip(&format!("address add {address} dev uplink"))?;
    }
    host.ip("route add default via 203.0.113.1")?;
    Ok(world)
}
