//! A netlink socket to the kernel's routing tables: links, addresses, routes and neighbours
//! (rtnetlink(7)). One request at a time: the kernel works on it while it is sent, so its answer
//! is there at once, and waiting for it in another task would take longer than the work.
//!
//! Transports messages; what they mean is the caller's. A socket stays in the
//! network namespace in which it was opened.

use std::io;

use nix::sys::socket::SockProtocol;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::RouteNetlinkMessage,
};

use super::netlink_socket::NetlinkSocket;

/// A dump interrupted by a change is asked for again so many times.
const MOST_DUMP_ATTEMPTS: usize = 10;
/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// An open socket to the routing tables.
#[derive(Debug)]
pub struct RoutingSocket {
    socket: NetlinkSocket,
    sequence: u32,
}

impl RoutingSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: NetlinkSocket::open(SockProtocol::NetlinkRoute)?, sequence: 0 })
    }

    /// Makes one change.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | flags).map(|_| ())
    }

    /// Asks for one object. An error of the kind `NotFound` if the kernel says nothing.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let (mut answers, _) = self.exchange(message, 0)?;
        answers.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Asks for all objects of a kind.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..MOST_DUMP_ATTEMPTS {
            let (answers, whole) = self.exchange(message.clone(), NLM_F_DUMP)?;
            if whole {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the tables keep changing"))
    }

    /// The answers, and whether nothing changed while they were collected.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.send(message, flags)?;
        let many = flags & NLM_F_DUMP == NLM_F_DUMP;
        let acknowledged = flags & NLM_F_ACK != 0;
        let mut answers = Vec::new();
        let mut whole = true;
        loop {
            for reply in self.receive()? {
                // What an earlier call, given up, has left unread.
                if reply.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= reply.header.flags & NLM_F_DUMP_INTR == 0;
                match reply.payload {
                    NetlinkPayload::InnerMessage(answer) => {
                        answers.push(answer);
                        if !many && !acknowledged {
                            return Ok((answers, whole));
                        }
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(io::Error::from_raw_os_error(
                            error.raw_code().saturating_neg(),
                        ));
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {
                        return Ok((answers, whole));
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut packet = vec![0; message.buffer_len()];
        message.serialize(&mut packet);
        self.socket.send(&packet)
    }

    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        split(self.socket.receive()?)
    }
}

/// Cuts a datagram into messages. What cannot be understood is an error: a link, an address or a
/// route that was passed over would not be there for whoever looks at the walls.
fn split(mut bytes: &[u8]) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length) as usize);
        let Some(message) =
            length.filter(|length| *length >= HEADER).and_then(|length| bytes.get(..length))
        else {
            return Err(io::Error::other("the kernel sent half a message"));
        };
        let parsed = NetlinkMessage::deserialize(message)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        messages.push(parsed);
        bytes = bytes.get(message.len().next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rtnetlink::packet_route::{
        link::{LinkAttribute, LinkMessage},
        route::RouteMessage,
    };

    use super::*;

    fn named(name: &str) -> RouteNetlinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        RouteNetlinkMessage::GetLink(link)
    }

    #[test]
    fn the_kernel_answers_one_and_all() {
        let mut socket = RoutingSocket::open().unwrap();
        for _ in 0..3 {
            assert!(matches!(socket.get(named("lo")).unwrap(), RouteNetlinkMessage::NewLink(_)));
        }
        let all = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert!(all.iter().any(|link| matches!(link, RouteNetlinkMessage::NewLink(_))));
        let routes = socket.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()));
        assert!(routes.unwrap().iter().all(|it| matches!(it, RouteNetlinkMessage::NewRoute(_))));
    }

    #[test]
    fn a_refusal_is_an_error_and_nothing_of_it_is_left() {
        let mut socket = RoutingSocket::open().unwrap();
        let refused = socket.get(named("no-such-link")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
        let refused = socket.change(RouteNetlinkMessage::DelLink(LinkMessage::default()), 0);
        assert!(refused.unwrap_err().raw_os_error().is_some());
        assert!(socket.get(named("lo")).is_ok());
    }

    #[test]
    fn half_a_message_is_no_answer() {
        assert!(split(&[20, 0, 0, 0, 3, 0]).is_err());
        assert!(split(&[4, 0, 0, 0]).is_err());
        assert!(split(&[]).unwrap().is_empty());
    }
}
