//! Numbers as people read them: as many digits as mean something.

use crate::measure::Samples;

/// A number with three significant digits or its whole part, such as `0.0312`, `1.25` or `27,004`.
pub(crate) fn figure(number: f64) -> String {
    if !number.is_finite() {
        return "none".to_owned();
    }
    let size = number.abs();
    let decimals = match size {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        size if size >= 0.09995 => 3,
        0.0 => 0,
        _ => 4,
    };
    let text = format!("{number:.decimals$}");
    match text.split_once('.') {
        Some((whole, rest)) => format!("{}.{rest}", grouped(whole)),
        None => grouped(&text),
    }
}

/// The median, and from where to where the numbers go where there are several.
pub(crate) fn spread(samples: &Samples) -> String {
    let [least, median, most] = [samples.least(), samples.median(), samples.most()].map(figure);
    if least == most {
        median
    } else {
        format!("{median} ({least} to {most})")
    }
}

/// A count, such as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    grouped(&number.to_string())
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let shown = [0.0, 0.031_24, 0.5, 1.0, 1.254, 12.34, 99.97, 1234.5, 0.999_9].map(figure);
        let expected = [
            "0", "0.0312", "0.500", "1.00", "1.25", "12.3", "100", "1,234", "1.00",
        ];
        assert_eq!(shown, expected);
        assert_eq!(figure(f64::NAN), "none");
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn one_number_has_no_spread() {
        assert_eq!(spread(&[2.0].into_iter().collect()), "2.00");
        assert_eq!(
            spread(&[1.0, 2.0, 4.0].into_iter().collect()),
            "2.00 (1.00 to 4.00)"
        );
    }
}
