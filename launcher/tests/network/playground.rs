//! A host to play on: an uplink, a world behind it, listeners everywhere, and
//! sandboxes without processes.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use adrastea::{
    host::namespaces,
    network::{Attachment, Gate, Network, NetworkSettings},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::probe;

pub const NODE: Ipv4Addr = Ipv4Addr::new(93, 184, 217, 2);
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(93, 184, 217, 1);
pub const WEB_PAGE: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
pub const FOREIGN_RESOLVER: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
pub const WORLD: &str = "/run/netns/world";
pub const SERVER_UID: u32 = 990;

const WORLD_PORTS: [u16; 4] = [22, 53, 80, 443];
const NODE_PORTS: [u16; 5] = [22, 80, 443, 8001, 8081];
const SANDBOX_PORTS: [u16; 2] = [8888, 9999];

/// Runs a test as the root of a host of its own.
pub fn on_a_host(test: impl AsyncFnOnce() + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    let host = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        namespaces::create_network_namespace(Path::new(WORLD)).unwrap();
        run("ip link set lo up");
        run("ip link add name eth0 type veth peer name eth0 netns world");
        run(&format!("ip address add {NODE}/24 dev eth0"));
        run("ip link set eth0 up");
        run(&format!("ip route add default via {NEIGHBOUR}"));
        run("ip -n world link set lo up");
        run(&format!("ip -n world address add {NEIGHBOUR}/24 dev eth0"));
        run("ip -n world link set eth0 up");
        for address in [WEB_PAGE, RESOLVER, FOREIGN_RESOLVER, PRIVATE, METADATA] {
            run(&format!("ip -n world address add {address}/32 dev lo"));
        }
        // So that a packet that was let through by mistake is answered, too.
        run(&format!("ip -n world route add 10.88.0.0/16 via {NODE}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for port in NODE_PORTS {
                probe::listen(None, port);
            }
            for port in WORLD_PORTS {
                probe::listen(Some(Path::new(WORLD)), port);
            }
            probe::listen_udp(Path::new(WORLD), 53);
            test().await;
        });
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn run(line: &str) {
    output(line);
}

pub fn output(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn settings() -> NetworkSettings {
    NetworkSettings {
        instance: "adrastea".into(),
        subnet: "10.88.0.0/16".parse().unwrap(),
        hub_port: 8081,
        server_port: 8888,
        uplink: Some("eth0".into()),
        resolvers: vec![RESOLVER],
        server_uids: vec![SERVER_UID],
        run: "/run/adrastea".into(),
    }
}

/// The network in place, and somebody who would answer in the router, too.
pub async fn network() -> Network {
    let network = Network::open(settings(), &[]).await.unwrap();
    probe::listen(Some(&settings().router_namespace()), 7000);
    network
}

/// The namespaces of a sandbox, not attached yet; its processes listen already.
pub fn sandbox(name: &str, index: u32, egress: &str) -> Attachment {
    let id = format!("{name:0<12}");
    let directory = PathBuf::from("/run/sandboxes").join(&id);
    std::fs::create_dir_all(&directory).unwrap();
    let network_namespace = directory.join("network.ns");
    let map = "0 300000 65536\n";
    namespaces::create_pinned(&directory.join("user.ns"), &network_namespace, map, map).unwrap();
    Attachment {
        id: id.parse().unwrap(),
        address: settings().subnet.address(index).unwrap(),
        network_namespace,
        egress: egress.into(),
        own_stack: false,
        own_links: &[],
    }
}

/// A claimed sandbox.
pub async fn claimed(network: &Network, name: &str, index: u32, egress: &str) -> Attachment {
    let attachment = sandbox(name, index, egress);
    network.attach(&attachment).unwrap();
    network.verify(&attachment, Gate::Closed).unwrap();
    network.open_egress(&attachment).unwrap();
    network.verify(&attachment, Gate::Open).unwrap();
    serve(&attachment);
    attachment
}

pub fn serve(attachment: &Attachment) {
    for port in SANDBOX_PORTS {
        probe::listen(Some(&attachment.network_namespace), port);
    }
}

/// As an operator (or a firewall's reload) does it.
pub fn flush_host() {
    run("nft flush ruleset");
}

/// What no operator does: the reference without walls.
pub fn flush_router() {
    run("ip netns exec adrastea nft flush ruleset");
}
