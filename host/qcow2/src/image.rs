//! One image of a chain: its header and L1 table in memory, its L2 tables read on demand. Everything read here is
//! foreign: offsets are checked against the file before they are followed.

use std::fmt;
use std::sync::Arc;

use tidemark_model::{ByteLen, HostOffset};

use crate::error::{Error, Result};
use crate::format::{L2Entry, OFFSET_MASK, V2_HEADER_LENGTH, parse_l2};
use crate::header::Header;
use crate::source::ReadAt;

/// An opened image. Its backing file is not opened; see [`Chain`](crate::Chain).
#[derive(Clone)]
pub struct Image {
    source: Arc<dyn ReadAt>,
    file_size: u64,
    header: Header,
    l1: Arc<[u64]>,
}

/// What an image has at a guest offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing: the layer below shows through.
    Nothing,
    /// Zeros.
    Zero,
    /// Bytes in the file from `host` on.
    Plain { host: u64 },
    /// A compressed cluster: `length` bytes from `host` on; the position is `within` bytes into the cluster.
    Compressed { host: u64, length: u64, within: u64 },
}

impl Stored {
    /// The same, `bytes` further on.
    pub(crate) fn after(self, bytes: u64) -> Self {
        match self {
            Self::Plain { host } => Self::Plain { host: host + bytes },
            Self::Compressed { host, length, within } => {
                Self::Compressed { host, length, within: within + bytes }
            }
            same => same,
        }
    }
}

impl Image {
    /// Opens an image for reading.
    ///
    /// # Errors
    /// `Unsupported` and `Corrupt` as for [`Header::parse`], and `Corrupt` when the L1 table lies outside the file;
    /// `Io` when the source fails.
    pub fn open(source: Arc<dyn ReadAt>) -> Result<Self> {
        let file_size = source.size().map_err(|error| Error::io("the image's size", error))?.0;
        let mut start = [0; V2_HEADER_LENGTH as usize];
        source.read_at(HostOffset(0), &mut start).map_err(|error| Error::io("the image's header", error))?;
        // Bounded: 2 MiB at most, and no more than the file has.
        let mut first_cluster = vec![0; in_memory(Header::extent(&start)?.min(file_size))];
        source
            .read_at(HostOffset(0), &mut first_cluster)
            .map_err(|error| Error::io("the first cluster", error))?;
        let header = Header::parse(&first_cluster)?;
        // Bounded by the parser: 32 MiB at most.
        let length = u64::from(header.l1_entries) * 8;
        let l1 = read_table(&*source, file_size, header.l1_offset.0, length)
            .map_err(|e| e.within("the L1 table"))?;
        Ok(Self { source, file_size, header, l1 })
    }

    /// What the image says about itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The backing file's name as it stands in the image; compare it with the expected one, never open it.
    #[must_use]
    pub fn backing_name(&self) -> Option<&str> {
        self.header.backing_name.as_deref()
    }

    /// The virtual disk's size.
    #[must_use]
    pub fn virtual_size(&self) -> ByteLen {
        self.header.virtual_size
    }

    /// The file's size.
    #[must_use]
    pub fn file_size(&self) -> ByteLen {
        ByteLen(self.file_size)
    }

    /// The L1 table as it stands in the file.
    pub(crate) fn l1(&self) -> &[u64] {
        &self.l1
    }

    /// The file's size in whole clusters: the last one may be cut off in the file, its missing bytes are zeros.
    pub(crate) fn padded_size(&self) -> u64 {
        self.file_size.checked_next_multiple_of(self.header.cluster_size()).unwrap_or(self.file_size)
    }

    /// Guest bytes that one L2 table describes.
    pub(crate) fn l2_span(&self) -> u64 {
        self.header.cluster_size() * (self.header.cluster_size() / 8)
    }

    /// Where the L2 table for a guest offset lies, if there is one.
    pub(crate) fn l2_offset(&self, guest: u64) -> Result<Option<u64>> {
        let entry = self.l1.get(in_memory(guest / self.l2_span()));
        let offset = entry.ok_or_else(|| Error::corrupt(format!("no L1 entry for guest offset {guest}")))?
            & OFFSET_MASK;
        Ok((offset != 0).then_some(offset))
    }

