//! A connection to the kernel's routing tables in one network namespace, and
//! the few requests that host, router and sandboxes have in common.
//!
//! Every change says what it wants as a state ("this route, there"), so that
//! repeating it is harmless, unless its name begins with `add`.

use std::{net::Ipv4Addr, os::fd::AsFd};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::NeighbourState,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    },
};

use super::{MacAddress, NetworkError};
use crate::host::{HostError, namespaces};

/// One connection; it ends, and lets go of its namespace, when this is dropped.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const NO_WAY: [i32; 4] = [libc::EINVAL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES];

type Result<T> = std::result::Result<T, NetworkError>;

fn failed(
    verb: &'static str,
    thing: impl Into<String>,
) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let thing = thing.into();
    move |source| NetworkError::Kernel { verb, thing, source: Box::new(source) }
}

fn errno_of(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

impl Netlink {
    /// Connects in the caller's own network namespace.
    pub fn here() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| {
            HostError::new("open a socket in namespace", "/proc/thread-self/ns/net", source)
        })?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// Connects in another network namespace.
    pub fn inside(namespace: impl AsFd) -> Result<Self> {
        // The socket must be made by a thread inside, and known to our runtime.
        let runtime = tokio::runtime::Handle::current();
        namespaces::in_network_namespace(namespace, || {
            let _guard = runtime.enter();
            Self::here()
        })
        .map_err(|source| HostError::new("enter namespace", "network", source))?
    }

    /// A link by name.
    pub async fn link(&self, name: &str) -> Result<Option<LinkMessage>> {
        let outcome = self.handle.link().get().match_name(name).execute().try_next().await;
        match outcome {
            Err(error) if errno_of(&error) == Some(libc::ENODEV) => Ok(None),
            other => other.map_err(failed("look up link", name)),
        }
    }

    /// A link by name that must be there.
    pub async fn index(&self, name: &str) -> Result<u32> {
        let link = self.link(name).await?;
        link.map(|link| link.header.index)
            .ok_or_else(|| NetworkError::MissingLink { name: name.to_owned() })
    }

    pub async fn links(&self) -> Result<Vec<LinkMessage>> {
        self.handle.link().get().execute().try_collect().await.map_err(failed("list", "links"))
    }

    pub async fn add_link(&self, name: &str, message: LinkMessage) -> Result<()> {
        self.handle.link().add(message).execute().await.map_err(failed("add link", name))
    }

    pub async fn set_link(&self, name: &str, change: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        self.handle.link().set(change.build()).execute().await.map_err(failed("change link", name))
    }

    pub async fn bring_up(&self, name: &str, index: u32) -> Result<()> {
        self.set_link(name, LinkUnspec::new_with_index(index).up()).await
    }

    /// Absence is success.
    pub async fn remove_link(&self, name: &str) -> Result<()> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            // It may go by itself in between, with the namespace of its peer.
            Err(error) if errno_of(&error) == Some(libc::ENODEV) => Ok(()),
            other => other.map_err(failed("remove link", name)),
        }
    }

    pub async fn addresses(&self) -> Result<Vec<AddressMessage>> {
        self.handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("list", "addresses"))
    }

    /// An address of its own, without a network around it.
    pub async fn set_address(&self, index: u32, address: Ipv4Addr) -> Result<()> {
        let request = self.handle.address().add(index, address.into(), 32).replace();
        request.execute().await.map_err(failed("set address", address.to_string()))
    }

    pub async fn set_route(&self, route: &Route) -> Result<()> {
        let request = self.handle.route().add(route.message()).replace();
        request.execute().await.map_err(failed("set route", route.to_string()))
    }

    pub async fn routes(&self) -> Result<Vec<RouteMessage>> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        self.handle.route().get(all).execute().try_collect().await.map_err(failed("list", "routes"))
    }

    /// By which link the kernel would send to an address.
    pub async fn way_to(&self, address: Ipv4Addr) -> Result<Option<u32>> {
        let question =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
        let answer = self.handle.route().get(question).execute().try_next().await;
        let answer = match answer {
            // How the kernel says that a route leads nowhere.
            Err(error) if NO_WAY.iter().any(|code| errno_of(&error) == Some(*code)) => None,
            other => other.map_err(failed("look up route", address.to_string()))?,
        };
        Ok(answer.and_then(|route| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        }))
    }

    /// Binds an address to a card, so that nobody's ARP can say otherwise.
    pub async fn set_neighbour(
        &self,
        index: u32,
        address: Ipv4Addr,
        mac: MacAddress,
    ) -> Result<()> {
        self.handle
            .neighbours()
            .add(index, address.into())
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(failed("set neighbour", address.to_string()))
    }
}

/// One IPv4 route.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// Straight to one address over a link.
    Direct { to: Ipv4Addr, link: u32 },
    /// A network by a next hop; what the node sends itself bears `source`.
    Via { network: Ipv4Addr, prefix: u8, hop: Ipv4Addr, link: u32, source: Option<Ipv4Addr> },
    /// Nowhere, silently.
    Nowhere { network: Ipv4Addr, prefix: u8 },
}

impl std::fmt::Display for Route {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct { to, .. } => write!(formatter, "{to}"),
            Self::Via { network, prefix, .. } | Self::Nowhere { network, prefix } => {
                write!(formatter, "{network}/{prefix}")
            }
        }
    }
}

impl Route {
    fn message(&self) -> RouteMessage {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new();
        match *self {
            Self::Direct { to, link } => builder
                .destination_prefix(to, 32)
                .output_interface(link)
                .scope(RouteScope::Link)
                .build(),
            Self::Via { network, prefix, hop, link, source } => {
                let builder = builder
                    .destination_prefix(network, prefix)
                    .gateway(hop)
                    .output_interface(link)
                    .onlink();
                source.map_or(builder.clone(), |source| builder.pref_source(source)).build()
            }
            Self::Nowhere { network, prefix } => {
                builder.destination_prefix(network, prefix).kind(RouteType::BlackHole).build()
            }
        }
    }
}

pub fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

pub fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

pub fn alias_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
        _ => None,
    })
}

pub fn mac_of(link: &LinkMessage) -> Option<&[u8]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => Some(address.as_slice()),
        _ => None,
    })
}

/// The index of the other end of a veth, in that end's namespace.
pub fn peer_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// The IPv4 address in an answer.
pub fn ipv4_of(message: &AddressMessage) -> Option<Ipv4Addr> {
    // IFA_LOCAL is the own address; IFA_ADDRESS is the peer's on point-to-point links.
    let of = |local: bool| {
        message.attributes.iter().find_map(move |attribute| match attribute {
            AddressAttribute::Local(std::net::IpAddr::V4(address)) if local => Some(*address),
            AddressAttribute::Address(std::net::IpAddr::V4(address)) if !local => Some(*address),
            _ => None,
        })
    };
    of(true).or_else(|| of(false))
}

pub fn is_ipv6(message: &AddressMessage) -> bool {
    message.header.family == AddressFamily::Inet6
}

/// Next hop and link of a default route.
pub fn default_hop(route: &RouteMessage) -> Option<(Ipv4Addr, u32)> {
    if route.header.destination_prefix_length != 0
        || route.header.address_family != AddressFamily::Inet
    {
        return None;
    }
    let hop = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(hop)) => Some(*hop),
        _ => None,
    })?;
    let link = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })?;
    Some((hop, link))
}
