//! Names that come from outside, checked once and then carried as types.
//!
//! A user's name is opaque text: it may hold `/` or `..` and never becomes part
//! of a path. On disk a name is its hash ([`UserName::on_disk`]). This module
//! must never normalise two different names into one.

use std::fmt;

use sha2::{Digest as _, Sha256};
use unicode_normalization::is_nfc;

/// The longest name anybody may have, in bytes.
pub const LONGEST_NAME: usize = 255;

/// Why a name is refused. The text says what to do, because it reaches the user's page.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("the {what} is empty")]
    Empty { what: &'static str },
    #[error("the {what} has {length} bytes; {LONGEST_NAME} are allowed")]
    TooLong { what: &'static str, length: usize },
    #[error(
        "the {what} holds the character U+{character:04X}, which is not allowed (control and text-direction characters are not)"
    )]
    Forbidden { what: &'static str, character: u32 },
    #[error(
        "the {what} is not in Unicode's composed form (NFC); two spellings would look like one name"
    )]
    NotComposed { what: &'static str },
    #[error("`{value}` is no request id: it takes 1 to 64 characters of [a-zA-Z0-9-]")]
    RequestId { value: String },
}

fn check(what: &'static str, text: &str, may_be_empty: bool) -> Result<(), NameError> {
    if text.is_empty() && !may_be_empty {
        return Err(NameError::Empty { what });
    }
    if text.len() > LONGEST_NAME {
        return Err(NameError::TooLong { what, length: text.len() });
    }
    // Controls break log lines; direction marks make one name look like another.
    let forbidden = |character: &char| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if let Some(character) = text.chars().find(forbidden) {
        return Err(NameError::Forbidden { what, character: character as u32 });
    }
    if !is_nfc(text) {
        return Err(NameError::NotComposed { what });
    }
    Ok(())
}

/// A hub's user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(String);

impl UserName {
    pub fn new(text: &str) -> Result<Self, NameError> {
        check("user name", text, false)?;
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose ids and whose home: a user of one hub. Two hubs' users of one name are two owners.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    pub hub: String,
    pub user: UserName,
}

impl Owner {
    /// The name of this owner's directory: `u-` and the base32 of a SHA-256.
    /// Never the name itself, so no name can leave its directory or collide.
    pub fn on_disk(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.hub.as_bytes());
        // No name holds a NUL, so hub and user cannot run into each other.
        hash.update([0]);
        hash.update(self.user.0.as_bytes());
        format!("u-{}", base32(&hash.finalize()))
    }
}

/// Whether a directory's name is one that [`Owner::on_disk`] gives.
pub fn is_on_disk(name: &str) -> bool {
    name.strip_prefix("u-").is_some_and(|hash| {
        hash.len() == 52 && hash.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
    })
}

/// Which server of which user of which hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey {
    pub hub: String,
    pub user: UserName,
    pub server: String,
}

impl ServerKey {
    pub fn new(hub: &str, user: &str, server: &str) -> Result<Self, NameError> {
        check("hub name", hub, false)?;
        check("server name", server, true)?;
        Ok(Self { hub: hub.to_owned(), user: UserName::new(user)?, server: server.to_owned() })
    }

    /// The key of a slot that waits for its server. No hub is called like that, so that nobody
    /// can ask for it.
    pub fn slot(id: &str) -> Self {
        Self { hub: String::new(), user: UserName(id.to_owned()), server: String::new() }
    }

    pub const fn is_slot(&self) -> bool {
        self.hub.is_empty()
    }

    /// A key as the ledger has it: a server's, or a slot's.
    pub fn recorded(hub: &str, user: &str, server: &str) -> Result<Self, NameError> {
        if hub.is_empty() && server.is_empty() {
            return Ok(Self {
                hub: String::new(),
                user: UserName::new(user)?,
                server: String::new(),
            });
        }
        Self::new(hub, user, server)
    }

    /// Whether it is a server of this user.
    pub fn has_owner(&self, owner: &Owner) -> bool {
        self.hub == owner.hub && self.user == owner.user
    }

    pub fn owner(&self) -> Owner {
        Owner { hub: self.hub.clone(), user: self.user.clone() }
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_slot() {
            return formatter.write_str("(a slot of the pool)");
        }
        write!(formatter, "{}/{}", self.hub, self.user.0)?;
        if !self.server.is_empty() {
            write!(formatter, "/{}", self.server)?;
        }
        Ok(())
    }
}

/// The id of one start, chosen by the hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(String);

impl RequestId {
    pub fn new(text: &str) -> Result<Self, NameError> {
        let well_formed = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::RequestId { value: text.chars().take(64).collect() })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// RFC 4648 base32 in lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits & 31) as usize]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits) & 31) as usize]));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base32_is_that_of_rfc_4648() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"fo"), "mzxq");
        assert_eq!(base32(b""), "");
    }

    #[test]
    fn hostile_names_are_refused_or_hashed() {
        for refused in ["", "a\0b", "new\nline", "\u{202e}evil", "e\u{301}", "tab\t", "\u{7f}"] {
            assert!(UserName::new(refused).is_err(), "{refused:?}");
        }
        assert!(UserName::new(&"x".repeat(256)).is_err());
        let accepted =
            ["..", ".", "/", "../../etc", "root", "é", "名前", "a b", "A", "a", "-rf", "~", "%2e"];
        let longest = "x".repeat(255);
        let mut on_disk = HashSet::new();
        for name in accepted.into_iter().chain([longest.as_str()]) {
            let directory = ServerKey::new("hub", name, "").unwrap().owner().on_disk();
            assert!(directory.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
            assert!(is_on_disk(&directory), "{directory}");
            assert!(on_disk.insert(directory), "{name:?} collides");
        }
    }

    #[test]
    fn nobody_can_ask_for_a_slot() {
        let slot = ServerKey::slot("saaaaaaaaaaa");
        assert!(slot.is_slot());
        assert_eq!(ServerKey::recorded("", "saaaaaaaaaaa", ""), Ok(slot));
        assert!(ServerKey::new("", "saaaaaaaaaaa", "").is_err());
        assert!(ServerKey::recorded("", "ana", "named").is_err());
    }

    proptest! {
        #[test]
        fn two_names_never_share_a_directory(first in "\\PC{1,60}", second in "\\PC{1,60}") {
            prop_assume!(first != second);
            if let (Ok(first), Ok(second)) = (ServerKey::new("hub", &first, ""), ServerKey::new("hub", &second, "")) {
                prop_assert_ne!(first.owner().on_disk(), second.owner().on_disk());
            }
        }
    }
}
