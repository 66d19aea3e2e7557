//! PID 1 of every sandbox: waits for its claim, runs one server, reaps, forwards
//! signals from outside and the server's output.
//!
//! ```text
//! waiting ──claim──> running ──server ends──> gone (its exit code, or 128 + signal)
//!  │ └──standby──> waiting, with a program that has loaded ──claim──> running
//!  └──anything else──> refused (125)
//! ```
//! A waiting program that cannot wait, or ends, ends a sandbox that nobody has claimed; at the
//! claim the command is started anew in its place.
//!
//! It runs as the tenant's own uid, beside the tenant's code: so it is
//! non-dumpable before anything else, obeys nobody inside the sandbox, and must
//! never keep a secret in its own environment or arguments.

mod files;
mod filter;
mod forward;
mod home;
mod look;
mod server;
mod standby;
mod sys;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    process,
    time::Duration,
};

use adrastea_init::{
    ANEW, ASIDE, CLAIMED, LANDLOCK, LET_THROUGH, READY, REFUSED, WAITING,
    claim::{self, Claim, Message},
    exit_code, report, trial, waiting_program,
};

use crate::{
    forward::Forwarder,
    standby::Standby,
    sys::{Ended, Received, Signals},
};

/// How long the last output may take after the server has ended.
const DRAIN: Duration = Duration::from_millis(500);

/// What the server's new files deny: the spec says the same, but not every runtime does it.
const MASK: u32 = 0o027;

/// What is passed on to the server; everything else is the init's own business.
const FORWARDED: [i32; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// What ends an init that still waits.
const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

fn main() {
    // First of all: from here on the same uid can neither trace nor read this process.
    let code = match sys::forbid_inspection()
        .and_then(|()| sys::close_inherited())
        .and_then(|()| Signals::block_all())
    {
        Ok(signals) => run(&signals),
        Err(error) => refuse(&format!("failed to prepare the init: {error}")),
    };
    process::exit(code);
}

fn run(signals: &Signals) -> i32 {
    sys::set_file_mode_mask(MASK);
    // Outside of a sandbox files and filter are somebody else's matter.
    if is_contained() {
        let landlock = files::restrict();
        let through = filter::let_through().iter().fold(String::new(), |all, it| all + " " + it);
        tell(&format!("{WAITING}{LANDLOCK}{landlock}{LET_THROUGH}{through}"));
    } else {
        tell(&format!("{WAITING}{LANDLOCK}0"));
    }
    let (claim, standby) = match wait_for_claim(signals) {
        Ok(claimed) => claimed,
        Err(Unclaimed::Refused(reason)) => return refuse(&reason),
        Err(Unclaimed::Ended(signal)) => return exit_code::SIGNALLED + signal,
    };
    let started = match standby {
        Some(standby) => hand_over(claim, standby, signals),
        None => start(claim),
    };
    match started {
        Ok((server, forwarder)) => supervise(signals, server, forwarder),
        Err(error) => refuse(&format!("failed to start the server: {error}")),
    }
}

/// Says one line on standard output, whether or not somebody listens.
fn tell(line: &str) {
    let mut output = io::stdout();
    let _ = output.write_all(format!("{line}\n").as_bytes()).and_then(|()| output.flush());
}

fn refuse(reason: &str) -> i32 {
    tell(&format!("{REFUSED}{reason}"));
    exit_code::REFUSED
}

/// Whether this is the first process of a sandbox; tests run it as an ordinary one.
fn is_contained() -> bool {
    sys::own_pid() == 1
}

/// Whether a signal came from outside the sandbox. The tenant can send any signal to its PID 1,
/// and with rt_sigqueueinfo(2) may write any sender into it, but then never the code `SI_USER`.
fn from_outside(received: Received) -> bool {
    !is_contained() || (received.sender == 0 && received.code == libc::SI_USER)
}

/// The signal, if it is one that ends an init without a server.
fn ends(received: Received) -> Option<i32> {
    (ENDING.contains(&received.signal) && from_outside(received)).then_some(received.signal)
}

enum Unclaimed {
    Refused(String),
    Ended(i32),
}

/// Standard input as a reader that gives up when the sandbox is to end.
struct Channel<'a> {
    input: File,
    signals: &'a Signals,
    ended_by: Option<i32>,
    /// A program that waits beside us; without it there is nothing to claim.
    program: Option<i32>,
    program_ended: bool,
}

impl Read for Channel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut wanted = [
                sys::interest(&self.input, libc::POLLIN),
                sys::interest(self.signals, libc::POLLIN),
            ];
            sys::poll(&mut wanted, None)?;
            while let Some(received) = self.signals.next() {
                if let Some(signal) = ends(received) {
                    self.ended_by = Some(signal);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            while let Some((process, _)) = sys::reap() {
                self.program_ended |= self.program == Some(process);
            }
            if self.program_ended {
                return Err(io::Error::other("the waiting program ended"));
            }
            if wanted[0].revents != 0 {
                return self.input.read(buffer);
            }
        }
    }
}

