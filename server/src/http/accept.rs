//! Which form of a page the caller accepts (RFC 9110, section 12.5.1).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use highwater_shared::{COPY_MEDIA_TYPE, JSON_MEDIA_TYPE};

use crate::page::Format;

/// Whether the caller takes `COPY` blocks, which is all that there is of digests.
pub(super) fn takes_blocks(headers: &HeaderMap) -> bool {
    let ranges = ranges(headers);
    ranges.is_empty() || quality(&ranges, COPY_MEDIA_TYPE) > 0.0
}

/// The form that the caller likes best; JSON where it does not say. `None` where it takes neither.
pub(super) fn format(headers: &HeaderMap) -> Option<Format> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Some(Format::Json);
    }
    let (json, copy) = (
        quality(&ranges, JSON_MEDIA_TYPE),
        quality(&ranges, COPY_MEDIA_TYPE),
    );
    // A wildcard means a person or a library that takes anything, and both read JSON.
    if json >= copy && json > 0.0 {
        Some(Format::Json)
    } else {
        (copy > 0.0).then_some(Format::Copy)
    }
}

fn ranges(headers: &HeaderMap) -> Vec<(String, f32)> {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(range)
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

fn range(text: &str) -> (String, f32) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts
        .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
        .map_or(Some(1.0), |q| q.parse().ok())
        // What Rust reads as a number may be infinite, or none.
        .filter(|quality| (0.0..=1.0).contains(quality));
    (name, quality.unwrap_or(0.0))
}

/// The quality of the most specific range that holds the media type.
fn quality(ranges: &[(String, f32)], media_type: &str) -> f32 {
    [media_type, "application/*", "*/*"]
        .iter()
        .find_map(|name| ranges.iter().find(|(range, _)| range == name))
        .map_or(0.0, |(_, quality)| *quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(value: &str) -> Option<Format> {
        format(&HeaderMap::from_iter([(ACCEPT, value.parse().unwrap())]))
    }

    #[test]
    fn the_most_liked_form_is_chosen() {
        assert_eq!(format(&HeaderMap::new()), Some(Format::Json));
        assert_eq!(accepts("*/*"), Some(Format::Json));
        assert_eq!(accepts("text/html, application/*;q=0.8"), Some(Format::Json));
        assert_eq!(accepts("application/vnd.highwater.copy"), Some(Format::Copy));
        assert_eq!(
            accepts("application/json;q=0.1, application/vnd.highwater.copy"),
            Some(Format::Copy)
        );
        assert_eq!(
            accepts("application/vnd.highwater.copy;q=0, */*"),
            Some(Format::Json)
        );
        assert_eq!(accepts("text/html"), None);
        assert_eq!(accepts("application/json;q=0"), None);
        assert_eq!(accepts("*/*;q=inf, application/json;Q=0.1"), Some(Format::Json));
        assert_eq!(accepts("*/*;q=NaN"), None);
    }

    #[test]
    fn blocks_are_sent_to_who_takes_them() {
        let takes = |value: &str| takes_blocks(&HeaderMap::from_iter([(ACCEPT, value.parse().unwrap())]));
        assert!(takes_blocks(&HeaderMap::new()));
        assert!(takes("*/*") && takes("application/vnd.highwater.copy"));
        assert!(!takes("application/json") && !takes("application/vnd.highwater.copy;q=0, */*"));
    }
}
