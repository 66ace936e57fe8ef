//! Paths of mounted files: the first part names the volume, the rest a place in it. Names in file systems are bytes; a name
//! that is no UTF-8 is shown, and asked for, with `\xHH` for each byte that does not fit.

/// The parts of a path; none where one of them could lead elsewhere.
pub(super) fn parts(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    parts.iter().all(|part| !matches!(*part, "." | "..") && !part.contains('\0')).then_some(parts)
}

/// A name as people see it.
pub(super) fn shown(name: &[u8]) -> String {
    // Nearly all of a hundred thousand.
    if let Ok(plain) = str::from_utf8(name)
        && !plain.contains('\\')
    {
        return plain.to_owned();
    }
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        let mut rest = chunk.valid();
        // What looks like one of our own words is written in another, so that no two names are shown alike.
        while let Some(at) = rest.find('\\') {
            let (before, from) = rest.split_at(at);
            text.push_str(before);
            text.push_str(if is_escaped(from) { "\\x5c" } else { "\\" });
            rest = &from[1..];
        }
        text.push_str(rest);
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Whether a text begins with `\xHH`.
fn is_escaped(text: &str) -> bool {
    let digits = text.strip_prefix("\\x").and_then(|digits| digits.as_bytes().get(..2));
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// Whether a name as people see it has bytes that are written as `\xHH`.
pub(super) fn has_escapes(text: &str) -> bool {
    text.match_indices('\\').any(|(at, _)| text.get(at..).is_some_and(is_escaped))
}

/// A text that may be one part of a path.
pub(super) fn segment(text: &str) -> String {
    text.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect()
}

/// A path with one more part.
pub(super) fn below(path: &str, name: &str) -> String {
    [path.trim_end_matches('/'), "/", name].concat()
}

/// A path without what means nothing in it.
pub(super) fn normal(path: &str) -> String {
    format!("/{}", parts(path).unwrap_or_default().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_lead_out() {
        assert_eq!(parts("/a//b/"), Some(vec!["a", "b"]));
        assert_eq!(parts("/"), Some(vec![]));
        for wrong in ["/a/../b", "..", "/./a", "a\0b"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_that_are_no_utf8_are_shown_byte_by_byte() {
        assert_eq!(shown("grün".as_bytes()), "grün");
        assert_eq!(shown(b"gr\xfcn"), "gr\\xfcn");
        // What only looks like it is told apart.
        assert_eq!(shown(b"gr\\xfcn"), "gr\\x5cxfcn");
        assert_eq!(shown(b"a\\b\\xg"), "a\\b\\xg");
        assert!(has_escapes("gr\\xfcn") && has_escapes("a\\b\\x5cx") && !has_escapes("a\\b\\xg"));
        assert_eq!(segment("a/b\n"), "a_b_");
        assert_eq!(below("/", "a"), "/a");
        assert_eq!(below("/a", "b"), "/a/b");
    }
}
