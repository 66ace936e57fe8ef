//! Volume descriptors (ECMA-119, section 8): sectors from the sixteenth on, until one says that it is the last.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, byte, slice, wtf8};
use tidemark_plugin::{Error, Result};

use crate::folder::SECTOR;
use crate::record::{Record, both16, both32};

const FIRST: u64 = 16;
/// Descriptors that are looked at.
const MOST: u64 = 64;
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
const LAST: u8 = 255;
/// What tells that a supplementary descriptor's names are UCS-2 (Joliet specification, section "SVD Escape Sequences").
const JOLIET: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];
/// Descriptors of UDF, after those of ISO 9660 where a disc has both.
const UDF: [&[u8]; 2] = [b"NSR02", b"NSR03"];

/// What one descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) label: String,
    pub(crate) block_bytes: u64,
    pub(crate) blocks: u32,
    pub(crate) root: Record,
    /// When the disc was made or changed, in digits.
    pub(crate) made: String,
}

/// What a disc says of itself.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) primary: Descriptor,
    pub(crate) joliet: Option<Descriptor>,
    /// Why there is a Joliet tree that cannot be read.
    pub(crate) joliet_damaged: Option<String>,
    /// It is a UDF disc as well.
    pub(crate) udf: bool,
}

impl Descriptors {
    /// Whether a disk begins as ISO 9660 does.
    pub(crate) fn probed(disk: &CachedDisk) -> Result<bool> {
        let sector = sector(disk, FIRST)?;
        Ok(sector.is_some_and(|sector| sector.get(1..6) == Some(b"CD001")))
    }

    /// Reads them.
    pub(crate) fn read(disk: &CachedDisk) -> Result<Self> {
        let (mut primary, mut joliet, mut joliet_damaged, mut udf, mut last) =
            (None, None, None, false, false);
        for number in FIRST..FIRST + MOST {
            let Some(sector) = sector(disk, number)? else { break };
            let kind = byte(&sector, 0)?;
            match slice(&sector, 1, 5)? {
                b"CD001" if last => {}
                b"CD001" if kind == LAST => last = true,
                b"CD001" if kind == PRIMARY && primary.is_none() => primary = Some(parse(&sector, false)?),
                b"CD001" if kind == SUPPLEMENTARY && joliet.is_none() => {
                    let escape = slice(&sector, 88, 3)?;
                    if JOLIET.contains(&escape) {
                        match parse(&sector, true) {
                            Ok(found) => joliet = Some(found),
                            Err(error) => joliet_damaged = Some(error.message),
                        }
                    }
                }
                b"CD001" | b"BEA01" | b"BOOT2" | b"TEA01" => {}
                word if UDF.contains(&word) => udf = true,
                _ => break,
            }
        }
        let primary = primary.ok_or_else(|| Error::corrupt("there is no primary volume descriptor"))?;
        Ok(Self { primary, joliet, joliet_damaged, udf })
    }
}

fn sector(disk: &CachedDisk, number: u64) -> Result<Option<Vec<u8>>> {
    let mut sector = vec![0; 2048];
    if (number + 1) * SECTOR > disk.size() {
        return Ok(None);
    }
    disk.read(number * SECTOR, &mut sector)?;
    Ok(Some(sector))
}

fn parse(sector: &[u8], wide: bool) -> Result<Descriptor> {
    let block_bytes = u64::from(both16(sector, 128)?);
    if !matches!(block_bytes, 512 | 1024 | 2048) {
        return Err(Error::corrupt(format!("ISO 9660 has no blocks of {block_bytes} bytes")));
    }
    let root = Record::parse(slice(sector, 156, 34)?)?;
    if !root.folder {
        return Err(Error::corrupt("the root of the disc is no folder"));
    }
    let label = slice(sector, 40, 32)?;
    let label = if wide { wtf8(units_be(label)) } else { label.to_vec() };
    // Modified, or created where that was never written.
    let made = [830, 813].into_iter().filter_map(|at| array::<16>(sector, at).ok());
    let made = made.map(|digits| dashed(&digits)).find(|digits| !digits.is_empty());
    Ok(Descriptor {
        label: String::from_utf8_lossy(&label).trim_end_matches([' ', '\0']).to_owned(),
        block_bytes,
        blocks: both32(sector, 80)?,
        root,
        made: made.unwrap_or_default(),
    })
}

/// Big-endian UTF-16 units, as Joliet has them.
pub(crate) fn units_be(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_be_bytes(*unit))
}

/// A date as it stands for a disc's identity: nothing else of it is unique.
fn dashed(digits: &[u8; 16]) -> String {
    if !digits.iter().all(u8::is_ascii_digit) || digits.iter().all(|digit| *digit == b'0') {
        return String::new();
    }
    let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
    let parts = parts.map(|part| String::from_utf8_lossy(digits.get(part).unwrap_or_default()).into_owned());
    parts.join("-")
}
