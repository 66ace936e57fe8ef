//! The archive's format and the tree that its headers make (POSIX.1-1988 ustar). It reads through a function, so that
//! it is tested without a disk.

use std::collections::BTreeMap;

use tidemark_plugin::guest_filesystem::NodeKind;
use tidemark_plugin::{Error, Result};

/// Headers are one block, contents whole ones.
pub(crate) const BLOCK: u32 = 512;
/// Each header is a read of the disk, and the host counts those of one call.
const MOST_ENTRIES: usize = 40_000;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: NodeKind,
    pub(crate) size: u64,
    /// Where its content begins on the disk.
    start: u64,
    pub(crate) modified_s: i64,
    pub(crate) mode: u32,
    pub(crate) owner: String,
    pub(crate) group: String,
    /// Where a symbolic link leads.
    pub(crate) target: Vec<u8>,
    children: BTreeMap<Vec<u8>, u64>,
}

/// All of an archive but its files' contents.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    nodes: Vec<Node>,
    pub(crate) warnings: Vec<String>,
}

/// One header: a path and what lies there.
#[derive(Debug)]
pub(crate) struct Header {
    path: Vec<u8>,
    node: Node,
    /// What follows the header, which is no content where the entry is only about the next one.
    length: u64,
    is_extension: bool,
}

impl Header {
    /// What a block says; none where it is the end of the archive.
    ///
    /// # Errors
    /// Corrupt where it is no header.
    pub(crate) fn parse(block: &[u8]) -> Result<Option<Self>> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let field = |from: usize, length: usize| block.get(from..from + length).unwrap_or_default();
        // The sum is made with blanks in its own place.
        let (before, after) = (field(0, 148), field(156, 356));
        let sum: u64 = before.iter().chain(after).map(|byte| u64::from(*byte)).sum::<u64>() + 8 * 0x20;
        if field(257, 5) != b"ustar" || octal(field(148, 8)) != Some(sum) {
            return Err(Error::corrupt("this is no ustar header"));
        }
        let number = |from, length| {
            octal(field(from, length))
                .ok_or_else(|| Error::corrupt(format!("no number at {from} of a header")))
        };
        let kind = match block.get(156) {
            Some(0 | b'0' | b'7') => NodeKind::File,
            Some(b'5') => NodeKind::Directory,
            Some(b'2') => NodeKind::Symlink,
            _ => NodeKind::Other,
        };
        let length = number(124, 12)?;
        let mut path = text(field(345, 155)).to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(text(field(0, 100)));
        let word = |from, length| String::from_utf8_lossy(text(field(from, length))).into_owned();
        let node = Node {
            name: Vec::new(),
            kind,
            size: if kind == NodeKind::File { length } else { 0 },
            start: 0,
            modified_s: i64::try_from(number(136, 12)?).unwrap_or(i64::MAX),
            mode: u32::try_from(number(100, 8)?).unwrap_or(0),
            owner: word(265, 32),
            group: word(297, 32),
            target: text(field(157, 100)).to_vec(),
            children: BTreeMap::new(),
        };
        let is_extension = matches!(block.get(156), Some(b'x' | b'g' | b'L' | b'K'));
        Ok(Some(Self { path, node, length, is_extension }))
    }
}

/// Up to the first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits between blanks and zeros; none of them is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text(field)).ok()?.trim();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

impl Archive {
    /// The root's number.
    pub(crate) const ROOT: u64 = 0;

