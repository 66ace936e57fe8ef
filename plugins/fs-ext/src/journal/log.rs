//! The journal's blocks, which are those of a file.

use tidemark_plugin::fields::index;
use tidemark_plugin::guest_filesystem::NodeKind;
use tidemark_plugin::{Error, Result};

use super::header::Header;
use crate::filesystem::FileSystem;
use crate::inode::Inode;
use crate::map::Window;

/// The blocks, and where in them one is.
pub(super) struct Log<'a> {
    pub(super) system: &'a FileSystem,
    pub(super) header: Header,
    inode: Inode,
    window: Window,
    /// The block that is read next.
    at: u32,
    /// Blocks that were passed: more than there are lead in a circle.
    passed: u32,
}

impl<'a> Log<'a> {
    pub(super) fn open(system: &'a FileSystem) -> Result<Self> {
        let inode = system.inode(system.superblock.journal)?;
        inode.readable()?;
        if inode.kind != NodeKind::File || inode.inline() {
            return Err(Error::corrupt("it is no file"));
        }
        let mut window = Window::read(system, &inode, 0)?;
        let place = place(system, &inode, &mut window, 0)?;
        let mut bytes = vec![0; index(system.superblock.block_bytes)?];
        system.disk.read(place, &mut bytes)?;
        let header = Header::parse(&bytes, inode.size / system.superblock.block_bytes)?;
        Ok(Self { system, at: header.start, header, inode, window, passed: 0 })
    }

    /// Where a block of the journal lies on the disk, in bytes.
    pub(super) fn place(&mut self, block: u32) -> Result<u64> {
        place(self.system, &self.inode, &mut self.window, block)
    }

    /// A block of the journal.
    pub(super) fn block(&mut self, block: u32) -> Result<Vec<u8>> {
        let place = self.place(block)?;
        let mut bytes = vec![0; index(self.system.superblock.block_bytes)?];
        self.system.disk.read(place, &mut bytes)?;
        Ok(bytes)
    }

    /// Goes on by one block, round the end, and gives the one that was passed.
    pub(super) fn pass(&mut self) -> Result<u32> {
        let this = self.at;
        self.passed += 1;
        if self.passed > self.header.last - self.header.first {
            return Err(Error::corrupt("it leads in a circle"));
        }
        self.at = if this + 1 == self.header.last { self.header.first } else { this + 1 };
        Ok(this)
    }

    /// The next block.
    pub(super) fn next(&mut self) -> Result<Vec<u8>> {
        let this = self.pass()?;
        self.block(this)
    }
}

fn place(system: &FileSystem, inode: &Inode, window: &mut Window, block: u32) -> Result<u64> {
    let at = u64::from(block) * system.superblock.block_bytes;
    if !window.has(at) {
        *window = Window::read(system, inode, at)?;
    }
    let runs = window.runs.as_slice();
    let run =
        runs.get(runs.partition_point(|run| run.start + run.length <= at)).filter(|run| run.start <= at);
    let place = run.and_then(|run| Some(run.at? + (at - run.start)));
    place.ok_or_else(|| Error::corrupt(format!("its block {block} lies nowhere")))
}
