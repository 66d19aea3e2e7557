//! N: who reaches whom. From inside by the tenant's own scan; and by sockets put
//! into the sandbox's network, where the launcher or its tables are gone.

use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use adrastea_proto::v1;
use adrastea_tests::{Instance, Namespace, Suite, User, client::HUB, column};
use anyhow::{Context as _, anyhow, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};

use crate::tenant;

const HUB_PORT: u16 = 8081;
/// Where something listens on the node: remote shells, container engines, Kubernetes, the proxy's API.
const NODE_PORTS: [u16; 10] = [22, 80, 443, 2375, 6443, 8000, 8001, HUB_PORT, 9090, 10250];
const WORLD_PORTS: [u16; 5] = [22, 53, 80, 443, 8081];
/// The fixture's addresses of the world behind the node, and a public one.
const NODE: &str = "203.0.113.2";
const WORLD: [&str; 6] =
    ["203.0.113.1", "203.0.113.53", "10.99.0.1", "192.168.77.1", "169.254.169.254", PUBLIC];
const PUBLIC: &str = "93.184.216.34";
const SERVER: &str = "listen 8888 9999";

pub fn add(suite: &mut Suite) {
    let world = || tenant::options().with_world();
    suite.own("n1_n2_n3_a_tenant_reaches_the_hub_alone", world(), async |instance| {
        from_inside(&instance).await
    });
    suite.own("n7_only_hub_and_root_reach_a_server", world(), async |instance| {
        local_users(&instance).await
    });
    suite.own(
        "n7_n9_n11_neighbours_of_the_node_and_a_lost_router_open_nothing",
        world(),
        async |instance| from_outside(&instance).await,
    );
    suite.own("n6_the_first_packet_is_too_late", world(), async |instance| {
        first_packets(&instance).await
    });
    suite.own("n6_dead_launcher_and_flushed_host_stay_closed", world(), async |instance| {
        without_launcher(&instance).await
    });
}

/// Accepts on every address of a network, as long as the process lives.
fn listen(network: &Namespace, ports: &[u16]) -> anyhow::Result<()> {
    for port in ports.iter().copied() {
        let listener = network.within(User::ROOT, move || TcpListener::bind(("0.0.0.0", port)))?;
        let listener = listener.with_context(|| format!("failed to listen on port {port}"))?;
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let _ = connection.write_all(b"hello\n");
            }
        });
    }
    Ok(())
}

fn listen_everywhere(instance: &Instance) -> anyhow::Result<()> {
    let world = instance.world.as_ref().context("no world")?;
    world.ip(&format!("address add {PUBLIC}/32 dev uplink"))?;
    // So that what is let through by mistake is answered, too.
    world.ip(&format!("route add {}.0.0/16 via {NODE}", instance.subnet))?;
    listen(world, &WORLD_PORTS)?;
    listen(&instance.namespace, &NODE_PORTS)
}

async fn server(instance: &Instance, user: &str) -> anyhow::Result<String> {
    let words: Vec<_> = SERVER.split(' ').collect();
    Ok(tenant::start(instance, user, &words, "holding").await?.address().to_owned())
}

/// Every place a tenant should not reach, as words for its scan.
fn forbidden(instance: &Instance, others: &[&str]) -> Vec<String> {
    let router = format!("{}.0.2", instance.subnet);
    let mut targets = Vec::new();
    for address in [instance.gateway().as_str(), NODE, router.as_str()] {
        targets.push(format!("{address}:1-150"));
        targets.extend(NODE_PORTS.iter().map(|port| format!("{address}:{port}")));
    }
    for address in WORLD {
        targets.extend(WORLD_PORTS.iter().map(|port| format!("{address}:{port}")));
    }
    for address in others {
        targets.push(format!("{address}:1-250"));
        targets.extend([8888, 9999].map(|port| format!("{address}:{port}")));
    }
    targets
}

