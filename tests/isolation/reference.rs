//! The reference: the same programs in a container whose walls are taken down,
//! by the same runtime. A check that finds nothing there would find nothing
//! anywhere.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use adrastea_tests::{Namespace, image, place};
use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

/// The names of the capabilities, in the order of their bits.
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID \
    SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER \
    SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE \
    SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN \
    SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// How a reference differs from the plainest one.
#[derive(Default)]
pub struct Wishes {
    /// Run as this user, without capabilities; else as root with all of them.
    pub uid: u32,
    /// Leave the bounding set whole, so that a program may get capabilities by itself.
    pub bounding: bool,
    pub environment: Vec<String>,
    /// Further mounts, as in a runtime's configuration.
    pub mounts: Vec<Value>,
    /// A system call filter; none otherwise.
    pub seccomp: Option<Value>,
    /// Limits, as in a runtime's configuration.
    pub rlimits: Vec<Value>,
    /// Namespaces beyond the two that a runtime insists on.
    pub namespaces: Vec<&'static str>,
}

/// A running container without walls. Dropped, it is gone.
pub struct Reference {
    pub directory: PathBuf,
    name: String,
    child: Child,
}

impl Reference {
    /// Runs a command of the test image as PID 1 of a container in this network.
    pub fn start(network: &Namespace, command: &[&str], wishes: &Wishes) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("at{}-reference-{number}", std::process::id());
        let directory = place::scratch().join(&name);
        let rootfs = directory.join("rootfs");
        for folder in ["bin", "etc", "usr", "home/jovyan", "proc", "sys", "dev", "run", "shared"] {
            fs::create_dir_all(rootfs.join(folder))?;
        }
        fs::create_dir_all(rootfs.join("tmp"))?;
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/:\n")?;
        fs::copy(place::probe(), in_rootfs(&rootfs, image::PROBE))?;
        fs::copy(place::tenant(), in_rootfs(&rootfs, image::TENANT))?;
        let setuid = in_rootfs(&rootfs, "/bin/tenant-setuid");
        fs::copy(place::tenant(), &setuid)?;
        fs::set_permissions(&setuid, fs::Permissions::from_mode(0o6755))?;
        let spec = specification(&name, command, wishes)?;
        fs::write(directory.join("config.json"), serde_json::to_vec_pretty(&spec)?)?;
        let output = File::create(directory.join("output"))?;
        let child = runc(network.command(place::tools().join("bin/runc")), &directory)
            .args(["run", "--bundle"])
            .args([directory.as_os_str(), name.as_ref()])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("failed to run `runc`")?;
        Ok(Self { directory, name, child })
    }

    /// What a command says until it ends, or until it has said `last`.
    pub fn output_of(network: &Namespace, command: &[&str], last: &str) -> anyhow::Result<String> {
        Self::start(network, command, &Wishes::default())?.says(last)
    }

    pub fn output(&self) -> anyhow::Result<String> {
        let file = self.directory.join("output");
        Ok(String::from_utf8_lossy(&fs::read(file)?).into_owned())
    }

    /// Waits until it has said this, or has ended.
    pub fn says(&mut self, word: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let ended = self.child.try_wait()?.is_some();
            let output = self.output()?;
            if ended || output.contains(word) {
                return Ok(output);
            }
            if Instant::now() > deadline {
                bail!("the reference never said `{word}`, but: {output}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Its PID 1, as the host numbers it.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let output = self.runc().args(["state", &self.name]).output()?;
        let state: Value = serde_json::from_slice(&output.stdout).context("runc tells no state")?;
        let pid = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).context("the reference does not run")
    }

    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let done = self.runc().args(["kill", &self.name, signal]).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    fn runc(&self) -> Command {
        runc(Command::new(place::tools().join("bin/runc")), &self.directory)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.runc().args(["delete", "--force", &self.name]).output();
        let _ = self.child.kill();
        let _ = self.child.wait();
        adrastea_tests::remains::remove_by_force(&self.name);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn in_rootfs(rootfs: &Path, path: &str) -> PathBuf {
    rootfs.join(path.trim_start_matches('/'))
}

fn runc(mut command: Command, directory: &Path) -> Command {
    command.arg("--root").arg(directory.join("runc"));
    command
}

/// All capabilities that this process can give.
fn capabilities() -> anyhow::Result<Vec<String>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let bits = u64::from_str_radix(line.context("no CapPrm")?.trim(), 16)?;
    let names = CAPABILITIES.split_whitespace().enumerate();
    Ok(names
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect())
}

fn specification(name: &str, command: &[&str], wishes: &Wishes) -> anyhow::Result<Value> {
    let all = capabilities()?;
    let bounding = if wishes.uid == 0 || wishes.bounding { all.clone() } else { Vec::new() };
    let capabilities = if wishes.uid == 0 { all } else { Vec::new() };
    // Changing what the host has there stays possible; seeing what it mounts later does not follow.
    let bind = |path: &str| json!({"destination": path, "type": "none", "source": path, "options": ["rbind", "rw"]});
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        bind("/dev"),
        bind("/run"),
        bind("/sys"),
    ];
    mounts.extend(wishes.mounts.iter().cloned());
    let mut environment = vec!["PATH=/bin".to_owned()];
    environment.extend(wishes.environment.iter().cloned());
    let mut namespaces = vec!["mount", "pid"];
    namespaces.extend(&wishes.namespaces);
    let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    let mut specification = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": wishes.uid, "gid": wishes.uid}, "args": command, "env": environment,
            "cwd": "/", "noNewPrivileges": false, "rlimits": wishes.rlimits,
            "capabilities": {
                "bounding": bounding, "effective": capabilities, "permitted": capabilities,
                "inheritable": capabilities, "ambient": capabilities,
            },
        },
        "root": {"path": "rootfs", "readonly": false},
        "mounts": mounts,
        "linux": {
            // The least a runtime takes: no user, network, IPC, UTS or cgroup namespace.
            "namespaces": namespaces,
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            "cgroupsPath": format!("/{name}/container"),
        },
    });
    if let Some(filter) = &wishes.seccomp {
        specification["linux"]["seccomp"] = filter.clone();
    }
    Ok(specification)
}
