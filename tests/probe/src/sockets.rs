//! Which sockets can be opened, and what can be set on them (E7), and whether
//! anything of the node answers (E12).

use std::{
    net,
    os::fd::AsRawFd,
    os::linux::net::SocketAddrExt,
    os::unix::net::{SocketAddr, UnixStream},
};

use crate::{
    check::Check,
    sys::{self, socket},
};

const STREAM: i32 = libc::SOCK_STREAM;
const DATAGRAM: i32 = libc::SOCK_DGRAM;
const RAW: i32 = libc::SOCK_RAW;
const SEQPACKET: i32 = libc::SOCK_SEQPACKET;

macro_rules! open {
    ($name:literal, $family:expr, $kind:expr, $protocol:expr) => {
        Check::function($name, || sys::outcome(socket($family, $kind, $protocol)))
    };
}

pub const CHECKS: &[Check] = &[
    open!("socket.unix", libc::AF_UNIX, STREAM, 0),
    open!("socket.tcp", libc::AF_INET, STREAM, 0),
    open!("socket.udp", libc::AF_INET, DATAGRAM, 0),
    open!("socket.tcp6", libc::AF_INET6, STREAM, 6),
    open!("socket.udp6", libc::AF_INET6, DATAGRAM, 17),
    open!("socket.route", libc::AF_NETLINK, RAW, 0),
    open!("socket.alg", libc::AF_ALG, SEQPACKET, 0),
    open!("socket.vsock", libc::AF_VSOCK, STREAM, 0),
    open!("socket.packet", libc::AF_PACKET, RAW, 0),
    open!("socket.packet-datagram", libc::AF_PACKET, DATAGRAM, 0x300),
    open!("socket.key", libc::AF_KEY, RAW, 2),
    open!("socket.rxrpc", libc::AF_RXRPC, DATAGRAM, libc::AF_INET),
    open!("socket.xdp", libc::AF_XDP, RAW, 0),
    open!("socket.tipc", libc::AF_TIPC, STREAM, 0),
    open!("socket.rds", libc::AF_RDS, SEQPACKET, 0),
    open!("socket.smc", 43, STREAM, 0),
    open!("socket.can", libc::AF_CAN, RAW, 1),
    open!("socket.bluetooth", libc::AF_BLUETOOTH, SEQPACKET, 0),
    open!("socket.ax25", libc::AF_AX25, SEQPACKET, 0),
    open!("socket.x25", libc::AF_X25, SEQPACKET, 0),
    open!("socket.appletalk", libc::AF_APPLETALK, DATAGRAM, 0),
    open!("socket.ipx", libc::AF_IPX, DATAGRAM, 0),
    open!("socket.llc", libc::AF_LLC, STREAM, 0),
    open!("socket.phonet", libc::AF_PHONET, DATAGRAM, 0),
    open!("socket.pppox", libc::AF_PPPOX, STREAM, 0),
    open!("socket.nfc", libc::AF_NFC, SEQPACKET, 0),
    open!("socket.kcm", 41, DATAGRAM, 0),
    open!("socket.qipcrtr", 42, DATAGRAM, 0),
    open!("socket.mctp", 45, DATAGRAM, 0),
    open!("socket.sctp", libc::AF_INET, STREAM, 132),
    open!("socket.sctp-seqpacket", libc::AF_INET, SEQPACKET, 132),
    open!("socket.mptcp", libc::AF_INET, STREAM, 262),
    open!("socket.dccp", libc::AF_INET, 6, 33),
    open!("socket.udplite", libc::AF_INET, DATAGRAM, 136),
    open!("socket.ping", libc::AF_INET, DATAGRAM, 1),
    open!("socket.raw-icmp", libc::AF_INET, RAW, 1),
    open!("socket.raw-ip", libc::AF_INET, RAW, 255),
    open!("socket.raw6", libc::AF_INET6, RAW, 58),
    open!("netlink.sock-diag", libc::AF_NETLINK, RAW, 4),
    open!("netlink.xfrm", libc::AF_NETLINK, RAW, 6),
    open!("netlink.audit", libc::AF_NETLINK, RAW, 9),
    open!("netlink.connector", libc::AF_NETLINK, DATAGRAM, 11),
    open!("netlink.netfilter", libc::AF_NETLINK, RAW, 12),
    open!("netlink.uevent", libc::AF_NETLINK, RAW, 15),
    open!("netlink.generic", libc::AF_NETLINK, RAW, 16),
    open!("netlink.crypto", libc::AF_NETLINK, RAW, 21),
    Check::function("socket.upper-half", || {
        let family = 1 << 40 | u64::from(libc::AF_ALG.unsigned_abs());
        sys::outcome(sys::raw(libc::SYS_socket, [family, 5, 0, 0, 0, 0]))
    }),
    Check::function("socketpair.inet", || {
        let mut pair = [0_i32; 2];
        let arguments = [2, 1, 0, sys::address(pair.as_mut_ptr()), 0, 0];
        sys::outcome(sys::raw(libc::SYS_socketpair, arguments))
    }),
    // TCP_ULP "tls", plain and with garbage above the 32 bits the kernel looks at.
    Check::function("option.tcp-ulp", || option(6, 31)),
    Check::function("option.tcp-ulp-upper-half", || option(1 << 40 | 6, 1 << 40 | 31)),
    Check::function("option.attach-filter", || option(1, 26)),
    Check::function("option.attach-bpf", || option(1, 50)),
    Check::function("option.reuseport-cbpf", || option(1, 51)),
    Check::function("option.udp-encap", || option(17, 100)),
    Check::function("option.mark", || option(1, 36)),
    Check::function("option.tcp-nodelay", || option(6, 1)),
    Check::function("option.reuseport", || option(1, 15)),
    Check::function("net.set-flags", set_flags),
    Check::function("net.links", links),
    Check::function("connect.containerd", || connect("/run/containerd/containerd.sock")),
    Check::function("connect.managed-containerd", || {
        connect("/run/adrastea/containerd/containerd.sock")
    }),
    Check::function("connect.launcher", || connect("/run/adrastea/api/launcher.sock")),
    Check::function("connect.docker", || connect("/var/run/docker.sock")),
    Check::function("connect.dbus", || connect("/run/dbus/system_bus_socket")),
    Check::function("connect.systemd", || connect("/run/systemd/private")),
    Check::function("connect.abstract", abstract_sockets),
    Check::function("connect.shim-abstract", || abstract_socket(b"/containerd-shim/probe.sock")),
];

