//! Restarts, repetition, leftovers, and walls that are found broken.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use adrastea::network::{Gate, Live, Network, NetworkError, NetworkSettings};

use crate::{
    playground::{
        GATEWAY, claimed, flush_host, flush_router, network, on_a_host, output, run, sandbox,
        settings,
    },
    probe::{connect, inside, reach, reaches, reaches_as},
};

/// Everything of the host that the network may have touched.
fn traces() -> String {
    let mut text = String::new();
    for line in ["ip -o link", "ip -4 -o address", "ip route", "nft list ruleset", "ip netns list"]
    {
        text += &output(line);
    }
    text + &output(
        "sysctl -n net.ipv4.ip_forward net.ipv4.conf.eth0.forwarding net.ipv4.conf.eth0.rp_filter",
    )
}

#[test]
fn leaves_nothing() {
    on_a_host(async || {
        let before = traces();
        let network = Network::open(settings(), &[]).await.unwrap();
        let alice = claimed(&network, "alice", 0, "web").await;
        let bob = claimed(&network, "bob", 1, "hub").await;
        assert_eq!(network.list().unwrap(), BTreeSet::from([alice.id.clone(), bob.id.clone()]));
        let errors = network.remove_all().await.unwrap_err();
        assert!(matches!(errors[0], NetworkError::InUse { count: 2 }));
        for sandbox in [&alice, &bob] {
            network.detach(&sandbox.id).unwrap();
            network.detach(&sandbox.id).unwrap();
        }
        assert!(network.list().unwrap().is_empty());
        network.remove_all().await.unwrap();
        assert_eq!(traces(), before);
        network.remove_all().await.unwrap();
        drop(network);
        // And all of it again.
        let network = Network::open(settings(), &[]).await.unwrap();
        network.remove_all().await.unwrap();
        assert_eq!(traces(), before);
    });
}

#[test]
fn sandboxes_survive_a_restart_of_the_launcher() {
    on_a_host(async || {
        let first = network().await;
        let alice = claimed(&first, "alice", 0, "web").await;
        let bob = claimed(&first, "bob", 1, "hub").await;
        let lost = claimed(&first, "lost", 2, "hub").await;
        let closed = sandbox("carol", 3, "hub");
        first.attach(&closed).unwrap();
        let (mut held, _) =
            inside(Some(&alice.network_namespace), || connect((GATEWAY, 8081)).unwrap());
        let (mut served, _) = connect((bob.address, 8888)).unwrap();
        drop(first);

        let live = [
            Live { attachment: alice.clone(), gate: Gate::Open },
            Live { attachment: bob.clone(), gate: Gate::Open },
            Live { attachment: closed.clone(), gate: Gate::Closed },
        ];
        let second = Network::open(settings(), &live).await.unwrap();
        for connection in [&mut held, &mut served] {
            connection.write_all(b"still").unwrap();
            connection.read_exact(&mut [0; 5]).unwrap();
        }
        for entry in &live {
            second.verify(&entry.attachment, entry.gate).unwrap();
        }
        assert!(reach(&alice, &[&bob]).contains(&"page tls".to_owned()));
        assert_eq!(reach(&bob, &[&alice]), ["hub"]);
        assert!(reach(&closed, &[]).is_empty());
        assert!(reach(&lost, &[]).is_empty(), "nobody vouches for it");
        assert!(second.list().unwrap().contains(&lost.id), "it is seen and can be swept");
        second.detach(&lost.id).unwrap();
        // A new one starts, too.
        let dave = claimed(&second, "dave", 2, "hub").await;
        assert_eq!(reach(&dave, &[&alice, &bob]), ["hub"]);
    });
}

