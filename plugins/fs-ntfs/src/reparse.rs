//! Reparse points ([MS-FSCC] 2.1.2): links, and files whose contents another driver of Windows puts together.

use tidemark_plugin::Result;
use tidemark_plugin::fields::{le16, le32, slice, units_le, wtf8};

/// What a reparse point makes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reparse {
    /// A symbolic link or a junction, with where it leads.
    Link(Vec<u8>),
    /// A device, a pipe or a socket of Linux in Windows.
    Special,
    /// Compressed by Windows' overlay filter ("compact /exe", system files).
    Overlay(u32),
    /// The bytes are not in the file; why.
    Elsewhere(&'static str),
    /// Something that a driver knows; the bytes are in the file.
    Plain,
}

/// Bits that are set where contents must be fetched first.
const RECALLED: u32 = 0x0040_0000 | 0x0004_0000 | 0x1000;
/// Files are compressed one by one.
const BY_FILE: u32 = 2;

impl Reparse {
    /// Reads a reparse point, given the file's attributes.
    pub(crate) fn parse(bytes: &[u8], attributes: u32) -> Result<Self> {
        let data = slice(bytes, 8, usize::from(le16(bytes, 4)?))?;
        Ok(match le32(bytes, 0)? {
            0xa000_000c => Self::Link(target(data, 12)?),
            0xa000_0003 => Self::Link(target(data, 8)?),
            0xa000_001d => Self::Link(slice(data, 4, data.len().saturating_sub(4))?.to_vec()),
            0x8000_0023..=0x8000_0026 => Self::Special,
            0x8000_0017 if le32(data, 4)? == BY_FILE => Self::Overlay(le32(data, 12)?),
            0x8000_0017 => Self::Elsewhere("its contents lie in a WIM archive (WIMBoot)"),
            0x8000_0013 => Self::Elsewhere(
                "it was deduplicated by Windows Server: its contents lie in the volume's chunk store; restore the disk",
            ),
            0x8000_0007 => Self::Elsewhere("its contents lie in the common store of single instances (SIS)"),
            0xc000_0004 | 0xc000_0014 | 0x8000_0006 => Self::Elsewhere("it was moved to other storage (HSM)"),
            _ if attributes & RECALLED != 0 => {
                Self::Elsewhere("its contents are not on this disk (a placeholder of a cloud or archive)")
            }
            _ => Self::Plain,
        })
    }
}

/// The name that is shown to people, or the one that Windows follows where there is none.
fn target(data: &[u8], paths_at: usize) -> Result<Vec<u8>> {
    let paths = slice(data, paths_at, data.len().saturating_sub(paths_at))?;
    let name = |at: usize| slice(paths, usize::from(le16(data, at)?), usize::from(le16(data, at + 2)?));
    let shown = name(4)?;
    Ok(wtf8(units_le(if shown.is_empty() { name(0)? } else { shown })))
}

/// The link that a file of Interix is, as ntfs-3g writes them.
pub(crate) fn interix(content: &[u8]) -> Option<Reparse> {
    let kind = slice(content, 0, 8).ok()?;
    match kind {
        b"IntxLNK\x01" => Some(Reparse::Link(wtf8(units_le(content.get(8..)?)))),
        b"IntxBLK\0" | b"IntxCHR\0" => Some(Reparse::Special),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(tag: u32, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap();
        [&tag.to_le_bytes()[..], &length.to_le_bytes(), &[0, 0], data].concat()
    }

    #[test]
    fn links_lead_where_people_are_told() {
        let path: Vec<u8> = r"\??\C:\aC:\a".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let header = [0, 0, 16, 0, 16, 0, 8, 0];
        let junction = point(0xa000_0003, &[&header[..], &path].concat());
        assert_eq!(Reparse::parse(&junction, 0).unwrap(), Reparse::Link(br"C:\a".to_vec()));
        let link = point(0xa000_000c, &[&header[..], &[1, 0, 0, 0], &path].concat());
        assert_eq!(Reparse::parse(&link, 0).unwrap(), Reparse::Link(br"C:\a".to_vec()));
        // Without a name for people.
        let header = [0, 0, 16, 0, 0, 0, 0, 0];
        let unnamed = point(0xa000_0003, &[&header[..], &path].concat());
        assert_eq!(Reparse::parse(&unnamed, 0).unwrap(), Reparse::Link(br"\??\C:\a".to_vec()));
        assert_eq!(interix(b"IntxLNK\x01b\0"), Some(Reparse::Link(b"b".to_vec())));
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        let elsewhere = |tag, data: &[u8], attributes| {
            matches!(Reparse::parse(&point(tag, data), attributes).unwrap(), Reparse::Elsewhere(_))
        };
        assert!(elsewhere(0x8000_0013, &[], 0));
        assert!(elsewhere(0x9000_601a, &[], 0x0040_0000));
        assert!(!elsewhere(0x9000_601a, &[], 0x20), "a cloud's file that is here whole");
        assert!(Reparse::parse(&point(0xa000_000c, &[0, 0, 200, 0, 0, 0, 200, 0]), 0).is_err());
        assert!(Reparse::parse(&[1, 2], 0).is_err());
    }
}