/// An option of a TCP socket, with four bytes of value.
fn option(level: u64, name: u64) -> String {
    let Ok(descriptor) = socket(libc::AF_INET, STREAM, 0) else { return "no socket".to_owned() };
    let value = *b"tls\0";
    let arguments = [
        descriptor.cast_unsigned(),
        level,
        name,
        sys::address(value.as_ptr()),
        value.len() as u64,
        0,
    ];
    sys::outcome(sys::raw(libc::SYS_setsockopt, arguments))
}

/// Sets the flags of `lo` to what they are, which takes CAP_NET_ADMIN.
fn set_flags() -> String {
    let Ok(udp) = net::UdpSocket::bind("127.0.0.1:0") else { return "no socket".to_owned() };
    let descriptor = u64::from(udp.as_raw_fd().unsigned_abs());
    // struct ifreq: the name, then the flags.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    let argument = sys::address(request.as_mut_ptr());
    let get = [descriptor, libc::SIOCGIFFLAGS, argument, 0, 0, 0];
    let set = [descriptor, libc::SIOCSIFFLAGS, argument, 0, 0, 0];
    match sys::raw(libc::SYS_ioctl, get) {
        Ok(_) => sys::outcome(sys::raw(libc::SYS_ioctl, set)),
        Err(error) => format!("read {}", sys::error_name(error)),
    }
}

fn links() -> String {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else { return "unreadable".to_owned() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.join(" ")
}

fn connect(path: &str) -> String {
    sys::io_outcome(UnixStream::connect(path))
}

fn abstract_socket(name: &[u8]) -> String {
    sys::io_outcome(
        SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)),
    )
}

/// Every abstract socket that can be seen: their number, or the names that answer.
fn abstract_sockets() -> String {
    let text = sys::text_of("/proc/net/unix");
    let names: Vec<&str> =
        text.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@')).collect();
    let answering: Vec<&str> =
        names.iter().copied().filter(|name| abstract_socket(name.as_bytes()) == "ok").collect();
    match (names.is_empty(), answering.is_empty()) {
        (true, _) => "none".to_owned(),
        (false, true) => format!("{} refuse", names.len()),
        _ => answering.join(" "),
    }
}
