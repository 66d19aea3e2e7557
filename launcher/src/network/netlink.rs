//! A connection to the kernel's routing tables in one network namespace, and
//! the few requests that host, router and sandboxes have in common.
//!
//! Every change says what it wants as a state ("this route, there"), so that
//! repeating it is harmless, unless its name begins with `add`.
//!
//! Calls are short (some microseconds each, more where the kernel makes a link) and block.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rtnetlink::{
    AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    },
};

use super::{MacAddress, NetworkError};
use crate::host::{HostError, namespaces, routing_socket::RoutingSocket};

/// One conversation; it lets go of its namespace when this is dropped.
#[derive(Debug)]
pub struct Netlink(Mutex<RoutingSocket>);

const NO_WAY: [i32; 4] = [libc::EINVAL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES];

type Result<T> = std::result::Result<T, NetworkError>;

fn failed(verb: &'static str, thing: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let thing = thing.into();
    move |source| NetworkError::Kernel { verb, thing, source: Box::new(source) }
}

/// What the kernel lists that is not of the kind that was asked for is nobody's.
fn only<T>(
    answers: Vec<RouteNetlinkMessage>,
    of_kind: impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Vec<T> {
    answers.into_iter().filter_map(of_kind).collect()
}

fn as_link(answer: RouteNetlinkMessage) -> Option<LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None }
}

fn as_address(answer: RouteNetlinkMessage) -> Option<AddressMessage> {
    if let RouteNetlinkMessage::NewAddress(address) = answer { Some(address) } else { None }
}

fn as_route(answer: RouteNetlinkMessage) -> Option<RouteMessage> {
    if let RouteNetlinkMessage::NewRoute(route) = answer { Some(route) } else { None }
}

impl Netlink {
    /// In the caller's own network namespace.
    pub fn here() -> Result<Self> {
        let socket = RoutingSocket::open().map_err(|source| {
            HostError::new("open a socket in namespace", "/proc/thread-self/ns/net", source)
        })?;
        Ok(Self(Mutex::new(socket)))
    }

    /// In another network namespace.
    pub fn inside(namespace: impl AsFd) -> Result<Self> {
        namespaces::in_network_namespace(namespace, Self::here)
            .map_err(|source| HostError::new("enter namespace", "network", source))?
    }

    fn socket(&self) -> MutexGuard<'_, RoutingSocket> {
        // The socket has no state that a panic could leave half done: stale
        // answers are told by their number.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link by name.
    pub fn link(&self, name: &str) -> Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.socket().get(RouteNetlinkMessage::GetLink(question)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            other => other.map(as_link).map_err(failed("look up link", name)),
        }
    }

    /// A link by name that must be there.
    pub fn index(&self, name: &str) -> Result<u32> {
        let link = self.link(name)?;
        link.map(|link| link.header.index)
            .ok_or_else(|| NetworkError::MissingLink { name: name.to_owned() })
    }

    pub fn links(&self) -> Result<Vec<LinkMessage>> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let found = self.socket().dump(&all).map_err(failed("list", "links"))?;
        Ok(only(found, as_link))
    }

    pub fn add_link(&self, name: &str, message: LinkMessage) -> Result<()> {
        self.socket()
            .change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(failed("add link", name))
    }

    pub fn set_link(&self, name: &str, change: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        self.socket()
            .change(RouteNetlinkMessage::SetLink(change.build()), 0)
            .map_err(failed("change link", name))
    }

    pub fn bring_up(&self, name: &str, index: u32) -> Result<()> {
        self.set_link(name, LinkUnspec::new_with_index(index).up())
    }

    /// Absence is success.
    pub fn remove_link(&self, name: &str) -> Result<()> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        let mut gone = LinkMessage::default();
        gone.header.index = link.header.index;
        match self.socket().change(RouteNetlinkMessage::DelLink(gone), 0) {
            // It may go by itself in between, with the namespace of its peer.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.map_err(failed("remove link", name)),
        }
    }

    pub fn addresses(&self) -> Result<Vec<AddressMessage>> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = self.socket().dump(&all).map_err(failed("list", "addresses"))?;
        Ok(only(found, as_address))
    }

    /// An address of its own, without a network around it.
    pub fn set_address(&self, index: u32, address: Ipv4Addr) -> Result<()> {
        let wanted =
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build();
        self.socket()
            .change(RouteNetlinkMessage::NewAddress(wanted), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(failed("set address", address.to_string()))
    }

    pub fn set_route(&self, route: &Route) -> Result<()> {
        self.socket()
            .change(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(failed("set route", route.to_string()))
    }

    pub fn routes(&self) -> Result<Vec<RouteMessage>> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all = RouteNetlinkMessage::GetRoute(all);
        let found = self.socket().dump(&all).map_err(failed("list", "routes"))?;
        Ok(only(found, as_route))
    }

    /// By which link the kernel would send to an address.
    pub fn way_to(&self, address: Ipv4Addr) -> Result<Option<u32>> {
        let question =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
        let answer = match self.socket().get(RouteNetlinkMessage::GetRoute(question)) {
            // How the kernel says that a route leads nowhere.
            Err(error) if NO_WAY.iter().any(|code| error.raw_os_error() == Some(*code)) => None,
            other => as_route(other.map_err(failed("look up route", address.to_string()))?),
        };
        Ok(answer.and_then(|route| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        }))
    }

    /// Binds an address to a card, so that nobody's ARP can say otherwise.
    pub fn set_neighbour(&self, index: u32, address: Ipv4Addr, mac: MacAddress) -> Result<()> {
        let mut bound = NeighbourMessage::default();
        bound.header.family = AddressFamily::Inet;
        bound.header.ifindex = index;
        bound.header.state = NeighbourState::Permanent;
        bound.header.kind = RouteType::Unspec;
        bound.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        self.socket()
            .change(RouteNetlinkMessage::NewNeighbour(bound), NLM_F_CREATE | NLM_F_REPLACE)
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
