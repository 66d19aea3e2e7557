//! A containerd of our own: own root, state, configuration and socket; started
//! in its own session, so that it and the sandboxes outlive the launcher.
//!
//! ```text
//! ensure: lock ─ ours and answering? ── yes ─ adopt
//!                       └ no ─ write configuration ─ spawn ─ pidfile ─ answers ─ done
//! ```
//!
//! Must never end a process that is not proved to be this containerd, and
//! never start a second one on the same root.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use self::process::Process;
use super::{Containerd, call::failed};
use crate::engine::{Engine, EngineError};

mod config;
mod process;
mod shim_sockets;

/// Until containerd answers after its start; a cold disk is slow.
const START: Duration = Duration::from_secs(30);
/// Between SIGTERM and SIGKILL.
const TERM: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// A log beyond this is put aside at the next start; one old log is kept.
const LOG_LIMIT: u64 = 16 << 20;

/// Where a managed containerd lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedSettings {
    /// containerd's binary; its shim lies beside it or in the usual places.
    pub binary: PathBuf,
    /// What must last: content, snapshots, the database.
    pub root: PathBuf,
    /// What lasts until the next boot: socket, state, log, pidfile.
    pub run: PathBuf,
}

/// A managed containerd that answers.
#[derive(Debug)]
pub struct ManagedContainerd {
    settings: ManagedSettings,
    process: Process,
    adopted: bool,
}

impl ManagedSettings {
    pub fn socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.run.join("containerd.log")
    }

    fn pidfile(&self) -> PathBuf {
        self.run.join("containerd.pid")
    }

    fn state(&self) -> PathBuf {
        self.run.join("state")
    }

    fn configuration(&self) -> PathBuf {
        self.run.join("containerd.toml")
    }
}

impl ManagedContainerd {
    /// Adopts the one that runs, or starts one. Call it again when the engine
    /// has become unavailable.
    pub async fn ensure(settings: &ManagedSettings) -> Result<Self, EngineError> {
        let mut settings = settings.clone();
        // The link target: that is what /proc/PID/exe shows.
        settings.binary =
            fs::canonicalize(&settings.binary).map_err(io_error("find", &settings.binary))?;
        for directory in [&settings.root, &settings.run] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(io_error("create", directory))?;
            fs::set_permissions(directory, Permissions::from_mode(0o700))
                .map_err(io_error("protect", directory))?;
        }
        let _lock = lock(&settings.run.join("containerd.lock")).await?;
        if let Some(process) = find(&settings).await {
            answers(&settings, None).await?;
            process.save(&settings.pidfile()).map_err(io_error("write", &settings.pidfile()))?;
            return Ok(Self { settings, process, adopted: true });
        }
        let process = start(&settings).await?;
        Ok(Self { settings, process, adopted: false })
    }

    pub fn socket(&self) -> PathBuf {
        self.settings.socket()
    }

    /// Whether it ran already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Ends it. Only when no sandbox is left: they would lose their keeper.
    pub async fn stop(self) -> Result<(), EngineError> {
        self.process.signal(Signal::SIGTERM);
        let until = Instant::now() + TERM;
        while self.process.lives() && Instant::now() < until {
            sleep(POLL).await;
        }
        self.process.signal(Signal::SIGKILL);
        let until = Instant::now() + TERM;
        while self.process.lives() {
            if Instant::now() > until {
                return Err(EngineError::Timeout {
                    verb: "stop",
                    thing: format!("containerd, process {}", self.pid()),
                    after: TERM * 2,
                });
            }
            sleep(POLL).await;
        }
        for path in [self.settings.pidfile(), self.settings.socket()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        shim_sockets::remove_ours(&self.settings.run);
        Ok(())
    }
}

/// The one that runs already, by its pidfile or, where that was lost, by who
/// listens on the socket.
async fn find(settings: &ManagedSettings) -> Option<Process> {
    if let Some(process) = Process::load(&settings.pidfile(), &settings.binary) {
        return Some(process);
    }
    let connecting = timeout(Duration::from_secs(1), UnixStream::connect(settings.socket()));
    let listener = connecting.await.ok()?.ok()?.peer_cred().ok()?.pid()?;
    Process::identify(listener, &settings.binary)
}

