//! The elements of one sandbox in the router's table, and questions about the
//! tables, as netlink messages.
//!
//! Pure. Numbers are those of linux/netfilter/nf_tables.h.

use std::net::Ipv4Addr;

use adrastea_runtimes::plan::SandboxId;

use super::{
    super::MacAddress,
    message::{Attributes, attribute, attributes, text, until_nul},
    router::TABLE,
};
use crate::host::nfnetlink::{CREATE, EXCLUSIVE, Message, SUBSYSTEM_NF_TABLES};

/// Who may speak: link, address, card.
pub const MEMBERS: &str = "members";
/// Links of claimed sandboxes.
pub const OPENED: &str = "opened";
/// Link to the chain of what it may reach.
pub const EGRESS: &str = "egress_of";
/// All of them; each has the link's name first in its key.
pub const ALL: [&str; 3] = [MEMBERS, OPENED, EGRESS];

const FAMILY_INET: u8 = 1;
const LINK_NAME_FIELD: usize = 16;
const LINK_PREFIX: &str = "v";

const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

const TABLE_NAME: u16 = 1;
const TABLE_USER_DATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const JUMP: i32 = -3;

/// The router's link to a sandbox.
pub fn link_name(id: &SandboxId) -> String {
    format!("{LINK_PREFIX}{id}")
}

/// The sandbox to which a link of the router belongs.
pub fn sandbox_of(link: &str) -> Option<SandboxId> {
    link.strip_prefix(LINK_PREFIX)?.parse().ok()
}

fn link_key(id: &SandboxId) -> Vec<u8> {
    let mut key = link_name(id).into_bytes();
    key.resize(LINK_NAME_FIELD, 0);
    key
}

/// The key in [`MEMBERS`]; each field fills whole words.
pub fn member_key(id: &SandboxId, address: Ipv4Addr) -> Vec<u8> {
    let mut key = link_key(id);
    key.extend(address.octets());
    key.extend(MacAddress::of(address).0);
    key.resize(key.len().next_multiple_of(4), 0);
    key
}

/// One element as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    /// Where a verdict map sends the packet.
    pub chain: Option<String>,
}

impl Element {
    /// The address in a key of [`MEMBERS`].
    pub fn address(&self) -> Option<Ipv4Addr> {
        let field = self.key.get(LINK_NAME_FIELD..)?.first_chunk::<4>()?;
        Some(Ipv4Addr::from(*field))
    }

    /// The sandbox it belongs to.
    pub fn sandbox(&self) -> Option<SandboxId> {
        sandbox_of(&until_nul(self.key.get(..LINK_NAME_FIELD)?)?)
    }
}

/// What a sandbox has from its attachment on: it may speak, and nothing comes of it.
pub fn attach(id: &SandboxId, address: Ipv4Addr) -> Vec<Message> {
    vec![
        add(MEMBERS, &member_key(id, address), None),
        add(EGRESS, &link_key(id), Some(super::router::CLOSED_CHAIN)),
    ]
}

/// From closed to a profile's chain, in one transaction.
pub fn open(id: &SandboxId, chain: &str) -> Vec<Message> {
    let key = link_key(id);
    vec![delete(EGRESS, &key), add(EGRESS, &key, Some(chain)), add(OPENED, &key, None)]
}

/// What an open sandbox has in the router's table, as `nft` would write it.
pub fn describe(id: &SandboxId, address: Ipv4Addr, chain: &str) -> String {
    let (link, card) = (link_name(id), MacAddress::of(address));
    format!(
        "table inet {TABLE}\n\
         element {MEMBERS} {{ \"{link}\" . {address} . {card} }}\n\
         element {EGRESS} {{ \"{link}\" : jump {chain} }}\n\
         element {OPENED} {{ \"{link}\" }}\n"
    )
}

/// What the profile's chain of a sandbox is, if it has one.
pub fn egress_of(id: &SandboxId) -> Message {
    item(GET_ELEMENT, 0, EGRESS, &link_key(id), None)
}

/// Whether a sandbox is open.
pub fn opened(id: &SandboxId) -> Message {
    item(GET_ELEMENT, 0, OPENED, &link_key(id), None)
}

/// Whether a sandbox may speak with this address.
pub fn member(id: &SandboxId, address: Ipv4Addr) -> Message {
    item(GET_ELEMENT, 0, MEMBERS, &member_key(id, address), None)
}

/// All elements of one set.
pub fn list(set: &str) -> Message {
    let attributes = Attributes::new().text(LIST_TABLE, TABLE).text(LIST_SET, set);
    question(GET_ELEMENT, attributes)
}

/// Takes an element away; an error if it is not there.
pub fn delete(set: &str, key: &[u8]) -> Message {
    item(DELETE_ELEMENT, 0, set, key, None)
}

