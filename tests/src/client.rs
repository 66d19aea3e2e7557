//! Calls to an instance: gRPC as anybody, HTTP as anybody, and the command line.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use adrastea_proto::v1::{
    self, Phase, admin_client::AdminClient, launcher_client::LauncherClient, start_event,
};
use anyhow::{Context as _, anyhow, bail};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{Instance, User, place};

/// The hub's name in every request of these tests.
pub const HUB: &str = "testhub";
/// Where the test image's program listens.
pub const PORT: u16 = 8888;

/// How a command of the launcher's command line ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A started server, and what was told on the way.
#[derive(Clone, Debug)]
pub struct Ready {
    pub ready: v1::Ready,
    pub progress: Vec<v1::Progress>,
}

impl Ready {
    pub fn id(&self) -> &str {
        &self.ready.sandbox_id
    }

    pub fn address(&self) -> &str {
        &self.ready.address
    }
}

/// How a start ended that the launcher did not refuse.
#[derive(Clone, Debug)]
pub enum Started {
    Ready(Ready),
    Failed(v1::Failed),
}

/// A key of the tests' hub.
pub fn key(user: &str, server: &str) -> v1::ServerKey {
    v1::ServerKey { hub: HUB.into(), user: user.into(), server: server.into() }
}

/// The ordinary request, with an id of its own.
pub fn request(user: &str) -> v1::StartRequest {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    v1::StartRequest {
        request_id: format!("t-{}-{number}", std::process::id()),
        key: Some(key(user, "")),
        ready_path: "/".into(),
        ..v1::StartRequest::default()
    }
}

