//! Netlink attributes: writing and reading them (netlink(7), `struct nlattr`).
//!
//! Pure. Reading never fails and never reads beyond the bytes: malformed input
//! ends the list.

const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;

/// A list of attributes that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With the closing NUL that the kernel wants.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    #[must_use]
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The attributes in these bytes, in order.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE, value))
    })
}

/// The first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// An attribute that is a text.
pub fn text(bytes: &[u8], kind: u16) -> Option<String> {
    until_nul(attribute(bytes, kind)?)
}

/// A text in a field that NULs fill up.
pub fn until_nul(field: &[u8]) -> Option<String> {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::new().bytes(1, &[7]).text(2, "name");
        let bytes = Attributes::new().nested(3, &inner).bytes(4, &[1, 2, 3, 4]).finish();
        assert_eq!(bytes.len() % 4, 0);
        let nested = attribute(&bytes, 3).unwrap();
        assert_eq!(attribute(nested, 1).unwrap(), [7]);
        assert_eq!(text(nested, 2).unwrap(), "name");
        assert_eq!(attribute(&bytes, 4).unwrap(), [1, 2, 3, 4]);
        assert_eq!(attribute(&bytes, 5), None);
    }

    #[test]
    fn malformed_lists_end() {
        for bytes in [&[][..], &[1], &[0, 0, 0, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 9], &[255; 7]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