#[test]
fn a_table_is_replaced_without_a_window() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let bob = claimed(&network, "bob", 1, "hub").await;
        let live =
            [alice.clone(), bob.clone()].map(|attachment| Live { attachment, gate: Gate::Open });
        let stop = Arc::new(AtomicBool::new(false));
        let prober = std::thread::spawn({
            let (stop, namespace, target) =
                (stop.clone(), alice.network_namespace.clone(), bob.address);
            move || {
                inside(Some(&namespace), || {
                    let mut tries = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // Each try is one packet, and any answer an opening.
                        let patience = Duration::from_micros(300);
                        let outcome = TcpStream::connect_timeout(&(target, 9999).into(), patience);
                        assert!(
                            outcome
                                .is_err_and(|error| error.kind() != ErrorKind::ConnectionRefused)
                        );
                        tries += 1;
                    }
                    tries
                })
            }
        });
        for _ in 0..20 {
            network.install(&live).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(prober.join().unwrap() > 100);
    });
}

#[test]
fn a_broken_wall_is_named() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let live = [Live { attachment: alice.clone(), gate: Gate::Open }];
        let elements = "ip netns exec adrastea nft delete element inet adrastea";
        let (id, address) = (&alice.id, alice.address);
        let name = format!("v{id}");
        let mac = adrastea::network::MacAddress::of(address);
        let breaks = [
            ("anti-spoof", format!("{elements} members {{ {name} . {address} . {mac} }}")),
            ("egress", format!("{elements} egress_of {{ {name} }}")),
            ("ingress", format!("{elements} opened {{ {name} }}")),
            ("router table", "ip netns exec adrastea nft flush chain inet adrastea through".into()),
            (
                "router table",
                "ip netns exec adrastea nft insert rule inet adrastea through accept".into(),
            ),
            (
                "router table",
                "ip netns exec adrastea nft chain inet adrastea through { policy accept; }".into(),
            ),
            ("host table", "nft delete table inet adrastea".into()),
            ("route", format!("ip -n adrastea route delete {address}/32")),
            ("link", format!("ip -n adrastea link set {name} down")),
        ];
        for (wall, command) in breaks {
            network.verify(&alice, Gate::Open).unwrap();
            run(&command);
            match network.verify(&alice, Gate::Open) {
                Err(NetworkError::Wall { wall: found, .. }) => assert_eq!(found, wall, "{command}"),
                other => panic!("{command}: {other:?}"),
            }
            // Repaired by what a start does, and by the link's own plan.
            network.install(&live).await.unwrap();
            run(&format!("ip -n adrastea link set {name} up"));
            run(&format!("ip -n adrastea route replace {address}/32 dev {name} scope link"));
        }
        let inside_namespace = |line: &str| inside(Some(&alice.network_namespace), || run(line));
        inside_namespace("ip address add 10.88.7.7/32 dev eth0");
        assert!(network.verify(&alice, Gate::Open).unwrap_err().to_string().contains("`address`"));
        inside_namespace("ip address delete 10.88.7.7/32 dev eth0");
        inside_namespace("ip link add name extra type veth peer name other");
        inside_namespace("ip link set extra up");
        assert!(network.verify(&alice, Gate::Open).unwrap_err().to_string().contains("`link`"));
        // One that the runtime makes itself is known by its name, and none beside it.
        let made = adrastea::network::Attachment { own_links: &["extra"], ..alice.clone() };
        network.verify(&made, Gate::Open).unwrap();
        inside_namespace("ip link set other up");
        assert!(network.verify(&made, Gate::Open).is_err());
    });
}

#[test]
fn install_repairs_what_was_flushed() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "web").await;
        flush_host();
        flush_router();
        run("ip link delete adrastea");
        network.install(&[Live { attachment: alice.clone(), gate: Gate::Open }]).await.unwrap();
        network.verify(&alice, Gate::Open).unwrap();
        assert!(!reaches_as(65534, (alice.address, 8888)));
        assert!(reaches(None, (alice.address, 8888)));
        assert!(reach(&alice, &[]).contains(&"page web".to_owned()));
    });
}

