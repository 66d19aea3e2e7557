//! The program of the test image: answers HTTP on port 8888, and does what a
//! path (`/exit/3`) or its arguments (`exit 3`) say.
//!
//! Standard library only, because it is compiled alone. Runs inside sandboxes
//! and nowhere else: what it does is harmless only there.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    process::{self, Command},
    sync::Mutex,
    thread,
    time::Duration,
};

const IGNORE: usize = 1;
const SIGTERM: i32 = 15;

unsafe extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
    fn signal(signal: i32, handler: usize) -> usize;
    fn dup2(from: i32, to: i32) -> i32;
}

/// Memory that was eaten and is kept.
static EATEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if env::args().next().is_some_and(|name| name == "/.adrastea/init") {
        careless_init();
    }
    // Run as the interpreter of the image's `jupyterhub-singleuser`, which is no Python.
    match words.as_slice() {
        ["/.adrastea/waiting.py", _] => wait_for_claim(),
        ["/waits/jupyterhub-singleuser", how @ ..] => serve(how),
        _ => {}
    }
    match words.split_first() {
        Some((&"serve", how)) => serve(how),
        Some(_) => say(&act(&words)),
        None => serve(&[]),
    }
}

/// In the init's place: waits as it does, but lets itself be looked into, and restricts no file.
fn careless_init() -> ! {
    say("adrastea-init 1 waiting, landlock 0");
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

/// The waiting program's part, on descriptor 0: says that it is ready, takes the claim, serves.
/// A claim whose command says `aside` is not taken; one that says `dies` ends it at once.
fn wait_for_claim() -> ! {
    // SAFETY: descriptor 0 is the init's connection, and nothing else here uses it.
    let mut connection = unsafe { <UnixStream as std::os::fd::FromRawFd>::from_raw_fd(0) };
    let _ = connection.write_all(b"ready\n");
    let mut head = [0; 14];
    if connection.read_exact(&mut head).is_err() {
        process::exit(0);
    }
    let length = u32::from_le_bytes([head[10], head[11], head[12], head[13]]);
    let mut payload = vec![0; length as usize];
    if connection.read_exact(&mut payload).is_err() {
        process::exit(0);
    }
    let (mut arguments, mut rest) = (Vec::new(), payload.as_slice());
    while rest.len() >= 5 {
        let length = u32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
        let text = String::from_utf8_lossy(&rest[5..5 + length]).into_owned();
        match rest[0] {
            1 => arguments.push(text),
            2 => {
                if let Some((name, value)) = text.split_once('=') {
                    // SAFETY: this program has a single thread so far.
                    unsafe { env::set_var(name, value) };
                }
            }
            _ => {
                let _ = env::set_current_dir(&text);
            }
        }
        rest = &rest[5 + length..];
    }
    let how: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match how.as_slice() {
        ["aside", ..] => {
            let _ = connection.write_all(b"told to step aside\n");
            process::exit(0);
        }
        ["dies", ..] => process::exit(7),
        _ => {}
    }
    let _ = connection.write_all(b"taken\n");
    say("waited");
    // As a server that nobody has waited for: nothing leads to the init.
    if let Ok(null) = fs::File::open("/dev/null") {
        // SAFETY: dup2(2) takes two numbers; the connection's own end is closed by it, and the
        // connection is forgotten right after.
        unsafe { dup2(std::os::fd::AsRawFd::as_raw_fd(&null), 0) };
    }
    std::mem::forget(connection);
    serve(&how);
    process::exit(0)
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
}

/// `how`: become PROGRAM WORD…, stubborn, die N, late MILLISECONDS, never.
fn serve(how: &[&str]) {
    match how {
        ["become", program, more @ ..] => {
            let error = std::os::unix::process::CommandExt::exec(Command::new(program).args(more));
            say(&format!("failed to become {program}: {error}"));
            process::exit(8);
        }
        ["stubborn", ..] => {
            say(&act(&["stubborn"]));
        }
        ["die", code, ..] => {
            say("dying on purpose");
            say(&act(&["exit", code]));
        }
        ["late", milliseconds, ..] => {
            thread::sleep(Duration::from_millis(milliseconds.parse().unwrap_or(0)));
        }
        ["never", ..] => {
            say("never listening");
            loop {
                thread::sleep(Duration::from_secs(60));
            }
        }
        _ => {}
    }
    let listener = match TcpListener::bind(("0.0.0.0", 8888)) {
        Ok(listener) => listener,
        Err(error) => {
            say(&format!("failed to listen: {error}"));
            process::exit(9);
        }
    };
    say("answering");
    for stream in listener.incoming().flatten() {
        // Without a thread to spare it still answers.
        let (first, second) = (stream.try_clone(), stream);
        let spawned = match first {
            Ok(first) => thread::Builder::new().spawn(move || answer(first)).is_ok(),
            Err(_) => false,
        };
        if !spawned {
            answer(second);
        }
    }
}

fn answer(mut stream: TcpStream) {
    let mut line = String::new();
    let mut reader = BufReader::new(match stream.try_clone() {
        Ok(stream) => stream,
        Err(_) => return,
    });
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let mut header = String::new();
    while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
        header.clear();
    }
    let path = line.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
    let words: Vec<&str> = path.split('/').collect();
    let body = if path.is_empty() { "ok".to_owned() } else { act(&words) };
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
}

