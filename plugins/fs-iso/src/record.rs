//! Records of folders (ECMA-119, section 9.1).

use tidemark_plugin::fields::{array, be16, be32, byte, le16, le32, slice};
use tidemark_plugin::{Error, Result};

use crate::times::short;

/// Bytes of a record before its name.
const HEAD: usize = 33;
/// Bits of the flags.
const HIDDEN: u8 = 0x01;
const FOLDER: u8 = 0x02;
const ASSOCIATED: u8 = 0x04;
const CONTINUED: u8 = 0x80;

/// A record. The first of a folder is the folder itself and the second the one above, by names of one byte, 0 and 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) identifier: Vec<u8>,
    /// The first block of what it names, behind the attributes that may be kept there.
    pub(crate) block: u32,
    pub(crate) size: u32,
    pub(crate) modified_ns: Option<i64>,
    /// Not to be shown to users who do not ask for it.
    pub(crate) hidden: bool,
    pub(crate) folder: bool,
    /// It is about another file of the same name, and no file for itself.
    pub(crate) associated: bool,
    /// The file goes on in the next record.
    pub(crate) continued: bool,
    /// Its blocks do not lie together.
    pub(crate) interleaved: bool,
    /// What Rock Ridge and others have added.
    pub(crate) more: Vec<u8>,
}

impl Record {
    /// Reads all of a record.
    ///
    /// # Errors
    /// Corrupt where the two forms of a number differ.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let flags = byte(bytes, 25)?;
        let first = both32(bytes, 2)?;
        let block = first.checked_add(u32::from(byte(bytes, 1)?));
        Ok(Self {
            identifier: identifier(bytes)?.to_vec(),
            block: block.ok_or_else(|| Error::corrupt("a file that lies beyond all bounds"))?,
            size: both32(bytes, 10)?,
            modified_ns: short(array(bytes, 18)?),
            hidden: flags & HIDDEN != 0,
            folder: flags & FOLDER != 0,
            associated: flags & ASSOCIATED != 0,
            continued: flags & CONTINUED != 0,
            interleaved: slice(bytes, 26, 2)? != [0, 0],
            more: bytes.get(more_at(bytes)?..).unwrap_or_default().to_vec(),
        })
    }
}

/// A record's name, which may be looked at where numbers are damaged.
///
/// # Errors
/// Corrupt where the record is too short for it.
pub(crate) fn identifier(bytes: &[u8]) -> Result<&[u8]> {
    slice(bytes, HEAD, usize::from(byte(bytes, 32)?))
}

/// Whether a record goes on in the next one.
pub(crate) fn continued(bytes: &[u8]) -> bool {
    bytes.get(25).is_some_and(|flags| flags & CONTINUED != 0)
}

/// Where that begins what others have added: at an even place behind the name.
pub(crate) fn more_at(bytes: &[u8]) -> Result<usize> {
    Ok((HEAD + usize::from(byte(bytes, 32)?)).next_multiple_of(2))
}

/// A number in both orders of bytes; some programs leave the second empty.
///
/// # Errors
/// Corrupt where they differ.
pub(crate) fn both32(bytes: &[u8], at: usize) -> Result<u32> {
    let (little, big) = (le32(bytes, at)?, be32(bytes, at + 4)?);
    if little == big || big == 0 { Ok(little) } else { Err(differ(little, big)) }
}

/// A short one, likewise.
pub(crate) fn both16(bytes: &[u8], at: usize) -> Result<u16> {
    let (little, big) = (le16(bytes, at)?, be16(bytes, at + 2)?);
    if little == big || big == 0 { Ok(little) } else { Err(differ(little.into(), big.into())) }
}

fn differ(little: u32, big: u32) -> Error {
    Error::corrupt(format!("a number that is written twice differs: {little} and {big}"))
}
