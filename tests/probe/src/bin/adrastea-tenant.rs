//! A tenant that does one thing, by its first argument: holds still, listens,
//! scans, floods, bombs, attacks its init. The tests of the walls run it in
//! sandboxes, and outside of them as the reference.
//!
//! Every bomb has an end of its own, so that a run without walls ends, too.

#[path = "../open_house.rs"]
mod open_house;
#[path = "../planted.rs"]
mod planted;

use std::{
    env,
    ffi::CString,
    fs,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{SocketAddr as UnixAddress, UnixStream},
            process::CommandExt,
        },
    },
    process::{self, Command},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
const SCANNERS: usize = 32;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["hold"] => hold(),
        ["exit", code] => process::exit(code.parse().unwrap_or(99)),
        ["listen", ports @ ..] => listen(ports),
        ["scan", targets @ ..] => {
            scan(&targets.iter().flat_map(|target| expand(target)).collect::<Vec<_>>());
            Ok(())
        }
        ["scan-for", milliseconds, targets @ ..] => {
            let targets: Vec<_> = targets.iter().flat_map(|target| expand(target)).collect();
            let end = Instant::now() + Duration::from_millis(number(milliseconds));
            while Instant::now() < end {
                scan(&targets);
            }
            Ok(())
        }
        ["who"] => who(),
        ["parent", rest @ ..] => Command::new("/proc/self/exe").args(rest).status().map(|_| ()),
        ["unix", sockets @ ..] => unix(sockets),
        ["cat", path] => cat(path),
        ["put", path, text] => fs::write(path, text),
        ["list", path] => list(path),
        ["stat", path] => stat(path),
        ["link", path] => fs::read_link(path).map(|target| say(&target.to_string_lossy())),
        ["open", paths @ ..] => {
            open(paths);
            Ok(())
        }
        ["trample", places @ ..] => {
            trample(places);
            Ok(())
        }
        ["watch", paths @ ..] => watch(paths),
        ["setuid", directory] => setuid(directory),
        ["fork-bomb", most] => {
            fork_bomb(number(most));
            Ok(())
        }
        ["memory-bomb", mebibytes] => {
            memory_bomb(number(mebibytes));
            Ok(())
        }
        ["fill", path, mebibytes] => fill(path, number(mebibytes)),
        ["fill-inodes", directory, most] => {
            fill_inodes(directory, number(most));
            Ok(())
        }
        ["open-house", directory, uid, rest @ ..] => open_house::run(directory, number(uid), rest),
        ["await-stopped-parent", rest @ ..] => open_house::await_stopped_parent(rest),
        ["plant", directory] => planted::plant(directory),
        ["try-planted", directories @ ..] => planted::attempt(directories),
        ["crash"] => crash(),
        ["flood", mebibytes] => flood(number(mebibytes)),
        ["freeze"] => freeze(),
        ["attack-init"] => attack_init(),
        _ => process::exit(98),
    };
    if let Err(error) = outcome {
        say(&format!("failed: {error}"));
        process::exit(97);
    }
}

/// Without a panic when nobody reads.
fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn hold() -> ! {
    say("holding");
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

fn listen(ports: &[&str]) -> io::Result<()> {
    for port in ports {
        let listener = TcpListener::bind(("0.0.0.0", port.parse().unwrap_or(0)))?;
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                // An unread request would turn the answer into a reset.
                let _ = connection.set_read_timeout(Some(CONNECT_PATIENCE));
                let mut request = Vec::new();
                let mut part = [0; 1024];
                while let Ok(length @ 1..) = connection.read(&mut part) {
                    request.extend_from_slice(&part[..length]);
                    if request.ends_with(b"\r\n\r\n") {
                        break;
                    }
                }
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
    }
    hold()
}

/// `ADDRESS:PORT`, or `ADDRESS:FIRST-LAST`.
fn expand(target: &str) -> Vec<SocketAddr> {
    let Some((address, ports)) = target.rsplit_once(':') else { return Vec::new() };
    let Ok(address) = address.parse::<IpAddr>() else { return Vec::new() };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let ports = first.parse::<u16>().unwrap_or(1)..=last.parse::<u16>().unwrap_or(0);
    ports.map(|port| SocketAddr::new(address, port)).collect()
}

/// Tells what answered: `reached` is an open port, `refused` a closed one, and
/// both mean that the packet arrived.
fn scan(targets: &[SocketAddr]) {
    let queue = Mutex::new(targets.iter());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next().copied());
    thread::scope(|scope| {
        for _ in 0..SCANNERS.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    match TcpStream::connect_timeout(&target, CONNECT_PATIENCE) {
                        Ok(_) => say(&format!("reached {target}")),
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                            say(&format!("refused {target}"));
                        }
                        Err(_) => {}
                    }
                }
            });
        }
    });
}

