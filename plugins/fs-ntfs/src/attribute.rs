//! An attribute of a file: its name, and its value or where that lies.

use tidemark_plugin::Result;
use tidemark_plugin::fields::{byte, le16, le32, le64, slice};

/// Types of attributes.
pub(crate) mod kind {
    pub(crate) const STANDARD_INFORMATION: u32 = 0x10;
    pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(crate) const FILE_NAME: u32 = 0x30;
    pub(crate) const SECURITY_DESCRIPTOR: u32 = 0x50;
    pub(crate) const VOLUME_NAME: u32 = 0x60;
    pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
    pub(crate) const DATA: u32 = 0x80;
    pub(crate) const INDEX_ROOT: u32 = 0x90;
    pub(crate) const INDEX_ALLOCATION: u32 = 0xa0;
    pub(crate) const BITMAP: u32 = 0xb0;
    pub(crate) const REPARSE_POINT: u32 = 0xc0;
}

/// The low byte names the compression; LZNT1 is the only one.
pub(crate) const COMPRESSED: u16 = 0x00ff;
pub(crate) const ENCRYPTED: u16 = 0x4000;

/// One attribute, or a piece of one that several records share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u32,
    /// UTF-16, little-endian; empty for none.
    pub(crate) name: &'a [u8],
    pub(crate) flags: u16,
    pub(crate) form: Form<'a>,
}

/// Where the value is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form<'a> {
    /// Here.
    Resident(&'a [u8]),
    /// In clusters.
    Elsewhere(Extent<'a>),
}

/// Some clusters of a value, which count from the value's beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent<'a> {
    pub(crate) first: u64,
    /// One after the last.
    pub(crate) end: u64,
    /// Sizes in bytes; they are told by the piece that begins at 0.
    pub(crate) size: u64,
    /// What lies beyond was never written, and reads as zeros.
    pub(crate) initialized: u64,
    /// Clusters of a compression unit as a power of two; 0 for none.
    pub(crate) unit: u8,
    /// The run list.
    pub(crate) pairs: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attribute in exactly these bytes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let name = slice(bytes, usize::from(le16(bytes, 10)?), 2 * usize::from(byte(bytes, 9)?))?;
        let form = match byte(bytes, 8)? {
            0 => {
                let length = usize::try_from(le32(bytes, 16)?).unwrap_or(usize::MAX);
                Form::Resident(slice(bytes, usize::from(le16(bytes, 20)?), length)?)
            }
            _ => {
                let first = le64(bytes, 16)?;
                // The last cluster is -1 where there is none.
                let end = le64(bytes, 24)?.wrapping_add(1);
                let pairs_at = usize::from(le16(bytes, 32)?);
                Form::Elsewhere(Extent {
                    first,
                    end,
                    unit: byte(bytes, 34)?,
                    size: if first == 0 { le64(bytes, 48)? } else { 0 },
                    initialized: if first == 0 { le64(bytes, 56)? } else { 0 },
                    pairs: slice(bytes, pairs_at, bytes.len().saturating_sub(pairs_at))?,
                })
            }
        };
        Ok(Self { kind: le32(bytes, 0)?, name, flags: le16(bytes, 12)?, form })
    }

    /// Whether it is of a type and has a name.
    pub(crate) fn is(&self, kind: u32, name: &[u8]) -> bool {
        self.kind == kind && self.name == name
    }
}

/// A name as attributes have it.
pub(crate) fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
