//! The launcher as the benchmark sees it: start as a hub, run as root, stop.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{
    self, Phase, admin_client::AdminClient, launcher_client::LauncherClient, start_event,
};
use anyhow::{Context as _, bail};
use tonic::transport::Channel;

use super::{
    super::client,
    Options, hub,
    notebook::Notebook,
    waiting::{self, Pool},
};
use crate::{bench::report::ProfileFacts, config::Config, network::Subnet};

/// The name the benchmark goes by as a hub; nobody else's servers are touched.
const HUB: &str = "adrastea-bench";
/// Beyond the launcher's own patience: only against a launcher that hangs.
const PATIENCE: Duration = Duration::from_secs(900);

pub struct Node {
    launcher: LauncherClient<Channel>,
    admin: AdminClient<Channel>,
    /// What is measured, and whatever else the benchmark's users may have.
    pub offer: v1::Offer,
    pub offers: Vec<v1::Offer>,
    prefix: String,
    pub runtimes: Vec<String>,
    /// Where a server looks for its hub.
    pub hub: SocketAddr,
    pub server_port: u16,
    /// Who may use which server, where the benchmark stands in for the hub.
    pub guests: hub::Guests,
}

/// A server that answers, and how long that took.
pub struct Started {
    pub ms: f64,
    pub sandbox_id: String,
    /// The worst place in the queue that was told.
    pub queue_place: u32,
    /// When it was asked for.
    pub since: Instant,
    /// Where it answers, and what opens it.
    address: String,
    token: String,
}

pub fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

impl Node {
    pub async fn connect(path: &Path, config: &Config, options: &Options) -> anyhow::Result<Self> {
        let channel = client::connect(path).await?;
        let mut launcher = LauncherClient::new(channel.clone());
        let user = format!("{}1", options.user_prefix);
        let offers = launcher
            .offers(v1::OffersRequest { user: user.clone() })
            .await
            .map_err(|status| client::said(&status))?
            .into_inner()
            .offers;
        let wanted =
            |offer: &v1::Offer| options.profile.is_empty() || offer.profile == options.profile;
        let offer = offers.iter().find(|offer| wanted(offer)).cloned().with_context(|| {
            let what = if options.profile.is_empty() { "no profile".to_owned() } else { format!("profile `{}` is not", options.profile) };
            format!("{what} offered to `{user}`; add the users `{}*` to a profile, or give --user-prefix", options.user_prefix)
        })?;
        let runtimes = chosen(&offer, &options.runtimes)?;
        let subnet: Subnet = config.network.subnet.parse()?;
        Ok(Self {
            launcher,
            admin: AdminClient::new(channel),
            offer,
            offers,
            prefix: options.user_prefix.clone(),
            runtimes,
            hub: SocketAddr::new(subnet.gateway().into(), config.network.hub_port),
            server_port: config.network.server_port,
            guests: hub::Guests::default(),
        })
    }

    pub fn admin(&self) -> AdminClient<Channel> {
        self.admin.clone()
    }

    pub fn facts(&self) -> ProfileFacts {
        ProfileFacts {
            name: self.offer.profile.clone(),
            memory_mib: self.offer.memory_default_bytes >> 20,
            cpu_millis: self.offer.cpu_default_millis,
        }
    }

    /// Each runtime has users of its own: none finds a home that another one has filled.
    pub fn key(&self, runtime: &str, number: usize) -> v1::ServerKey {
        let user = format!("{}{runtime}-{number}", self.prefix);
        v1::ServerKey { hub: HUB.into(), user, server: String::new() }
    }

