//! Foreign words fit for an error message or a subject: one short line, in which no secret of ours is repeated.

use crate::secret::Secret;

/// As much of an answer is read.
pub(crate) const MAX_READ: usize = 4096;
/// As much of it is quoted.
const MAX_QUOTED: usize = 300;
/// What is shorter is no secret, and taking it out would leave no words.
const SHORTEST_HIDDEN: usize = 4;
/// The same for a piece of something, such as the scheme before a token.
const SHORTEST_PIECE: usize = 8;

/// A text, and then each of its longer pieces: the other side may repeat only the one that matters.
pub(crate) fn pieces(text: &str, between: &[char]) -> Vec<Secret> {
    let longer = text.split(between).filter(|piece| piece.len() >= SHORTEST_PIECE);
    std::iter::once(text).chain(longer).map(Secret::from).collect()
}

/// One line of `text`, with every one of `hidden` replaced.
pub(crate) fn quote<'a>(text: &[u8], hidden: impl IntoIterator<Item = &'a str>) -> String {
    let mut said = String::from_utf8_lossy(text).into_owned();
    for word in hidden {
        if word.len() >= SHORTEST_HIDDEN {
            said = said.replace(word, "…");
        }
    }
    one_line(&said, MAX_QUOTED)
}

/// The words of `text` with one space between, `most` characters of them at most.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_is_one_short_line_without_secrets() {
        assert_eq!(quote(b"a\r\n\tb\x1b[0m \xff", []), "a b [0m \u{fffd}");
        assert_eq!(quote(b"key hunter2, a 1", ["hunter2", "1", ""]), "key …, a 1");
        let hidden = pieces("Bearer eyJ0.abcdef", &[' ']);
        let said = quote(b"Bearer eyJ0.abcdef; token eyJ0.abcdef", hidden.iter().map(Secret::expose));
        assert_eq!(said, "…; token …");
        let long = "ä".repeat(MAX_QUOTED + 1);
        assert_eq!(quote(long.as_bytes(), []), format!("{}…", "ä".repeat(MAX_QUOTED)));
    }
}