async fn start(settings: &ManagedSettings) -> Result<Process, EngineError> {
    let text = config::render(config_version(&settings.binary).await?, settings)?;
    let configuration = settings.configuration();
    write_private(&configuration, &text).map_err(io_error("write", &configuration))?;
    let log = settings.log();
    if fs::metadata(&log).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        let old = log.with_extension("log.1");
        fs::rename(&log, &old).map_err(io_error("rename", &log))?;
    }
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)
        .map_err(io_error("open", &log))?;
    let errors = output.try_clone().map_err(io_error("open", &log))?;

    shim_sockets::remember(&settings.run).map_err(io_error("write in", &settings.run))?;
    let mut command = Command::new(&settings.binary);
    command
        .arg("--config")
        .arg(&configuration)
        // Nothing of ours: no NOTIFY_SOCKET, no proxy, no CONTAINERD_* settings.
        .env_clear()
        .env("PATH", search_path(&settings.binary))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    // SAFETY: setsid is async-signal-safe and the closure touches no memory of
    // the parent (fork(2), signal-safety(7)).
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(|_| ()).map_err(io::Error::from));
    }
    let mut child = command.spawn().map_err(io_error("start", &settings.binary))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let process = wait_for_exec(pid, &settings.binary).await;
    let Some(process) = process else {
        let _ = child.kill().await;
        return Err(failed("start", settings.binary.display().to_string(), log_tail(&log)));
    };
    // Before it answers: a launcher that dies now must find it again.
    process.save(&settings.pidfile()).map_err(io_error("write", &settings.pidfile()))?;
    if let Err(error) = answers(settings, Some(&mut child)).await {
        let _ = child.kill().await;
        return Err(error);
    }
    let socket = settings.socket();
    fs::set_permissions(&socket, Permissions::from_mode(0o600))
        .map_err(io_error("protect", &socket))?;
    // Reaped when it ends; dropping this task leaves it running.
    tokio::spawn(async move {
        let status = child.wait().await;
        tracing::info!(?status, "the managed containerd has ended");
    });
    Ok(process)
}

/// Between fork and exec the process still shows our own binary.
async fn wait_for_exec(pid: Option<i32>, binary: &Path) -> Option<Process> {
    let pid = pid?;
    for _ in 0..50 {
        if let Some(process) = Process::identify(pid, binary) {
            return Some(process);
        }
        sleep(POLL).await;
    }
    None
}

async fn answers(
    settings: &ManagedSettings,
    mut child: Option<&mut Child>,
) -> Result<(), EngineError> {
    let until = Instant::now() + START;
    loop {
        let asked = Containerd::connect(settings.socket(), "default")?.version().await;
        let Err(error) = asked else {
            return Ok(());
        };
        let ended = child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if ended.is_some() {
            let tail = log_tail(&settings.log());
            return Err(failed("start", settings.binary.display().to_string(), tail));
        }
        if Instant::now() > until {
            return Err(error);
        }
        sleep(POLL).await;
    }
}

/// The configuration format that this binary wants.
async fn config_version(binary: &Path) -> Result<config::Format, EngineError> {
    let asking = Command::new(binary).arg("--version").stdin(Stdio::null()).output();
    let output = match timeout(TERM, asking).await {
        Ok(output) => output.map_err(io_error("run", binary))?,
        Err(_) => {
            return Err(EngineError::Timeout {
                verb: "ask the version of",
                thing: binary.display().to_string(),
                after: TERM,
            });
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    config::Format::of_version(&text).ok_or_else(|| {
        let reason = format!("it calls itself `{}`; 1.7 or newer is needed", text.trim());
        failed("use", binary.display().to_string(), reason)
    })
}

fn search_path(binary: &Path) -> String {
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    match binary.parent() {
        Some(directory) => format!("{}:{usual}", directory.display()),
        None => usual.to_owned(),
    }
}

fn log_tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    if lines.is_empty() {
        return "it ended without a word".to_owned();
    }
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use io::Write;
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Two launchers must not start two containerds; the descriptor closes at exec.
async fn lock(path: &Path) -> Result<Flock<fs::File>, EngineError> {
    let until = Instant::now() + START * 2;
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < until => file = back,
            Err((_, error)) => return Err(io_error("lock", path)(error.into())),
        }
        sleep(POLL).await;
    }
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let thing = path.display().to_string();
    move |source| EngineError::Failed { verb, thing, source: Box::new(source) }
}
