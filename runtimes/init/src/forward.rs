//! Carries the server's output to the init's own standard output.
//!
//! The server must never wait for whoever reads the log: what cannot be passed
//! on and does not fit into a bounded buffer is dropped, counted and said.

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
    dropped: u64,
}

impl Forwarder {
    /// Both ends become non-blocking.
    pub fn new(source: File, sink: File) -> io::Result<Self> {
        sys::set_nonblocking(source.as_fd())?;
        sys::set_nonblocking(sink.as_fd())?;
        Ok(Self { source: Some(source), sink: Some(sink), held: VecDeque::new(), dropped: 0 })
    }

    /// What to wait for: input always, output only while something is held.
    pub fn interests(&self) -> impl Iterator<Item = libc::pollfd> {
        let source = self.source.iter().map(|file| sys::interest(file, libc::POLLIN));
        let sink = self.sink.iter().filter(|_| !self.held.is_empty());
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

    fn hold(&mut self, bytes: &[u8]) {
        if self.sink.is_none() {
            return;
        }
        // Once something was dropped, go on only when there is room again for more than a line:
        // otherwise a slow reader gets a shower of notes.
        if self.dropped > 0 && self.held.len() > HELD_BYTES / 2 {
            self.dropped += bytes.len() as u64;
            return;
        }
        self.note_dropped();
        let fitting = bytes.len().min(HELD_BYTES.saturating_sub(self.held.len()));
        self.held.extend(&bytes[..fitting]);
        self.dropped += (bytes.len() - fitting) as u64;
    }

    fn note_dropped(&mut self) {
        if self.dropped > 0 {
            let note = format!("\n[adrastea: {} bytes of output dropped]\n", self.dropped);
            self.held.extend(note.as_bytes());
            self.dropped = 0;
        }
    }

    fn put_out(&mut self) {
        while let (Some(sink), false) = (&mut self.sink, self.held.is_empty()) {
            match sink.write(self.held.as_slices().0) {
                Ok(count) if count > 0 => drop(self.held.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    self.sink = None;
                    self.held.clear();
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
            if !came {
                self.note_dropped();
            }
            self.put_out();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (!came && self.held.is_empty()) {
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