fn result<T>(result: io::Result<T>, good: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => good(value),
        Err(error) => format!("error {}: {error}", error.raw_os_error().unwrap_or(0)),
    }
}

/// Does one thing and tells what came of it.
fn act(words: &[&str]) -> String {
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let path = |from: usize| {
        format!("/{}", words.get(from..).unwrap_or_default().join("/").trim_start_matches('/'))
    };
    let text = |at: usize| words.get(at).copied().unwrap_or_default();
    match words.first().copied().unwrap_or_default() {
        "exit" => process::exit(i32::try_from(number(1)).unwrap_or(99)),
        "signal" => {
            let signal = i32::try_from(number(1)).unwrap_or(0);
            // SAFETY: kill(2) takes two numbers and touches no memory.
            let _ = unsafe { kill(i32::try_from(process::id()).unwrap_or(0), signal) };
            thread::sleep(Duration::from_secs(5));
            "still here".into()
        }
        "stubborn" => {
            // SAFETY: SIG_IGN is no function that could be called.
            unsafe { signal(SIGTERM, IGNORE) };
            "ignoring SIGTERM".into()
        }
        "env" => env::vars()
            .fold(String::new(), |text, (name, value)| text + &format!("{name}={value}\n")),
        "directory" => result(env::current_dir(), |path| path.display().to_string()),
        "print" => {
            say(&words[1..].join(" "));
            "printed".into()
        }
        "cat" => result(fs::read(path(1)), |bytes| String::from_utf8_lossy(&bytes).into_owned()),
        "list" => result(fs::read_dir(path(1)), |entries| {
            let mut names: Vec<_> = entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names.join("\n")
        }),
        // write WORD PATH…
        "write" => result(fs::write(path(2), text(1)), |()| "written".into()),
        // move NAME NAME: in the working directory, `+` for `/`
        "move" => {
            let name = |at| text(at).replace('+', "/");
            result(fs::rename(name(1), name(2)), |()| "moved".into())
        }
        // grow PATH: below it, in a new folder, one of everything that a home's owner can make
        "grow" => result(grow(std::path::Path::new(&path(1))), |()| "grown".into()),
        "remove" => result(fs::remove_file(path(1)), |()| "removed".into()),
        // connect ADDRESS PORT
        "connect" => {
            let to = format!("{}:{}", text(1), text(2));
            match to.parse::<SocketAddr>() {
                Ok(to) => {
                    result(TcpStream::connect_timeout(&to, Duration::from_millis(700)), |_| {
                        "open".into()
                    })
                }
                Err(_) => "no address".into(),
            }
        }
        // udp ADDRESS PORT: whether an answer comes
        "udp" => result(ask(&format!("{}:{}", text(1), text(2))), |()| "answered".into()),
        "eat" => {
            // In small pieces, each touched, so that the limit is met and not the allocator.
            for _ in 0..number(1) {
                if let Ok(mut eaten) = EATEN.lock() {
                    eaten.push(vec![1; 1 << 20]);
                }
            }
            "eaten".into()
        }
        // threads N: how many could be made
        "threads" => {
            let made = (0..number(1)).take_while(|_| {
                thread::Builder::new()
                    .stack_size(16 << 10)
                    .spawn(|| thread::sleep(Duration::from_secs(600)))
                    .is_ok()
            });
            made.count().to_string()
        }
        // flood MEBIBYTES
        "flood" => {
            let line = [&b"x".repeat(1023)[..], b"\n"].concat();
            let mut out = io::stdout().lock();
            for _ in 0..number(1) << 10 {
                if out.write_all(&line).is_err() {
                    return "closed".into();
                }
            }
            let _ = out.flush();
            "flooded".into()
        }
        "sleep" => {
            thread::sleep(Duration::from_secs(number(1)));
            "slept".into()
        }
        // spawn WORD…: a child of its own that goes on, in this program
        "spawn" => {
            let child = env::current_exe()
                .and_then(|program| Command::new(program).args(&words[1..]).spawn());
            result(child, |child| child.id().to_string())
        }
        // input: what standard input holds
        "input" => {
            let mut input = String::new();
            result(io::stdin().read_to_string(&mut input), |length| format!("{length} bytes"))
        }
        other => format!("unknown: {other}"),
    }
}

fn grow(home: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = home.join("folder");
    fs::create_dir(&folder)?;
    let file = |name: &str| folder.join(name);
    fs::create_dir_all(file("deep/deeper"))?;
    fs::write(file("deep/deeper/file"), "content")?;
    fs::write(file("first"), "content")?;
    symlink("renamed", file("link"))?;
    fs::set_permissions(file("first"), fs::Permissions::from_mode(0o640))?;
    fs::hard_link(file("first"), file("second"))?;
    fs::copy(file("first"), file("copied"))?;
    fs::rename(file("first"), file("renamed"))?;
    fs::rename(file("deep"), file("moved"))?;
    fs::write(file("gone"), "")?;
    fs::remove_file(file("gone"))?;
    fs::OpenOptions::new().append(true).open(file("renamed"))?.write_all(b" and more")?;
    fs::OpenOptions::new().write(true).truncate(true).open(file("copied"))?;
    Ok(())
}

fn ask(to: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(700)))?;
    socket.send_to(b"?", to)?;
    socket.recv_from(&mut [0; 64]).map(|_| ())
}
