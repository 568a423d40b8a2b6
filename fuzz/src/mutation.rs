//! Inputs made of others: a few small changes each, the same for the same seed.

/// Random numbers of no great quality: splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which isn't 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }
}

/// Inputs grow no longer than this.
pub const LENGTH_MAX: usize = 16 * 1024;

/// Bytes that decoders take for something.
const TOKENS: &[&[u8]] = &[
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n ",
    b"\"",
    b"\\",
    b"{\"$deltabus\":\"map\",\"value\":",
    b"[[[[[[[[",
    b"1e999999999",
    b"-0.0",
    b"\\u0000",
    b"BEGIN:VCARD\r\n",
    b"BEGIN:VEVENT\r\n",
    b"END:VEVENT\r\n",
    b"RRULE:FREQ=SECONDLY;INTERVAL=0\r\n",
    b";ENCODING=BASE64:",
    b";ENCODING=QUOTED-PRINTABLE:=\r\n",
    b"../",
    b"%00",
    b"\xed\xa0\x80",
];

/// Another input from `corpus`, which isn't empty: one of its own with some bytes changed, dropped, repeated, put in, or
/// taken from another.
pub fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.number() as u8,
            2 if at < input.len() => {
                let end = (at + 1 + random.below(8)).min(input.len());
                input.drain(at..end);
            }
            3 => input.truncate(at),
            4 => {
                let token = TOKENS[random.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            5 if at < input.len() => {
                let end = (at + 1 + random.below(64)).min(input.len());
                let again = input[at..end].repeat(1 + random.below(16));
                input.splice(at..at, again);
            }
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let start = random.below(other.len() + 1);
                let end = (start + 1 + random.below(256)).min(other.len());
                input.splice(at..at, other[start..end].iter().copied());
            }
            _ => {
                let byte = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\n', b'0'][random.below(8)];
                input.insert(at, byte);
            }
        }
        input.truncate(LENGTH_MAX);
    }
    input
}
