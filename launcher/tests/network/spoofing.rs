//! Frames that say they are somebody else's, written straight to the link.

use std::{
    io::Write,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use adrastea::{
    host::namespaces,
    network::{Attachment, MacAddress},
};

use crate::{
    playground::{GATEWAY, claimed, flush_router, network, on_a_host, output},
    probe::{connect, inside},
};

#[test]
fn spoofed_frames_go_nowhere() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let bob = claimed(&network, "bob", 1, "hub").await;
        let own_card = MacAddress::of(alice.address);
        let other_card = MacAddress::of(bob.address);
        let honest = (alice.address, own_card);
        let lies = [
            ("another's address", (bob.address, own_card)),
            ("another's card", (alice.address, other_card)),
            ("both of another", (bob.address, other_card)),
            ("a free address", (Ipv4Addr::new(10, 88, 9, 9), own_card)),
            ("the gateway's address", (GATEWAY, own_card)),
            ("an address of the world", (Ipv4Addr::new(93, 184, 216, 34), own_card)),
        ];
        assert!(arrives(&alice, honest), "the control");
        for (lie, sender) in lies {
            assert!(!arrives(&alice, sender), "{lie}");
        }
        assert!(dropped() >= lies.len(), "the drops are counted");

        // The reference: the same frames without the walls.
        flush_router();
        let router = namespaces::open(Path::new("/run/adrastea/router.ns")).unwrap();
        let (all, link) = ("ipv4/conf/all/rp_filter", format!("ipv4/conf/v{}/rp_filter", alice.id));
        assert!(arrives(&alice, lies[1].1), "another's card");
        assert!(!arrives(&alice, lies[0].1), "the kernel's own check still stands");
        namespaces::in_network_namespace(&router, || {
            for setting in [all, link.as_str()] {
                namespaces::write_network_setting(setting, "0").unwrap();
            }
        })
        .unwrap();
        for (lie, sender) in lies {
            assert!(arrives(&alice, sender), "{lie}");
        }
    });
}

/// An address is used again; a connection to its former owner is not.
#[test]
fn connections_die_with_their_sandbox() {
    on_a_host(async || {
        let network = network().await;
        let alice = claimed(&network, "alice", 0, "hub").await;
        let connection = connect((alice.address, 8888)).unwrap().0;
        // The control: while the link lives, what is written arrives.
        assert!(hears(&alice, || (&connection).write_all(b"for alice").unwrap(), b"for alice"));
        // What is still to be acknowledged is, before the link goes.
        std::thread::sleep(Duration::from_millis(200));
        network.detach(&alice.id).unwrap();
        let mallory = claimed(&network, "mallory", 0, "hub").await;
        assert_eq!(mallory.address, alice.address);
        assert!(!hears(&mallory, || (&connection).write_all(b"a secret").unwrap(), b"a secret"));
    });
}

/// Whether these bytes come by on the sandbox's own link.
fn hears(sandbox: &Attachment, speak: impl FnOnce(), words: &[u8]) -> bool {
    let ear = inside(Some(&sandbox.network_namespace), || packet_socket("eth0"));
    speak();
    // Longer than the first retransmissions take.
    listen_for(&ear, Duration::from_millis(1500), |frame| {
        frame.windows(words.len()).any(|window| window == words)
    })
}

fn listen_for(ear: &OwnedFd, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let mut buffer = [0u8; 2048];
        // SAFETY: pointer and length describe `buffer`.
        let length = unsafe {
            libc::recv(
                ear.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(length) {
            Ok(length) if wanted(&buffer[..length]) => return true,
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    false
}

fn dropped() -> usize {
    let rules = output("ip netns exec adrastea nft list chain inet adrastea anti_spoof");
    let last = rules.lines().rev().find(|line| line.contains("counter packets")).unwrap();
    last.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// Whether a frame from `from`, saying it is from `sender`, comes out at the host.
fn arrives(from: &Attachment, sender: (Ipv4Addr, MacAddress)) -> bool {
    let ear = packet_socket("adrastea");
    let name = format!("v{}", from.id);
    let shown = output(&format!("ip -n adrastea -o link show dev {name}"));
    let words: Vec<_> = shown.split_whitespace().collect();
    let place = words.iter().position(|word| *word == "link/ether").unwrap();
    let router: Vec<u8> =
        words[place + 1].split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let port = next_port();
    let frame = frame(&router, sender, port);
    inside(Some(&from.network_namespace), || {
        let mouth = packet_socket("eth0");
        // SAFETY: pointer and length describe `frame`.
        let sent = unsafe { libc::send(mouth.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, isize::try_from(frame.len()).unwrap());
    });
    listen_for(&ear, Duration::from_millis(300), |frame| {
        frame.len() >= 38
            && frame[26..30] == sender.0.octets()
            && frame[34..36] == port.to_be_bytes()
    })
}

fn next_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(2000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The opening of a connection to the hub.
fn frame(to_card: &[u8], sender: (Ipv4Addr, MacAddress), port: u16) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(port.to_be_bytes());
    segment.extend(8081u16.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let mut pseudo = Vec::new();
    pseudo.extend(sender.0.octets());
    pseudo.extend(GATEWAY.octets());
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut header = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
    header.extend(sender.0.octets());
    header.extend(GATEWAY.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = to_card.to_vec();
    frame.extend(sender.1.0);
    frame.extend([0x08, 0x00]);
    frame.extend(header);
    frame.extend(segment);
    frame
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn packet_socket(link: &str) -> OwnedFd {
    let protocol = libc::ETH_P_ALL.to_be() >> 16;
    let index = nix::net::if_::if_nametoindex(link).unwrap();
    // SAFETY: numbers only; the descriptor is new and ours; the address is plain
    // data whose size is given.
    unsafe {
        let descriptor =
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        assert!(descriptor >= 0);
        let socket = OwnedFd::from_raw_fd(descriptor);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = u16::try_from(protocol).unwrap();
        address.sll_ifindex = i32::try_from(index).unwrap();
        let size = u32::try_from(std::mem::size_of_val(&address)).unwrap();
        assert_eq!(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size), 0);
        socket
    }
}
