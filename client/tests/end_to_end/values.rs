//! Values at random, as expressions of SQL: among them the ones that are lost most easily on the way
//! from one database to another.

use std::fmt::Write as _;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// A text as a literal of SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Text of up to `length_max` characters, of every plane and with everything that is escaped
/// anywhere.
pub(crate) fn text(random: &mut StdRng, length_max: usize) -> String {
    const WHOLE: &[&str] = &[
        "", "\\.", "\\N", "\\\\N", " ", "null", "\u{feff}", "a  ", "-0", "e\u{301}",
    ];
    const ODD: &[char] = &[
        '\t', '\n', '\r', '\\', '\'', '"', '\u{1}', '\u{8}', '\u{b}', '\u{c}', '\u{7f}', '\u{85}',
        '\u{2028}', '\u{fffe}', ',', '{', '}', '(', ')', '/', 'N', '.',
    ];
    if random.random_bool(0.2) {
        let whole = *WHOLE.choose(random).unwrap();
        return whole.chars().take(length_max).collect();
    }
    let length = random.random_range(0..=length_max);
    let letter = |_| match random.random_range(0..4) {
        0 => *ODD.choose(random).unwrap(),
        1 => loop {
            let plane = random.random_range(0..=16u32);
            if let Some(letter) = char::from_u32(plane << 16 | random.random_range(1..=0xffff)) {
                break letter;
            }
        },
        _ => char::from(random.random_range(b' '..=b'~')),
    };
    (0..length).map(letter).collect()
}

/// An integer of so many bits, often one of the ends.
pub(crate) fn integer(random: &mut StdRng, bits: u32) -> String {
    let any = random.random::<i64>() >> (64 - bits);
    let number = match random.random_range(0..6) {
        0 => i64::MIN >> (64 - bits),
        1 => i64::MAX >> (64 - bits),
        2 => 0,
        3 => any % 100,
        _ => any,
    };
    literal(&number.to_string())
}

/// A number of up to so many digits before its point.
pub(crate) fn decimal(random: &mut StdRng, digits_max: usize) -> String {
    let digits = random.random_range(1..=digits_max);
    let mut text = String::new();
    text.extend((0..digits).map(|_| char::from(random.random_range(b'0'..=b'9'))));
    if random.random() {
        let _ = write!(text, ".{}", random.random_range(0..100_000u32));
    }
    let sign = if random.random() { "-" } else { "" };
    // Rounded up, a row of nines would have one digit more.
    text.replace_range(..1, "1");
    literal(&format!("{sign}{text}"))
}

pub(crate) fn numeric(random: &mut StdRng) -> String {
    match random.random_range(0..8) {
        0 => literal(["NaN", "Infinity", "-Infinity"].choose(random).unwrap()),
        1 => literal(&format!("1e{}", random.random_range(-300..300))),
        2 => literal(["0", "0.000", "1.0", "1.00", "100"].choose(random).unwrap()),
        _ => decimal(random, 50),
    }
}

pub(crate) fn double(random: &mut StdRng) -> String {
    const ODD: &[&str] = &[
        "NaN",
        "Infinity",
        "-Infinity",
        "-0",
        "5e-324",
        "1.7976931348623157e308",
        "0.1",
        "1e23",
        "9007199254740993",
    ];
    literal(&match random.random_range(0..4) {
        0 => (*ODD.choose(random).unwrap()).to_owned(),
        1 => format!("{:e}", f64::from_bits(random.random::<u64>() >> 12)),
        _ => format!("{:e}", f64::from_bits(random.random::<u64>())).replace("inf", "Infinity"),
    })
}

pub(crate) fn real(random: &mut StdRng) -> String {
    const ODD: &[&str] = &[
        "NaN",
        "Infinity",
        "-Infinity",
        "-0",
        "1e-45",
        "3.4028235e38",
        "0.1",
        "16777217",
    ];
    literal(&match random.random_range(0..4) {
        0 => (*ODD.choose(random).unwrap()).to_owned(),
        1 => format!("{:e}", f32::from_bits(random.random::<u32>() >> 9)),
        _ => format!("{:e}", f32::from_bits(random.random::<u32>())).replace("inf", "Infinity"),
    })
}

pub(crate) fn bytea(random: &mut StdRng) -> String {
    let length = random.random_range(0..20);
    let mut text = "\\x".to_owned();
    for _ in 0..length {
        let _ = write!(text, "{:02x}", random.random::<u8>());
    }
    literal(&text)
}

/// From 4714 BC to the year 5874897, mostly near the years that people use.
pub(crate) fn date(random: &mut StdRng) -> String {
    let days = match random.random_range(0..8) {
        0 => return literal(["infinity", "-infinity"].choose(random).unwrap()),
        1 => random.random_range(-2_451_545..=2_145_031_948),
        2 => random.random_range(-2_451_545..0),
        3 => random.random_range(2_900_000..2_960_000),
        _ => random.random_range(-20_000..20_000),
    };
    format!("date '2000-01-01' + ({days})")
}

