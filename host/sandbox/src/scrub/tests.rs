use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

use super::*;

fn seen(secret: &[u8], injection: Option<&Injection>, chunks: &[&[u8]]) -> bool {
    let mut scrubber = Scrubber::new(secret, injection);
    chunks.iter().for_each(|chunk| scrubber.feed(chunk));
    scrubber.seen()
}

fn percent(bytes: &[u8], upper: bool, all: bool) -> Vec<u8> {
    let one = |byte: &u8| match (byte.is_ascii_alphanumeric() && !all, upper) {
        (true, _) => vec![*byte],
        (false, true) => format!("%{byte:02X}").into_bytes(),
        (false, false) => format!("%{byte:02x}").into_bytes(),
    };
    bytes.iter().flat_map(one).collect()
}

/// Every byte of an ASCII secret as `\u00XX`, or only what JSON must escape.
fn json(text: &str, all: bool) -> Vec<u8> {
    if all {
        let unit = |unit: u16| format!("\\u{unit:04X}").into_bytes();
        text.encode_utf16().flat_map(unit).collect()
    } else {
        let quoted = serde_json::to_vec(text).unwrap();
        quoted[1..quoted.len() - 1].to_vec()
    }
}

fn encodings(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let secret = text.as_bytes();
    let mut all = vec![
        ("plain", secret.to_vec()),
        ("hex", hex_of(secret)),
        ("HEX", hex_of(secret).to_ascii_uppercase()),
        ("percent", percent(secret, true, false)),
        ("percent lower", percent(secret, false, false)),
        ("percent all", percent(secret, true, true)),
        ("percent all lower", percent(secret, false, true)),
        ("json", json(text, false)),
        ("json all", json(text, true)),
        ("percent in json", json(&String::from_utf8(percent(secret, true, true)).unwrap(), true)),
    ];
    for skip in 0..4 {
        let around = [&vec![b'~'; skip], secret, b"?!"].concat();
        for tail in 0..3 {
            let part = &around[..around.len() - tail];
            all.push(("base64", STANDARD.encode(part).into_bytes()));
            all.push(("base64 unpadded", STANDARD_NO_PAD.encode(part).into_bytes()));
            all.push(("base64url", URL_SAFE.encode(part).into_bytes()));
            all.push(("base64 in URL", percent(STANDARD.encode(part).as_bytes(), true, false)));
            let escaped = STANDARD.encode(part).replace('/', "\\/");
            all.push(("base64 in JSON", escaped.into_bytes()));
            let lines = STANDARD.encode(part).into_bytes();
            all.push(("base64 in lines", lines.chunks(5).collect::<Vec<_>>().join(&b"\r\n"[..])));
        }
    }
    all
}

#[test]
fn every_named_encoding_is_seen() {
    for text in ["s3cr", "tok_Ab/+?=&%\"\\ 42", "pässwörd\u{1f600}\u{7}", "????>>>>~~~~", "%aA\""]
    {
        for (name, encoded) in encodings(text) {
            let body = [b"{\"a\":\"".as_slice(), &encoded, b"\"}"].concat();
            assert!(seen(text.as_bytes(), None, &[&body]), "{name} of {text}");
            let single: Vec<_> = body.chunks(1).collect();
            assert!(seen(text.as_bytes(), None, &single), "{name} of {text}, byte by byte");
        }
    }
}

#[test]
fn parts_that_are_secrets_alone_are_seen() {
    let basic = Some(&Injection::Basic);
    let credential = b"user:pass:word";
    let header = STANDARD.encode(credential);
    for body in
        [b"pass:word".as_slice(), STANDARD.encode("pass:word").as_bytes(), header.as_bytes()]
    {
        assert!(seen(credential, basic, &[body]));
    }
    assert!(!seen(credential, basic, &[b"the user is known"]));
    let token = Some(&Injection::Header("x-key".into()));
    assert!(seen(b"Token abcdef123", token, &[b"key=abcdef123"]));
}

#[test]
fn short_secrets_are_not_searched_for() {
    assert!(!seen(b"", None, &[b"anything"]));
    assert!(!seen(b"abc", None, &[b"abc"]));
    assert!(seen(b"abcd", None, &[b"abcd"]));
}

#[test]
fn what_is_not_the_secret_passes() {
    let body = br#"{"balance":"1024.50","currency":"EUR","note":"100% of \u0041"}"#;
    assert!(!seen(b"tok_live_123456", None, &[body]));
    assert!(!seen(b"tok_live_123456", None, &[b"tok_live_", b"12345", b"7"]));
}

proptest! {
    #[test]
    fn seen_over_any_borders(
        text in "[ -~]{4,40}|.{6,20}",
        before in prop::collection::vec(any::<u8>(), 0..40),
        after in prop::collection::vec(any::<u8>(), 0..40),
        cuts in prop::collection::vec(1usize..9, 1..200),
        choice in any::<prop::sample::Index>(),
    ) {
        let mut all = encodings(&text);
        let (name, encoded) = all.swap_remove(choice.index(all.len()));
        // A neighbour may continue an escape: then the text is another one.
        let before: Vec<_> = before.into_iter().filter(|b| !b"\\%u".contains(b)).collect();
        let body = [before.as_slice(), b" ", &encoded, b" ", &after].concat();
        let mut rest = body.as_slice();
        let mut chunks = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, more) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = more;
        }
        prop_assert!(seen(text.as_bytes(), None, &chunks), "{}", name);
    }

    #[test]
    fn any_bytes_end_in_an_answer(
        secret in prop::collection::vec(any::<u8>(), 0..64),
        body in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        seen(&secret, Some(&Injection::Basic), &[&body]);
    }
}
