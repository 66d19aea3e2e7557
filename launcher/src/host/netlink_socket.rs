//! A socket to the kernel itself (netlink(7)): datagrams, whole or not at all.
//!
//! Knows nothing of what they mean. Stays in the network namespace of the thread that opened it.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
        sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

/// A dump comes in pieces of at most 32 KiB; one link with many virtual functions may need more.
const RECEIVE_BUFFER: usize = 128 * 1024;

/// The kernel answers at once; should it not, whoever asks is not held for ever.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

#[derive(Debug)]
pub struct NetlinkSocket {
    descriptor: OwnedFd,
    /// Kept: each answer would map and unmap one of this size.
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let descriptor =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&descriptor, ReceiveTimeout, &PATIENCE)?;
        Ok(Self { descriptor, buffer: Vec::new() })
    }

    /// An unbound socket sends to the kernel.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        send(self.descriptor.as_raw_fd(), packet, MsgFlags::empty())?;
        Ok(())
    }

    pub fn receive(&mut self) -> io::Result<&[u8]> {
        self.buffer.resize(RECEIVE_BUFFER, 0);
        // The datagram's own length is told, also of one that does not fit.
        let length = recv(self.descriptor.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC)?;
        self.buffer.get(..length).ok_or_else(|| io::Error::other("the kernel's answer is too long"))
    }
}