fn scan(
    instance: &Instance,
    user: &str,
    profile: &str,
    targets: &[String],
) -> anyhow::Result<Vec<String>> {
    let mut command = vec![adrastea_tests::image::TENANT, "scan"];
    command.extend(targets.iter().map(String::as_str));
    let output = tenant::run_program(instance, user, profile, &command)?;
    ensure!(output.code == 0, "{output:?}");
    Ok(tenant::arrived(&output.stdout))
}

async fn from_inside(instance: &Instance) -> anyhow::Result<()> {
    listen_everywhere(instance)?;
    let (ana, ben) = (server(instance, "n-ana").await?, server(instance, "n-ben").await?);
    let hub = format!("reached {}:{HUB_PORT}", instance.gateway());
    // Both directions; and what listens on the node's loopback is the tenant's own.
    let mut targets = forbidden(instance, &[&ben]);
    targets.extend(NODE_PORTS.iter().map(|port| format!("127.0.0.1:{port}")));
    let (reached, back) = thread::scope(|scope| {
        let back =
            scope.spawn(|| scan(instance, "n-ben", tenant::PROFILE, &forbidden(instance, &[&ana])));
        (scan(instance, "n-ana", tenant::PROFILE, &targets), back.join())
    });
    let mut reached = reached?;
    reached.retain(|line| !line.starts_with("refused 127.0.0.1:"));
    ensure!(reached == [hub.clone()], "ana reaches {reached:?}");
    let back = back.map_err(|_| anyhow!("the scan panicked"))??;
    ensure!(back == [hub.clone()], "ben reaches {back:?}");

    // With the way out of the node: the resolver, public pages, nothing private.
    let mut allowed = vec![hub];
    let web = scan(instance, "n-cleo", "web", &forbidden(instance, &[&ana, &ben]))?;
    allowed.extend([
        format!("reached {PUBLIC}:443"),
        format!("reached {PUBLIC}:80"),
        "reached 203.0.113.53:53".to_owned(),
    ]);
    let mut expected = allowed.clone();
    expected.sort();
    ensure!(web == expected, "with the profile `web`: {web:?}");

    // Without its tables no sandbox starts in the open: the launcher refuses, or repairs first.
    flush_host(instance)?;
    flush_router(instance)?;
    if let Ok(mut reached) = scan(instance, "n-dora", tenant::PROFILE, &targets) {
        reached.retain(|line| !line.starts_with("refused 127.0.0.1:"));
        ensure!(reached[..] == allowed[..1], "a sandbox started without walls: {reached:?}");
    }
    // The reference: nobody repairs. It sends from the namespace, whose address a kernel of its
    // own has taken; the tables are the same.
    if column::runs_apart() {
        return Ok(());
    }
    let ana = namespace_of(instance, "n-ana").await?;
    instance.end_launcher(Signal::SIGKILL)?;
    flush_host(instance)?;
    flush_router(instance)?;
    let free = reach(&ana, &places(instance, &ben))?;
    ensure!(free == places(instance, &ben), "without tables the probes see only {free:?}");
    Ok(())
}

async fn local_users(instance: &Instance) -> anyhow::Result<()> {
    let address = server(instance, "n-local").await?;
    let connects = |user: User, port: u16| {
        let to: SocketAddr = format!("{address}:{port}").parse()?;
        instance
            .namespace
            .within(user, move || TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok())
    };
    ensure!(connects(User::NOBODY, 8888)?, "the hub does not reach a server");
    ensure!(connects(User::ROOT, 8888)?, "root does not reach a server");
    let disk = instance.get("n-local").await?.disk_uid;
    for uid in [1, 2, 33, 1000, disk] {
        ensure!(!connects(User::other(uid), 8888)?, "the host's user {uid} reaches a server");
    }
    for user in [User::ROOT, User::NOBODY, User::other(1000)] {
        ensure!(!connects(user.clone(), 9999)?, "{user:?} reaches another port than the server's");
    }
    // Nobody may repair it.
    instance.end_launcher(Signal::SIGKILL)?;
    flush_host(instance)?;
    ensure!(
        connects(User::other(1000), 8888)?,
        "the host's table is not what refuses: the test shows nothing"
    );
    Ok(())
}

