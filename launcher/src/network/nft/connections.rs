//! Messages to the kernel's connection table: forget what an address was part of.
//!
//! Pure. An address is given to another sandbox one day; a connection of the
//! former one must not be taken for an established one of the next.

use std::net::Ipv4Addr;

use super::message::Attributes;
use crate::host::nfnetlink::{Message, SUBSYSTEM_CONNECTIONS};

// linux/netfilter/nfnetlink_conntrack.h
const FAMILY_IPV4: u8 = 2;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const TUPLE_IP: u16 = 1;
/// Kind of the attribute, and its bit in the filter.
const SOURCE: (u16, u32) = (1, 1);
const DESTINATION: (u16, u32) = (2, 2);

/// Forgets every connection that this address has begun or accepted.
pub fn forget(address: Ipv4Addr) -> [Message; 2] {
    [SOURCE, DESTINATION].map(|(kind, flag)| {
        let ip = Attributes::new().bytes(kind, &address.octets());
        let tuple = Attributes::new().nested(TUPLE_IP, &ip);
        let filter = Attributes::new().bytes(FILTER_ORIGINAL_FLAGS, &flag.to_ne_bytes());
        Message {
            kind: SUBSYSTEM_CONNECTIONS << 8 | DELETE,
            flags: 0,
            family: FAMILY_IPV4,
            attributes: Attributes::new()
                .nested(TUPLE_ORIGINAL, &tuple)
                .nested(FILTER, &filter)
                .finish(),
        }
    })
}
