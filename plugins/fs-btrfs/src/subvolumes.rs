//! The trees of subvolumes and snapshots, and the numbers of the nodes in them.

use std::cell::RefCell;
use std::collections::HashMap;

use tidemark_plugin::fields::{byte, index, le16, le32, le64, slice};
use tidemark_plugin::{Error, Result};

use crate::blocks::{Blocks, missing};
use crate::items::ROOT_ITEM;
use crate::tree::{Cursor, Key, Pointer};

/// The tree of the top level.
pub(crate) const TOP: u64 = 5;
/// The tree of data's checksums.
pub(crate) const SUMS: u64 = 7;
/// The ids of all other subvolumes, and the numbers of all inodes: the first, which is a subvolume's root, and the last.
pub(crate) const FIRST: u64 = 256;
const LAST: u64 = 256_u64.wrapping_neg();

/// The kind of the key that leads from a subvolume to the one that it lies in.
const ROOT_BACKREF: u8 = 144;
const INODE_BITS: u32 = 44;
/// Subvolumes that may be looked into.
const MOST: usize = 1 << 17;
const NAMES_NO_DIRECTORY: u64 = 1 << 63;

/// A node's number in its parts: whether its name is not one of a directory, the place of its subvolume in the table, the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) names_directory: bool,
    pub(crate) subvolume: u64,
    pub(crate) inode: u64,
}

impl Node {
    pub(crate) fn number(self) -> Result<u64> {
        if self.inode >> INODE_BITS != 0 {
            return Err(Error::unsupported(format!("inodes like {} are not read", self.inode)));
        }
        let bit = if self.names_directory { 0 } else { NAMES_NO_DIRECTORY };
        Ok(bit | self.subvolume << INODE_BITS | self.inode)
    }

    pub(crate) fn numbered(number: u64) -> Self {
        let rest = number & !NAMES_NO_DIRECTORY;
        let inode = rest & ((1 << INODE_BITS) - 1);
        Self { names_directory: rest == number, subvolume: rest >> INODE_BITS, inode }
    }
}

/// A subvolume's id, and where its tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subvolume {
    pub(crate) id: u64,
    pub(crate) tree: Pointer,
}

/// The subvolumes that were seen. The first is the top level.
#[derive(Debug)]
pub(crate) struct Subvolumes(RefCell<Seen>);

#[derive(Debug)]
struct Seen {
    all: Vec<(u64, Option<Pointer>)>,
    places: HashMap<u64, u64>,
}

impl Subvolumes {
    pub(crate) fn new() -> Self {
        Self(RefCell::new(Seen { all: vec![(TOP, None)], places: HashMap::from([(TOP, 0)]) }))
    }

    /// The place of a subvolume in the table.
    pub(crate) fn place(&self, id: u64) -> Result<u64> {
        let mut seen = self.0.borrow_mut();
        if let Some(place) = seen.places.get(&id) {
            return Ok(*place);
        }
        if seen.all.len() >= MOST {
            return Err(Error::unsupported(format!("more than {MOST} subvolumes in one session")));
        }
        let place = seen.all.len() as u64;
        seen.all.push((id, None));
        seen.places.insert(id, place);
        Ok(place)
    }

    /// The subvolume at a place of the table.
    pub(crate) fn at(&self, blocks: &Blocks, place: u64) -> Result<Subvolume> {
        let known = self.0.borrow().all.get(index(place)?).copied();
        let (id, tree) = known.ok_or_else(|| Error::not_found(format!("there is no subvolume {place}")))?;
        if let Some(tree) = tree {
            return Ok(Subvolume { id, tree });
        }
        let tree = root(blocks, id)?;
        if let Some(known) = self.0.borrow_mut().all.get_mut(index(place)?) {
            known.1 = Some(tree);
        }
        Ok(Subvolume { id, tree })
    }
}

/// Where a tree begins.
pub(crate) fn root(blocks: &Blocks, id: u64) -> Result<Pointer> {
    let last = Key { object: id, kind: ROOT_ITEM, offset: u64::MAX };
    let cursor = Cursor::at_or_before(blocks, blocks.superblock.root, last)?;
    let found = cursor.item()?.filter(|(key, _)| key.group() == last.group());
    let (_, item) = found.ok_or_else(|| missing(format!("the tree {id}")))?;
    if le32(item, 216)? == 0 {
        return Err(Error::corrupt(format!("the tree {id} was deleted")));
    }
    Ok(Pointer { logical: le64(item, 176)?, generation: le64(item, 160)?, level: byte(item, 238)? })
}

/// Whether a subvolume lies in this directory, by this name. Where not, a snapshot was made of what it lies in: an empty
/// folder stands for it there.
pub(crate) fn lies_in(blocks: &Blocks, id: u64, (tree, directory): (u64, u64), name: &[u8]) -> Result<bool> {
    if !(FIRST..=LAST).contains(&id) {
        return Err(Error::corrupt(format!("a directory leads to the tree {id}")));
    }
    // It lies in one place only, so that no subvolumes lead to each other in circles.
    let start = Key { object: id, kind: ROOT_BACKREF, offset: 0 };
    let cursor = Cursor::at_or_after(blocks, blocks.superblock.root, start)?;
    let Some((key, item)) = cursor.item()?.filter(|(key, _)| key.group() == start.group()) else {
        return Ok(false);
    };
    let known = slice(item, 18, usize::from(le16(item, 16)?))?;
    Ok(key.offset == tree && le64(item, 0)? == directory && known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_parts() {
        for names_directory in [true, false] {
            for (subvolume, inode) in [(0, 256), (1, 0), ((1 << 19) - 1, (1 << INODE_BITS) - 1)] {
                let node = Node { names_directory, subvolume, inode };
                assert_eq!(Node::numbered(node.number().unwrap()), node);
            }
        }
        assert!(Node { names_directory: true, subvolume: 0, inode: 1 << INODE_BITS }.number().is_err());
    }
}
