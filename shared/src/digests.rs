//! The body of `POST /digests`: which rows are to be compared, and how far the caller has got with it.
//!
//! The last bits of the hash of a row's key say in which part the row lies. A caller asks for
//! the digests of parts, then for smaller parts of those that differ, then for the keys in them. Rows whose
//! keys it knows it asks for by these, which no table is scanned for.

use serde::{Deserialize, Serialize};

use crate::EntityName;

/// The longest body that a server reads, where nothing else was chosen.
pub const DIGESTS_BODY_BYTES_MAX: usize = 1024 * 1024;

/// The most parts whose digests are asked for at once, as bits: 65,536.
pub const PARTS_BITS_MAX: u32 = 16;

/// The most bits of a hash that can name a part. A JSON reader that makes every number a double can read it.
pub const BITS_MAX: u32 = 48;

/// What is to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DigestsRequest {
    /// The cursor as of which rows are meant; without it, as of a fresh snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub since: Option<String>,
    /// Whether digests are over all values of a row, or over its key and `changed_date` alone.
    #[serde(default)]
    pub deep: bool,
    /// The entities, each once.
    #[cfg_attr(feature = "openapi", schema(min_items = 1))]
    pub entities: Vec<DigestsOf>,
}

/// What is asked of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DigestsOf {
    /// Its name.
    pub entity: EntityName,
    /// What is wanted.
    #[serde(default)]
    pub want: Want,
    /// How many bits of the hash of a key name its part; for parts only.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(maximum = 48))]
    pub bits: u32,
    /// The rows of these parts only; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub within: Option<Within>,
    /// The rows with these keys only, each a line of a block with the key's columns; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub keys: Option<Vec<String>>,
}

/// Some parts of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Within {
    /// How many bits of the hash of a key name its part.
    #[cfg_attr(feature = "openapi", schema(maximum = 48))]
    pub bits: u32,
    /// The parts: numbers below two to the power of `bits`.
    pub parts: Vec<u64>,
}

/// What is wanted of the rows in question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// How many rows each part has, and their digest.
    #[default]
    Parts,
    /// The key and the digest of each row.
    Keys,
    /// Whole rows.
    Rows,
}

/// The part that a key lies in, where that many bits of its hash name it.
pub fn part(key_hash: u64, bits: u32) -> u64 {
    key_hash & mask(bits)
}

/// The bits of a hash that name a part.
pub fn mask(bits: u32) -> u64 {
    (1 << bits.min(BITS_MAX)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bits_of_a_hash_name_its_part() {
        let hash = 0xfedc_ba98_7654_3210;
        for (bits, expected) in [(0, 0), (1, 0), (5, 0x10), (16, 0x3210), (48, 0xba98_7654_3210)] {
            assert_eq!(part(hash, bits), expected, "{bits}");
        }
        assert_eq!((mask(3), mask(BITS_MAX)), (7, (1 << 48) - 1));
        // No part has a number that JSON readers cannot tell from the next.
        assert_eq!(mask(64), mask(BITS_MAX));
    }
}
