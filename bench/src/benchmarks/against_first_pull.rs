//! What a store costs that is put right instead of pulled anew: time and bytes, held against a first pull of the
//! generated rows.

use crate::highwater::Taken;
use crate::measure::{Rounds, float};
use crate::outcome::{Bar, Line, Unit};

/// At most this share of a first pull's time, and of its bytes.
const RATIO_MAX: f64 = 0.1;
/// One row of so many differs.
pub(super) const ROWS_FOR_ONE: u64 = 1_000;
/// The table of the generated rows.
pub(super) const TABLE: &str = "item";
const BYTES_A_KIBIBYTE: f64 = 1024.0;

/// The time and the bytes of one that takes part, beside those of a first pull.
pub(super) fn lines<W: Copy + PartialEq>(
    name: &str,
    rounds: &Rounds<W, Taken>,
    who: W,
    first_pull: W,
) -> [Line; 2] {
    let seconds = |who| rounds.of(who, |taken| taken.seconds);
    let kibibytes = |who| rounds.of(who, |taken| float(taken.bytes) / BYTES_A_KIBIBYTE);
    let time = Line::pair(name, Unit::Seconds, seconds(who), seconds(first_pull));
    let size = Line::pair(
        format!("{name}: bytes"),
        Unit::Kibibytes,
        kibibytes(who),
        kibibytes(first_pull),
    );
    [time, size].map(|line| line.with_bar(Bar::Ratio(RATIO_MAX)))
}
