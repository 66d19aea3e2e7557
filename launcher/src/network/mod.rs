//! The network of sandboxes: who may speak to whom, from before a sandbox's
//! first process until after its last.
//!
//! ```text
//!              the host                       the router (own namespace)             a sandbox
//!  hub :8081 ┐                              ┌───────────────────────────┐
//!  10.88.0.1 ┴ <instance> ════════ uplink ──┤ anti-spoof, egress chains ├── v<id> ═══ eth0 10.88.1.0
//!  table `inet <instance>`        10.88.0.2 │ table `inet adrastea`     ├── v<id> ═══ eth0 10.88.1.1
//!                                           └───────────────────────────┘
//!
//!   (absent) ──attach──> closed ──open_egress──> open
//!       ^                  │                       │
//!       └─────detach───────┴───────────────────────┘
//! ```
//!
//! *Closed* means that nothing passes, in either direction. *Open* means: the
//! egress profile's destinations, and connections to the server's port from the
//! gateway address. Every chain of the router drops what no rule accepts, and
//! elements go in before the link exists, so every failure in between is closed.
//!
//! `nft flush ruleset` on the host takes away only the host's table. The router
//! still holds sandboxes apart from each other, from the router, from private
//! ranges, and from everything on the node but the hub's port on the gateway
//! address. What is lost until the launcher puts the table back ([`Network::install`]):
//! the choice of which local users may connect to servers, masquerading (so `web`
//! loses its way), and the refusal of the gateway address to the node's neighbours.
//! [`Network::verify`] sees the loss, so nothing new starts meanwhile.
//!
//! IPv4 only. IPv6 is switched off on every link of ours and dropped by both tables.
//!
//! This module must never change a table, link, route or setting that is not the
//! instance's own; of the host's settings it switches `forwarding` of the named
//! uplink, remembers what it was, and puts it back.

pub mod address;
mod error;
mod filter;
mod link;
mod netlink;
pub mod nft;
mod router;
pub mod rules;
pub mod settings;

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use adrastea_runtimes::plan::SandboxId;

pub use self::{
    address::{MacAddress, Subnet},
    error::NetworkError,
    router::remove_namespace,
    settings::NetworkSettings,
};
use self::{
    filter::{Filter, TableMark},
    netlink::Netlink,
};
use crate::{failpoint, host::nft_command};

type Result<T> = std::result::Result<T, NetworkError>;

/// What one sandbox has of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub id: SandboxId,
    pub address: Ipv4Addr,
    /// The pinned namespace.
    pub network_namespace: PathBuf,
    /// The egress profile's name.
    pub egress: String,
    /// The runtime has a network stack of its own, which takes addresses and routes out of the
    /// namespace. What may pass is decided on the other side of the link, by the router.
    pub own_stack: bool,
    /// Links that the runtime makes itself in the namespace.
    pub own_links: &'static [&'static str],
}

/// Whether anything passes yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Prepared: nothing passes.
    Closed,
    /// Claimed: the egress profile holds.
    Open,
}

/// A sandbox that lives while the launcher starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub attachment: Attachment,
    pub gate: Gate,
}

/// The network of one instance.
#[derive(Debug)]
pub struct Network {
    settings: NetworkSettings,
    router_namespace: OwnedFd,
    host: Netlink,
    router: Netlink,
    host_filter: Filter,
    router_filter: Filter,
    /// Both tables as they were put in place.
    marks: Mutex<(TableMark, TableMark)>,
    /// The node's own addresses that the router's table knows.
    known_addresses: Mutex<Vec<Ipv4Addr>>,
}

impl Network {
    /// Puts the instance-wide part in place, or adopts it; sandboxes that live
    /// keep their connections and their walls without a window.
    ///
    /// A sandbox that is not in `live` is cut off until it is detached.
    pub async fn open(settings: NetworkSettings, live: &[Live]) -> Result<Self> {
        settings.check()?;
        let router_namespace = router::ensure_namespace(&settings)?;
        let network = Self {
            host: Netlink::here()?,
            router: Netlink::inside(&router_namespace)?,
            host_filter: Filter::here()?,
            router_filter: Filter::inside(&router_namespace)?,
            settings,
            router_namespace,
            marks: Mutex::default(),
            known_addresses: Mutex::default(),
        };
        network.install(live).await?;
        Ok(network)
    }