#[test]
fn another_programs_first_namespace_does_not_hold_the_router() {
    on_a_host(async || {
        let first = network().await;
        // Binds the directory of names over itself, with what is mounted in it.
        run("ip netns add beside");
        run("ip -n adrastea link show");
        first.remove_all().await.unwrap();
        assert!(!settings().router_namespace().exists());
        assert!(!settings().router_name().is_symlink());
        run("ip -n beside link show");
        // Nor is anything in the way of the next one.
        network().await.remove_all().await.unwrap();
        assert!(!settings().router_namespace().exists());
    });
}

#[test]
fn an_address_the_node_gains_later_is_closed_too() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "web").await;
        assert!(!network.is_stale().unwrap());
        run("ip address add 44.44.55.55/32 dev lo");
        assert!(network.is_stale().unwrap(), "the new address was not noticed");
        network.install(&[Live { attachment: alice.clone(), gate: Gate::Open }]).await.unwrap();
        assert!(!network.is_stale().unwrap());
        let router = output("nsenter --net=/run/netns/adrastea nft list ruleset");
        assert!(router.contains("44.44.55.55"), "{router}");
        flush_router();
        assert!(network.is_stale().unwrap(), "the flush was not noticed");
    });
}

#[test]
fn two_instances_live_side_by_side() {
    on_a_host(async || {
        let before = traces();
        let network = Network::open(settings(), &[]).await.unwrap();
        let other = NetworkSettings {
            instance: "second".into(),
            run: "/run/second".into(),
            subnet: "10.99.0.0/16".parse().unwrap(),
            ..settings()
        };
        let second = Network::open(other.clone(), &[]).await.unwrap();
        let alice = claimed(&network, "alice", 0, "web").await;
        let mut bob = sandbox("bob", 0, "web");
        bob.address = other.subnet.address(0).unwrap();
        second.attach(&bob).unwrap();
        second.open_egress(&bob).unwrap();
        crate::playground::serve(&bob);
        assert!(!reach(&alice, &[&bob]).iter().any(|name| name.starts_with("bob")));
        assert!(!reach(&bob, &[&alice]).iter().any(|name| name.starts_with("alice")));
        assert!(reaches(Some(&bob.network_namespace), (crate::playground::WEB_PAGE, 80)));
        second.detach(&bob.id).unwrap();
        second.remove_all().await.unwrap();
        assert!(
            reach(&alice, &[]).contains(&"page web".to_owned()),
            "the first one keeps its way out"
        );
        network.detach(&alice.id).unwrap();
        network.remove_all().await.unwrap();
        assert_eq!(traces(), before);
    });
}

#[test]
fn foreign_things_are_refused() {
    on_a_host(async || {
        run("ip link add name adrastea type veth peer name other");
        let error = Network::open(settings(), &[]).await.unwrap_err();
        assert!(matches!(error, NetworkError::ForeignLink { .. }), "{error}");
        run("ip link show dev adrastea");
        run("ip link delete adrastea");
        let network = network().await;
        let alice = sandbox("alice", 0, "hub");
        let shared = |path: &str| adrastea::network::Attachment {
            network_namespace: Path::new(path).to_owned(),
            ..alice.clone()
        };
        run("touch /run/host.ns /run/plain.ns");
        run("mount --bind /proc/self/ns/net /run/host.ns");
        for path in ["/run/host.ns", "/run/adrastea/router.ns"] {
            let error = network.attach(&shared(path)).unwrap_err();
            assert!(matches!(error, NetworkError::SharedNamespace { .. }), "{error}");
        }
        network.attach(&shared("/run/plain.ns")).unwrap_err();
        let lost = adrastea::network::Attachment { address: GATEWAY, ..alice.clone() };
        let error = network.attach(&lost).unwrap_err();
        assert!(matches!(error, NetworkError::ForeignAddress { .. }), "{error}");
        assert!(network.list().unwrap().is_empty(), "nothing was begun");
        network.attach(&alice).unwrap();
        network.attach(&alice).unwrap_err();
        network.verify(&alice, Gate::Closed).unwrap();
    });
}
