//! Security descriptors as text, in the language by which Windows administrators read and write them ([MS-DTYP] 2.5.1).

use tidemark_plugin::fields::{byte, le16, le32, slice};
use tidemark_plugin::{Error, Result};

use crate::security::sid;

/// Bits of a descriptor's control field.
mod control {
    pub(super) const ACCESS_PRESENT: u16 = 0x4;
    pub(super) const AUDIT_PRESENT: u16 = 0x10;
    /// Protected, inheritance asked for, inherited by itself: first for the access list, then for the audit list.
    pub(super) const ACCESS: [(u16, &str); 3] = [(0x1000, "P"), (0x100, "AR"), (0x400, "AI")];
    pub(super) const AUDIT: [(u16, &str); 3] = [(0x2000, "P"), (0x200, "AR"), (0x800, "AI")];
}

/// Types of entries that files have.
const TYPES: [(u8, &str); 4] = [(0, "A"), (1, "D"), (2, "AU"), (0x11, "ML")];
const MARKS: [(u8, &str); 7] =
    [(0x1, "OI"), (0x2, "CI"), (0x4, "NP"), (0x8, "IO"), (0x10, "ID"), (0x40, "SA"), (0x80, "FA")];
/// Rights of files that have a word as a whole.
const RIGHTS: [(u32, &str); 4] = [(0x1f_01ff, "FA"), (0x12_0089, "FR"), (0x12_0116, "FW"), (0x12_00a0, "FX")];
/// Rights that are the same for whatever has any: what has others beside them is written as a number.
const COMMON_RIGHTS: [(u32, &str); 8] = [
    (0x1_0000, "SD"),
    (0x2_0000, "RC"),
    (0x4_0000, "WD"),
    (0x8_0000, "WO"),
    (0x1000_0000, "GA"),
    (0x2000_0000, "GX"),
    (0x4000_0000, "GW"),
    (0x8000_0000, "GR"),
];
/// Rights of a mandatory label, bit by bit.
const LABEL_RIGHTS: [(u32, &str); 3] = [(0x1, "NW"), (0x2, "NR"), (0x4, "NX")];
/// Whom everybody knows.
const KNOWN: [(&str, &str); 17] = [
    ("S-1-1-0", "WD"),
    ("S-1-3-0", "CO"),
    ("S-1-3-1", "CG"),
    ("S-1-3-4", "OW"),
    ("S-1-5-2", "NU"),
    ("S-1-5-4", "IU"),
    ("S-1-5-7", "AN"),
    ("S-1-5-11", "AU"),
    ("S-1-5-18", "SY"),
    ("S-1-5-19", "LS"),
    ("S-1-5-20", "NS"),
    ("S-1-5-32-544", "BA"),
    ("S-1-5-32-545", "BU"),
    ("S-1-5-32-546", "BG"),
    ("S-1-5-32-547", "PU"),
    ("S-1-5-32-551", "BO"),
    ("S-1-15-2-1", "AC"),
];

/// A self-relative descriptor.
///
/// # Errors
/// Corrupt for damage; unsupported for entries that are not those of files.
pub(crate) fn text(descriptor: &[u8]) -> Result<String> {
    let (revision, control) = (byte(descriptor, 0)?, le16(descriptor, 2)?);
    if revision != 1 {
        return Err(Error::unsupported(format!("a security descriptor of revision {revision}")));
    }
    let mut text = String::new();
    for (word, at) in [("O:", 4), ("G:", 8)] {
        if let Some(at) = place(descriptor, at)? {
            text.push_str(word);
            text.push_str(&known(sid(descriptor, at)?));
        }
    }
    let lists = [
        ("D:", control::ACCESS_PRESENT, control::ACCESS, 16),
        ("S:", control::AUDIT_PRESENT, control::AUDIT, 12),
    ];
    for (word, present, marks, at) in lists {
        if control & present == 0 {
            continue;
        }
        text.push_str(word);
        text.extend(marks.iter().filter(|(bit, _)| control & bit != 0).map(|(_, word)| *word));
        match place(descriptor, at)? {
            Some(at) => text.push_str(&list(descriptor, at)?),
            // Everybody may do everything.
            None => text.push_str("NO_ACCESS_CONTROL"),
        }
    }
    Ok(text)
}

/// Where a part of it is, as the field at `at` says; none for none.
fn place(descriptor: &[u8], at: usize) -> Result<Option<usize>> {
    Ok(usize::try_from(le32(descriptor, at)?).ok().filter(|place| *place != 0))
}

