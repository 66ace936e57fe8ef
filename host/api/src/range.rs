//! One byte range of a download (RFC 9110, section 14). Several ranges in one request, other units and malformed
//! headers are passed over, as the RFC allows: the client gets the whole.

use axum::http::{HeaderMap, header};
use tidemark_model::{ByteLen, Extent, GuestOffset};

/// What a request wants of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes of it, at least one.
    Part(Extent),
    /// Bytes that it does not have.
    Unsatisfiable,
}

/// Reads `Range`, which counts only where `If-Range` is absent or names the strong `tag` (with its quotes).
pub(crate) fn wanted(headers: &HeaderMap, length: ByteLen, tag: &str) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if headers.contains_key(header::IF_RANGE) && text(header::IF_RANGE) != Some(tag) {
        return Wanted::Whole;
    }
    text(header::RANGE).and_then(|range| parse(range, length.0)).unwrap_or(Wanted::Whole)
}

/// None for what is to be passed over.
fn parse(range: &str, length: u64) -> Option<Wanted> {
    let (unit, spec) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return None;
    }
    let (first, last) = spec.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let (start, end) = match (first, last) {
        (None, None) => return None,
        (None, Some(suffix)) => (length.saturating_sub(suffix), length),
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), last) => (first, last.map_or(length, |last| last.saturating_add(1).min(length))),
    };
    if start >= end {
        return Some(Wanted::Unsatisfiable);
    }
    Some(Wanted::Part(Extent { offset: GuestOffset(start), length: ByteLen(end - start) }))
}

/// A number, or nothing where nothing stands; none for anything else. One that is too large for 64 bits is beyond every
/// file, as is the largest of 64 bits.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(range: &str, if_range: Option<&str>) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        if let Some(tag) = if_range {
            headers.insert(header::IF_RANGE, tag.parse().unwrap());
        }
        wanted(&headers, ByteLen(1000), "\"t\"")
    }

    fn part(offset: u64, length: u64) -> Wanted {
        Wanted::Part(Extent::new(offset, length).unwrap())
    }

    #[test]
    fn single_ranges_are_clipped() {
        assert_eq!(asked("bytes=0-0", None), part(0, 1));
        assert_eq!(asked("bytes=10-19", None), part(10, 10));
        assert_eq!(asked("Bytes = 990 - ", None), part(990, 10));
        assert_eq!(asked("bytes=990-99999999999999999999999", None), part(990, 10));
        assert_eq!(asked("bytes=-1", None), part(999, 1));
        assert_eq!(asked("bytes=-5000", None), part(0, 1000));
    }

    #[test]
    fn bytes_that_are_not_there_are_refused() {
        for range in ["bytes=1000-", "bytes=1000-1001", "bytes=99999999999999999999-", "bytes=-0"] {
            assert_eq!(asked(range, None), Wanted::Unsatisfiable, "{range}");
        }
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        for range in [
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=+1-2",
        ] {
            assert_eq!(asked(range, None), Wanted::Whole, "{range}");
        }
        assert_eq!(wanted(&HeaderMap::new(), ByteLen(1), "\"t\""), Wanted::Whole);
    }

    #[test]
    fn a_range_of_something_else_is_passed_over() {
        assert_eq!(asked("bytes=0-0", Some("\"t\"")), part(0, 1));
        assert_eq!(asked("bytes=0-0", Some("\"other\"")), Wanted::Whole);
        assert_eq!(asked("bytes=0-0", Some("W/\"t\"")), Wanted::Whole);
    }
}