/// From 4714 BC to the year 294276, mostly near the years that people use.
pub(crate) fn timestamp(random: &mut StdRng) -> String {
    const DAY: i64 = 86_400_000_000;
    let micros: i64 = match random.random_range(0..8) {
        0 => return literal(["infinity", "-infinity"].choose(random).unwrap()),
        1 => random.random_range(-2_451_544 * DAY..106_751_900 * DAY),
        2 => random.random_range(-2_451_544 * DAY..0),
        3 => random.random_range(2_920_000 * DAY..2_924_000 * DAY),
        _ => random.random_range(-20_000 * DAY..20_000 * DAY),
    };
    let rounded = micros - micros % *[1, 1_000, 1_000_000].choose(random).unwrap();
    let (days, within) = (rounded / DAY, rounded % DAY);
    let (seconds, micros) = (within / 1_000_000, within % 1_000_000);
    // Moved as if it were UTC, so that the session's time zone does not matter. Postgres 14 reads no more than 32 bits of
    // each unit.
    format!(
        "(timestamp '2000-01-01' + interval '{days} days {seconds} seconds {micros} microseconds') at time zone 'UTC'"
    )
}

pub(crate) fn time(random: &mut StdRng) -> String {
    let micros: u64 = random.random_range(0..86_400_000_000);
    literal(&match random.random_range(0..5) {
        0 => "24:00:00".to_owned(),
        1 => "00:00:00".to_owned(),
        _ => {
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            format!(
                "{:02}:{:02}:{:02}.{micros:06}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            )
        }
    })
}

pub(crate) fn timetz(random: &mut StdRng) -> String {
    let time = time(random);
    let minutes = random.random_range(-15 * 60..15 * 60i32);
    let zone = format!(
        "{}{:02}:{:02}",
        if minutes < 0 { '-' } else { '+' },
        minutes.abs() / 60,
        minutes.abs() % 60
    );
    format!("({time} || '{zone}')")
}

pub(crate) fn interval(random: &mut StdRng) -> String {
    let mut part = |bound: i64| random.random_range(-bound..=bound);
    literal(&format!(
        "{} months {} days {} seconds {} microseconds",
        part(5_000),
        part(5_000),
        part(400_000),
        part(1_000_000)
    ))
}

pub(crate) fn json(random: &mut StdRng, depth: u32) -> serde_json::Value {
    use serde_json::Value;
    let count = random.random_range(0..4);
    match random.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => Value::Bool(random.random()),
        2 => Value::from(random.random::<i64>()),
        3 => Value::from(f64::from(random.random::<i32>()) / 1000.0),
        4 => Value::from(text(random, 12)),
        5 => (0..count).map(|_| json(random, depth - 1)).collect(),
        _ => (0..count)
            .map(|n| (format!("{n}{}", text(random, 6)), json(random, depth - 1)))
            .collect(),
    }
}

pub(crate) fn mood(random: &mut StdRng) -> String {
    let moods = ["so so", "fine", "", "a,b", "q\"uote", "back\\slash", "ß🌊"];
    literal(moods.choose(random).unwrap())
}

pub(crate) fn pair(random: &mut StdRng) -> String {
    let number = maybe(random, |random| integer(random, 32));
    let label = maybe(random, |random| literal(&text(random, 9)));
    format!("row({number}, {label})::kinds.pair")
}

/// Of one dimension or two, or of none.
pub(crate) fn array(random: &mut StdRng, element: &str, value: fn(&mut StdRng) -> String) -> String {
    let shape = random.random_range(0..4);
    let mut list = |count: usize| {
        let values: Vec<String> = (0..count).map(|_| maybe(random, value)).collect();
        format!("array[{}]::{element}[]", values.join(", "))
    };
    match shape {
        0 => list(0),
        1 => format!("array[{}, {}]", list(2), list(2)),
        _ => list(shape),
    }
}

/// Between two values, or open on a side, or empty.
pub(crate) fn range(random: &mut StdRng, name: &str, value: fn(&mut StdRng) -> String) -> String {
    let kind = match name {
        "num" => "numeric",
        "tstz" => "timestamptz",
        other => other,
    };
    let bounds = if random.random() { "[)" } else { "()" };
    let mut end = || {
        if random.random_bool(0.2) {
            "null".to_owned()
        } else {
            format!("({})::{kind}", value(random))
        }
    };
    let (one, other) = (end(), end());
    if one == "null" || other == "null" {
        return format!("{name}range({one}, {other}, '{bounds}')");
    }
    format!("{name}range(least({one}, {other}), greatest({one}, {other}), '{bounds}')")
}

pub(crate) fn inet(random: &mut StdRng, bits_max: u8) -> String {
    let bits = random.random_range(0..=bits_max);
    literal(&if random.random() {
        format!("{}/{bits}", std::net::Ipv4Addr::from_bits(random.random()))
    } else {
        format!("{}/{bits}", std::net::Ipv6Addr::from_bits(random.random()))
    })
}

pub(crate) fn bits(random: &mut StdRng, length: usize) -> String {
    let digit = |_| if random.random() { '1' } else { '0' };
    (0..length).map(digit).collect()
}

fn maybe(random: &mut StdRng, value: fn(&mut StdRng) -> String) -> String {
    if random.random_bool(0.2) {
        "null".to_owned()
    } else {
        value(random)
    }
}
