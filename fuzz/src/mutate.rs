//! Mutations: what parsers stumble over.

/// What is inserted as it is.
const DICTIONARY: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b",",
    b":",
    b"null",
    b"true",
    b"0",
    b"-0",
    b"-1",
    b"1.0",
    b"9007199254740991",
    b"9007199254740993",
    b"18446744073709551615",
    b"1e400",
    b"NaN",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"\0",
    b"\r\n",
    b" ",
    b"..",
    b"/",
    b"%2f",
    b"\xe2\x80\xae",
    b"\"a\":1,",
    b"\"$param\":",
    b"sha256:",
    b"ed25519:",
    b"toani/v1/",
    b"v4.local.",
    b"{\"type\":",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\n\n",
    "— ".as_bytes(),
];

/// xorshift64*: the same mutations in each run.
#[derive(Debug)]
pub struct Mutator(u64);

impl Mutator {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let rolled = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(rolled).unwrap_or(0) % limit.max(1)
    }

    /// One to four mutations of one of the samples.
    pub fn mutate(&mut self, samples: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = samples[self.below(samples.len())].clone();
        for _ in 0..=self.below(4) {
            self.step(&mut bytes, samples);
        }
        bytes
    }

    fn step(&mut self, bytes: &mut Vec<u8>, samples: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(40)).min(bytes.len());
        match self.below(12) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap_or(0),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                insert(bytes, end, &again);
            }
            5 | 6 => insert(bytes, at, DICTIONARY[self.below(DICTIONARY.len())]),
            7 => bytes.truncate(at),
            8 => self.splice(bytes, at, samples),
            9 => self.nest(bytes, at),
            10 => self.double_a_key(bytes, at),
            _ => self.change_a_number(bytes, at),
        }
    }

    /// The beginning of this and the end of another.
    fn splice(&mut self, bytes: &mut Vec<u8>, at: usize, samples: &[Vec<u8>]) {
        let other = &samples[self.below(samples.len())];
        let from = self.below(other.len() + 1);
        bytes.truncate(at);
        bytes.extend_from_slice(&other[from..]);
    }

    fn nest(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let depth = [2, 24, 25, 130, 3000][self.below(5)];
        let open: &[u8] = if self.below(2) == 0 { b"[" } else { b"{\"a\":" };
        insert(bytes, at, &open.repeat(depth));
    }

    /// Says an object's entry twice, if there is one behind `at`.
    fn double_a_key(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let Some(start) = bytes[at..].iter().position(|b| *b == b'"').map(|i| at + i) else {
            return;
        };
        let Some(comma) = bytes[start..].iter().position(|b| *b == b',') else { return };
        let entry = bytes[start..=start + comma].to_vec();
        insert(bytes, start, &entry);
    }

    fn change_a_number(&mut self, bytes: &mut [u8], at: usize) {
        let digit = bytes[at..].iter().position(u8::is_ascii_digit);
        if let Some(digit) = digit {
            bytes[at + digit] = b'0' + u8::try_from(self.below(10)).unwrap_or(0);
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, more: &[u8]) {
    bytes.splice(at..at, more.iter().copied());
}
