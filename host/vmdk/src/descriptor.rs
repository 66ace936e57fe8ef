//! The text descriptor that is embedded after the header ("The Descriptor File" of the note). Readers of a stream
//! take the layout from the binary header; the descriptor tells them the type, the content id and the geometry that
//! a virtual machine should see.

use tidemark_model::ByteLen;

use crate::error::{Error, Result};
use crate::format::{DESCRIPTOR_BYTES, SECTOR};

/// Heads and sectors a track of disks on SCSI adapters beyond 2 GiB; importers compute them anew.
const HEADS: u64 = 255;
const SECTORS_PER_TRACK: u64 = 63;
/// The largest number of cylinders that a BIOS can be told.
const MOST_CYLINDERS: u64 = 65535;
/// The content id that stands for "no parent".
pub(crate) const NO_PARENT: u32 = u32::MAX;
/// An extent's name is a file name of the writer's choice and of no meaning to a stream.
const LONGEST_NAME: usize = 255;

/// The descriptor, filled with zeros to the space that is kept for it.
pub(crate) fn descriptor(capacity: ByteLen, extent_name: &str, content_id: u32) -> Result<Vec<u8>> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '/' | '\\') || c == ' ';
    if extent_name.is_empty() || extent_name.len() > LONGEST_NAME || !extent_name.chars().all(plain) {
        return Err(Error::invalid(format!("'{extent_name:.80}' cannot be an extent's name")));
    }
    if content_id == NO_PARENT {
        return Err(Error::invalid("the content id ffffffff means that there is no content"));
    }
    let sectors = capacity.0 / SECTOR;
    let cylinders = (sectors / (HEADS * SECTORS_PER_TRACK)).clamp(1, MOST_CYLINDERS);
    let text = format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         encoding=\"UTF-8\"\n\
         CID={content_id:08x}\n\
         parentCID={NO_PARENT:08x}\n\
         createType=\"streamOptimized\"\n\
         \n\
         # Extent description\n\
         RDONLY {sectors} SPARSE \"{extent_name}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.virtualHWVersion = \"7\"\n\
         ddb.hwversion = \"7\"\n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{HEADS}\"\n\
         ddb.geometry.sectors = \"{SECTORS_PER_TRACK}\"\n"
    );
    let mut bytes = text.into_bytes();
    assert!(bytes.len() < DESCRIPTOR_BYTES, "a descriptor of {} bytes", bytes.len());
    bytes.resize(DESCRIPTOR_BYTES, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_the_text_are_refused() {
        for wrong in ["", "a\"b", "a\nb", "../a", "a\\b", &"n".repeat(256)] {
            assert!(descriptor(ByteLen(512), wrong, 1).is_err(), "{wrong}");
        }
        assert!(descriptor(ByteLen(512), "a", NO_PARENT).is_err());
    }

    #[test]
    fn the_geometry_has_bounds() {
        let cylinders = |capacity| {
            let bytes = descriptor(ByteLen(capacity), "disk 1.vmdk", 0xabc).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains("CID=00000abc\nparentCID=ffffffff\n"), "{text}");
            let (_, rest) = text.split_once("cylinders = \"").unwrap();
            rest.split_once('"').unwrap().0.parse::<u64>().unwrap()
        };
        assert_eq!(cylinders(512), 1);
        assert_eq!(cylinders(10 << 30), 1305);
        assert_eq!(cylinders(62 << 40), 65535);
    }
}
