//! Who reaches whom; and the same probes without the walls, where they must see
//! everything.

use std::path::Path;

use adrastea::{host::namespaces, network::Gate};

use crate::{
    playground::{
        GATEWAY, NODE, SERVER_UID, WEB_PAGE, WORLD, claimed, flush_host, flush_router, network,
        on_a_host, output, run, sandbox, serve, settings,
    },
    probe::{connect, inside, reach, reaches, reaches_as},
};

const WEB: [&str; 6] = ["hub", "neighbour web", "page web", "page tls", "resolver tcp", "resolver"];

#[test]
fn hub_profile_reaches_the_hub_only() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let bob = claimed(&network, "bob", 1, "hub").await;
        assert_eq!(reach(&alice, &[&bob]), ["hub"]);
        assert_eq!(reach(&bob, &[&alice]), ["hub"]);
    });
}

#[test]
fn web_profile_reaches_pages_and_its_resolver() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "web").await;
        let bob = claimed(&network, "bob", 1, "hub").await;
        assert_eq!(reach(&alice, &[&bob]), WEB);
        assert_eq!(reach(&bob, &[&alice]), ["hub"]);
        let seen = inside(Some(&alice.network_namespace), || connect((WEB_PAGE, 80)).unwrap().1);
        assert_eq!(seen, NODE.to_string(), "the world sees the node's address only");
    });
}

/// The reference: what the probes see where nothing is in the way.
#[test]
fn without_the_tables_the_probes_see_everything() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let bob = claimed(&network, "bob", 1, "hub").await;
        flush_host();
        flush_router();
        assert_eq!(
            reach(&alice, &[&bob]),
            [
                "hub",
                "gateway ssh",
                "gateway web",
                "gateway proxy api",
                "router",
                "node ssh",
                "node web",
                "node tls",
                "node hub",
                "neighbour web",
                "page web",
                "page tls",
                "page ssh",
                "resolver tcp",
                "foreign resolver tcp",
                "private web",
                "metadata",
                "bob000000000 8888",
                "bob000000000 9999",
                "resolver",
                "foreign resolver",
            ]
        );
        assert!(reaches_as(65534, (bob.address, 9999)));
    });
}

/// A reload of the host's firewall takes our table there with it.
#[test]
fn a_flushed_host_opens_no_sandbox() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let bob = claimed(&network, "bob", 1, "web").await;
        let closed = sandbox("carol", 2, "hub");
        network.attach(&closed).unwrap();
        flush_host();
        assert_eq!(reach(&alice, &[&bob]), ["hub"]);
        // Answers need the route back that this world has; the targets stay the same.
        assert_eq!(reach(&bob, &[&alice]), WEB);
        assert!(reach(&closed, &[&alice, &bob]).is_empty());
        let error = network.verify(&alice, Gate::Open).unwrap_err();
        assert!(error.to_string().contains("`host table`"), "{error}");
    });
}

/// The router's rules alone are lost: the host's table still guards the node.
#[test]
fn a_flushed_router_does_not_open_the_node() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        flush_router();
        let reached = reach(&alice, &[]);
        let node: Vec<_> = reached
            .iter()
            .filter(|name| name.starts_with("node") || name.starts_with("gateway"))
            .collect();
        assert!(node.is_empty() && reached.contains(&"hub".to_owned()), "{reached:?}");
        assert!(!reached.contains(&"metadata".to_owned()));
        assert!(network.verify(&alice, Gate::Open).is_err());
    });
}

#[test]
fn nothing_passes_before_the_claim() {
    on_a_host(async || {
        let network = network().await;
        let alice = sandbox("alice", 0, "web");
        let bob = claimed(&network, "bob", 1, "hub").await;
        network.attach(&alice).unwrap();
        serve(&alice);
        network.verify(&alice, Gate::Closed).unwrap();
        assert!(network.verify(&alice, Gate::Open).is_err());
        assert!(reach(&alice, &[&bob]).is_empty());
        assert!(!reaches(None, (alice.address, 8888)));
        network.open_egress(&alice).unwrap();
        network.verify(&alice, Gate::Open).unwrap();
        assert_eq!(reach(&alice, &[&bob]), WEB);
        assert!(reaches(None, (alice.address, 8888)));
    });
}

