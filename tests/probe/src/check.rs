//! One check, and how it is run: in a forked child, so that being killed is a
//! result like any other and nothing it opens or changes stays.

use std::{ffi::CStr, fs::File, io::Read, os::fd::OwnedFd};

use crate::sys;

/// How long one check may take.
const PATIENCE_MS: i32 = 5000;

/// An argument of a system call.
pub enum Argument {
    Number(i64),
    Text(&'static CStr),
    Null,
}

enum Attempt {
    Call(libc::c_long, &'static [Argument]),
    Open(&'static CStr, i32),
    Function(fn() -> String),
}

pub struct Check {
    pub name: &'static str,
    attempt: Attempt,
}

impl Check {
    /// A system call: `ok`, or the name of the error.
    pub const fn call(
        name: &'static str,
        number: libc::c_long,
        arguments: &'static [Argument],
    ) -> Self {
        Self { name, attempt: Attempt::Call(number, arguments) }
    }

    /// Opening a path to read, without waiting.
    pub const fn read(name: &'static str, path: &'static CStr) -> Self {
        Self { name, attempt: Attempt::Open(path, libc::O_RDONLY) }
    }

    /// Opening a path to write; nothing is written.
    pub const fn write(name: &'static str, path: &'static CStr) -> Self {
        Self { name, attempt: Attempt::Open(path, libc::O_WRONLY) }
    }

    pub const fn function(name: &'static str, function: fn() -> String) -> Self {
        Self { name, attempt: Attempt::Function(function) }
    }

    fn attempt(&self) -> String {
        match &self.attempt {
            Attempt::Call(number, arguments) => sys::outcome(sys::call(*number, arguments)),
            Attempt::Open(path, flags) => sys::outcome(sys::open(path, *flags)),
            Attempt::Function(function) => function(),
        }
    }
}

/// Runs a check and returns its result, on one line.
pub fn run(check: &Check) -> String {
    let Some((reader, writer)) = sys::pipe() else { return "no pipe".to_owned() };
    match sys::fork() {
        None => "no process".to_owned(),
        Some(0) => {
            drop(reader);
            sys::write_all(&writer, check.attempt().as_bytes());
            sys::exit_now()
        }
        Some(child) => {
            drop(writer);
            collect(child, reader)
        }
    }
}

fn collect(child: i32, reader: OwnedFd) -> String {
    let in_time = sys::wait_readable(&reader, PATIENCE_MS);
    if !in_time {
        sys::kill(child, libc::SIGKILL).ok();
    }
    let mut text = String::new();
    let _ = File::from(reader).read_to_string(&mut text);
    match sys::wait(child) {
        _ if !in_time => "timeout".to_owned(),
        Some(signal) => format!("killed {}", sys::signal_name(signal)),
        None => text.trim().replace(['\n', '\t'], " "),
    }
}