fn wait_for_claim(signals: &Signals) -> Result<(Claim, Option<Standby>), Unclaimed> {
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Unclaimed::Refused(format!("failed to open the channel: {error}")))?;
    let mut channel = Channel {
        input: input.into(),
        signals,
        ended_by: None,
        program: None,
        program_ended: false,
    };
    let mut standby: Option<Standby> = None;
    loop {
        let message =
            claim::read_message(&mut channel).map_err(|error| match channel.ended_by {
                Some(signal) => Unclaimed::Ended(signal),
                None => Unclaimed::Refused(error.to_string()),
            })?;
        match message {
            Message::Claim(claim) => return Ok((claim, standby)),
            Message::Standby(_) if standby.is_some() => {
                return Err(Unclaimed::Refused("a program waits already".into()));
            }
            Message::Standby(claim) => {
                let ready = Standby::start(&claim)
                    .map_err(|error| error.to_string())
                    .and_then(|mut made| made.is_ready(signals).map(|()| made));
                match ready {
                    Ok(made) => {
                        channel.program = Some(made.process);
                        standby = Some(made);
                        tell(READY);
                    }
                    Err(reason) => {
                        tell(&format!("{ASIDE}{reason}"));
                        return Err(Unclaimed::Refused("the image's program cannot wait".into()));
                    }
                }
            }
            Message::Trial => tell(&format!("{}{}", trial::ANSWERED, home::attempt())),
            Message::Report => {
                report()
                    .map_err(|error| Unclaimed::Refused(format!("failed to report: {error}")))?;
            }
        }
    }
}

/// Tells what is around us.
fn report() -> io::Result<()> {
    let told = look::look().encode().ok_or_else(|| io::Error::other("it would be too long"))?;
    tell(&format!("{}{}", report::ANNOUNCED, told.len()));
    let mut output = io::stdout();
    output.write_all(&told).and_then(|()| output.flush())
}

/// Closes the channel, answers, and starts the server. The claim is wiped here.
fn start(claim: Claim) -> io::Result<(i32, Forwarder)> {
    sys::become_standard(File::open("/dev/null")?.as_fd(), 0)?;
    let (source, log) = sys::pipe()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    tell(CLAIMED);
    let Some(server) = sys::fork()? else { server::run(&claim, &log) };
    forget(claim);
    Ok((server, Forwarder::new(source.into(), output.into())?))
}

/// Gives the claim to the program that waits. If it steps aside, the command is started anew.
fn hand_over(
    claim: Claim,
    mut standby: Standby,
    signals: &Signals,
) -> io::Result<(i32, Forwarder)> {
    sys::become_standard(File::open("/dev/null")?.as_fd(), 0)?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let mut message = claim::encode(&claim).map_err(io::Error::other)?;
    let answer = standby
        .send(&message)
        .map_err(|error| format!("the waiting program is lost: {error}"))
        .and_then(|()| standby.word(signals));
    claim::wipe(&mut message);
    let (server, line) = match answer {
        Ok(word) if word == waiting_program::TAKEN => (standby.process, CLAIMED.to_owned()),
        Ok(reason) | Err(reason) => {
            standby.end();
            let Some(server) = sys::fork()? else { server::run(&claim, &standby.log) };
            (server, format!("{CLAIMED}{ANEW}{reason}"))
        }
    };
    forget(claim);
    tell(&line);
    let Standby { output: source, .. } = standby;
    Ok((server, Forwarder::new(source.into(), output.into())?))
}

fn forget(claim: Claim) {
    let Claim { arguments, environment, .. } = claim;
    let variables = environment.into_iter().map(|(_, value)| value);
    for text in arguments.into_iter().chain(variables) {
        claim::wipe(&mut text.into_bytes());
    }
}

fn supervise(signals: &Signals, server: i32, mut forwarder: Forwarder) -> i32 {
    loop {
        let mut wanted = vec![sys::interest(signals, libc::POLLIN)];
        wanted.extend(forwarder.interests());
        // Without poll the loop would spin; but it cannot fail for a reason that passes.
        if sys::poll(&mut wanted, None).is_err() {
            return exit_code::REFUSED;
        }
        while let Some(received) = signals.next() {
            if FORWARDED.contains(&received.signal) && from_outside(received) {
                sys::signal_group(server, received.signal);
            }
        }
        // One SIGCHLD may stand for many.
        let mut ended = None;
        while let Some((pid, how)) = sys::reap() {
            if pid == server {
                ended = Some(how);
            }
        }
        forwarder.step();
        if let Some(how) = ended {
            forwarder.finish(DRAIN);
            return match how {
                Ended::Exited(code) => code,
                Ended::Signalled(signal) => exit_code::SIGNALLED + signal,
            };
        }
    }
}
