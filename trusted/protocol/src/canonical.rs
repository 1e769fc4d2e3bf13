//! Canonical JSON (RFC 8785), strictly: what does not re-encode to itself is refused.
//!
//! Numbers are the ones that every JSON reader agrees on: integers within ±(2^53 − 1) and finite
//! doubles. An integral number beyond that range is refused, because two readers may see two
//! values in it.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{
    Deserialize, Serialize,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::limits::JSON_DEPTH_MAX;

/// The largest integer that a double holds exactly together with its neighbours: 2^53 − 1.
pub const SAFE_INTEGER_MAX: i64 = 9_007_199_254_740_991;

/// Why bytes are not an acceptable document. Carries nothing of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    #[error("the document is larger than its limit")]
    TooLarge,
    #[error("the document is nested too deeply")]
    TooDeep,
    #[error("the document is not UTF-8 JSON of the expected shape, or names a key twice")]
    Malformed,
    #[error("the document is not in canonical form (RFC 8785)")]
    NotCanonical,
    #[error("a number is not finite, or an integer lies beyond 2^53 - 1")]
    UnsafeNumber,
}

/// Encodes a value as canonical JSON.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let value = serde_json::to_value(value).map_err(|_| CanonicalError::UnsafeNumber)?;
    encode_value(&value)
}

/// Encodes a JSON value as canonical JSON.
pub fn encode_value(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::with_capacity(512);
    write(&mut out, value, 0)?;
    Ok(out)
}

/// Decodes a document that must already be canonical, and at most `bytes_max` long.
///
/// Re-encoding catches in one step what typed decoding lets pass: keys named twice, other number
/// spellings, escapes, white space, and fields left to their defaults.
pub fn decode<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, CanonicalError> {
    if bytes.len() > bytes_max {
        return Err(CanonicalError::TooLarge);
    }
    let value: T = serde_json::from_slice(bytes).map_err(|_| CanonicalError::Malformed)?;
    if encode(&value)? == bytes { Ok(value) } else { Err(CanonicalError::NotCanonical) }
}

/// Reads any JSON that says one thing only: no key twice, no unsafe number, bounded depth.
///
/// White space and key order are free here. What comes from people and agents is read with this
/// and encoded again before anything is decided about it.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Value, CanonicalError> {
    if bytes.len() > bytes_max {
        return Err(CanonicalError::TooLarge);
    }
    if depth(bytes) > JSON_DEPTH_MAX {
        return Err(CanonicalError::TooDeep);
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut reader).map_err(|_| CanonicalError::Malformed)?;
    reader.end().map_err(|_| CanonicalError::Malformed)?;
    check_numbers(&value)?;
    Ok(value)
}

/// Nesting of brackets outside strings, without building anything.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn check_numbers(value: &Value) -> Result<(), CanonicalError> {
    match value {
        Value::Number(number) => number_text(number).map(|_| ()),
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(map) => map.values().try_for_each(check_numbers),
        _ => Ok(()),
    }
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), CanonicalError> {
    let below = depth.saturating_add(1);
    // As deep as [`parse`] counts: so many brackets inside each other.
    if depth >= JSON_DEPTH_MAX && (value.is_array() || value.is_object()) {
        return Err(CanonicalError::TooDeep);
    }
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(number_text(number)?.as_bytes()),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item, below)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (i, (key, item)) in in_utf16_order(map).into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(out, key);
                out.push(b':');
                write(out, item, below)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// RFC 8785 sorts keys by UTF-16 code units; the map is sorted by UTF-8 bytes, which differs only