fn list(descriptor: &[u8], at: usize) -> Result<String> {
    let size = usize::from(le16(descriptor, at.saturating_add(2))?);
    let list = slice(descriptor, at, size)?;
    let (mut text, mut at) = (String::new(), 8);
    for _ in 0..le16(list, 4)? {
        let size = usize::from(le16(list, at + 2)?);
        if size < 16 {
            return Err(Error::corrupt(format!("an entry of {size} bytes in an access list")));
        }
        text.push_str(&entry(slice(list, at, size)?)?);
        at += size;
    }
    Ok(text)
}

fn entry(entry: &[u8]) -> Result<String> {
    let (kind, marks, rights) = (byte(entry, 0)?, byte(entry, 1)?, le32(entry, 4)?);
    let Some((_, word)) = TYPES.iter().find(|(known, _)| *known == kind) else {
        return Err(Error::unsupported(format!("an access list with an entry of type {kind}")));
    };
    let marks: String = MARKS.iter().filter(|(bit, _)| marks & bit != 0).map(|(_, word)| *word).collect();
    let words = |known: &[(u32, &str)]| -> String {
        known.iter().filter(|(bit, _)| rights & bit != 0).map(|(_, word)| *word).collect()
    };
    let rights = match RIGHTS.iter().find(|(known, _)| *known == rights) {
        _ if *word == "ML" => words(&LABEL_RIGHTS),
        Some((_, word)) => (*word).to_owned(),
        None if rights != 0 && rights & 0xf00f_0000 == rights => words(&COMMON_RIGHTS),
        None => format!("{rights:#x}"),
    };
    Ok(format!("({word};{marks};{rights};;;{})", known(sid(entry, 8)?)))
}

fn known(sid: String) -> String {
    KNOWN.iter().find(|(known, _)| *known == sid).map_or(sid, |(_, word)| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMINISTRATORS: [u8; 16] = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
    const SYSTEM: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    const USER: [u8; 28] =
        [1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0xe9, 3, 0, 0];

    fn ace(kind: u8, marks: u8, rights: u32, sid: &[u8]) -> Vec<u8> {
        let size = u16::try_from(8 + sid.len()).unwrap();
        [&[kind, marks], size.to_le_bytes().as_slice(), &rights.to_le_bytes(), sid].concat()
    }

    fn acl(entries: &[Vec<u8>]) -> Vec<u8> {
        let (body, count) = (entries.concat(), u16::try_from(entries.len()).unwrap());
        let size = u16::try_from(8 + body.len()).unwrap();
        [&[2, 0], size.to_le_bytes().as_slice(), &count.to_le_bytes(), &[0, 0], &body].concat()
    }

    /// Owner, group, audit list and access list behind the header.
    fn descriptor(control: u16, parts: [&[u8]; 4]) -> Vec<u8> {
        let mut bytes = [&[1, 0], (control | 0x8000).to_le_bytes().as_slice(), &[0; 16]].concat();
        for (part, at) in parts.into_iter().zip([4, 8, 12, 16]) {
            if !part.is_empty() {
                let place = u32::try_from(bytes.len()).unwrap();
                bytes[at..at + 4].copy_from_slice(&place.to_le_bytes());
                bytes.extend(part);
            }
        }
        bytes
    }

    #[test]
    fn descriptors_are_written_as_windows_writes_them() {
        let access = acl(&[
            ace(1, 0, 0x12_0116, &USER),
            ace(0, 0x3, 0x1f_01ff, &SYSTEM),
            ace(0, 0x1b, 0x13_01bf, &USER),
        ]);
        let audit = acl(&[ace(2, 0xc0, 0xe001_0000, &ADMINISTRATORS), ace(0x11, 0, 0x1, &SYSTEM)]);
        let whole = descriptor(0x9414, [&ADMINISTRATORS, &SYSTEM, &audit, &access]);
        let expected = "O:BAG:SYD:PAI(D;;FW;;;S-1-5-21-1-2-3-1001)(A;OICI;FA;;;SY)(A;OICIIOID;0x1301bf;;;S-1-5-21-1-2-3-1001)\
                        S:(AU;SAFA;SDGXGWGR;;;BA)(ML;;NW;;;SY)";
        assert_eq!(text(&whole).unwrap(), expected);
        assert_eq!(text(&descriptor(4, [&[], &[], &[], &[]])).unwrap(), "D:NO_ACCESS_CONTROL");
        assert_eq!(text(&descriptor(4, [&USER, &[], &[], &acl(&[])])).unwrap(), "O:S-1-5-21-1-2-3-1001D:");
        // Whatever is cut off is an error and no shorter list.
        for length in 0..whole.len() {
            assert!(text(&whole[..length]).is_err(), "{length}");
        }
        let unknown = acl(&[ace(5, 0, 1, &SYSTEM)]);
        assert!(text(&descriptor(4, [&USER, &[], &[], &unknown])).is_err());
    }
}
