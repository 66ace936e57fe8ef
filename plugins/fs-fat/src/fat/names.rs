//! Names of FAT: eight letters and three in the code page 437 (the first one of the PC, and what `mkfs.fat` and Linux take
//! where nothing else is said), and long ones in UTF-16, in entries of their own before the short one.

use tidemark_plugin::Result;
use tidemark_plugin::fields::{byte, slice, units_le, wtf8};

use crate::folder::ENTRY;

/// The upper half of code page 437.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»\
    ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
/// Bits of byte 12: the name, or what follows its point, is shown in small letters.
const SMALL_NAME: u8 = 0x08;
const SMALL_EXTENSION: u8 = 0x10;
/// A first byte that is a deleted entry's is written as this one.
const ESCAPED: u8 = 0x05;
/// Bit of the number of a long name's last part, which is the first on the disk; and the most parts there are.
const LAST: u8 = 0x40;
const MAX_PARTS: u8 = 20;
const UNITS: usize = 13;

/// A long name as far as its parts were seen. They come last part first, each with a sum over the short name.
#[derive(Debug, Default)]
pub(super) struct Long {
    /// The parts that are still to come.
    missing: u8,
    sum: u8,
    /// Part by part, as they come.
    parts: Vec<[u16; UNITS]>,
}

impl Long {
    /// Takes the next part. One that does not fit leaves nothing: the short name is shown then.
    pub(super) fn take(&mut self, entry: &[u8; ENTRY]) -> Result<()> {
        let (number, sum) = (byte(entry, 0)?, byte(entry, 13)?);
        if number & LAST != 0 {
            let missing = number & !LAST;
            *self = Self { missing, sum, parts: Vec::new() };
        }
        if number & !LAST != self.missing || self.sum != sum || !(1..=MAX_PARTS).contains(&self.missing) {
            *self = Self::default();
            return Ok(());
        }
        self.missing -= 1;
        let mut units = [0; UNITS];
        let all = [slice(entry, 1, 10)?, slice(entry, 14, 12)?, slice(entry, 28, 4)?];
        for (unit, read) in units.iter_mut().zip(all.into_iter().flat_map(units_le)) {
            *unit = read;
        }
        self.parts.push(units);
        Ok(())
    }

    /// The name, where all parts were seen and belong to this short name.
    pub(super) fn name(self, entry: &[u8; ENTRY]) -> Option<Vec<u8>> {
        let sum = entry.iter().take(11).fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.parts.is_empty() || self.missing != 0 || self.sum != sum {
            return None;
        }
        let units = self.parts.into_iter().rev().flatten();
        Some(wtf8(units.take_while(|unit| *unit != 0)))
    }
}

/// The short name.
pub(super) fn short(entry: &[u8; ENTRY]) -> Vec<u8> {
    let mut whole: [u8; 11] = std::array::from_fn(|at| entry.get(at).copied().unwrap_or(b' '));
    if let Some(first) = whole.first_mut().filter(|first| **first == ESCAPED) {
        *first = 0xe5;
    }
    let small = entry.get(12).copied().unwrap_or(0);
    let (name, extension) = whole.split_at(8);
    let mut text = letters(name, small & SMALL_NAME != 0);
    let extension = letters(extension, small & SMALL_EXTENSION != 0);
    if !extension.is_empty() {
        text.push('.');
        text.push_str(&extension);
    }
    text.into_bytes()
}

/// The volume's label.
pub(super) fn label(mut bytes: [u8; 11]) -> String {
    if let [first @ ESCAPED, ..] = &mut bytes {
        *first = 0xe5;
    }
    letters(&bytes, false)
}

/// Letters without the spaces that fill them up.
fn letters(bytes: &[u8], small: bool) -> String {
    let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    let mut text = String::new();
    for byte in bytes.get(..end).unwrap_or_default() {
        let letter = match byte.checked_sub(0x80) {
            Some(upper) => UPPER.chars().nth(usize::from(upper)).unwrap_or('\u{fffd}'),
            None => char::from(*byte),
        };
        if small { text.extend(letter.to_lowercase()) } else { text.push(letter) }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;

    fn entry(name: &[u8; 11], small: u8) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        entry[..11].copy_from_slice(name);
        entry[12] = small;
        entry
    }

    fn part(number: u8, sum: u8, units: &[u16]) -> [u8; ENTRY] {
        let mut entry = [0xff; ENTRY];
        (entry[0], entry[11], entry[12], entry[13]) = (number, 0x0f, 0, sum);
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        for (at, unit) in places.zip(units.iter().copied().chain([0])) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entry
    }

    #[test]
    fn short_names_are_of_code_page_437() {
        assert_eq!(UPPER.chars().count(), 128);
        let shown = |name, small| String::from_utf8(short(&entry(name, small))).unwrap();
        assert_eq!(shown(b"README  TXT", 0), "README.TXT");
        assert_eq!(shown(b"README  TXT", SMALL_NAME), "readme.TXT");
        assert_eq!(shown(b"README  TXT", SMALL_EXTENSION), "README.txt");
        assert_eq!(shown(b"GR\x9a\xe1E      ", SMALL_NAME), "grüße");
        assert_eq!(shown(b"\x05 A        ", 0), "σ A");
        assert_eq!(label(*b"\x05 DISK     "), "σ DISK");
        assert_eq!(shown(b"           ", 0), "");
    }

    #[test]
    fn a_long_name_needs_all_its_parts_in_order_and_the_right_sum() {
        let sum = 0x07_u8;
        let short = (0..=255_u8)
            .map(|last| entry(&[b'A', b'B', b'C', b'D', b'E', b'F', b'~', b'1', b'T', b'X', last], 0));
        let right = |entry: &[u8; ENTRY]| {
            entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
        };
        let short = short.into_iter().find(|entry| right(entry) == sum).unwrap();
        let units: Vec<u16> = "a longer name".encode_utf16().chain([0xd83e, 0x2e]).collect();
        let (first, second) = (part(1, sum, &units[..13]), part(2 | LAST, sum, &units[13..]));
        let taken = |parts: &[[u8; ENTRY]]| {
            let mut long = Long::default();
            parts.iter().for_each(|part| long.take(part).unwrap());
            long.name(&short)
        };
        // A surrogate without its other half keeps its own bytes.
        assert_eq!(taken(&[second, first]).unwrap(), b"a longer name\xed\xa0\xbe.");
        assert_eq!((taken(&[first, second]), taken(&[second]), taken(&[])), (None, None, None));
        assert_eq!(taken(&[second, part(1, 8, &units[..13])]), None);
        assert_eq!(taken(&[second, first, first]), None);
        assert_eq!(taken(&[part(LAST, sum, &[]), first]), None);
        assert_eq!(Long { missing: 0, sum: 8, parts: vec![[0; 13]] }.name(&short), None);
    }
}
