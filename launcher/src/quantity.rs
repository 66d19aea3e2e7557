//! Sizes and CPU shares as people write them in configuration: `"512MiB"`, `1.5`.
//! Units are never guessed: a bare number of bytes is refused.

use serde::{Deserialize, Deserializer, de::Error as _};

/// A number of bytes, written with a unit: KiB, MiB, GiB, TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Bytes in words: the largest unit that leaves a number below 1024.
pub fn display_bytes(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift {
            let tenths = (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} bytes")
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_bytes(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is no size; write it like \"512MiB\" or \"2GiB\""))
        })
    }
}

/// CPUs, as a number such as `0.5`; kept in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u64);

impl Cpus {
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let cpus = f64::deserialize(deserializer)?;
        if !(0.01..=4096.0).contains(&cpus) {
            return Err(D::Error::custom(format!(
                "`{cpus}` CPUs is out of range; 0.01 to 4096 are possible"
            )));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // 0.01 to 4096, checked above
        Ok(Self((cpus * 1000.0).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(parse_bytes("512MiB"), Some(512 << 20));
        assert_eq!(parse_bytes("2 GiB"), Some(2 << 30));
        for refused in ["512", "1GB", "-1MiB", "MiB", "", "99999999999TiB"] {
            assert_eq!(parse_bytes(refused), None, "{refused}");
        }
    }

    #[test]
    fn bytes_are_shown_in_words() {
        assert_eq!(display_bytes(1 << 30), "1.0 GiB");
        assert_eq!(display_bytes(1536 << 20), "1.5 GiB");
        assert_eq!(display_bytes(100), "100 bytes");
    }
}