fn add(set: &str, key: &[u8], chain: Option<&str>) -> Message {
    item(NEW_ELEMENT, CREATE | EXCLUSIVE, set, key, chain)
}

fn item(kind: u16, flags: u16, set: &str, key: &[u8], chain: Option<&str>) -> Message {
    let key = Attributes::new().bytes(DATA_VALUE, key);
    let mut element = Attributes::new().nested(ELEMENT_KEY, &key);
    if let Some(chain) = chain {
        let verdict =
            Attributes::new().bytes(VERDICT_CODE, &JUMP.to_be_bytes()).text(VERDICT_CHAIN, chain);
        element = element.nested(ELEMENT_DATA, &Attributes::new().nested(DATA_VERDICT, &verdict));
    }
    let elements = Attributes::new().nested(LIST_ITEM, &element);
    let attributes = Attributes::new()
        .text(LIST_TABLE, TABLE)
        .text(LIST_SET, set)
        .nested(LIST_ELEMENTS, &elements);
    Message { flags, ..question(kind, attributes) }
}

/// The elements in the body of an answer.
pub fn parse(body: &[u8]) -> Vec<Element> {
    let Some(list) = attribute(body, LIST_ELEMENTS) else { return Vec::new() };
    attributes(list)
        .filter_map(|(_, item)| {
            let key = attribute(attribute(item, ELEMENT_KEY)?, DATA_VALUE)?.to_vec();
            let chain = attribute(item, ELEMENT_DATA)
                .and_then(|data| attribute(data, DATA_VERDICT))
                .and_then(|verdict| text(verdict, VERDICT_CHAIN));
            Some(Element { key, chain })
        })
        .collect()
}

/// A table by name.
pub fn table(name: &str) -> Message {
    question(GET_TABLE, Attributes::new().text(TABLE_NAME, name))
}

/// The comment in the answer about a table.
pub fn table_comment(body: &[u8]) -> Option<String> {
    // User data is nft's own: a type byte (0 is the comment), a length byte, the text.
    let [0, length, rest @ ..] = attribute(body, TABLE_USER_DATA)? else { return None };
    until_nul(rest.get(..usize::from(*length))?)
}

/// All chains of the family inet.
pub fn chains() -> Message {
    question(GET_CHAIN, Attributes::new())
}

/// All rules of a table.
pub fn rules(table: &str) -> Message {
    question(GET_RULE, Attributes::new().text(RULE_TABLE, table))
}

/// What tells a chain, with its policy, from a chain that was put in its place.
pub fn chain_mark(table: &str, body: &[u8]) -> Option<Vec<u8>> {
    (text(body, CHAIN_TABLE)? == table).then_some(())?;
    let parts = [CHAIN_NAME, CHAIN_HANDLE, CHAIN_POLICY];
    Some(
        parts.iter().flat_map(|kind| attribute(body, *kind).unwrap_or_default().to_vec()).collect(),
    )
}

/// What tells a rule from any other: the kernel never gives a handle twice in a table.
pub fn rule_mark(table: &str, body: &[u8]) -> Option<Vec<u8>> {
    (text(body, RULE_TABLE)? == table).then_some(())?;
    let parts = [RULE_CHAIN, RULE_HANDLE];
    Some(
        parts.iter().flat_map(|kind| attribute(body, *kind).unwrap_or_default().to_vec()).collect(),
    )
}

fn question(kind: u16, attributes: Attributes) -> Message {
    let kind = SUBSYSTEM_NF_TABLES << 8 | kind;
    Message { kind, flags: 0, family: FAMILY_INET, attributes: attributes.finish() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_fill_words_and_name_their_sandbox() {
        let id: SandboxId = "abcdefghijk0".parse().unwrap();
        let key = member_key(&id, Ipv4Addr::new(10, 88, 1, 2));
        assert_eq!(key.len(), 28);
        assert_eq!(&key[..16], b"vabcdefghijk0\0\0\0");
        assert_eq!(&key[16..], [10, 88, 1, 2, 2, 0xad, 10, 88, 1, 2, 0, 0]);
        let element = Element { key, chain: None };
        assert_eq!(element.address(), Some(Ipv4Addr::new(10, 88, 1, 2)));
        assert_eq!(element.sandbox(), Some(id));
    }

    #[test]
    fn foreign_links_are_nobodys() {
        for link in ["uplink", "lo", "vabc", "xabcdefghijk0", "vABCDEFGHIJK0", ""] {
            assert_eq!(sandbox_of(link), None, "{link}");
        }
    }

    #[test]
    fn elements_are_read_back() {
        let id: SandboxId = "abcdefghijk0".parse().unwrap();
        let [_, egress] = attach(&id, Ipv4Addr::new(10, 88, 1, 2)).try_into().unwrap();
        let found = parse(&egress.attributes);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].chain.as_deref(), Some("closed"));
        assert_eq!(found[0].sandbox(), Some(id));
    }
}