#[test]
fn servers_answer_the_hubs_users_only() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        assert!(reaches_as(0, (alice.address, 8888)));
        assert!(reaches_as(SERVER_UID, (alice.address, 8888)));
        assert!(!reaches_as(65534, (alice.address, 8888)));
        assert!(!reaches_as(0, (alice.address, 9999)), "no other port, not even for root");
        // From the node, but not from the gateway address.
        run("ip route replace 10.88.0.0/16 via 10.88.0.2 dev adrastea src 93.184.217.2");
        assert!(!reaches_as(0, (alice.address, 8888)));
        flush_host();
        assert!(!reaches_as(0, (alice.address, 8888)), "the router knows the gateway only");
        run("ip route replace 10.88.0.0/16 via 10.88.0.2 dev adrastea src 10.88.0.1");
        assert!(
            reaches_as(65534, (alice.address, 8888)),
            "without the table the probe gets through"
        );
    });
}

#[test]
fn the_nodes_neighbours_reach_nothing_of_ours() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let world = Some(Path::new(WORLD));
        assert!(reaches(world, (NODE, 8081)), "the control");
        assert!(!reaches(world, (GATEWAY, 8081)));
        assert!(!reaches(world, (alice.address, 8888)));
        flush_host();
        assert!(reaches(world, (GATEWAY, 8081)), "without the table the probe gets through");
        assert!(!reaches(world, (alice.address, 8888)), "the router knows the gateway only");
        flush_router();
        assert!(reaches(world, (alice.address, 8888)));
    });
}

#[test]
fn there_is_no_ipv6() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "web").await;
        for attempt in ["ip -6 address add fd00::1/64 dev eth0", "ip -6 route show"] {
            let shown = inside(Some(&alice.network_namespace), || {
                let mut words = attempt.split_whitespace();
                std::process::Command::new(words.next().unwrap()).args(words).output().unwrap()
            });
            assert!(shown.stdout.is_empty(), "{attempt}: {shown:?}");
        }
        for which in ["all", "default", "eth0"] {
            let setting = format!("ipv6/conf/{which}/disable_ipv6");
            let value = inside(Some(&alice.network_namespace), || {
                namespaces::read_network_setting(&setting).unwrap()
            });
            assert!(value.is_none_or(|value| value == "1"), "{which}");
        }
        let name = format!("v{}", alice.id);
        assert!(!output(&format!("ip -n adrastea address show dev {name}")).contains("inet6"));
        assert!(!output("ip address show dev adrastea").contains("inet6"));
    });
}

#[test]
fn the_host_becomes_no_router() {
    on_a_host(async || {
        let before = output("sysctl -n net.ipv4.ip_forward");
        let network = network().await;
        assert_eq!(output("sysctl -n net.ipv4.ip_forward"), before);
        assert_eq!(before.trim(), "0");
        assert_eq!(output("sysctl -n net.ipv4.conf.eth0.forwarding").trim(), "1");
        // A second link of the node, and a neighbour who would like to get there through it.
        run("ip netns add inner");
        run("ip link add name eth1 type veth peer name eth1 netns inner");
        run("ip address add 192.168.9.1/24 dev eth1");
        run("ip link set eth1 up");
        run("ip -n inner address add 192.168.9.2/24 dev eth1");
        run("ip -n inner link set eth1 up");
        run("ip -n inner link set lo up");
        run("ip -n inner route add default via 192.168.9.1");
        run("ip -n world route add 192.168.9.0/24 via 93.184.217.2");
        run("sysctl -q -w net.ipv4.conf.eth1.forwarding=1");
        crate::probe::listen(Some(Path::new("/run/netns/inner")), 80);
        let inner = (std::net::Ipv4Addr::new(192, 168, 9, 2), 80);
        assert!(!reaches(Some(Path::new(WORLD)), inner));
        flush_host();
        assert!(reaches(Some(Path::new(WORLD)), inner), "without the table the probe gets through");
        drop(network);
    });
}

#[test]
fn without_an_uplink_nothing_leads_out() {
    on_a_host(async || {
        let closed = adrastea::network::NetworkSettings { uplink: None, ..settings() };
        let network = adrastea::network::Network::open(closed, &[]).await.unwrap();
        let alice = claimed(&network, "alice", 0, "hub").await;
        assert_eq!(reach(&alice, &[]), ["hub"]);
        assert_eq!(output("sysctl -n net.ipv4.conf.eth0.forwarding").trim(), "0");
        let bob = sandbox("bob", 1, "web");
        let error = network.attach(&bob).unwrap_err();
        assert!(error.to_string().contains("no uplink"), "{error}");
    });
}