/// where a key holds a character outside ASCII.
fn in_utf16_order(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    if !entries.iter().all(|(key, _)| key.is_ascii()) {
        entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    entries
}

fn number_text(number: &Number) -> Result<String, CanonicalError> {
    if let Some(integer) = number.as_i64() {
        return if integer.unsigned_abs() <= SAFE_INTEGER_MAX.unsigned_abs() {
            Ok(alloc::format!("{integer}"))
        } else {
            Err(CanonicalError::UnsafeNumber)
        };
    }
    let double = match number.as_f64() {
        Some(double) if number.is_f64() && double.is_finite() => double,
        _ => return Err(CanonicalError::UnsafeNumber),
    };
    // 2^53 and beyond: every double is an integer there.
    if double.abs() > 9_007_199_254_740_991.0 {
        return Err(CanonicalError::UnsafeNumber);
    }
    Ok(String::from(ryu_js::Buffer::new().format_finite(double)))
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0..=0x1f => out.extend_from_slice(alloc::format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Builds a value and refuses an object that names a key twice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(String::from(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Strict)?;
            if out.insert(key, value).is_some() {
                return Err(de::Error::custom("a key is named twice"));
            }
        }
        Ok(Value::Object(out))
    }
}

/// A JSON value inside a typed document. Its `Deserialize` refuses keys named twice.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Json(pub Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: de::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        Strict.deserialize(reader).map(Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn text(bytes: &[u8]) -> Result<String, CanonicalError> {
        parse(bytes, 4096)
            .and_then(|value| encode_value(&value))
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn rfc_8785_examples() {
        // RFC 8785, section 3.2.2 and 3.2.3.
        let input = br#"{"numbers":[1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        assert_eq!(text(input), Err(CanonicalError::UnsafeNumber), "1E30 is not safe");
        let input = br#"{"numbers":[4.50,2e-3,0.000000000000000000000000001,-0.0],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        assert_eq!(
            text(input).unwrap(),
            "{\"literals\":[null,true,false],\"numbers\":[4.5,0.002,1e-27,0],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        let sorted = text(
            "{\"\u{20ac}\":1,\"\\r\":2,\"\u{fb33}\":3,\"1\":4,\"\u{1f600}\":5,\"\u{80}\":6,\"\u{f6}\":7}"
                .as_bytes(),
        );
        assert_eq!(
            sorted.unwrap(),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}"
        );
    }

    #[test]
    fn refuses_what_two_readers_may_read_differently() {
        assert_eq!(text(b"{\"a\":1,\"a\":2}"), Err(CanonicalError::Malformed));
        assert_eq!(text(b"[{\"a\":{\"b\":1,\"b\":1}}]"), Err(CanonicalError::Malformed));
        assert_eq!(text(b"9007199254740993"), Err(CanonicalError::UnsafeNumber));
        assert_eq!(text(b"9007199254740992"), Err(CanonicalError::UnsafeNumber));
        assert_eq!(text(b"1e400"), Err(CanonicalError::Malformed));
        assert_eq!(text(b"NaN"), Err(CanonicalError::Malformed));
        assert_eq!(text(b"\"\xff\""), Err(CanonicalError::Malformed));
        assert_eq!(text(b"1 2"), Err(CanonicalError::Malformed));
        assert_eq!(text(&[b'['; 4000]), Err(CanonicalError::TooDeep));
        assert_eq!(text(&[b' '; 5000]), Err(CanonicalError::TooLarge));
    }

    #[test]
    fn decode_accepts_canonical_bytes_only() {
        assert_eq!(decode::<Json>(b"{\"a\":1,\"b\":2}", 64).unwrap().0, json!({"a": 1, "b": 2}));
        assert_eq!(decode::<Json>(b"{\"b\":2,\"a\":1}", 64), Err(CanonicalError::NotCanonical));
        assert_eq!(decode::<Json>(b"{\"a\": 1}", 64), Err(CanonicalError::NotCanonical));
        assert_eq!(decode::<Json>(b"1.0", 64), Err(CanonicalError::NotCanonical));
        assert_eq!(decode::<Json>(b"\"\\u0041\"", 64), Err(CanonicalError::NotCanonical));
    }

    /// In ASCII, RFC 8785 escapes what every writer of JSON does.
    #[test]
    fn strings_are_escaped_wherever_it_is_needed() {
        let ascii = || (0..=0x7f_u8).map(char::from);
        for (a, b) in ascii().flat_map(|a| ascii().map(move |b| (a, b))) {
            let text: String = [a, b, 'x', a, 'é'].into_iter().collect();
            let encoded = encode_value(&Value::from(text.clone())).unwrap();
            assert_eq!(String::from_utf8(encoded).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-SAFE_INTEGER_MAX..=SAFE_INTEGER_MAX).prop_map(Value::from),
            (-1e15f64..1e15).prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn encoding_is_a_fixed_point(value in any_json()) {
            let bytes = encode_value(&value).unwrap();
            let again = parse(&bytes, usize::MAX).unwrap();
            prop_assert_eq!(encode_value(&again).unwrap(), bytes.clone());
            prop_assert!(decode::<Json>(&bytes, usize::MAX).is_ok());
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes, 256);
            let _ = decode::<Json>(&bytes, 256);
        }
    }
}
