//! The text that LVM2 keeps its metadata in (`lvm.conf(5)`, `man lvmconfig`): sections in braces, and keys with numbers, texts
//! or arrays of these.

use std::borrow::Cow;

use tidemark_plugin::{Error, Result};

/// Sections in sections; the metadata has four.
const MAX_DEPTH: u32 = 16;
/// Sections, keys and values; a logical volume has about twenty.
const MAX_NODES: u32 = 500_000;

/// What stands between two braces.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Section<'a>(Vec<(&'a str, Item<'a>)>);

#[derive(Debug, PartialEq)]
enum Item<'a> {
    Section(Section<'a>),
    One(Value<'a>),
    Array(Vec<Value<'a>>),
}

/// A number or a text.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Number(i64),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Number(_) => None,
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Value::Number(number) => u64::try_from(*number).ok(),
            Value::Text(_) => None,
        }
    }
}

impl<'a> Section<'a> {
    /// Reads a whole text.
    ///
    /// # Errors
    /// Corrupt where it is none, or is larger or deeper than any that LVM2 writes.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        let mut parser = Parser { text, at: 0, nodes: 0 };
        parser.section(0)
    }

    /// All sections in this one, in their order.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (&'a str, &Section<'a>)> {
        self.0.iter().filter_map(|(name, item)| match item {
            Item::Section(section) => Some((*name, section)),
            _ => None,
        })
    }

    /// A section by its name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections().find(|(found, _)| *found == name).map(|(_, section)| section)
    }

    /// Whether there is such a key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.item(key).is_some()
    }

    /// A text.
    ///
    /// # Errors
    /// Corrupt where there is none of this name.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        let found = match self.item(key) {
            Some(Item::One(value)) => value.text(),
            _ => None,
        };
        found.ok_or_else(|| Error::corrupt(format!("the metadata lacks the text '{key}'")))
    }

    /// A number that is not negative.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub(crate) fn number(&self, key: &str) -> Result<u64> {
        let found = match self.item(key) {
            Some(Item::One(value)) => value.number(),
            _ => None,
        };
        found.ok_or_else(|| Error::corrupt(format!("the metadata lacks the number '{key}'")))
    }

    /// The texts of an array, or of a single text.
    ///
    /// # Errors
    /// Corrupt where there is no array of texts of this name.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let found = self.values(key).iter().map(Value::text).collect::<Option<Vec<_>>>();
        found
            .filter(|_| self.has(key))
            .ok_or_else(|| Error::corrupt(format!("the metadata lacks the texts '{key}'")))
    }

    /// Pairs of a name and a number.
    ///
    /// # Errors
    /// Corrupt where the array is missing, or holds anything else.
    pub(crate) fn pairs(&self, key: &str) -> Result<Vec<(String, u64)>> {
        let (pairs, rest) = self.values(key).as_chunks::<2>();
        let pair = |[name, number]: &[Value<'_>; 2]| Some((name.text()?.to_owned(), number.number()?));
        let found = pairs.iter().map(pair).collect::<Option<Vec<_>>>();
        found
            .filter(|found| rest.is_empty() && !found.is_empty())
            .ok_or_else(|| Error::corrupt(format!("the metadata lacks the places '{key}'")))
    }

    fn values(&self, key: &str) -> &[Value<'a>] {
        match self.item(key) {
            Some(Item::Array(values)) => values,
            Some(Item::One(value)) => std::slice::from_ref(value),
            _ => &[],
        }
    }

    fn item(&self, key: &str) -> Option<&Item<'a>> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, item)| item)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    nodes: u32,
}

