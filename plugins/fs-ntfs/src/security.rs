//! Who owns a file: descriptors are kept once for all files that have the same, in `$Secure`.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use tidemark_plugin::fields::{array, le16, le32, le64, slice};
use tidemark_plugin::{Error, Result};

use crate::attribute::{kind, utf16};
use crate::index;
use crate::record::Reference;
use crate::stream::Stream;
use crate::table::Table;

/// The record of `$Secure`.
const SECURE: Reference = Reference { record: 9, sequence: 0 };
/// The header before each descriptor.
const HEADER: u32 = 20;
const MAX_DESCRIPTOR: u32 = 64 << 10;
/// More descriptors than any volume has.
const MAX_DESCRIPTORS: usize = 200_000;

/// Owner and group, as Windows writes them: `S-1-5-…`.
pub(crate) type Owner = (Option<String>, Option<String>);

/// What is known of the volume's descriptors.
#[derive(Debug, Default)]
pub(crate) struct Security {
    /// Where each is; none where the volume has no such index, or a damaged one.
    places: OnceCell<Option<Places>>,
    owners: RefCell<HashMap<u32, Owner>>,
    /// The descriptor of its own that a file had last, which the next one often has too.
    last: RefCell<(Vec<u8>, Owner)>,
}

#[derive(Debug)]
struct Places {
    descriptors: Stream,
    /// By their number: offset and length with the header.
    at: HashMap<u32, (u64, u32)>,
}

impl Security {
    /// The owner by a descriptor's number; nobody where it is not known, as that keeps no one from a file's bytes.
    pub(crate) fn owner(&self, table: &Table, number: u32) -> Owner {
        if let Some(owner) = self.owners.borrow().get(&number) {
            return owner.clone();
        }
        let descriptor = self.descriptor(table, number);
        let owner = descriptor.and_then(|descriptor| owner_in(&descriptor)).unwrap_or_default();
        let mut owners = self.owners.borrow_mut();
        if owners.len() >= MAX_DESCRIPTORS {
            owners.clear();
        }
        owners.insert(number, owner.clone());
        owner
    }

    /// The owner in a descriptor that a file has for itself, as before NTFS 3.0; nobody where it is damaged.
    pub(crate) fn owner_in(&self, descriptor: &[u8]) -> Owner {
        let mut last = self.last.borrow_mut();
        if last.0 != descriptor {
            *last = (descriptor.to_vec(), owner_in(descriptor).unwrap_or_default());
        }
        last.1.clone()
    }

    /// A descriptor by its number.
    pub(crate) fn descriptor(&self, table: &Table, number: u32) -> Result<Vec<u8>> {
        let places = self.places(table).ok_or_else(|| Error::corrupt("$Secure cannot be read"))?;
        places.descriptor(table, number)
    }

    fn places(&self, table: &Table) -> Option<&Places> {
        self.places.get_or_init(|| Places::read(table).ok()).as_ref()
    }
}

impl Places {
    fn read(table: &Table) -> Result<Self> {
        let file = table.file(SECURE)?;
        let mut at = HashMap::new();
        index::walk(table, &file, "$SII", |entry| {
            if at.len() >= MAX_DESCRIPTORS {
                return Err(Error::unsupported("more security descriptors than expected"));
            }
            let value = slice(entry, usize::from(le16(entry, 0)?), usize::from(le16(entry, 2)?))?;
            at.insert(le32(entry, 16)?, (le64(value, 8)?, le32(value, 16)?));
            Ok(())
        })?;
        let descriptors = Stream::of(table, &file, kind::DATA, &utf16("$SDS"))?;
        let descriptors = descriptors.ok_or_else(|| Error::corrupt("$Secure has no descriptors"))?;
        Ok(Self { descriptors, at })
    }

    fn descriptor(&self, table: &Table, number: u32) -> Result<Vec<u8>> {
        let found = self.at.get(&number).filter(|(_, length)| (HEADER..MAX_DESCRIPTOR).contains(length));
        let (at, length) = *found.ok_or_else(|| Error::not_found("no such descriptor"))?;
        let bytes = self.descriptors.read(&table.disk, at, length)?;
        if le32(&bytes, 4)? != number {
            return Err(Error::corrupt("a security descriptor of another number"));
        }
        Ok(bytes.get(20..).unwrap_or_default().to_vec())
    }
}

/// Owner and group of a self-relative descriptor ([MS-DTYP] 2.4.6).
fn owner_in(descriptor: &[u8]) -> Result<Owner> {
    let sid = |at: usize| match usize::try_from(le32(descriptor, at)?) {
        Ok(0) | Err(_) => Ok(None),
        Ok(offset) => sid(descriptor, offset).map(Some),
    };
    Ok((sid(4)?, sid(8)?))
}

/// A security identifier as text ([MS-DTYP] 2.4.2).
pub(crate) fn sid(bytes: &[u8], at: usize) -> Result<String> {
    let [revision, count] = array(bytes, at)?;
    let mut authority = [0; 8];
    for (to, from) in authority.iter_mut().skip(2).zip(array::<6>(bytes, at.saturating_add(2))?) {
        *to = from;
    }
    let mut text = format!("S-{revision}-{}", u64::from_be_bytes(authority));
    for number in 0..usize::from(count.min(15)) {
        text.push_str(&format!("-{}", le32(bytes, at + 8 + 4 * number)?));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_written_as_windows_writes_them() {
        let mut descriptor = vec![1, 0, 4, 0x80, 20, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        descriptor.extend([1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0]);
        descriptor.extend([1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]);
        let (owner, group) = owner_in(&descriptor).unwrap();
        assert_eq!((owner.as_deref(), group.as_deref()), (Some("S-1-5-32-544"), Some("S-1-5-18")));
        assert!(owner_in(&descriptor[..40]).is_err() && owner_in(&[1, 0]).is_err());
    }
}
