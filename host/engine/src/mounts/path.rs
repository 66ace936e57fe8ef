//! Paths of mounted files: the first part names the volume, the rest a place in it. Names in file systems are bytes; a name
//! that is no UTF-8 is shown, and asked for, with `\xHH` for each byte that does not fit.

/// The parts of a path; none where one of them could lead elsewhere.
pub(super) fn parts(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    parts.iter().all(|part| !matches!(*part, "." | "..") && !part.contains('\0')).then_some(parts)
}

/// A name as people see it.
pub(super) fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A text that may be one part of a path.
pub(super) fn segment(text: &str) -> String {
    text.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect()
}

/// A path with one more part.
pub(super) fn below(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
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
        assert_eq!(segment("a/b\n"), "a_b_");
        assert_eq!(below("/", "a"), "/a");
        assert_eq!(below("/a", "b"), "/a/b");
    }
}
