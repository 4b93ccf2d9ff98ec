//! The hash of texts by which two sides compare rows without sending them.
//!
//! It is what Postgres' `hashtextextended` makes of a text in UTF-8 on a little-endian machine: Bob
//! Jenkins' lookup3, with a seed of 64 bits. Postgres computes it for a million rows in the time
//! in which it hands out a quarter of them; a cryptographic hash would cost five times as much. It
//! finds accidents, and is no proof against somebody who looks for two texts with one hash.

/// The hash of a text.
pub fn hash(text: &[u8], seed: u64) -> u64 {
    let start = GOLDEN_RATIO
        .wrapping_add(u32::try_from(text.len() & 0xffff_ffff).unwrap_or(u32::MAX))
        .wrapping_add(OFFSET);
    let mut state = State([start; 3]);
    if seed != 0 {
        let [a, b, _] = &mut state.0;
        *a = a.wrapping_add(high(seed));
        *b = b.wrapping_add(low(seed));
        state.mix();
    }
    let (blocks, rest) = text.as_chunks::<12>();
    for block in blocks {
        state.add(block);
        state.mix();
    }
    let mut last = [0; 12];
    for (place, byte) in rest.iter().enumerate() {
        // The lowest byte of the third word is the length's.
        let place = if place < 8 { place } else { place + 1 };
        if let Some(to) = last.get_mut(place) {
            *to = *byte;
        }
    }
    state.add(&last);
    state.end();
    let [_, b, c] = state.0;
    u64::from(b) << 32 | u64::from(c)
}

/// The hash of a key: of its columns' texts, in the order of the key.
pub fn key_hash<'a>(columns: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    columns.into_iter().fold(0, |seed, column| hash(column, seed))
}

/// What the text of a row's `changed_date` adds to the row's digest, by exclusive or.
pub fn date_hash(key: u64, changed_date: &[u8]) -> u64 {
    hash(changed_date, key)
}

/// What the text of the `place`th published column, from 1, adds to it. A null adds nothing.
pub fn value_hash(key: u64, place: u64, text: &[u8]) -> u64 {
    hash(text, key ^ place)
}

const GOLDEN_RATIO: u32 = 0x9e37_79b9;
const OFFSET: u32 = 3_923_095;

struct State([u32; 3]);

impl State {
    fn add(&mut self, block: &[u8; 12]) {
        let (words, _) = block.as_chunks::<4>();
        for (word, bytes) in self.0.iter_mut().zip(words) {
            *word = word.wrapping_add(u32::from_le_bytes(*bytes));
        }
    }

    /// Each of the words has a say in all of them.
    fn mix(&mut self) {
        let [mut a, mut b, mut c] = self.0;
        for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
            a = a.wrapping_sub(c) ^ c.rotate_left(first);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(second);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(third);
            b = b.wrapping_add(a);
        }
        self.0 = [a, b, c];
    }

    /// The same for the last time, when it need not be undone.
    fn end(&mut self) {
        let [mut a, mut b, mut c] = self.0;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        self.0 = [a, b, c];
    }
}

fn high(number: u64) -> u32 {
    u32::try_from(number >> 32).unwrap_or_default()
}

fn low(number: u64) -> u32 {
    u32::try_from(number & 0xffff_ffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Postgres 15 says of the same texts and seeds.
    #[test]
    fn it_is_what_postgres_computes() {
        for (text, seed, expected) in [
            ("", 0_i64, -6_939_563_903_564_495_251_i64),
            ("a", 0, 3_591_986_179_850_072_241),
            ("Highwater", 1, 4_435_622_318_700_847_569),
            ("twelve bytes", 0, -7_123_776_401_673_968_163),
            (
                "a text of more than twelve bytes: ß🌊",
                -42,
                -9_014_242_981_676_042_965,
            ),
            ("1", i64::MAX, 6_403_197_558_869_505_994),
        ] {
            let found = hash(text.as_bytes(), seed.cast_unsigned()).cast_signed();
            assert_eq!(found, expected, "{text:?}, {seed}");
        }
    }

    #[test]
    fn where_a_value_stands_has_a_say() {
        let (one, other) = (key_hash([&b"1"[..]]), key_hash([&b"2"[..]]));
        // Values that two rows, or two columns, have exchanged must not cancel out.
        assert_ne!(
            value_hash(one, 1, b"a") ^ value_hash(other, 1, b"b"),
            value_hash(one, 1, b"b") ^ value_hash(other, 1, b"a")
        );
        assert_ne!(
            value_hash(one, 1, b"a") ^ value_hash(one, 2, b"b"),
            value_hash(one, 1, b"b") ^ value_hash(one, 2, b"a")
        );
        assert_ne!(key_hash([&b"1"[..], b"2"]), key_hash([&b"12"[..], b""]));
    }
}