    /// Reads every header of a disk of `size` bytes; `read` gives the block at an offset.
    ///
    /// # Errors
    /// Corrupt where the disk does not begin with an archive, and whatever `read` answers.
    pub(crate) fn scan(size: u64, read: impl Fn(u64) -> Result<Vec<u8>>) -> Result<Self> {
        let mut archive = Self { nodes: vec![directory(Vec::new())], warnings: Vec::new() };
        let block = u64::from(BLOCK);
        let mut at = 0;
        for count in 0.. {
            if at + block > size {
                archive.warnings.push("the archive has no end: the disk is shorter".to_owned());
                break;
            }
            if count == MOST_ENTRIES {
                archive.warnings.push(format!("only the first {MOST_ENTRIES} entries are shown"));
                break;
            }
            let Some(header) =
                Header::parse(&read(at)?).map_err(|error| error.during(&format!("at {at}")))?
            else {
                break;
            };
            let start = at + block;
            let end = start.checked_add(header.length).filter(|end| *end <= size);
            let Some(end) = end.and_then(|end| end.checked_next_multiple_of(block)) else {
                return Err(Error::corrupt(format!("the entry at {at} leads beyond the disk")));
            };
            archive.add(header, start);
            at = end;
        }
        Ok(archive)
    }

    /// A later entry of the same path stands for the earlier one, as when an archive is unpacked.
    fn add(&mut self, header: Header, start: u64) {
        let Header { path, node, is_extension, .. } = header;
        let shown = String::from_utf8_lossy(&path).into_owned();
        if is_extension {
            return self.warn("extended headers are not read: long names are cut".to_owned());
        }
        let mut parts: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&b"..".as_slice()) {
            return self.warn(format!("'{shown}' leads out of the archive"));
        }
        let Some(name) = parts.pop() else { return };
        let mut above = Self::ROOT;
        for part in parts {
            match self.child(above, part) {
                Some(found) => above = found,
                None => above = self.insert(above, directory(part.to_vec())),
            }
        }
        let node = Node { name: name.to_vec(), start, ..node };
        match self.child(above, name).and_then(|known| self.slot(known)) {
            Some(known) => *known = Node { children: std::mem::take(&mut known.children), ..node },
            None => {
                self.insert(above, node);
            }
        }
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) && self.warnings.len() < 100 {
            self.warnings.push(warning);
        }
    }

    fn child(&self, directory: u64, name: &[u8]) -> Option<u64> {
        self.node(directory).ok()?.children.get(name).copied()
    }

    fn slot(&mut self, node: u64) -> Option<&mut Node> {
        usize::try_from(node).ok().and_then(|place| self.nodes.get_mut(place))
    }

    fn insert(&mut self, directory: u64, node: Node) -> u64 {
        let number = self.nodes.len() as u64;
        if let Some(directory) = self.slot(directory) {
            // What lies below it makes it one, whatever its own entry says.
            directory.kind = NodeKind::Directory;
            directory.size = 0;
            directory.children.insert(node.name.clone(), number);
        }
        self.nodes.push(node);
        number
    }

    /// A node by its number.
    ///
    /// # Errors
    /// Not found.
    pub(crate) fn node(&self, node: u64) -> Result<&Node> {
        let found = usize::try_from(node).ok().and_then(|place| self.nodes.get(place));
        found.ok_or_else(|| Error::not_found(format!("there is no node {node}")))
    }

    /// The node of a name.
    ///
    /// # Errors
    /// Not found.
    pub(crate) fn lookup(&self, directory: u64, name: &[u8]) -> Result<u64> {
        let found = self.node(directory)?.children.get(name).copied();
        found.ok_or_else(|| Error::not_found(format!("there is no '{}'", String::from_utf8_lossy(name))))
    }

    /// A part of a directory from a cursor on, and the next part's cursor.
    ///
    /// # Errors
    /// Not found.
    pub(crate) fn page(&self, directory: u64, cursor: u64, limit: u32) -> Result<(Vec<u64>, Option<u64>)> {
        let children = &self.node(directory)?.children;
        let (skip, take) = (usize::try_from(cursor).unwrap_or(usize::MAX), limit as usize);
        let nodes: Vec<u64> = children.values().skip(skip).take(take).copied().collect();
        let next = cursor.saturating_add(nodes.len() as u64);
        let more = !nodes.is_empty() && next < children.len() as u64;
        Ok((nodes, more.then_some(next)))
    }

    /// Where on the disk bytes of a file lie; none beyond its end.
    ///
    /// # Errors
    /// Not found; unsupported where it is no file.
    pub(crate) fn place(&self, node: u64, offset: u64, length: u32) -> Result<Option<(u64, u32)>> {
        let Node { kind, size, start, .. } = self.node(node)?;
        if *kind != NodeKind::File {
            return Err(Error::unsupported("only files are read"));
        }
        let left = u32::try_from(size.saturating_sub(offset)).unwrap_or(u32::MAX);
        let length = length.min(left);
        Ok((length > 0).then(|| (start + offset, length)))
    }
}

