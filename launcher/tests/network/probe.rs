//! What can be reached from where. Each probe runs on a thread of its own,
//! inside the namespace it speaks from.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use adrastea::{host::namespaces, network::Attachment};

use crate::playground::{
    FOREIGN_RESOLVER, GATEWAY, METADATA, NEIGHBOUR, NODE, PRIVATE, RESOLVER, ROUTER, WEB_PAGE,
};

const PATIENCE: Duration = Duration::from_millis(400);

/// Runs something inside a namespace, or here.
pub fn inside<T: Send>(namespace: Option<&Path>, work: impl FnOnce() -> T + Send) -> T {
    match namespace {
        None => work(),
        Some(path) => {
            namespaces::in_network_namespace(namespaces::open(path).unwrap(), work).unwrap()
        }
    }
}

/// Answers every connection with the address it came from, then echoes.
pub fn listen(namespace: Option<&Path>, port: u16) {
    let listener = inside(namespace, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                let peer = connection.peer_addr().unwrap().ip();
                let _ = writeln!(connection, "{peer}");
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = connection.read(&mut buffer) {
                    let _ = connection.write_all(&buffer[..length]);
                }
            });
        }
    });
}

pub fn listen_udp(namespace: &Path, port: u16) {
    // One socket each: an answer must come from the address that was asked.
    for address in [RESOLVER, FOREIGN_RESOLVER] {
        let socket = inside(Some(namespace), || UdpSocket::bind((address, port))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
}

/// A connection that was answered, and by which address the other side knows us.
pub fn connect(to: (Ipv4Addr, u16)) -> Option<(TcpStream, String)> {
    let mut connection = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    let mut byte = [0];
    while connection.read(&mut byte).ok()? == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    Some((connection, line))
}

pub fn reaches(namespace: Option<&Path>, to: (Ipv4Addr, u16)) -> bool {
    inside(namespace, || connect(to).is_some())
}

/// From the host, as one of its users.
pub fn reaches_as(uid: u32, to: (Ipv4Addr, u16)) -> bool {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: the raw call changes only this thread, which ends here.
                let outcome = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, 0) };
                assert_eq!(outcome, 0);
                connect(to).is_some()
            })
            .join()
            .unwrap()
    })
}

pub fn reaches_udp(namespace: &Path, to: (Ipv4Addr, u16)) -> bool {
    inside(Some(namespace), || {
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return false };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"?", to).is_ok() && socket.recv(&mut [0; 8]).is_ok()
    })
}

/// Everything there is, by name; what of it answers a sandbox. All at once.
pub fn reach(from: &Attachment, others: &[&Attachment]) -> Vec<String> {
    let mut targets: Vec<(String, Ipv4Addr, u16)> = [
        ("hub", GATEWAY, 8081),
        ("gateway ssh", GATEWAY, 22),
        ("gateway web", GATEWAY, 80),
        ("gateway proxy api", GATEWAY, 8001),
        ("router", ROUTER, 7000),
        ("node ssh", NODE, 22),
        ("node web", NODE, 80),
        ("node tls", NODE, 443),
        ("node hub", NODE, 8081),
        ("neighbour web", NEIGHBOUR, 80),
        ("page web", WEB_PAGE, 80),
        ("page tls", WEB_PAGE, 443),
        ("page ssh", WEB_PAGE, 22),
        ("resolver tcp", RESOLVER, 53),
        ("foreign resolver tcp", FOREIGN_RESOLVER, 53),
        ("private web", PRIVATE, 80),
        ("metadata", METADATA, 80),
    ]
    .map(|(name, address, port)| (name.to_owned(), address, port))
    .to_vec();
    for other in others {
        for port in [8888, 9999] {
            targets.push((format!("{} {port}", other.id), other.address, port));
        }
    }
    let namespace = from.network_namespace.as_path();
    std::thread::scope(|scope| {
        let mut probes: Vec<_> = targets
            .into_iter()
            .map(|(name, address, port)| {
                scope.spawn(move || reaches(Some(namespace), (address, port)).then_some(name))
            })
            .collect();
        for (name, address) in [("resolver", RESOLVER), ("foreign resolver", FOREIGN_RESOLVER)] {
            probes.push(
                scope.spawn(move || reaches_udp(namespace, (address, 53)).then(|| name.to_owned())),
            );
        }
        probes.into_iter().filter_map(|probe| probe.join().unwrap()).collect()
    })
}
