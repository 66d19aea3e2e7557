//! A waiting program: the server's interpreter, started before anybody claims the sandbox, so
//! that it has loaded by then. It runs in a child, says when it is ready, and becomes the server.
//!
//! Until the claim it knows what every sandbox of its kind knows, and must never be told more.
//! What it says is the image's word: it can only make the start slower, never wider.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use adrastea_init::{
    WAITING_PROGRAM, claim::Claim, exit_code, script::interpreter, waiting_program::READY,
};

use crate::{
    server,
    sys::{self, Signals},
};

/// No word of the waiting program is longer; of a longer one the rest is dropped.
const LONGEST_WORD: usize = 200;

/// What a pipe holds.
const PIPE: u64 = 64 << 10;

/// How much of a script is looked at.
const HEAD: u64 = 512;

pub struct Standby {
    pub process: i32,
    connection: File,
    /// What the program writes comes out here; nobody reads it before the claim.
    pub output: OwnedFd,
    /// For a server that is started in its place.
    pub log: OwnedFd,
}

impl Standby {
    /// Starts the waiting program of this command.
    pub fn start(claim: &Claim) -> io::Result<Self> {
        let (output, log) = sys::pipe()?;
        let (ours, theirs) = sys::connection()?;
        let Some(process) = sys::fork()? else { run(claim, &theirs, &log) };
        Ok(Self { process, connection: ours.into(), output, log })
    }

    /// The program's next word, or why there is none.
    pub fn word(&mut self, signals: &Signals) -> Result<String, String> {
        let mut word = Vec::new();
        loop {
            let mut wanted = [
                sys::interest(&self.connection, libc::POLLIN),
                sys::interest(signals, libc::POLLIN),
            ];
            sys::poll(&mut wanted, None).map_err(|error| error.to_string())?;
            if wanted[0].revents != 0 {
                let mut byte = [0];
                match self.connection.read(&mut byte) {
                    Ok(1) if byte[0] == b'\n' => break,
                    Ok(1) => word.extend(Some(byte[0]).filter(|_| word.len() < LONGEST_WORD)),
                    // One that ends without having read everything resets the connection.
                    Ok(_) => return Err(format!("the waiting program ended{}", self.last_words())),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Err(format!("the waiting program ended{}", self.last_words()));
                    }
                    Err(error) => return Err(format!("the waiting program is lost: {error}")),
                }
            } else if wanted[1].revents != 0 {
                while let Some(received) = signals.next() {
                    if let Some(signal) = crate::ends(received) {
                        return Err(format!("signal {signal} came while the program got ready"));
                    }
                }
                // Only its connection tells that it has ended: what it said last is not lost.
                while sys::reap().is_some() {}
            }
        }
        let plain = |character: char| if character.is_control() { ' ' } else { character };
        Ok(String::from_utf8_lossy(&word).chars().map(plain).collect())
    }

    /// The last line that the program wrote, for whoever wonders why it ended.
    fn last_words(&self) -> String {
        let mut said = Vec::new();
        let unblocked = sys::set_nonblocking(self.output.as_fd());
        if let (Ok(()), Ok(output)) = (unblocked, self.output.try_clone()) {
            // Until it would wait: a pipe holds no more than this.
            let _ = File::from(output).take(PIPE).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        last.map_or_else(String::new, |line| {
            let plain = line.chars().filter(|character| !character.is_control());
            format!(": {}", plain.take(LONGEST_WORD).collect::<String>())
        })
    }

    pub fn is_ready(&mut self, signals: &Signals) -> Result<(), String> {
        match self.word(signals)? {
            word if word == READY => Ok(()),
            reason => Err(reason),
        }
    }

    /// Hands the claim over, as it came.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.connection.write_all(message)
    }

    /// Ends the program and whatever it has started in its group.
    pub fn end(&self) {
        sys::signal_group(self.process, libc::SIGKILL);
    }
}

/// The child, up to the interpreter.
fn run(claim: &Claim, connection: &OwnedFd, log: &OwnedFd) -> ! {
    if let Err(reason) = become_interpreter(claim, connection, log) {
        let mut connection = File::from(
            connection.try_clone().unwrap_or_else(|_| sys::exit_now(exit_code::REFUSED)),
        );
        let _ = connection.write_all(format!("{reason}\n").as_bytes());
    }
    sys::exit_now(exit_code::REFUSED)
}

fn become_interpreter(claim: &Claim, connection: &OwnedFd, log: &OwnedFd) -> Result<(), String> {
    sys::start_afresh()
        .and_then(|()| sys::become_standard(connection.as_fd(), 0))
        .and_then(|()| sys::become_standard(log.as_fd(), 1))
        .and_then(|()| sys::become_standard(log.as_fd(), 2))
        .and_then(|()| std::env::set_current_dir("/"))
        .map_err(|error| format!("failed to prepare the waiting program: {error}"))?;
    let (script, head) = server::candidates(claim)
        .into_iter()
        .find_map(|path| File::open(&path).ok().map(|file| (path, file)))
        .ok_or("the image has no such command")?;
    let mut text = Vec::new();
    head.take(HEAD).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let mut arguments = interpreter(&String::from_utf8_lossy(&text))
        .ok_or_else(|| format!("`{script}` is no Python program"))?;
    let as_claim = |name: &str| Claim { arguments: vec![name.into()], ..claim.clone() };
    let programs = server::candidates(&as_claim(&arguments[0]));
    arguments.extend([WAITING_PROGRAM.to_owned(), script]);
    let strings = |texts: Vec<String>| {
        server::strings(texts.into_iter()).map_err(|_| "a name holds a NUL".to_owned())
    };
    let environment = strings(server::variables(claim).collect())?;
    let mut failure = io::Error::from_raw_os_error(libc::ENOENT);
    for program in strings(programs)? {
        // Its own path as its name, by which Python finds its packages.
        arguments[0] = program.to_string_lossy().into_owned();
        failure = sys::execute(&program, &strings(arguments.clone())?, &environment);
    }
    Err(format!("failed to execute `{}`: {failure}", arguments[0]))
}
