//! The instance-wide part: the router's network namespace, its link to the
//! host, routes and kernel settings. Rules are put in place by the caller
//! before any link is up.
//!
//! ```text
//! host ── <instance> 10.88.0.1 ═══ uplink 10.88.0.2 ── router ── v<id> ═══ eth0 10.88.1.0 ── sandbox
//! ```
//!
//! Must never touch a link that is not this instance's, nor the host's global
//! forwarding: forwarding is switched on for our link and the named uplink only.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoKind, InfoVeth},
};

use super::{
    NetworkError, NetworkSettings,
    netlink::{self, Netlink, Route},
    nft::{host::HostFacts, router::UPLINK},
};
use crate::host::{HostError, chain, namespaces};

/// The host's end of the pair before it has moved there.
const UNBORN: &str = "outside";

/// Settings of the router's namespace; links of sandboxes inherit the defaults.
const ROUTER_SETTINGS: [(&str, &str); 12] = [
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/default/accept_source_route", "0"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv6/conf/all/forwarding", "0"),
    // Last: writing it resets others. The router forwards; that is all it is for.
    ("ipv4/ip_forward", "1"),
];

/// Settings of our link on the host.
const LINK_SETTINGS: [(&str, &str, &str); 5] = [
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
    ("ipv4", "arp_ignore", "1"),
    ("ipv6", "disable_ipv6", "1"),
];

/// Opens the router's namespace, making it if it is not there.
pub fn ensure_namespace(settings: &NetworkSettings) -> Result<OwnedFd, NetworkError> {
    let path = settings.router_namespace();
    if namespaces::open(&path).is_err() {
        // A file without a namespace is left from before a reboot.
        namespaces::unpin(&path)?;
        namespaces::create_network_namespace(&path)?;
    }
    // Only a name: were it the pin itself, another program's first `ip netns add`, which binds
    // that directory over itself, would hide it, and it could not be taken away any more.
    if let Err(error) = namespaces::name(&settings.router_name(), &path) {
        tracing::warn!(error = chain(&error), "`ip netns` does not find the router");
    }
    Ok(namespaces::open(&path)?)
}

/// Takes the router's namespace away, and its name.
pub fn remove_namespace(settings: &NetworkSettings) -> Result<(), HostError> {
    let path = settings.router_namespace();
    // A name that cannot be taken away keeps nothing alive.
    let unnamed = namespaces::unname(&settings.router_name(), &path);
    namespaces::unpin(&path).and(unnamed)
}

/// The kernel settings inside the router.
pub fn configure_namespace(router: impl AsFd) -> Result<(), NetworkError> {
    let enter = |source| HostError::new("enter namespace", "router", source);
    namespaces::in_network_namespace(router, || {
        ROUTER_SETTINGS.iter().try_for_each(|(name, value)| write_if_known(name, value))
    })
    .map_err(enter)??;
    Ok(())
}

/// What the host is like before the uplink's forwarding is switched on.
pub fn host_facts(
    settings: &NetworkSettings,
    remembered: Option<bool>,
) -> Result<HostFacts, NetworkError> {
    let is_on = |name: &str| {
        namespaces::read_network_setting(name).map(|value| value.as_deref() == Some("1"))
    };
    let uplink_forwarded = match (&settings.uplink, remembered) {
        (_, Some(remembered)) => remembered,
        (Some(uplink), None) => is_on(&format!("ipv4/conf/{uplink}/forwarding"))?,
        (None, None) => false,
    };
    Ok(HostFacts { forwards: is_on("ipv4/ip_forward")?, uplink_forwarded })
}