impl<'a> Parser<'a> {
    fn section(&mut self, depth: u32) -> Result<Section<'a>> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("sections too deep in each other"));
        }
        let mut items = Vec::new();
        loop {
            let ends = match self.peek() {
                None => depth == 0,
                Some('}') if depth > 0 => self.takes('}'),
                Some(_) => false,
            };
            if ends {
                return Ok(Section(items));
            }
            let name = self.word()?;
            self.count()?;
            let item = if self.takes('{') {
                Item::Section(self.section(depth + 1)?)
            } else if self.takes('=') {
                self.item()?
            } else {
                return Err(self.wrong("a name without '{' or '='"));
            };
            items.push((name, item));
        }
    }

    fn item(&mut self) -> Result<Item<'a>> {
        if !self.takes('[') {
            return self.value().map(Item::One);
        }
        let mut values = Vec::new();
        while !self.takes(']') {
            values.push(self.value()?);
            if !self.takes(',') && self.peek() != Some(']') {
                return Err(self.wrong("an array that does not go on"));
            }
        }
        Ok(Item::Array(values))
    }

    fn value(&mut self) -> Result<Value<'a>> {
        self.count()?;
        if self.takes('"') {
            return self.quoted().map(Value::Text);
        }
        let word = self.word()?;
        // Numbers with a fraction occur in settings, and nowhere in the metadata.
        word.parse().map(Value::Number).map_err(|_| self.wrong("something that is no number"))
    }

    /// The rest of a text, up to its closing quote.
    fn quoted(&mut self) -> Result<Cow<'a, str>> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let (mut plain, mut escaped, mut end) = (true, false, None);
        for (at, letter) in rest.char_indices() {
            match letter {
                _ if escaped => escaped = false,
                '\\' => (escaped, plain) = (true, false),
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let Some((end, found)) = end.and_then(|end| Some((end, rest.get(..end)?))) else {
            return Err(self.wrong("a text without an end"));
        };
        self.at += end + 1;
        if plain {
            return Ok(Cow::Borrowed(found));
        }
        let (mut text, mut letters) = (String::with_capacity(end), found.chars());
        while let Some(letter) = letters.next() {
            text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
        }
        Ok(Cow::Owned(text))
    }

    /// A name or a number.
    fn word(&mut self) -> Result<&'a str> {
        self.peek();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let ends = |letter: char| letter.is_ascii_whitespace() || "{}[]=,\"#".contains(letter);
        let end = rest.find(ends).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end)
            .filter(|word| !word.is_empty())
            .ok_or_else(|| self.wrong("no name where one should be"))
    }

    /// The next letter that is no space and in no comment; it is not taken.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let spaces = rest.len() - rest.trim_ascii_start().len();
            self.at += spaces;
            let rest = rest.get(spaces..).unwrap_or_default();
            if !rest.starts_with('#') {
                return rest.chars().next();
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn takes(&mut self, letter: char) -> bool {
        let found = self.peek() == Some(letter);
        if found {
            self.at += letter.len_utf8();
        }
        found
    }

    fn count(&mut self) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.wrong("more than any metadata has"));
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> Error {
        Error::corrupt(format!("the metadata cannot be understood: {what}, at byte {}", self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_values_arrays_and_comments_are_read() {
        let text = "# a comment = {\nvg-0 {\n\tid = \"a\\\"b\\\\c#d\" # e\n n=-7 m = 12\n\
                    list = [\"x\", 1,\n\"y\", 2]\n none = [] status=\"ONE\"\n inner { deep { k = 1 } } }\nend=3";
        let all = Section::parse(text).unwrap();
        let group = all.section("vg-0").unwrap();
        assert_eq!(group.text("id").unwrap(), "a\"b\\c#d");
        assert_eq!((group.number("m").unwrap(), all.number("end").unwrap()), (12, 3));
        assert!(group.number("n").is_err() && group.number("id").is_err() && group.text("m").is_err());
        assert_eq!(group.pairs("list").unwrap(), [("x".to_owned(), 1), ("y".to_owned(), 2)]);
        assert!(
            group.texts("list").is_err() && group.texts("missing").is_err() && group.pairs("none").is_err()
        );
        assert_eq!(group.texts("none").unwrap(), Vec::<&str>::new());
        assert_eq!(group.texts("status").unwrap(), ["ONE"]);
        let inner = group.section("inner").and_then(|inner| inner.section("deep")).unwrap();
        assert_eq!(inner.number("k").unwrap(), 1);
        assert!(group.has("inner") && !group.has("deep"));
    }

    #[test]
    fn what_is_no_metadata_is_refused() {
        for wrong in [
            "a",
            "a {",
            "a }",
            "}",
            "a = ",
            "a = [1",
            "a = [1 2]",
            "a = [,]",
            "a = \"b",
            "a = \"b\\",
            "a = b",
            "= 1",
            "a { b = 1.5 }",
        ] {
            assert!(Section::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Section::parse(&"a {".repeat(100_000)).unwrap_err().message.contains("too deep"));
        assert!(Section::parse(&"a=1 ".repeat(500_001)).unwrap_err().message.contains("more than any"));
        let array = format!("a=[{}]", "1,".repeat(500_001));
        assert!(Section::parse(&array).unwrap_err().message.contains("more than any"));
    }
}