    /// Both tables, the link between host and router, routes and settings, as
    /// they should be. Repeating it is harmless; it is also the repair.
    pub async fn install(&self, live: &[Live]) -> Result<()> {
        for entry in live {
            self.check(&entry.attachment)?;
        }
        router::configure_namespace(&self.router_namespace)?;
        let addresses = self.node_addresses()?;
        let text = nft::router::render(&self.settings, &addresses, live);
        let text = nft::replacement(nft::router::TABLE, &text);
        nft_command::apply(Some(self.router_namespace.as_fd()), &text, nft::router::TABLE).await?;
        failpoint::hit("install", "router");

        let instance = &self.settings.instance;
        let facts = router::host_facts(&self.settings, self.remembered_forwarding()?)?;
        let text = nft::replacement(instance, &nft::host::render(&self.settings, facts));
        nft_command::apply(None, &text, instance).await?;
        failpoint::hit("install", "host");

        let marks =
            (self.router_filter.mark(nft::router::TABLE)?, self.host_filter.mark(instance)?);
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner) = marks;
        *self.known_addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        router::connect(&self.settings, &self.host, &self.router)?;
        failpoint::hit("install", "connected");
        Ok(())
    }

    pub fn settings(&self) -> &NetworkSettings {
        &self.settings
    }

    /// Gives a sandbox its link, closed. On failure, [`Self::detach`] is the undo.
    pub fn attach(&self, attachment: &Attachment) -> Result<()> {
        self.check(attachment)?;
        let namespace = link::open_namespace(attachment, &self.router_namespace)?;
        self.router_filter.add_closed(&attachment.id, attachment.address)?;
        link::attach(attachment, self.settings.subnet, &namespace, &self.router)
    }

    /// Lets the sandbox's egress profile hold, and its server be reached.
    pub fn open_egress(&self, attachment: &Attachment) -> Result<()> {
        let profile = self.settings.profile(&attachment.egress)?;
        self.router_filter.open(&attachment.id, profile.name())
    }

    /// Whether everything stands that was promised; the error names the wall.
    pub fn verify(&self, attachment: &Attachment, gate: Gate) -> Result<()> {
        self.verify_tables()?;
        self.router_filter.verify(&attachment.id, attachment.address, gate, &attachment.egress)?;
        let namespace = link::open_namespace(attachment, &self.router_namespace)?;
        link::verify(attachment, self.settings.subnet, &namespace, &self.router)
    }

    /// Whether both tables are as they were put in place.
    pub fn verify_tables(&self) -> Result<()> {
        let router = self.router_filter.mark(nft::router::TABLE)?;
        let host = self.host_filter.mark(&self.settings.instance)?;
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let changed =
            |place| NetworkError::wall(place, "its rules have been changed or removed".into());
        if router != marks.0 {
            return Err(changed("router table"));
        }
        if host != marks.1 {
            return Err(changed("host table"));
        }
        Ok(())
    }

    /// Whether [`Self::install`] has something to do: a table was changed, or the
    /// node has gained or lost an address of its own since.
    pub fn is_stale(&self) -> Result<bool> {
        if self.verify_tables().is_err() {
            return Ok(true);
        }
        let addresses = self.node_addresses()?;
        Ok(*self.known_addresses.lock().unwrap_or_else(PoisonError::into_inner) != addresses)
    }

    /// Takes away everything of a sandbox. Tolerates absence, never stops early,
    /// returns every failure.
    pub fn detach(&self, id: &SandboxId) -> std::result::Result<(), Vec<NetworkError>> {
        let mut errors = self.router_filter.remove(id);
        // The route and the other end go with the link.
        errors.extend(self.router.remove_link(&nft::elements::link_name(id)).err());
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Every sandbox of which a link or an element is there.
    pub fn list(&self) -> Result<BTreeSet<SandboxId>> {
        let mut sandboxes = self.with_elements()?;
        sandboxes.extend(self.with_links()?);
        Ok(sandboxes)
    }

    pub fn with_elements(&self) -> Result<BTreeSet<SandboxId>> {
        self.router_filter.sandboxes()
    }

    pub fn with_links(&self) -> Result<BTreeSet<SandboxId>> {
        let links = self.router.links()?;
        let names = links.iter().filter_map(netlink::name_of);
        Ok(names.filter_map(nft::elements::sandbox_of).collect())
    }

    /// Takes the instance-wide part away; refuses while a sandbox is attached.
    /// The router itself is gone when the last handle to it is dropped.
    pub async fn remove_all(&self) -> std::result::Result<(), Vec<NetworkError>> {
        let count = self.list().map_err(|error| vec![error])?.len();
        if count > 0 {
            return Err(vec![NetworkError::InUse { count }]);
        }
        let mut errors = Vec::new();
        let remembered = self.remembered_forwarding().unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        errors.extend(router::disconnect(&self.settings, &self.host, remembered));
        let instance = &self.settings.instance;
        let removal = nft_command::apply(None, &nft::removal(instance), instance).await;
        errors.extend(removal.err().map(Into::into));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check(&self, attachment: &Attachment) -> Result<()> {
        self.settings.profile(&attachment.egress)?;
        match self.settings.subnet.index(attachment.address) {
            Some(_) => Ok(()),
            None => Err(NetworkError::ForeignAddress { address: attachment.address }),
        }
    }

    fn remembered_forwarding(&self) -> Result<Option<bool>> {
        let comment = self.host_filter.comment(&self.settings.instance)?;
        Ok(comment.and_then(|comment| nft::host::remembered_forwarding(&comment)))
    }

    /// The host's addresses of today, but ours and those that never leave it.
    fn node_addresses(&self) -> Result<Vec<Ipv4Addr>> {
        let found = self.host.addresses()?;
        let own: BTreeSet<Ipv4Addr> = found
            .iter()
            .filter_map(netlink::ipv4_of)
            .filter(|address| !address.is_loopback() && !self.settings.subnet.contains(*address))
            .collect();
        Ok(own.into_iter().collect())
    }
}