impl Instance {
    /// A connection of a process of that user.
    pub async fn channel_as(&self, user: User) -> anyhow::Result<Channel> {
        let path = self.socket();
        // The kernel notes the credentials at connect(2), for as long as the connection lives.
        let stream = self.namespace.within(user, move || UnixStream::connect(path))??;
        stream.set_nonblocking(true)?;
        let slot = Mutex::new(Some(stream));
        let connector = service_fn(move |_: Uri| {
            let stream = slot.lock().ok().and_then(|mut slot| slot.take());
            async move {
                let stream = stream.ok_or_else(|| std::io::Error::other("used up"))?;
                tokio::net::UnixStream::from_std(stream).map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connector).await.context("failed to speak to the launcher")
    }

    pub async fn launcher(&self) -> anyhow::Result<LauncherClient<Channel>> {
        Ok(LauncherClient::new(self.channel_as(User::ROOT).await?))
    }

    pub async fn admin(&self) -> anyhow::Result<AdminClient<Channel>> {
        Ok(AdminClient::new(self.channel_as(User::ROOT).await?))
    }

    /// Starts a user's default server with the first profile; a failure is an error.
    pub async fn start(&self, user: &str) -> anyhow::Result<Ready> {
        self.start_with(request(user)).await
    }

    /// As [`Self::start`], with any request.
    pub async fn start_with(&self, request: v1::StartRequest) -> anyhow::Result<Ready> {
        match self.try_start(request).await? {
            Started::Ready(ready) => Ok(ready),
            Started::Failed(failed) => bail!("the start failed: {failed:?}"),
        }
    }

    /// Starts and tells how it ended; an error is a refusal ([`tonic::Status`]), a lost launcher,
    /// or, in a column that claims, a cold start.
    pub async fn try_start(&self, request: v1::StartRequest) -> anyhow::Result<Started> {
        self.try_claim(request).await
    }

    pub(crate) async fn try_start_any(&self, request: v1::StartRequest) -> anyhow::Result<Started> {
        let mut events = self.launcher().await?.start(request).await?.into_inner();
        let mut progress = Vec::new();
        while let Some(event) = events.message().await? {
            match event.event {
                Some(start_event::Event::Progress(step)) => progress.push(step),
                Some(start_event::Event::Ready(ready)) => {
                    return Ok(Started::Ready(Ready { ready, progress }));
                }
                Some(start_event::Event::Failed(failed)) => return Ok(Started::Failed(failed)),
                None => bail!("an event without content"),
            }
        }
        bail!("the start's stream ended without a result")
    }

    /// The failure of a start that must fail.
    pub async fn start_failing(&self, request: v1::StartRequest) -> anyhow::Result<v1::Failed> {
        match self.try_start(request).await? {
            Started::Failed(failed) => Ok(failed),
            Started::Ready(ready) => bail!("the start did not fail: {ready:?}"),
        }
    }

    /// Stops a user's server; true if there was one.
    pub async fn stop(&self, user: &str, server: &str) -> anyhow::Result<bool> {
        let request = v1::StopRequest { key: Some(key(user, server)), ..Default::default() };
        Ok(self.launcher().await?.stop(request).await?.into_inner().stopped)
    }

    pub async fn get(&self, user: &str) -> anyhow::Result<v1::Sandbox> {
        let request = v1::GetRequest { key: Some(key(user, "")) };
        Ok(self.launcher().await?.get(request).await?.into_inner())
    }

    /// Waits until so many sandboxes wait for users of a profile; what is known of its pool.
    pub async fn pool(&self, profile: &str, waiting: usize) -> anyhow::Result<v1::ProfilePool> {
        // One is made in its turn behind everything else that runs; it bounds a hang, no more.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        loop {
            let list =
                self.admin().await?.list_pool(v1::ListPoolRequest::default()).await?.into_inner();
            let found = list.profiles.into_iter().find(|pool| pool.profile == profile);
            match found {
                Some(pool) if pool.waiting.len() == waiting => return Ok(pool),
                found if tokio::time::Instant::now() > deadline => {
                    bail!("{waiting} do not wait: {found:?}")
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The servers of the tests' hub that are not gone.
    pub async fn live(&self) -> anyhow::Result<Vec<v1::Sandbox>> {
        let list = self.launcher().await?.list(v1::ListRequest { hub: HUB.into() }).await?;
        let live = list.into_inner().sandboxes.into_iter().filter(|one| one.phase() != Phase::Gone);
        Ok(live.collect())
    }

    /// Waits until a user's server is gone, and tells how.
    pub async fn exit(&self, user: &str, patience: Duration) -> anyhow::Result<v1::Exit> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let sandbox = self.get(user).await?;
            if sandbox.phase() == Phase::Gone {
                return sandbox.exit.context("a sandbox is gone without a cause");
            }
            if tokio::time::Instant::now() > deadline {
                bail!("`{user}` is {} after {patience:?}", sandbox.phase().as_str_name());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// As the hub does when it deletes a user.
    pub async fn forget(&self, user: &str) -> anyhow::Result<v1::ForgetResponse> {
        let request = v1::ForgetRequest { hub: HUB.into(), user: user.into() };
        Ok(self.launcher().await?.forget(request).await?.into_inner())
    }

    /// Every home the launcher knows of.
    pub async fn homes(&self) -> anyhow::Result<Vec<v1::Home>> {
        let answer = self.admin().await?.list_homes(v1::ListHomesRequest {}).await?;
        Ok(answer.into_inner().homes)
    }

    /// What is kept of a server's output.
    pub async fn log(&self, user: &str) -> anyhow::Result<String> {
        let request = v1::LogsRequest { key: Some(key(user, "")), ..Default::default() };
        let mut chunks = self.launcher().await?.logs(request).await?.into_inner();
        let mut log = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            log.extend(chunk.data);
        }
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// A command in a sandbox of this user, by the launcher's command line.
    pub fn run(&self, user: &str, command: &[&str]) -> anyhow::Result<Output> {
        let mut words = vec!["run", "--user", user, "--hub", HUB, "--"];
        words.extend(command);
        self.cli(&words)
    }

    /// The launcher's command line with this instance's configuration.
    pub fn cli(&self, words: &[&str]) -> anyhow::Result<Output> {
        let output = self
            .namespace
            .command(place::launcher())
            .arg("--config")
            .arg(self.config())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("failed to run the launcher's command line")?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// `GET path` of a server, as the hub would: status and body.
    pub fn http(&self, address: &str, path: &str) -> anyhow::Result<(u16, String)> {
        self.http_as(User::NOBODY, address, path)
    }

    /// `GET path` from a process of that user in the host's place.
    pub fn http_as(&self, user: User, address: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let to = SocketAddr::new(address.parse()?, PORT);
        let path = path.to_owned();
        self.namespace.within(user, move || get(to, &path))?
    }

    /// Whether a user's server answers, by its present address.
    pub async fn answers(&self, user: &str) -> anyhow::Result<()> {
        let address = self.get(user).await?.address;
        match self.http(&address, "/")? {
            (200, _) => Ok(()),
            (code, body) => Err(anyhow!("`{user}` answers {code}: {body}")),
        }
    }
}

/// Runs it to its end from code that cannot wait for it, on a thread of its own.
pub fn alone<T: Send>(work: impl Future<Output = anyhow::Result<T>> + Send) -> anyhow::Result<T> {
    let within = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work)
    };
    thread::scope(|scope| scope.spawn(within).join().map_err(|_| anyhow!("a thread panicked"))?)
}

/// One HTTP/1.0 request from the calling thread.
pub fn get(to: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {to}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.context("the answer has no status")?, body.to_owned()))
}
