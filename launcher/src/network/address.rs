//! The address plan: a subnet, and what each of its addresses is for.
//!
//! Pure. Sandboxes are told by their address, so an address belongs to one
//! sandbox at a time, and its link-layer address follows from it.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// Addresses below this one are the instance's own: the gateway, the router, and room.
const FIRST_SANDBOX: u32 = 256;
/// A smaller subnet has no room beside the instance's own addresses; a larger one is a slip.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=22;

/// The subnet of all sandboxes of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no usable subnet.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is no subnet for sandboxes: it takes the form 10.88.0.0/16, with a prefix of 8 to 22 and no bits beyond it"
)]
pub struct InvalidSubnet(String);

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (network, prefix) = text.split_once('/')?;
            let subnet = Self { network: network.parse().ok()?, prefix: prefix.parse().ok()? };
            let well_formed = PREFIXES.contains(&subnet.prefix)
                && subnet.network.to_bits() & !subnet.mask() == 0
                && !subnet.network.is_loopback()
                && !subnet.network.is_multicast()
                && !subnet.network.is_unspecified();
            well_formed.then_some(subnet)
        };
        parse().ok_or_else(|| InvalidSubnet(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

impl Subnet {
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The host's end: the hub listens here, and only from here are servers reached.
    pub fn gateway(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// The router's only address: the next hop of host and sandboxes. Nothing listens there.
    pub fn router(&self) -> Ipv4Addr {
        self.at(2)
    }

    /// How many sandboxes can have an address at once.
    pub fn capacity(&self) -> u32 {
        // The last address is left alone: some systems take it for a broadcast.
        !self.mask() - FIRST_SANDBOX
    }

    /// The address of the sandbox with this index, counted from 0.
    pub fn address(&self, index: u32) -> Option<Ipv4Addr> {
        (index < self.capacity()).then(|| self.at(FIRST_SANDBOX + index))
    }

    /// The inverse of [`Self::address`].
    pub fn index(&self, address: Ipv4Addr) -> Option<u32> {
        let index = (address.to_bits() & !self.mask()).checked_sub(FIRST_SANDBOX)?;
        (self.contains(address) && index < self.capacity()).then_some(index)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network.to_bits()
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + offset)
    }
}

/// A link-layer address: locally administered, unicast.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The one a sandbox with this address has.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0xad, a, b, c, d])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.map(|byte| format!("{byte:02x}"));
        formatter.write_str(&parts.join(":"))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn plan_of_the_default_subnet() {
        let subnet: Subnet = "10.88.0.0/16".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(subnet.router(), Ipv4Addr::new(10, 88, 0, 2));
        assert_eq!(subnet.address(0), Some(Ipv4Addr::new(10, 88, 1, 0)));
        assert_eq!(subnet.address(256), Some(Ipv4Addr::new(10, 88, 2, 0)));
        assert_eq!(subnet.address(65_278), Some(Ipv4Addr::new(10, 88, 255, 254)));
        assert_eq!(subnet.address(65_279), None);
        assert_eq!(MacAddress::of(Ipv4Addr::new(10, 88, 1, 0)).to_string(), "02:ad:0a:58:01:00");
        assert_eq!(subnet.to_string(), "10.88.0.0/16");
    }

    #[test]
    fn index_is_the_inverse_of_address() {
        for text in ["10.0.0.0/8", "10.88.0.0/16", "192.168.4.0/22"] {
            let subnet: Subnet = text.parse().unwrap();
            for index in [0, 1, 255, 256, subnet.capacity() - 1] {
                assert_eq!(subnet.index(subnet.address(index).unwrap()), Some(index), "{text}");
            }
            assert_eq!(subnet.index(subnet.gateway()), None);
            assert_eq!(subnet.index(subnet.router()), None);
            assert_eq!(subnet.address(subnet.capacity()), None);
        }
        let subnet: Subnet = "10.88.0.0/16".parse().unwrap();
        assert_eq!(subnet.index(Ipv4Addr::new(10, 89, 1, 0)), None);
        assert_eq!(subnet.index(Ipv4Addr::new(10, 88, 255, 255)), None);
    }

    #[test]
    fn unusable_subnets_are_refused() {
        for text in [
            "",
            "10.88.0.0",
            "10.88.0.0/",
            "10.88.0.0/23",
            "10.88.0.0/7",
            "10.88.0.1/16",
            "10.88.0.0/33",
            "10.88.0.0/-1",
            "127.0.0.0/16",
            "224.0.0.0/16",
            "0.0.0.0/8",
            "fd00::/16",
            "10.88.0.0/16; flush",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
