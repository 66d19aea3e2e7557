//! A netlink socket to the kernel's packet filter and its connection table:
//! batches (all or nothing), single changes, questions and dumps.
//!
//! Transports bytes; what they mean is the caller's. A socket stays in the
//! network namespace in which it was opened.

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink_socket::NetlinkSocket;

/// The rules (linux/netfilter/nfnetlink.h).
pub const SUBSYSTEM_NF_TABLES: u16 = 10;
/// The connection table.
pub const SUBSYSTEM_CONNECTIONS: u16 = 1;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const HEADER: usize = 16;
/// `struct nfgenmsg`, in front of every body.
const GENERIC_HEADER: usize = 4;
/// A dump interrupted by a change is asked for again so many times.
const MOST_DUMP_ATTEMPTS: usize = 10;

pub const CREATE: u16 = 0x400;
pub const EXCLUSIVE: u16 = 0x200;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR` (also the acknowledgement) and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// One request: its number, flags beyond the usual ones, and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The subsystem in the upper byte, its message's number in the lower.
    pub kind: u16,
    pub flags: u16,
    /// `NFPROTO_*`.
    pub family: u8,
    pub attributes: Vec<u8>,
}

/// An open socket to nf_tables.
#[derive(Debug)]
pub struct NetfilterSocket {
    socket: NetlinkSocket,
    sequence: u32,
}

struct Reply {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: Vec<u8>,
}

impl NetfilterSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: NetlinkSocket::open(SockProtocol::NetlinkNetFilter)?, sequence: 0 })
    }

    /// Sends the messages as one transaction. The first error the kernel gives is
    /// returned, and then none of them has had an effect.
    pub fn transact(&mut self, messages: &[Message]) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut packet = Vec::new();
        let batch = |kind| Raw { kind, flags: REQUEST, family: 0, resource: SUBSYSTEM_NF_TABLES };
        self.push(&mut packet, &batch(BATCH_BEGIN), &[]);
        for message in messages {
            let raw = Raw::new(message, REQUEST | ACKNOWLEDGE);
            self.push(&mut packet, &raw, &message.attributes);
        }
        self.push(&mut packet, &batch(BATCH_END), &[]);
        self.socket.send(&packet)?;
        // The kernel answers every message; an error of the batch itself carries
        // the number of the batch's begin.
        let mut outstanding = messages.len();
        let mut outcome = Ok(());
        while outstanding > 0 {
            for reply in self.receive()? {
                let offset = reply.sequence.wrapping_sub(first) as usize;
                if reply.kind != ERROR || offset > messages.len() {
                    continue;
                }
                let error = error_of(&reply);
                if outcome.is_ok() {
                    outcome = error;
                }
                outstanding = if offset == 0 { 0 } else { outstanding.saturating_sub(1) };
            }
        }
        outcome
    }

    /// Makes one change outside of a batch.
    pub fn change(&mut self, message: &Message) -> io::Result<()> {
        let sequence = self.ask(message, REQUEST | ACKNOWLEDGE)?;
        loop {
            for reply in self.receive()? {
                if reply.sequence == sequence && reply.kind == ERROR {
                    return error_of(&reply);
                }
            }
        }
    }

    /// Asks for one object; `NotFound` if there is none.
    pub fn get(&mut self, message: &Message) -> io::Result<Vec<u8>> {
        let sequence = self.ask(message, REQUEST)?;
        loop {
            for reply in self.receive()? {
                if reply.sequence != sequence {
                    continue;
                }
                if reply.kind == ERROR {
                    error_of(&reply)?;
                    return Err(io::ErrorKind::NotFound.into());
                }
                return Ok(reply.body);
            }
        }
    }

    /// Asks for all objects of a kind.
    pub fn dump(&mut self, message: &Message) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..MOST_DUMP_ATTEMPTS {
            if let Some(bodies) = self.dump_once(message)? {
                return Ok(bodies);
            }
        }
        Err(io::Error::other("the tables keep changing"))
    }

    fn dump_once(&mut self, message: &Message) -> io::Result<Option<Vec<Vec<u8>>>> {
        let sequence = self.ask(message, REQUEST | DUMP)?;
        let mut bodies = Vec::new();
        let mut consistent = true;
        loop {
            for reply in self.receive()? {
                if reply.sequence != sequence {
                    continue;
                }
                consistent &= reply.flags & DUMP_INTERRUPTED == 0;
                match reply.kind {
                    DONE => return Ok(consistent.then_some(bodies)),
                    ERROR => error_of(&reply)?,
                    _ => bodies.push(reply.body),
                }
            }
        }
    }

    fn ask(&mut self, message: &Message, flags: u16) -> io::Result<u32> {
        let mut packet = Vec::new();
        self.push(&mut packet, &Raw::new(message, flags), &message.attributes);
        self.socket.send(&packet)?;
        Ok(self.sequence)
    }

    fn push(&mut self, packet: &mut Vec<u8>, raw: &Raw, attributes: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER + GENERIC_HEADER + attributes.len();
        packet.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        packet.extend(raw.kind.to_ne_bytes());
        packet.extend(raw.flags.to_ne_bytes());
        packet.extend(self.sequence.to_ne_bytes());
        packet.extend(0u32.to_ne_bytes());
        packet.extend([raw.family, 0]);
        packet.extend(raw.resource.to_be_bytes());
        packet.extend(attributes);
        packet.resize(packet.len().next_multiple_of(4), 0);
    }

    fn receive(&mut self) -> io::Result<Vec<Reply>> {
        self.socket.receive().map(split)
    }
}

struct Raw {
    kind: u16,
    flags: u16,
    family: u8,
    resource: u16,
}

impl Raw {
    fn new(message: &Message, flags: u16) -> Self {
        Self {
            kind: message.kind,
            flags: flags | message.flags,
            family: message.family,
            resource: 0,
        }
    }
}

/// Cuts a datagram into messages; a malformed rest is left out.
fn split(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        replies.push(Reply {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body: body.to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    // Callers want the attributes; an error or the end of a dump has none.
    for reply in &mut replies {
        if reply.kind >= 0x10 {
            reply.body.drain(..GENERIC_HEADER.min(reply.body.len()));
        }
    }
    replies
}

fn error_of(reply: &Reply) -> io::Result<()> {
    match reply.body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel sent half a message")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn datagram(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn replies_are_cut_apart() {
        let mut bytes = datagram(0xa0c, 7, &[1, 0, 0, 0, 9, 9, 9, 9]);
        bytes.extend(datagram(2, 8, &(-2i32).to_ne_bytes()));
        let replies = split(&bytes);
        assert_eq!(replies.len(), 2);
        assert_eq!((replies[0].sequence, replies[0].body.as_slice()), (7, &[9u8, 9, 9, 9][..]));
        assert_eq!(error_of(&replies[1]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn malformed_replies_are_left_out() {
        let mut bytes = datagram(0xa0c, 7, &[0; 8]);
        bytes[0..4].copy_from_slice(&400u32.to_ne_bytes());
        assert!(split(&bytes).is_empty());
        bytes[0..4].copy_from_slice(&3u32.to_ne_bytes());
        assert!(split(&bytes).is_empty());
        assert!(error_of(&Reply { kind: 2, flags: 0, sequence: 0, body: vec![1] }).is_err());
    }
}
