//! What is so small that it lies in its inode: in the place of the map, and behind it in an attribute (ext4 disk layout,
//! "Inline Data").

use tidemark_plugin::{Error, Result};

use crate::inode::Inode;

/// All that such a file, link or directory holds.
///
/// # Errors
/// Corrupt where there is less than its size says.
pub(crate) fn read(inode: &Inode) -> Result<Vec<u8>> {
    let mut held = inode.map()?.to_vec();
    held.extend_from_slice(inode.system_attribute(b"data")?.unwrap_or_default());
    match usize::try_from(inode.size) {
        Ok(size) if size <= held.len() => {
            held.truncate(size);
            Ok(held)
        }
        _ => Err(Error::corrupt(format!(
            "inode {} holds {} bytes of {}",
            inode.number,
            held.len(),
            inode.size
        ))),
    }
}