fn directory(name: Vec<u8>) -> Node {
    Node {
        name,
        kind: NodeKind::Directory,
        size: 0,
        start: 0,
        modified_s: 0,
        mode: 0o755,
        owner: String::new(),
        group: String::new(),
        target: Vec::new(),
        children: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_plugin::ErrorKind;

    use super::*;

    /// A header and its content, in whole blocks.
    fn entry(path: &str, flag: u8, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path.as_bytes());
        put(100, b"0000644\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000001\0");
        put(148, b"        ");
        put(156, &[flag]);
        put(257, b"ustar\0");
        put(265, b"root");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }

    fn scan(disk: &[u8]) -> Result<Archive> {
        Archive::scan(disk.len() as u64, |at| Ok(disk[at as usize..at as usize + 512].to_vec()))
    }

    #[test]
    fn files_are_found_below_their_directories() {
        let disk = [
            entry("etc/", b'5', b""),
            entry("etc/motd", b'0', b"hello"),
            entry("a/b/c", b'0', b"x"),
            vec![0; 1024],
        ];
        let archive = scan(&disk.concat()).unwrap();
        let etc = archive.lookup(Archive::ROOT, b"etc").unwrap();
        let motd = archive.lookup(etc, b"motd").unwrap();
        assert_eq!((archive.node(motd).unwrap().size, archive.node(motd).unwrap().mode), (5, 0o644));
        // Its header is the second block, its content the third.
        assert_eq!(archive.place(motd, 1, 100).unwrap(), Some((1025, 4)));
        assert_eq!(archive.place(motd, 5, 100).unwrap(), None);
        let (first, next) = archive.page(Archive::ROOT, 0, 1).unwrap();
        assert_eq!((archive.node(first[0]).unwrap().name.as_slice(), next), (b"a".as_slice(), Some(1)));
        assert_eq!(archive.page(Archive::ROOT, 1, 9).unwrap(), (vec![etc], None));
        assert!(archive.warnings.is_empty(), "{:?}", archive.warnings);
    }

    #[test]
    fn what_does_not_fit_is_an_error_or_a_warning() {
        assert_eq!(scan(&[7; 1024]).unwrap_err().kind, ErrorKind::Corrupt);
        let long = entry("x", b'0', &[1; 600]);
        assert_eq!(scan(&long[..1024]).unwrap_err().kind, ErrorKind::Corrupt);
        let archive = scan(&entry("../x", b'0', b"")).unwrap();
        assert_eq!(archive.page(Archive::ROOT, 0, 9).unwrap(), (Vec::new(), None));
        assert_eq!(archive.warnings.len(), 2, "out of the archive, and no end: {:?}", archive.warnings);
    }

    #[test]
    fn a_later_entry_stands_for_an_earlier_one() {
        let disk = [entry("x", b'0', b"old"), entry("x", b'0', b"newer"), vec![0; 1024]];
        let archive = scan(&disk.concat()).unwrap();
        let x = archive.lookup(Archive::ROOT, b"x").unwrap();
        assert_eq!(archive.node(x).unwrap().size, 5);
        assert_eq!(archive.page(Archive::ROOT, 0, 9).unwrap().0, [x]);
    }
}
