//! Whether a secret is in what came back. A tripwire, not a wall: a container that means to hide
//! the secret can encode it in ways that nobody searches for.
//!
//! The search runs while bytes arrive, over the borders of chunks. It reads the stream in six ways
//! at once (as it is, in lower case, without line breaks, percent-decoded, JSON-unescaped, and both
//! of these one after the other) and looks in each for the plain secret, its base64 and base64url in all
//! three alignments, and its hex. Decoding the stream instead of encoding the secret catches every
//! mixture: one byte escaped, all of them, upper-case or lower-case digits.
//!
//! Secrets shorter than [`SECRET_BYTES_MIN`] are not searched for: nearly every answer would hold
//! them, and be withheld.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use memchr::memmem::Finder;
use toani_protocol::policy::Injection;
use zeroize::{Zeroize, Zeroizing};

mod decode;

use decode::{Json, Percent};

/// The shortest secret that is searched for.
pub const SECRET_BYTES_MIN: usize = 4;

/// Searches a stream for a credential.
pub struct Scrubber {
    views: Vec<View>,
    seen: bool,
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrubber").finish_non_exhaustive()
    }
}

impl Scrubber {
    /// A search for what `injection` makes of `credential`.
    pub fn new(credential: &[u8], injection: Option<&Injection>) -> Self {
        let mut text = Vec::new();
        let mut hex = Vec::new();
        for secret in secrets(credential, injection) {
            if secret.len() < SECRET_BYTES_MIN {
                continue;
            }
            hex.push(Zeroizing::new(hex_of(secret)));
            text.push(Zeroizing::new(secret.to_vec()));
            for skip in 0..3 {
                text.push(base64_core(&STANDARD_NO_PAD, secret, skip));
                text.push(base64_core(&URL_SAFE_NO_PAD, secret, skip));
            }
        }
        let both: Vec<_> = text.iter().chain(&hex).cloned().collect();
        let views = if both.is_empty() {
            Vec::new()
        } else {
            vec![
                View::new(Reading::Plain, &text),
                View::new(Reading::Lower, &hex),
                View::new(Reading::Unbroken, &both),
                View::new(Reading::Percent(Percent::default()), &both),
                View::new(Reading::Json(Json::default()), &both),
                View::new(Reading::JsonPercent(Json::default(), Percent::default()), &both),
            ]
        };
        Self { views, seen: false }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, chunk: &[u8]) {
        for view in &mut self.views {
            self.seen = self.seen || view.feed(chunk);
        }
    }

    /// Whether the secret was in the stream so far.
    pub fn seen(&self) -> bool {
        self.seen
    }
}

/// The credential, and the parts of it that are secrets alone: the password of `user:password`,
/// and the key of a header like `Token KEY`.
fn secrets<'a>(credential: &'a [u8], injection: Option<&Injection>) -> Vec<&'a [u8]> {
    let mut secrets = vec![credential];
    let separator = match injection {
        Some(Injection::Basic) => b':',
        Some(Injection::Header(_)) => b' ',
        _ => return secrets,
    };
    let mut parts = credential.splitn(2, |byte| *byte == separator);
    if let (Some(_), Some(part)) = (parts.next(), parts.next()) {
        secrets.push(part);
    }
    secrets
}

fn hex_of(secret: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    let pair = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
    secret.iter().flat_map(pair).collect()
}

/// The characters of base64 that only the secret decides, when `skip` bytes stand before it in
/// its group of three and anything may follow: neither neighbours nor padding change them.
fn base64_core(engine: &impl Engine, secret: &[u8], skip: usize) -> Zeroizing<Vec<u8>> {
    let mut input = Zeroizing::new(vec![0; skip]);
    input.extend_from_slice(secret);
    let mut encoded = Zeroizing::new(engine.encode(&*input).into_bytes());
    // A character holds six bits: the first that hold none of the skipped bytes' bits, and the
    // last that are full.
    let first = skip.saturating_mul(8).div_ceil(6);
    let last = input.len().saturating_mul(8) / 6;
    Zeroizing::new(encoded.drain(..).take(last).skip(first).collect())
}

/// A way to read the stream.
enum Reading {
    Plain,
    Lower,
    Unbroken,
    Percent(Percent),
    /// Alone too: a secret with a percent sign may be escaped as JSON and not as a URL.
    Json(Json),
    JsonPercent(Json, Percent),
}

impl Reading {
    fn read(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Plain => out.extend_from_slice(chunk),
            Self::Lower => out.extend(chunk.iter().map(u8::to_ascii_lowercase)),
            Self::Unbroken => out.extend(chunk.iter().filter(|b| !b.is_ascii_whitespace())),
            Self::Percent(percent) => {
                for byte in chunk {
                    percent.push(*byte, &mut |byte| out.push(byte));
                }
            }
            Self::Json(json) => {
                chunk.iter().for_each(|byte| json.push(*byte, &mut |byte| out.push(byte)));
            }
            Self::JsonPercent(json, percent) => {
                for byte in chunk {
                    json.push(*byte, &mut |byte| percent.push(byte, &mut |byte| out.push(byte)));
                }
            }
        }
    }

    /// What a decoder holds back until it knows how it goes on.
    fn pending(&self, out: &mut Vec<u8>) {
        match self {
            Self::Plain | Self::Lower | Self::Unbroken => {}
            Self::Percent(percent) => percent.pending(out),
            Self::Json(json) => json.pending(out),
            Self::JsonPercent(json, percent) => {
                percent.pending(out);
                json.pending(out);
            }
        }
    }
}

/// One reading, what is searched for in it, and its last bytes, in which a match may begin.
struct View {
    reading: Reading,
    finders: Vec<Finder<'static>>,
    window: Zeroizing<Vec<u8>>,
    overlap: usize,
}

impl View {
    fn new(reading: Reading, needles: &[Zeroizing<Vec<u8>>]) -> Self {
        let longest = needles.iter().map(|needle| needle.len()).max();
        Self {
            reading,
            finders: needles.iter().map(|needle| Finder::new(&**needle).into_owned()).collect(),
            window: Zeroizing::new(Vec::new()),
            overlap: longest.unwrap_or(1).saturating_sub(1),
        }
    }

    fn feed(&mut self, chunk: &[u8]) -> bool {
        self.reading.read(chunk, &mut self.window);
        let settled = self.window.len();
        self.reading.pending(&mut self.window);
        let found = self.finders.iter().any(|finder| finder.find(&self.window).is_some());
        if let Some(pending) = self.window.get_mut(settled..) {
            pending.zeroize();
        }
        self.window.truncate(settled);
        let done = settled.saturating_sub(self.overlap);
        self.window.drain(..done);
        found
    }
}

#[cfg(test)]
mod tests;
