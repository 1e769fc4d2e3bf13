//! Writing DER (X.690): the few types that certificates and CRLs are made of.
//!
//! A writer of its own keeps the simulator apart from the parsers that it tests.

use toani_protocol::Time;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const UTF8_STRING: u8 = 0x0c;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT: u8 = 0xa0;

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = without_leading_zeros(&length);
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short @ 0..=0x7f] => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(0x7f));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

fn without_leading_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

pub(crate) fn set(part: &[u8]) -> Vec<u8> {
    tlv(SET, part)
}

/// `[number] EXPLICIT`.
pub(crate) fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(CONTEXT | number, content)
}

/// An INTEGER that is not negative, from big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let bytes = without_leading_zeros(bytes);
    match bytes.first() {
        Some(0..=0x7f) => tlv(INTEGER, bytes),
        _ => tlv(INTEGER, &[&[0], bytes].concat()),
    }
}

pub(crate) fn integer(value: u64) -> Vec<u8> {
    unsigned(&value.to_be_bytes())
}

pub(crate) fn enumerated(value: u8) -> Vec<u8> {
    tlv(ENUMERATED, &[value])
}

pub(crate) fn boolean(value: bool) -> Vec<u8> {
    tlv(BOOLEAN, &[if value { 0xff } else { 0 }])
}

pub(crate) fn null() -> Vec<u8> {
    tlv(NULL, &[])
}

pub(crate) fn octets(bytes: &[u8]) -> Vec<u8> {
    tlv(OCTET_STRING, bytes)
}

/// A BIT STRING whose last byte has `unused` bits that do not count.
pub(crate) fn bits(unused: u8, bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[unused], bytes].concat())
}

pub(crate) fn utf8(text: &str) -> Vec<u8> {
    tlv(UTF8_STRING, text.as_bytes())
}

pub(crate) fn ia5(text: &str) -> Vec<u8> {
    tlv(IA5_STRING, text.as_bytes())
}

/// An object identifier from its arcs; there are at least two.
pub(crate) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    if let [first, second, rest @ ..] = arcs {
        base128(&mut content, first * 40 + second);
        rest.iter().for_each(|arc| base128(&mut content, *arc));
    }
    tlv(OBJECT_IDENTIFIER, &content)
}

fn base128(out: &mut Vec<u8>, value: u64) {
    let low = (value & 0x7f).to_le_bytes()[0];
    let mut digits = vec![low];
    let mut rest = value >> 7;
    while rest > 0 {
        digits.push((rest & 0x7f).to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.extend(digits.iter().rev());
}

/// UTCTime before 2050, GeneralizedTime from then on (RFC 5280, 4.1.2.5). Whole seconds.
pub(crate) fn time(time: Time) -> Vec<u8> {
    let whole = Time::from_ms(time.ms() / 1000 * 1000).to_string();
    let mut digits: String = whole.chars().filter(char::is_ascii_digit).collect();
    digits.push('Z');
    match digits.strip_prefix("20") {
        Some(short) if *short < *"50" => tlv(UTC_TIME, short.as_bytes()),
        _ => tlv(GENERALIZED_TIME, digits.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_bytes_of_x_690() {
        assert_eq!(oid(&[1, 2, 840, 113_741]), [6, 6, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d]);
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(127), [2, 1, 127]);
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(octets(&[7; 127])[..2], [4, 127]);
        assert_eq!(octets(&[7; 128])[..3], [4, 0x81, 128]);
        assert_eq!(octets(&[7; 256])[..4], [4, 0x82, 1, 0]);
        assert_eq!(octets(&[]), [4, 0]);
        assert_eq!(bits(0, &[1]), [3, 2, 0, 1]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        let time = |text: &str| super::time(text.parse().unwrap());
        assert_eq!(time("2049-12-31T23:59:59.5Z"), b"\x17\x0d491231235959Z");
        assert_eq!(time("2050-01-01T00:00:00Z"), b"\x18\x0f20500101000000Z");
        assert_eq!(time("1999-01-01T00:00:00Z")[0], GENERALIZED_TIME);
    }
}