/// Joins host and router. Both tables must stand already.
pub fn connect(
    settings: &NetworkSettings,
    host: &Netlink,
    router: &Netlink,
) -> Result<(), NetworkError> {
    let subnet = settings.subnet;
    let (gateway, router_address) = (subnet.gateway(), subnet.router());
    let name = settings.link();
    make_pair(settings, host, router)?;

    for (family, setting, value) in LINK_SETTINGS {
        write_if_known(&format!("{family}/conf/{name}/{setting}"), value)?;
    }
    let inside = router.index(UPLINK)?;
    router.set_address(inside, router_address)?;
    if let Some(loopback) = router.link("lo")? {
        router.bring_up("lo", loopback.header.index)?;
    }
    router.bring_up(UPLINK, inside)?;
    let outside = host.index(&name)?;
    host.set_address(outside, gateway)?;
    host.bring_up(&name, outside)?;

    router.set_route(&Route::Direct { to: gateway, link: inside })?;
    let default = Route::Via {
        network: std::net::Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        hop: gateway,
        link: inside,
        source: None,
    };
    router.set_route(&default)?;
    // An address nobody has must not go round between host and router.
    router.set_route(&Route::Nowhere { network: subnet.network(), prefix: subnet.prefix() })?;
    host.set_route(&Route::Direct { to: router_address, link: outside })?;
    let to_sandboxes = Route::Via {
        network: subnet.network(),
        prefix: subnet.prefix(),
        hop: router_address,
        link: outside,
        source: Some(gateway),
    };
    host.set_route(&to_sandboxes)?;

    // An uplink that is gone is no reason to leave running servers without the hub.
    let ways = [Some(&name), settings.uplink.as_ref()];
    if settings.uplink.is_some() {
        for way in ways.into_iter().flatten() {
            namespaces::write_network_setting(&format!("ipv4/conf/{way}/forwarding"), "1")?;
        }
    } else {
        namespaces::write_network_setting(&format!("ipv4/conf/{name}/forwarding"), "0")?;
    }
    Ok(())
}

/// A link of this name must be ours, whole, and end in our router; what is left
/// of an earlier router is made anew.
fn make_pair(
    settings: &NetworkSettings,
    host: &Netlink,
    router: &Netlink,
) -> Result<(), NetworkError> {
    let name = settings.link();
    let alias = alias(settings);
    let inside = router.link(UPLINK)?;
    if let Some(outside) = host.link(&name)? {
        if netlink::alias_of(&outside) != Some(alias.as_str()) {
            return Err(NetworkError::ForeignLink { name });
        }
        let whole = inside.as_ref().is_some_and(|inside| {
            netlink::peer_of(&outside) == Some(inside.header.index)
                && netlink::peer_of(inside) == Some(outside.header.index)
        });
        if whole {
            return Ok(());
        }
        host.remove_link(&name)?;
    }
    router.remove_link(UPLINK)?;
    // The host's end is born in the router and moves when it bears its mark, so
    // that a link on the host is ours, marked, or not there.
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(UPLINK).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(UNBORN)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    router.add_link(UPLINK, pair)?;
    let index = router.index(UNBORN)?;
    router.set_link(UNBORN, LinkUnspec::new_with_index(index).alias(alias))?;
    let here = namespaces::current_network_namespace()?;
    let moving = LinkUnspec::new_with_index(index).name(&name).setns_by_fd(here.as_raw_fd());
    router.set_link(&name, moving)
}

/// What marks a link as this instance's.
fn alias(settings: &NetworkSettings) -> String {
    format!("adrastea instance {}", settings.instance)
}

/// Takes link, routes and namespace away. Never stops early.
pub fn disconnect(
    settings: &NetworkSettings,
    host: &Netlink,
    remembered: Option<bool>,
) -> Vec<NetworkError> {
    let mut errors = Vec::new();
    if let (Some(uplink), Some(false)) = (&settings.uplink, remembered) {
        let name = format!("ipv4/conf/{uplink}/forwarding");
        match namespaces::read_network_setting(&name) {
            // The uplink may be gone; a host that became a router meanwhile stays one.
            Ok(Some(_)) if !forwards() => {
                errors.extend(namespaces::write_network_setting(&name, "0").err().map(Into::into));
            }
            Ok(_) => {}
            Err(error) => errors.push(error.into()),
        }
    }
    // The host's routes go with the link.
    match host.link(&settings.link()) {
        Ok(Some(link)) if netlink::alias_of(&link) == Some(alias(settings).as_str()) => {
            errors.extend(host.remove_link(&settings.link()).err());
        }
        Ok(_) => {}
        Err(error) => errors.push(error),
    }
    errors.extend(remove_namespace(settings).err().map(Into::into));
    errors
}

fn forwards() -> bool {
    matches!(namespaces::read_network_setting("ipv4/ip_forward"), Ok(Some(value)) if value == "1")
}

/// A kernel without IPv6 has no settings for it, and needs none.
fn write_if_known(name: &str, value: &str) -> Result<(), HostError> {
    match namespaces::read_network_setting(name)? {
        Some(found) if found == value => Ok(()),
        None if name.starts_with("ipv6/") => Ok(()),
        _ => namespaces::write_network_setting(name, value),
    }
}
