//! Which addresses the door may lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The public Internet.
    Public,
    /// This machine, a network of one's own, a metadata service, or a form that hides one of
    /// these. Only where the policy says that the endpoint is private.
    Private,
    /// Nothing that one connects to.
    Never,
}

impl Reach {
    /// Whether the door may lead there.
    pub fn allowed(self, private: bool) -> bool {
        match self {
            Self::Public => true,
            Self::Private => private,
            Self::Never => false,
        }
    }
}

/// What kind of place `address` is.
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

/// IANA's IPv4 Special-Purpose Address Registry, without what is globally reachable.
fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [0, ..] | [224..=255, ..] => Reach::Never,
        [10 | 127, ..]
        | [100, 64..=127, ..]
        | [169, 254, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [198, 18..=19, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [192, 31, 196, _]
        | [192, 52, 193, _]
        | [192, 175, 48, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Private,
        _ => Reach::Public,
    }
}

/// Global unicast (2000::/3) without its special parts is public. The rest is not, and neither is
/// an address that carries an IPv4 address: where it leads is decided elsewhere.
fn reach_v6(address: Ipv6Addr) -> Reach {
    if let Some(v4) = embedded(address) {
        return match reach_v4(v4) {
            Reach::Never => Reach::Never,
            Reach::Public | Reach::Private => Reach::Private,
        };
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] | [0xff00..=0xffff, ..] => Reach::Never,
        // IETF assignments with Teredo and ORCHID, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Private,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Private,
    }
}

/// IPv4-mapped, IPv4-compatible, NAT64 (both prefixes) and 6to4 addresses carry an IPv4 address.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0..=1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_addresses_are_known() {
        for (text, expected) in [
            ("1.1.1.1", Reach::Public),
            ("93.184.215.14", Reach::Public),
            ("100.63.255.255", Reach::Public),
            ("172.15.0.1", Reach::Public),
            ("172.32.0.1", Reach::Public),
            ("192.0.1.1", Reach::Public),
            ("10.1.2.3", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("127.0.0.1", Reach::Private),
            ("127.255.255.255", Reach::Private),
            ("169.254.169.254", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.31.255.255", Reach::Private),
            ("192.168.0.1", Reach::Private),
            ("198.18.0.1", Reach::Private),
            ("0.0.0.0", Reach::Never),
            ("0.1.2.3", Reach::Never),
            ("224.0.0.1", Reach::Never),
            ("240.0.0.1", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("2606:4700::1111", Reach::Public),
            ("2a00:1450:4001::1", Reach::Public),
            ("::1", Reach::Private),
            ("fc00::1", Reach::Private),
            ("fd00:ec2::254", Reach::Private),
            ("fe80::1", Reach::Private),
            ("fec0::1", Reach::Private),
            ("100::1", Reach::Private),
            ("2001::1", Reach::Private),
            ("2001:db8::1", Reach::Private),
            ("::ffff:127.0.0.1", Reach::Private),
            ("::ffff:1.1.1.1", Reach::Private),
            ("::7f00:1", Reach::Private),
            ("::ffff:0:127.0.0.1", Reach::Private),
            ("64:ff9b::10.0.0.1", Reach::Private),
            ("64:ff9b:1::10.0.0.1", Reach::Private),
            ("2002:7f00:1::", Reach::Private),
            ("fdff:ffff::1", Reach::Private),
            ("febf::1", Reach::Private),
            ("::ffff:169.254.169.254", Reach::Private),
            ("::169.254.169.254", Reach::Private),
            ("::ffff:0:169.254.169.254", Reach::Private),
            ("64:ff9b::169.254.169.254", Reach::Private),
            ("64:ff9b:1:2:3:4:169.254.169.254", Reach::Private),
            ("2002:a9fe:a9fe::1", Reach::Private),
            ("2002:c0a8:1::", Reach::Private),
            ("2002:101:101::", Reach::Private),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Reach::Private),
            ("64:ff9b::0.0.0.0", Reach::Never),
            ("2002::1", Reach::Never),
            ("::ffff:0.0.0.0", Reach::Never),
            ("::ffff:224.0.0.1", Reach::Never),
            ("::", Reach::Never),
            ("ff02::1", Reach::Never),
        ] {
            assert_eq!(reach(text.parse().unwrap()), expected, "{text}");
        }
    }

    proptest! {
        /// What std knows to be special is never public.
        #[test]
        fn agrees_with_std(bits in any::<u32>(), wide in any::<u128>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local()
                || v4.is_multicast() || v4.is_unspecified() || v4.is_broadcast()
                || v4.is_documentation();
            prop_assert!(!special || reach(v4.into()) != Reach::Public);
            prop_assert_ne!(reach(v4.to_ipv6_mapped().into()), Reach::Public);
            prop_assert_ne!(reach(v4.to_ipv6_compatible().into()), Reach::Public);
            let (low, [a, b]) = (u128::from(bits), [bits >> 16, bits & 0xffff]);
            for carrier in [
                (0x64_ff9b_u128 << 96) | low,
                (0x64_ff9b_0001_u128 << 80) | low,
                (0xffff_u128 << 48) | low,
                (0x2002_u128 << 112) | (u128::from(a) << 96) | (u128::from(b) << 80),
            ] {
                let carrier = Ipv6Addr::from_bits(carrier);
                prop_assert_ne!(reach(carrier.into()), Reach::Public, "{}", carrier);
            }
            let v6 = Ipv6Addr::from_bits(wide);
            let special = v6.is_loopback() || v6.is_multicast() || v6.is_unspecified()
                || v6.is_unique_local() || v6.is_unicast_link_local();
            prop_assert!(!special || reach(v6.into()) != Reach::Public);
        }
    }
}
