//! As much of DER (X.690) as one fixed shape of certificate needs.

use alloc::vec::Vec;

pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const SEQUENCE: u8 = 0x30;
/// `[3] EXPLICIT`.
pub(crate) const EXPLICIT_3: u8 = 0xa3;

/// One element: tag, shortest length, the parts as its content. None beyond 65,535 bytes.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).ok()?.to_be_bytes();
    let mut out = Vec::with_capacity(content.len().saturating_add(4));
    out.push(tag);
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend_from_slice(&[0x81, low]),
        _ => out.extend_from_slice(&[0x82, high, low]),
    }
    out.extend_from_slice(&content);
    Some(out)
}

/// Takes the content of the element at the front, which must bear `tag`. It forgives lengths that
/// are not the shortest: who wants DER writes again what was read, and compares.
pub(crate) fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(&low, rest)| (usize::from(low), rest))?,
        0x82 => rest
            .split_first_chunk()
            .map(|(bytes, rest)| (usize::from(u16::from_be_bytes(*bytes)), rest))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    (found == tag).then_some(content)
}
