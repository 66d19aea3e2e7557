//! The link of one sandbox: a veth from the router to `eth0` inside, addresses
//! and routes on both ends; and the same read back for the proof at start.
//!
//! Must run after the sandbox's elements stand in the router's table: a link
//! without elements is dropped by policy, so a failure in between stays closed.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoKind, InfoVeth},
};

use super::{
    Attachment, MacAddress, NetworkError, Subnet,
    netlink::{self, Netlink, Route},
    nft::elements::link_name,
};
use crate::host::{HostError, namespaces};

/// The sandbox's end.
const INSIDE: &str = "eth0";

/// IPv6 is not offered: without an address and without a neighbour to find.
/// Written before there is a link; the kernel takes it over as the default of all to come.
const DISABLE_IPV6: &str = "ipv6/conf/all/disable_ipv6";

/// Opens the sandbox's namespace; refuses the host's own and the router's.
pub fn open_namespace(attachment: &Attachment, router: &OwnedFd) -> Result<OwnedFd, NetworkError> {
    let path = &attachment.network_namespace;
    let namespace = namespaces::open(path)?;
    let inspect = |source| HostError::new("inspect namespace", path, source);
    let inode = namespaces::inode_of(&namespace).map_err(inspect)?;
    let host = namespaces::inode_of(&namespaces::current_network_namespace()?).map_err(inspect)?;
    let router = namespaces::inode_of(router).map_err(inspect)?;
    if inode == host || inode == router {
        return Err(NetworkError::SharedNamespace { path: path.clone() });
    }
    Ok(namespace)
}

/// Makes and configures both ends.
pub fn attach(
    attachment: &Attachment,
    subnet: Subnet,
    namespace: &OwnedFd,
    router: &Netlink,
) -> Result<(), NetworkError> {
    let name = link_name(&attachment.id);
    let address = attachment.address;
    let mac = MacAddress::of(address);
    let inside = enter_without_ipv6(namespace)?;

    // Not `up` yet: a peer that is born up is refused by the kernel.
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(INSIDE)
        .address(mac.0.to_vec())
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name.clone())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    router.add_link(&name, pair)?;

    let outer = router.index(&name)?;
    router.bring_up(&name, outer)?;
    router.set_neighbour(outer, address, mac)?;

    let inner = inside.index(INSIDE)?;
    inside.set_address(inner, address)?;
    let loopback = inside.index("lo")?;
    inside.bring_up("lo", loopback)?;
    inside.bring_up(INSIDE, inner)?;
    inside.set_route(&Route::Direct { to: subnet.router(), link: inner })?;
    let default = Route::Via {
        network: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        hop: subnet.router(),
        link: inner,
        source: None,
    };
    inside.set_route(&default)?;
    router.set_route(&Route::Direct { to: address, link: outer })
}

/// Reads back what [`attach`] has done. The error names the wall.
pub fn verify(
    attachment: &Attachment,
    subnet: Subnet,
    namespace: &OwnedFd,
    router: &Netlink,
) -> Result<(), NetworkError> {
    let name = link_name(&attachment.id);
    let address = attachment.address;
    let inside = Netlink::inside(namespace)?;
    let wall = NetworkError::wall;

    let Some(outer) = router.link(&name)? else {
        return Err(wall("link", format!("the router has no `{name}`")));
    };
    let links = inside.links()?;
    let mut names: Vec<_> = links.iter().filter_map(netlink::name_of).collect();
    names.sort_unstable();
    // The kernel may put fallback tunnels into every namespace; they are down.
    let up: Vec<_> = links
        .iter()
        .filter(|link| netlink::is_up(link))
        .filter_map(netlink::name_of)
        .filter(|name| !attachment.own_links.contains(name))
        .collect();
    let [first, second] = up.as_slice() else {
        return Err(wall("link", format!("up inside are {up:?}, of {names:?}")));
    };
    let Some(inner) = links.iter().find(|link| netlink::name_of(link) == Some(INSIDE)) else {
        return Err(wall("link", format!("inside are {names:?}")));
    };
    if ![*first, *second].contains(&"lo") || !netlink::is_up(inner) || !netlink::is_up(&outer) {
        return Err(wall("link", format!("up inside are {up:?}")));
    }
    if netlink::peer_of(inner) != Some(outer.header.index)
        || netlink::peer_of(&outer) != Some(inner.header.index)
    {
        return Err(wall("link", format!("`{name}` and `{INSIDE}` are not each other's ends")));
    }
    if netlink::mac_of(inner) != Some(&MacAddress::of(address).0[..]) {
        return Err(wall("link", format!("`{INSIDE}` has another card's address")));
    }

    for found in inside.addresses()? {
        if netlink::is_ipv6(&found) {
            return Err(wall("ipv6", "there is an IPv6 address inside".into()));
        }
        let planned = match netlink::ipv4_of(&found) {
            Some(found) if found.is_loopback() => true,
            Some(other) => other == address && found.header.prefix_len == 32,
            None => false,
        };
        if !planned {
            return Err(wall("address", format!("inside is {found:?}")));
        }
    }
    let hops: Vec<_> = inside.routes()?.iter().filter_map(netlink::default_hop).collect();
    let taken_out = attachment.own_stack && hops.is_empty();
    if !taken_out && hops != [(subnet.router(), inner.header.index)] {
        return Err(wall("route", format!("the default routes inside are {hops:?}")));
    }
    if router.way_to(address)? != Some(outer.header.index) {
        return Err(wall("route", format!("the router sends {address} elsewhere")));
    }
    Ok(())
}

/// A conversation inside, after IPv6 was switched off there.
fn enter_without_ipv6(namespace: &OwnedFd) -> Result<Netlink, NetworkError> {
    let enter = |source| HostError::new("enter namespace", "of a sandbox", source);
    namespaces::in_network_namespace(namespace, || {
        // A kernel without IPv6 has nothing to switch off.
        if namespaces::read_network_setting(DISABLE_IPV6)?.is_some() {
            namespaces::write_network_setting(DISABLE_IPV6, "1")?;
        }
        Netlink::here()
    })
    .map_err(enter)?
}
