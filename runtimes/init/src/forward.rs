//! Carries the server's output to the init's own standard output.
//!
//! The server must never wait for whoever reads the log: what cannot be passed
//! on and does not fit into a bounded buffer is dropped, counted and said. The
//! oldest goes first, because the last lines say why a server ended.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use crate::sys;

/// How much is held while the reader is slow.
const HELD_BYTES: usize = 256 * 1024;

pub struct Forwarder {
    /// The read end of the server's pipe, until it is closed.
    source: Option<File>,
    /// Our own standard output, until its reader is gone.
    sink: Option<File>,
    held: VecDeque<u8>,
    /// How much was dropped in front of what is held.
    dropped: u64,
    /// What is left to write of the note that says so.
    note: Vec<u8>,
}

impl Forwarder {
    /// Both ends become non-blocking.
    pub fn new(source: File, sink: File) -> io::Result<Self> {
        sys::set_nonblocking(source.as_fd())?;
        sys::set_nonblocking(sink.as_fd())?;
        Ok(Self {
            source: Some(source),
            sink: Some(sink),
            held: VecDeque::new(),
            dropped: 0,
            note: Vec::new(),
        })
    }

    /// What to wait for: input always, output only while something is held.
    pub fn interests(&self) -> impl Iterator<Item = libc::pollfd> {
        let source = self.source.iter().map(|file| sys::interest(file, libc::POLLIN));
        let sink = self.sink.iter().filter(|_| self.holds_something());
        source.chain(sink.map(|file| sys::interest(file, libc::POLLOUT)))
    }

    /// Moves what can be moved without waiting. True if anything came in.
    pub fn step(&mut self) -> bool {
        let came = self.take_in();
        self.put_out();
        came
    }

    fn take_in(&mut self) -> bool {
        let Some(source) = &mut self.source else { return false };
        let mut chunk = [0; 16 * 1024];
        match source.read(&mut chunk) {
            Ok(0) => {
                self.source = None;
                false
            }
            Ok(count) => {
                self.hold(&chunk[..count]);
                true
            }
            Err(error) => {
                let passing =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                if !passing {
                    self.source = None;
                }
                false
            }
        }
    }

    fn holds_something(&self) -> bool {
        !(self.held.is_empty() && self.note.is_empty() && self.dropped == 0)
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.sink.is_none() {
            return;
        }
        self.held.extend(bytes);
        if self.held.len() > HELD_BYTES {
            // Half at once: otherwise a slow reader gets a shower of notes.
            let excess = self.held.len() - HELD_BYTES / 2;
            self.held.drain(..excess);
            self.dropped += excess as u64;
        }
    }

    fn put_out(&mut self) {
        while self.holds_something() {
            let Some(sink) = &mut self.sink else { return };
            let fresh_note = self.note.is_empty() && self.dropped > 0;
            if fresh_note {
                self.note = format!("\n[adrastea: {} bytes of output dropped]\n", self.dropped)
                    .into_bytes();
            }
            let from_note = !self.note.is_empty();
            let next = if from_note { &self.note[..] } else { self.held.as_slices().0 };
            match sink.write(next) {
                Ok(count) if count > 0 && from_note => {
                    drop(self.note.drain(..count));
                    self.dropped = if fresh_note { 0 } else { self.dropped };
                }
                Ok(count) if count > 0 => drop(self.held.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if fresh_note {
                        // Nothing of it is out yet: it can still count what is dropped meanwhile.
                        self.note.clear();
                    }
                    return;
                }
                _ => {
                    self.sink = None;
                    self.held.clear();
                    self.note.clear();
                    self.dropped = 0;
                }
            }
        }
    }

    /// Passes on what is left, for at most `patience`: a process that outlives the server may
    /// keep the pipe open and go on writing. Nobody waits for the pipe any more, so nothing is
    /// dropped while the reader keeps up.
    pub fn finish(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let came = self.held.len() <= HELD_BYTES / 2 && self.take_in();
            self.put_out();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (!came && !self.holds_something()) {
                return;
            }
            if self.held.len() > HELD_BYTES / 2 || !came {
                let mut wanted: Vec<_> =
                    self.interests().filter(|one| one.events == libc::POLLOUT).collect();
                let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
                if sys::poll(&mut wanted, Some(timeout)).is_err() {
                    return;
                }
            }
        }
    }
}