    /// A start under the measured profile is cold, whatever waits; under another one it may take
    /// what waits there.
    fn request(
        &self,
        runtime: &str,
        warm: Option<&Pool>,
        key: v1::ServerKey,
        token: String,
    ) -> v1::StartRequest {
        let prefix = prefix(&key);
        self.guests.let_in(&token, &key.user);
        let plain = [
            ("JUPYTERHUB_API_URL", format!("http://{}/hub/api", self.hub)),
            (
                "JUPYTERHUB_ACTIVITY_URL",
                format!("http://{}/hub/api/users/{}/activity", self.hub, key.user),
            ),
            ("JUPYTERHUB_BASE_URL", "/".to_owned()),
            ("JUPYTERHUB_CLIENT_ID", format!("jupyterhub-user-{}", key.user)),
            ("JUPYTERHUB_HOST", String::new()),
            (
                "JUPYTERHUB_OAUTH_ACCESS_SCOPES",
                serde_json::json!([hub::access(&key.user)]).to_string(),
            ),
            ("JUPYTERHUB_OAUTH_CALLBACK_URL", format!("{prefix}oauth_callback")),
            ("JUPYTERHUB_SERVICE_PREFIX", prefix.clone()),
            ("JUPYTERHUB_SERVICE_URL", format!("http://0.0.0.0:{}{prefix}", self.server_port)),
            ("JUPYTERHUB_USER", key.user.clone()),
        ];
        let mut environment: HashMap<String, String> =
            plain.map(|(name, value)| (name.to_owned(), value)).into();
        if warm.is_none() {
            environment.insert(waiting::COLD.into(), "1".into());
        }
        v1::StartRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            key: Some(key),
            profile: warm.map_or(&self.offer.profile, |pool| &pool.profile).clone(),
            runtime: runtime.to_owned(),
            environment,
            secret_environment: [("JUPYTERHUB_API_TOKEN".to_owned(), token)].into(),
            ready_path: format!("{prefix}api"),
            ..v1::StartRequest::default()
        }
    }

    /// Starts a server. A start that fails is a finding; a launcher that is gone an error.
    pub async fn start(
        &self,
        runtime: &str,
        warm: Option<&Pool>,
        key: v1::ServerKey,
    ) -> anyhow::Result<Result<Started, String>> {
        let token = new_token();
        let request = self.request(runtime, warm, key, token.clone());
        let since = Instant::now();
        let asked = async {
            let mut events = match self.launcher.clone().start(request).await {
                Ok(events) => events.into_inner(),
                Err(status) => return refused(&status),
            };
            let mut queue_place = 0;
            loop {
                let event = match events.message().await {
                    Ok(event) => event.context("the launcher ended a start without a result")?,
                    Err(status) => return refused(&status),
                };
                match event.event {
                    Some(start_event::Event::Progress(progress)) => {
                        queue_place = queue_place.max(progress.queue_place);
                    }
                    Some(start_event::Event::Ready(ready)) => {
                        let v1::Ready { sandbox_id, address, .. } = ready;
                        return Ok(Ok(Started {
                            ms: milliseconds(since),
                            sandbox_id,
                            queue_place,
                            since,
                            address,
                            token,
                        }));
                    }
                    Some(start_event::Event::Failed(failed)) => return Ok(Err(failed.message)),
                    None => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.context("the launcher does not answer")?
    }

    /// The server's own API, asked from the host as a hub's proxy would.
    pub fn notebook(&self, key: &v1::ServerKey, started: &Started) -> anyhow::Result<Notebook> {
        let address = started.address.parse().context("the launcher tells no address")?;
        Ok(Notebook {
            server: SocketAddr::new(address, self.server_port),
            base: prefix(key),
            token: started.token.clone(),
        })
    }

    pub async fn get(&self, key: v1::ServerKey) -> anyhow::Result<v1::Sandbox> {
        let answer = self.launcher.clone().get(v1::GetRequest { key: Some(key) }).await;
        Ok(answer.map_err(|status| client::said(&status))?.into_inner())
    }

    /// Stops a server as a hub does, and tells how long that took.
    pub async fn stop(&self, key: v1::ServerKey) -> anyhow::Result<f64> {
        let since = Instant::now();
        let request = v1::StopRequest { key: Some(key), ..v1::StopRequest::default() };
        self.launcher.clone().stop(request).await.map_err(|status| client::said(&status))?;
        Ok(milliseconds(since))
    }

    /// Every server of the benchmark, and no other hub's; all at once.
    pub async fn stop_all(&self) -> anyhow::Result<()> {
        let list = self.launcher.clone().list(v1::ListRequest { hub: HUB.into() }).await;
        let sandboxes = list.map_err(|status| client::said(&status))?.into_inner().sandboxes;
        let live = sandboxes.into_iter().filter(|sandbox| sandbox.phase() != Phase::Gone);
        let stops = live.filter_map(|sandbox| sandbox.key).map(|key| {
            let request = v1::StopRequest { key: Some(key), grace_ms: Some(0), generation: 0 };
            let mut launcher = self.launcher.clone();
            async move { launcher.stop(request).await.map_err(|status| client::said(&status)) }
        });
        futures_util::future::try_join_all(stops).await.map(|_| ())
    }

    /// Runs a command where a server would run, beside it.
    pub async fn run(
        &self,
        runtime: &str,
        key: v1::ServerKey,
        command: Vec<String>,
    ) -> anyhow::Result<tonic::Streaming<v1::RunEvent>> {
        let start = Some(self.request(runtime, None, key, new_token()));
        let events = self.admin().run(v1::RunRequest { start, command }).await;
        Ok(events.map_err(|status| client::said(&status))?.into_inner())
    }
}

/// The path of a server.
fn prefix(key: &v1::ServerKey) -> String {
    format!("/user/{}/", key.user)
}

/// Nobody's: no hub knows it but the one that the benchmark stands in for, and it opens nothing
/// but one server.
fn new_token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// What the launcher decided is a finding; that it is away is none.
fn refused(status: &tonic::Status) -> anyhow::Result<Result<Started, String>> {
    if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown) {
        return Err(client::said(status)).context("the launcher takes no starts");
    }
    Ok(Err(status.message().to_owned()))
}

fn chosen(offer: &v1::Offer, asked: &[String]) -> anyhow::Result<Vec<String>> {
    if let Some(other) = asked.iter().find(|name| !offer.runtimes.contains(name)) {
        bail!(
            "profile `{}` does not offer the runtime `{other}`; it offers {}",
            offer.profile,
            offer.runtimes.join(", ")
        );
    }
    let wanted = |name: &&String| asked.is_empty() || asked.contains(name);
    Ok(offer.runtimes.iter().filter(wanted).cloned().collect())
}