/// Tells which sockets of the file system or of the abstract name space (`@name`) answer.
fn unix(sockets: &[&str]) -> io::Result<()> {
    for socket in sockets {
        let address = match socket.strip_prefix('@') {
            Some(name) => UnixAddress::from_abstract_name(name)?,
            None => UnixAddress::from_pathname(socket)?,
        };
        match UnixStream::connect_addr(&address) {
            Ok(_) => say(&format!("reached {socket}")),
            Err(error) => say(&format!("no {socket}: {error}")),
        }
    }
    Ok(())
}

fn who() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let wanted = ["Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
    for line in status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
        say(line);
    }
    Ok(())
}

fn cat(path: &str) -> io::Result<()> {
    let mut text = String::new();
    fs::File::open(path)?.read_to_string(&mut text)?;
    say(&text);
    Ok(())
}

fn list(path: &str) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        say(&entry?.file_name().to_string_lossy());
    }
    Ok(())
}

fn stat(path: &str) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    say(&format!("{:o} {}:{}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid()));
    Ok(())
}

/// Tells of each path whether it can be opened to read and write.
fn open(paths: &[&str]) {
    for path in paths {
        match fs::File::options().read(true).write(true).open(path) {
            Ok(_) => say(&format!("opened {path}")),
            Err(error) => say(&format!("no {path}: {error}")),
        }
    }
}

/// Overwrites what it can: each place, whatever is directly in it, and every program
/// that runs; then tells that it did.
fn trample(places: &[&str]) {
    let over = |path: &str| {
        let file = fs::File::options().write(true).create(true).truncate(true).open(path);
        file.and_then(|mut file| file.write_all(b"trampled\n")).is_ok()
    };
    for place in places {
        over(place);
        over(&format!("{place}/trampled"));
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let path = entry.path().to_string_lossy().into_owned();
            over(&path);
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o777));
        }
    }
    // A program that runs, by way of a descriptor of it (CVE-2019-5736).
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path().join("exe");
        let opened = fs::File::open(&path);
        let again = opened
            .as_ref()
            .ok()
            .map(|file| format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)));
        if again.is_some_and(|again| over(&again)) || over(&path.to_string_lossy()) {
            say(&format!("overwrote {}", path.display()));
        }
    }
    say("done trampling");
}

/// What the directories hold two seconds from now.
fn watch(paths: &[&str]) -> io::Result<()> {
    say("watching");
    thread::sleep(Duration::from_secs(2));
    for path in paths {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        say(&format!("{path}: {}", names.join(" ")));
    }
    say("watched");
    hold()
}

/// Makes a setuid copy of itself and becomes it.
fn setuid(directory: &str) -> io::Result<()> {
    let copy = format!("{directory}/setuid-copy");
    fs::copy("/proc/self/exe", &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o6755))?;
    say("planted");
    Err(Command::new(copy).arg("who").exec())
}