/// Who stands on the node's wire reaches neither a sandbox nor the gateway; a sandbox has no
/// IPv6; and the router's tables alone are not what keeps it from the node.
async fn from_outside(instance: &Instance) -> anyhow::Result<()> {
    listen_everywhere(instance)?;
    let address = server(instance, "n-outside").await?;
    let world = instance.world.clone().context("no world")?;
    let gateway = instance.gateway();
    let from_the_wire = || -> anyhow::Result<Vec<String>> {
        let mut reached = Vec::new();
        for place in [format!("{address}:8888"), format!("{gateway}:{HUB_PORT}")] {
            let to: SocketAddr = place.parse()?;
            let connect = move || TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok();
            if world.within(User::ROOT, connect)? {
                reached.push(place);
            }
        }
        Ok(reached)
    };
    let reached = from_the_wire()?;
    ensure!(reached.is_empty(), "the node's neighbour reaches {reached:?}");
    let addresses = tenant::run(instance, "n-six", &["cat", "/proc/net/if_inet6"])?;
    ensure!(addresses.trim().is_empty(), "a sandbox has IPv6: {addresses}");
    let ordinary = Namespace::new()?.output("cat", &["/proc/net/if_inet6"])?;
    ensure!(ordinary.contains(" lo"), "no namespace here has IPv6: the test shows nothing");

    // What follows sends from the namespace; see above.
    if column::runs_apart() {
        return Ok(());
    }
    let own = namespace_of(instance, "n-outside").await?;
    instance.end_launcher(Signal::SIGKILL)?;
    flush_router(instance)?;
    let node: Vec<_> = [(&gateway, 22), (&gateway, 8001), (&NODE.to_owned(), 22)]
        .into_iter()
        .map(|(address, port)| Ok(SocketAddr::new(address.parse()?, port)))
        .collect::<anyhow::Result<_>>()?;
    let reached = reach(&own, &node)?;
    ensure!(reached.is_empty(), "without the router's tables a sandbox reaches {reached:?}");
    // Nobody repairs: without the host's tables, too, all of it is in reach.
    flush_host(instance)?;
    let reached = reach(&own, &node)?;
    ensure!(reached == node, "without any table the probes see only {reached:?}");
    let forwards = ["-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"];
    instance.namespace.output("sysctl", &forwards)?;
    let reached = from_the_wire()?;
    ensure!(reached.len() == 2, "without any table a neighbour sees only {reached:?}");
    Ok(())
}

/// The scan is the first thing that the tenant's process does, before it has anything else.
async fn first_packets(instance: &Instance) -> anyhow::Result<()> {
    listen_everywhere(instance)?;
    let ben = server(instance, "n-ben").await?;
    let places: Vec<_> = places(instance, &ben).iter().map(ToString::to_string).collect();
    let hub = format!("{}:{HUB_PORT}", instance.gateway());
    for round in 0..5 {
        let mut words = vec!["scan-for", "700"];
        words.extend(places.iter().map(String::as_str));
        let said = tenant::run(instance, &format!("n-first-{round}"), &words)?;
        ensure!(tenant::arrived(&said) == [format!("reached {hub}")], "{said}");
    }
    Ok(())
}

/// The network namespace of a user's server.
pub async fn namespace_of(instance: &Instance, user: &str) -> anyhow::Result<PathBuf> {
    let id = instance.get(user).await?.sandbox_id;
    Ok(instance.run_directory().join("sandboxes").join(id).join("network.ns"))
}

/// What a sandbox must not reach, and the hub, which it may.
fn places(instance: &Instance, neighbour: &str) -> Vec<SocketAddr> {
    let gateway = instance.gateway();
    [
        (gateway.as_str(), HUB_PORT),
        (gateway.as_str(), 22),
        (gateway.as_str(), 8001),
        (NODE, 22),
        (NODE, HUB_PORT),
        ("203.0.113.1", 80),
        ("10.99.0.1", 80),
        ("192.168.77.1", 80),
        ("169.254.169.254", 80),
        (neighbour, 8888),
        (neighbour, 9999),
    ]
    .into_iter()
    .map(|(address, port)| SocketAddr::new(address.parse().expect("an address"), port))
    .collect()
}

