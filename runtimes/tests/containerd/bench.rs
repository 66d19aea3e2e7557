//! One test's own containerd, and the proof that nothing of it is left.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use adrastea_runtimes::{
    engine::{
        Engine, EngineError, EngineImage, Handler, HandlerOptions, Stdio,
        containerd::{
            Containerd,
            managed::{ManagedContainerd, ManagedSettings},
        },
    },
    plan::SandboxId,
};
use nix::{sys::stat::Mode, unistd::mkfifo};
use oci_spec::runtime::Spec;
use serde_json::json;
use tempfile::TempDir;
use tokio::{net::unix::pipe, sync::Mutex, time::timeout};

use crate::archives::{ArchiveBuilder, Layer, guest};

pub const REFERENCE: &str = "localhost/adrastea/test:1";

pub struct Bench {
    directory: TempDir,
    tools: PathBuf,
    pub settings: ManagedSettings,
    pub engine: Containerd,
    managed: Mutex<Option<ManagedContainerd>>,
    cgroup: String,
}

/// A sandbox that was created, with the other ends of its FIFOs.
pub struct Created {
    pub id: SandboxId,
    pub pid: u32,
    pub input: pipe::Sender,
    pub output: pipe::Receiver,
}

pub fn guest_program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| guest(tempfile::tempdir().unwrap().path()))
}

impl Bench {
    pub async fn new(binaries: &Path, tools: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("adrastea-engine-").tempdir().unwrap();
        let settings = ManagedSettings {
            binary: binaries.join("bin/containerd"),
            root: directory.path().join("root"),
            run: directory.path().join("run"),
        };
        let engine = Containerd::connect(settings.socket(), "adrastea-test").unwrap();
        let name = directory.path().file_name().unwrap().to_string_lossy().into_owned();
        let bench = Self {
            directory,
            tools: tools.to_owned(),
            settings,
            engine,
            managed: Mutex::new(None),
            cgroup: format!("/{name}"),
        };
        bench.ensure().await;
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts or adopts containerd; says whether it was adopted.
    pub async fn ensure(&self) -> bool {
        let managed = ManagedContainerd::ensure(&self.settings).await.unwrap();
        let adopted = managed.adopted();
        *self.managed.lock().await = Some(managed);
        adopted
    }

    pub async fn containerd_pid(&self) -> i32 {
        self.managed.lock().await.as_ref().unwrap().pid()
    }

    /// `kill -9` on containerd, and its end.
    pub async fn kill_containerd(&self) {
        let pid = self.containerd_pid().await;
        kill_process(pid);
        while Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn handler(&self) -> Handler {
        Handler {
            runtime: "io.containerd.runc.v2".to_owned(),
            options: HandlerOptions::Runc {
                binary: self.tools.join("bin/runc"),
                root: self.path("runc"),
            },
            annotation: None,
        }
    }

    /// containerd's shim for runc.
    pub fn shim(&self) -> PathBuf {
        self.settings.binary.with_file_name("containerd-shim-runc-v2")
    }

    pub fn one_layer(&self) -> PathBuf {
        let mut layer = Layer::new();
        for directory in ["proc/", "dev/", "sys/", "bin/"] {
            layer = layer.directory(directory);
        }
        let layer = layer.file("bin/guest", guest_program());
        ArchiveBuilder::new().write(self.path("one.tar"), vec![layer]).0
    }

    pub async fn image(&self) -> EngineImage {
        self.engine.import(&self.one_layer(), REFERENCE, &|_| ()).await.unwrap()
    }

    pub fn spec(&self, id: &str, rootfs: &Path, arguments: &[&str]) -> Spec {
        let mut command = vec!["/bin/guest"];
        command.extend(arguments);
        let namespaces: Vec<_> = ["pid", "mount", "ipc", "uts", "network"]
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {"args": command, "cwd": "/", "user": {"uid": 0, "gid": 0},
                "noNewPrivileges": true},
            "root": {"path": rootfs, "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                // The runtime puts links there, and the image's own directory is shared.
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("{}/{id}", self.cgroup)},
        });
        serde_json::from_value(spec).unwrap()
    }

    pub async fn create(&self, id: &str, arguments: &[&str]) -> Created {
        self.create_by(&self.handler(), id, arguments).await
    }

    pub async fn create_by(&self, handler: &Handler, id: &str, arguments: &[&str]) -> Created {
        let image = self.engine.image(REFERENCE).await.unwrap();
        let rootfs = image.layers.last().unwrap();
        let io = self.path(id);
        fs::create_dir(&io).unwrap();
        let stdio = Stdio { stdin: io.join("stdin"), stdout: io.join("stdout") };
        for path in [&stdio.stdin, &stdio.stdout] {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        let mut options = pipe::OpenOptions::new();
        let output = options.read_write(true).open_receiver(&stdio.stdout).unwrap();
        let input = options.open_sender(&stdio.stdin).unwrap();
        let id: SandboxId = id.parse().unwrap();
        let spec = self.spec(id.as_str(), rootfs, arguments);
        let pid = self.engine.create(&id, &spec, handler, &stdio).await.unwrap();
        Created { id, pid, input, output }
    }

    async fn remove_all(&self) -> Result<(), EngineError> {
        let managed = ManagedContainerd::ensure(&self.settings).await?;
        for sandbox in self.engine.list().await? {
            self.engine.delete(&sandbox.id.parse().unwrap()).await?;
        }
        managed.stop().await
    }

    /// Removes everything and looks for what is left.
    pub async fn finish(self) -> Result<(), String> {
        let mut left = Vec::new();
        // Nothing here may panic: what follows must be cleaned up as well.
        if let Err(error) = self.remove_all().await {
            left.push((0, format!("{error}: {:?}", error.source())));
        }
        let base = self.directory.path().to_string_lossy().into_owned();
        let gone = timeout(Duration::from_secs(5), async {
            while !processes_naming(&base).is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if gone.await.is_err() {
            for (pid, command) in processes_naming(&base) {
                kill_process(pid);
                left.push((pid, command));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for mount in mounts.lines().filter(|line| line.contains(&base)) {
            left.push((0, mount.to_owned()));
        }
        remove_cgroups(self.cgroup.trim_start_matches('/'));
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

pub fn kill_process(pid: i32) {
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

fn processes_naming(text: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(text) {
            found.push((pid, command));
        }
    }
    found
}

/// The runtime removes a sandbox's group, not the parent that it made for it.
fn remove_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    for parent in controllers.chain([root.to_owned()]) {
        let _ = fs::remove_dir(parent.join(name));
    }
}
