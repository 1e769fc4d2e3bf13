//! Lenient decoders that work byte by byte: what is no escape passes as it is.

/// `%XX`. A plus stays a plus, because base64 holds it.
#[derive(Default)]
pub(super) struct Percent {
    held: Held<3>,
}

impl Percent {
    pub(super) fn push(&mut self, byte: u8, out: &mut impl FnMut(u8)) {
        if self.held.is_empty() {
            if byte == b'%' {
                self.held.add(byte);
            } else {
                out(byte);
            }
            return;
        }
        if nibble(byte).is_none() {
            self.held.release(out);
            return self.push(byte, out);
        }
        self.held.add(byte);
        if let [b'%', high, low] = *self.held.bytes() {
            self.held.clear();
            if let (Some(high), Some(low)) = (nibble(high), nibble(low)) {
                out(high << 4 | low);
            }
        }
    }

    pub(super) fn pending(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.held.bytes());
    }
}

/// RFC 8259's escapes, decoded to UTF-8 wherever they stand.
#[derive(Default)]
pub(super) struct Json {
    held: Held<6>,
    /// The first half of a surrogate pair.
    high: Option<u32>,
}

impl Json {
    pub(super) fn push(&mut self, byte: u8, out: &mut impl FnMut(u8)) {
        match (self.held.bytes(), byte) {
            ([], b'\\') => self.held.add(byte),
            ([], _) => {
                self.high = None;
                out(byte);
            }
            ([_], b'u') => self.held.add(byte),
            ([_], _) => {
                self.held.clear();
                self.high = None;
                match byte {
                    b'b' => out(8),
                    b'f' => out(12),
                    b'n' => out(b'\n'),
                    b'r' => out(b'\r'),
                    b't' => out(b'\t'),
                    _ => out(byte),
                }
            }
            (_, _) if nibble(byte).is_none() => {
                self.high = None;
                self.held.release(out);
                self.push(byte, out);
            }
            (_, _) => {
                self.held.add(byte);
                if let [_, _, digits @ ..] = self.held.bytes()
                    && digits.len() == 4
                {
                    let unit = digits
                        .iter()
                        .filter_map(|digit| nibble(*digit))
                        .fold(0, |unit, digit| unit << 4 | u32::from(digit));
                    self.held.clear();
                    self.unit(unit, out);
                }
            }
        }
    }

    /// One UTF-16 unit. A lone half of a pair is no character and is left out.
    fn unit(&mut self, unit: u32, out: &mut impl FnMut(u8)) {
        let code = match (unit, self.high.take()) {
            (0xd800..=0xdbff, _) => {
                self.high = Some(unit);
                return;
            }
            (0xdc00..=0xdfff, Some(high)) => 0x1_0000 + ((high & 0x3ff) << 10) + (unit & 0x3ff),
            (unit, _) => unit,
        };
        if let Some(character) = char::from_u32(code) {
            let mut bytes = [0; 4];
            character.encode_utf8(&mut bytes).bytes().for_each(out);
        }
    }

    pub(super) fn pending(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.held.bytes());
    }
}

/// The beginning of an escape that is not complete.
struct Held<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Default for Held<N> {
    fn default() -> Self {
        Self { bytes: [0; N], length: 0 }
    }
}

impl<const N: usize> Held<N> {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn add(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    fn release(&mut self, out: &mut impl FnMut(u8)) {
        self.bytes().iter().copied().for_each(out);
        self.clear();
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
