//! Which addresses a guest's request may lead to once its name is resolved.
//!
//! Public ones always; private ones and this machine only where the capability says so. Link-local addresses (where
//! clouds keep their metadata services), multicast and unspecified ones never.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::manifest::Network;

/// Whether a request may lead to this address, with `allowed` networks beyond the public one.
///
/// # Errors
/// Why not, as the end of a sentence.
pub fn check(address: IpAddr, allowed: &[Network]) -> Result<(), &'static str> {
    match network(address) {
        None => Err("an address that no plugin may reach"),
        Some(Network::Public) => Ok(()),
        Some(Network::Private) if allowed.contains(&Network::Private) => Ok(()),
        Some(Network::Private) => Err("a private address, which the plugin's capability does not include"),
        Some(Network::Loopback) if allowed.contains(&Network::Loopback) => Ok(()),
        Some(Network::Loopback) => Err("this machine, which the plugin's capability does not include"),
    }
}

/// The network an address belongs to; none for those never to be reached.
fn network(address: IpAddr) -> Option<Network> {
    match address {
        IpAddr::V4(v4) => network_v4(v4),
        IpAddr::V6(v6) => network_v6(v6),
    }
}

fn network_v4(address: Ipv4Addr) -> Option<Network> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        // This network, link-local, the protocol assignments, multicast, reserved and broadcast (RFC 6890).
        (0, ..) | (169, 254, _) | (192, 0, 0) | (224..=255, ..) => None,
        (127, ..) => Some(Network::Loopback),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (198, 18..=19, _) => {
            Some(Network::Private)
        }
        _ => Some(Network::Public),
    }
}

fn network_v6(address: Ipv6Addr) -> Option<Network> {
    if address == Ipv6Addr::LOCALHOST {
        return Some(Network::Loopback);
    }
    if let Some(v4) = embedded_v4(address) {
        return network_v4(v4);
    }
    // The metadata service of one cloud has a unique local address (fd00:ec2::254).
    if address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
        return None;
    }
    match address.segments()[0] {
        0xfc00..=0xfdff => Some(Network::Private),
        0x2000..=0x3fff => Some(Network::Public),
        // Unspecified, link-local, site-local, multicast and whatever is not assigned.
        _ => None,
    }
}

/// IPv4 inside IPv6: mapped, compatible, NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(from(high, low))
        }
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_network() {
        for (text, expected) in [
            ("8.8.8.8", Some(Network::Public)),
            ("2606:4700::1", Some(Network::Public)),
            ("10.1.2.3", Some(Network::Private)),
            ("172.31.0.1", Some(Network::Private)),
            ("172.32.0.1", Some(Network::Public)),
            ("100.64.0.1", Some(Network::Private)),
            ("fd12::1", Some(Network::Private)),
            ("127.8.8.8", Some(Network::Loopback)),
            ("::1", Some(Network::Loopback)),
            ("::ffff:127.0.0.1", Some(Network::Loopback)),
            ("::ffff:169.254.169.254", None),
            ("64:ff9b::a9fe:a9fe", None),
            ("2002:a9fe:a9fe::1", None),
            ("169.254.169.254", None),
            ("fd00:ec2::254", None),
            ("fe80::1", None),
            ("0.0.0.0", None),
            ("::", None),
            ("224.0.0.1", None),
            ("ff02::1", None),
            ("255.255.255.255", None),
        ] {
            assert_eq!(network(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_private_address_needs_its_network() {
        let private = "192.168.1.1".parse().unwrap();
        assert!(check(private, &[]).is_err());
        assert!(check(private, &[Network::Loopback]).is_err());
        assert!(check(private, &[Network::Private]).is_ok());
        assert!(check("169.254.169.254".parse().unwrap(), &[Network::Private, Network::Loopback]).is_err());
    }
}