fn fork_bomb(most: u64) {
    let mut children = Vec::new();
    let mut end = "no end".to_owned();
    for _ in 0..most {
        // SAFETY: this process has a single thread; the child only sleeps.
        match unsafe { libc::fork() } {
            0 => loop {
                thread::sleep(Duration::from_secs(60));
            },
            -1 => {
                end = io::Error::last_os_error().to_string();
                break;
            }
            child => children.push(child),
        }
    }
    say(&format!("forked {}: {end}", children.len()));
    thread::sleep(Duration::from_secs(3));
    for child in children {
        kill(child, libc::SIGKILL);
    }
}

fn memory_bomb(mebibytes: u64) {
    say("growing");
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        let mut block = vec![0_u8; 1 << 20];
        for page in block.chunks_mut(4096) {
            page[0] = 1;
        }
        held.push(block);
    }
    say(&format!("held {} MiB", held.len()));
}

fn fill(path: &str, mebibytes: u64) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    let block = vec![1_u8; 1 << 20];
    for written in 0..mebibytes {
        if let Err(error) = file.write_all(&block) {
            say(&format!("filled {written} MiB: {error}"));
            return Ok(());
        }
    }
    say(&format!("filled {mebibytes} MiB: no end"));
    Ok(())
}

/// Empty files, until there is no room for one more or there are enough.
fn fill_inodes(directory: &str, most: u64) {
    let mut end = "no end".to_owned();
    let mut made = 0;
    while made < most {
        if let Err(error) = fs::File::create(format!("{directory}/inode-{made}")) {
            end = error.to_string();
            break;
        }
        made += 1;
    }
    say(&format!("made {made} files: {end}"));
    for number in 0..made {
        let _ = fs::remove_file(format!("{directory}/inode-{number}"));
    }
}

/// Ends as a program does that would leave a core file.
fn crash() -> ! {
    say("crashing");
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(libc::SIGSEGV) };
    process::exit(96)
}

fn flood(mebibytes: u64) -> io::Result<()> {
    let block = [b"x".repeat(127), b"\n".to_vec()].concat().repeat(8 << 10);
    let mut output = io::stdout().lock();
    for _ in 0..mebibytes {
        output.write_all(&block)?;
    }
    drop(output);
    say("flooded");
    Ok(())
}

fn kill(pid: i32, signal: i32) -> bool {
    // SAFETY: kill takes numbers.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// A tree of stopped processes that ignore SIGTERM, and stops itself.
fn freeze() -> io::Result<()> {
    // Stopped members of a group nobody minds any more are told by SIGHUP; kernels differ in when.
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: ignoring a signal has no preconditions.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    for depth in 0..20 {
        // SAFETY: this process has a single thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above; every other process leaves its parent's session.
            unsafe {
                if depth % 2 == 0 {
                    libc::setsid();
                    libc::fork();
                }
                libc::raise(libc::SIGSTOP);
            }
            process::exit(0);
        }
    }
    say("frozen");
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(libc::SIGSTOP) };
    hold()
}

/// Everything a process can do to the first one of its namespace.
fn attack_init() -> io::Result<()> {
    for signal in 1..=64 {
        // The init forwards these to its server, which would end this attack.
        let forwarded = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];
        if signal != libc::SIGKILL && forwarded.contains(&signal) {
            continue;
        }
        kill(1, signal);
    }
    let status = CString::new("/proc/1/mem").map_err(io::Error::other)?;
    // SAFETY: the path is a C string; the other calls take numbers.
    let (opened, attached, seized) = unsafe {
        (
            libc::open(status.as_ptr(), libc::O_RDWR),
            libc::ptrace(libc::PTRACE_ATTACH, 1, 0, 0),
            libc::ptrace(libc::PTRACE_SEIZE, 1, 0, 0),
        )
    };
    say(&format!("mem {} attach {attached} seize {seized}", opened.min(0)));
    // What a stop does to it is seen only once it has been taken.
    thread::sleep(Duration::from_millis(500));
    let status = fs::read_to_string("/proc/1/status")?;
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_default().trim().to_owned()
    };
    say(&format!("init {} traced by {}", field("State:"), field("TracerPid:")));
    hold()
}