    /// Guest bytes from `guest` on, up to `limit`, that have no L2 table.
    pub(crate) fn run_without_l2(&self, guest: u64, limit: u64) -> u64 {
        let first = guest / self.l2_span();
        // A small read must not look through the whole table of a large, empty disk.
        let wanted = in_memory(limit / self.l2_span() + 2);
        let entries = self.l1.iter().skip(in_memory(first)).take(wanted);
        let empty = entries.take_while(|&&entry| entry & OFFSET_MASK == 0).count();
        let end = (first + empty as u64).saturating_mul(self.l2_span());
        end.saturating_sub(guest).min(limit)
    }

    /// Reads the L2 table at a host offset.
    pub(crate) fn read_l2(&self, offset: u64) -> Result<Arc<[u64]>> {
        if !offset.is_multiple_of(self.header.cluster_size()) {
            return Err(Error::corrupt(format!("an L2 table at unaligned host offset {offset}")));
        }
        read_table(&*self.source, self.file_size, offset, self.header.cluster_size())
            .map_err(|error| error.within(format_args!("the L2 table at host offset {offset}")))
    }

    /// What is stored at `guest`, and for how many bytes (at most `limit`) the same goes on, judged by the L2 table
    /// that covers it. Plain runs are contiguous in the file; a compressed run never leaves its cluster.
    pub(crate) fn lookup(&self, table: &[u64], guest: u64, limit: u64) -> Result<(Stored, u64)> {
        let cluster = self.header.cluster_size();
        let mut index = in_memory(guest % self.l2_span() / cluster);
        let within = guest % cluster;
        let first = self.stored(table, index, within)?;
        let mut length = cluster - within;
        if !matches!(first, Stored::Compressed { .. }) {
            while length < limit && index + 1 < table.len() {
                index += 1;
                let next = self.stored(table, index, 0)?;
                let continues = match (first, next) {
                    (Stored::Plain { host }, Stored::Plain { host: after }) => host + length == after,
                    (first, next) => first == next,
                };
                if !continues {
                    break;
                }
                length += cluster;
            }
        }
        Ok((first, length.min(limit)))
    }

    pub(crate) fn stored(&self, table: &[u64], index: usize, within: u64) -> Result<Stored> {
        let entry = table.get(index).copied().unwrap_or(0);
        match parse_l2(entry, self.header.cluster_bits, self.header.version) {
            L2Entry::Unallocated => Ok(Stored::Nothing),
            L2Entry::Zero { .. } => Ok(Stored::Zero),
            L2Entry::Plain { host } => {
                if !host.is_multiple_of(self.header.cluster_size()) || host >= self.file_size {
                    return Err(Error::corrupt(format!(
                        "a cluster at host offset {host}, unaligned or beyond the file"
                    )));
                }
                Ok(Stored::Plain { host: host + within })
            }
            L2Entry::Compressed { host, length } => {
                if host >= self.file_size {
                    return Err(Error::corrupt(format!(
                        "compressed data at host offset {host}, beyond the file"
                    )));
                }
                Ok(Stored::Compressed { host, length: length.min(self.file_size - host), within })
            }
        }
    }

    /// Fills a buffer from the file. What lies in the file's last cluster but beyond its end reads as zeros: qemu
    /// leaves that part out.
    pub(crate) fn read_host(&self, host: u64, buffer: &mut [u8]) -> Result<()> {
        let end = host.checked_add(buffer.len() as u64).filter(|&end| end <= self.padded_size());
        if end.is_none() {
            return Err(Error::corrupt(format!(
                "{} bytes at host offset {host} lie beyond the file",
                buffer.len()
            )));
        }
        let present = self.file_size.saturating_sub(host).min(buffer.len() as u64);
        let (present, missing) = buffer.split_at_mut(in_memory(present));
        missing.fill(0);
        self.source
            .read_at(HostOffset(host), present)
            .map_err(|error| Error::io(format!("{} bytes at host offset {host}", present.len()), error))
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("file_size", &self.file_size)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// A table of 64-bit entries, checked against the file's size before it is allocated.
pub(crate) fn read_table(
    source: &dyn ReadAt,
    file_size: u64,
    offset: u64,
    length: u64,
) -> Result<Arc<[u64]>> {
    if offset.checked_add(length).is_none_or(|end| end > file_size) {
        return Err(Error::corrupt(format!(
            "{length} bytes at host offset {offset} in a file of {file_size}"
        )));
    }
    let mut bytes = vec![0; in_memory(length)];
    source.read_at(HostOffset(offset), &mut bytes).map_err(|error| Error::io("the table's bytes", error))?;
    let (entries, _) = bytes.as_chunks::<8>();
    Ok(entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}

/// A number that was bounded before: an index into a table, or a length of at most a few megabytes.
pub(crate) fn in_memory(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