/// What of these answers a thread inside a network namespace, in the same order.
pub fn reach(namespace: &Path, places: &[SocketAddr]) -> anyhow::Result<Vec<SocketAddr>> {
    let namespace = File::open(namespace)?;
    thread::scope(|scope| {
        let probes: Vec<_> = places
            .iter()
            .map(|place| {
                let namespace = &namespace;
                scope.spawn(move || -> anyhow::Result<Option<SocketAddr>> {
                    setns(namespace, CloneFlags::CLONE_NEWNET)?;
                    let connected =
                        TcpStream::connect_timeout(place, Duration::from_secs(1)).is_ok();
                    Ok(connected.then_some(*place))
                })
            })
            .collect();
        let mut found = Vec::new();
        for probe in probes {
            found.extend(probe.join().map_err(|_| anyhow!("a probe panicked"))??);
        }
        Ok(found)
    })
}

/// Whether a datagram from one network is answered in another one.
fn reaches_by_datagram(from: &Path, to: &Path, address: &str) -> anyhow::Result<bool> {
    let (from, to) = (File::open(from)?, File::open(to)?);
    let address: SocketAddr = format!("{address}:0").parse()?;
    let bind = |namespace: File, address: SocketAddr| {
        thread::spawn(move || -> anyhow::Result<UdpSocket> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            Ok(socket)
        })
        .join()
        .map_err(|_| anyhow!("a thread panicked"))?
    };
    let server = bind(to, address)?;
    let client = bind(from, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))?;
    // A refusal shows at once, or at the next call.
    let _ = client.send_to(b"?", server.local_addr()?);
    Ok(server.recv_from(&mut [0; 8]).is_ok())
}

/// As a reload of the host's firewall does it.
fn flush_host(instance: &Instance) -> anyhow::Result<()> {
    instance.namespace.output("nft", &["flush", "ruleset"]).map(drop)
}

/// As nobody does it: the reference without walls.
fn flush_router(instance: &Instance) -> anyhow::Result<()> {
    let router = format!("--net=/run/netns/{}", instance.name);
    instance.namespace.output("nsenter", &[&router, "nft", "flush", "ruleset"]).map(drop)
}

async fn without_launcher(instance: &Instance) -> anyhow::Result<()> {
    listen_everywhere(instance)?;
    let (_, ben) = (server(instance, "n-ana").await?, server(instance, "n-ben").await?);
    let ana = namespace_of(instance, "n-ana").await?;
    let places = places(instance, &ben);
    let hub = &places[..1];
    let other = namespace_of(instance, "n-ben").await?;
    let datagram = || reaches_by_datagram(&ana, &other, &ben);
    ensure!(!datagram()?, "a datagram passes from ana to ben");
    ensure!(reach(&ana, &places)? == hub, "before: {:?}", reach(&ana, &places)?);
    instance.end_launcher(Signal::SIGKILL)?;
    let reached = reach(&ana, &places)?;
    ensure!(reached == hub, "with the launcher dead: {reached:?}");
    flush_host(instance)?;
    let reached = reach(&ana, &places)?;
    ensure!(reached == hub, "with the host's firewall flushed, too: {reached:?}");
    ensure!(!datagram()?, "with the host's firewall flushed a datagram passes");
    flush_router(instance)?;
    let reached = reach(&ana, &places)?;
    ensure!(reached == places, "without any table the probes still see only {reached:?}");
    ensure!(datagram()?, "without any table no datagram passes either: the test shows nothing");
    // The next launcher puts the walls back around what still runs.
    instance.serve(None).await?;
    let reached = reach(&ana, &places)?;
    ensure!(reached == hub, "with the next launcher: {reached:?}");
    let list = v1::ListRequest { hub: HUB.into() };
    ensure!(
        instance.launcher().await?.list(list).await?.into_inner().sandboxes.len() >= 2,
        "servers were lost"
    );
    Ok(())
}
