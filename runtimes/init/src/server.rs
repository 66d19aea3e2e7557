//! The child: from the fork to the tenant's program.
//!
//! Runs in the forked child of a process with a single thread. Must never
//! return to the init's own code, and must never name a value of the
//! environment in what it prints.

use std::{
    ffi::CString,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use adrastea_init::{claim::Claim, exit_code};

use crate::sys;

const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Becomes the server; output goes to `log`.
pub fn run(claim: &Claim, log: &OwnedFd) -> ! {
    let code = match become_server(claim, log) {
        Ok(never) => match never {},
        Err(code) => code,
    };
    sys::exit_now(code)
}

enum Never {}

fn become_server(claim: &Claim, log: &OwnedFd) -> Result<Never, i32> {
    let prepared = sys::start_afresh()
        .and_then(|()| sys::become_standard(log.as_fd(), 1))
        .and_then(|()| sys::become_standard(log.as_fd(), 2));
    if let Err(error) = prepared {
        say(&format!("failed to prepare the server's process: {error}"));
        return Err(exit_code::REFUSED);
    }

    if let Err(error) = std::env::set_current_dir(&claim.directory) {
        say(&format!("failed to enter `{}`: {error}; starting in `/`", claim.directory.display()));
        if std::env::set_current_dir("/").is_err() {
            return Err(exit_code::REFUSED);
        }
    }

    let arguments = strings(claim.arguments.iter().cloned())?;
    let environment = strings(variables(claim))?;

    // The last word on why: a file that is there but cannot be run says more than one that is not.
    let mut failure = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates(claim) {
        let Ok(program) = CString::new(candidate) else { continue };
        let error = sys::execute(&program, &arguments, &environment);
        if !is_absent(&error) {
            failure = error;
            break;
        }
    }
    let command = claim.arguments.first().map_or("", String::as_str);
    say(&format!("failed to execute `{command}`: {failure}"));
    Err(if is_absent(&failure) { exit_code::NOT_FOUND } else { exit_code::NOT_EXECUTABLE })
}

/// The claim's environment, a line each.
pub fn variables(claim: &Claim) -> impl Iterator<Item = String> {
    claim.environment.iter().map(|(name, value)| format!("{name}={value}"))
}

/// As the kernel takes them.
pub fn strings(texts: impl Iterator<Item = String>) -> Result<Vec<CString>, i32> {
    texts.map(|text| CString::new(text).map_err(|_| exit_code::REFUSED)).collect()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

/// Where the command may be: a path as it is, a bare name in the directories of the claim's PATH.
pub fn candidates(claim: &Claim) -> Vec<String> {
    let Some(command) = claim.arguments.first() else { return Vec::new() };
    if command.contains('/') {
        return vec![command.clone()];
    }
    let path = claim
        .environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value.as_str());
    // A relative directory would be looked up in the user's home.
    path.split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| format!("{}/{command}", directory.trim_end_matches('/')))
        .collect()
}

fn say(text: &str) {
    // Nobody is left to be told of a failure.
    let _ = writeln!(io::stderr(), "[adrastea: {text}]");
}
