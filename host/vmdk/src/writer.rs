//! The streaming writer. Memory is a window: what was not taken yet, one grain table (2 KiB) and the grain directory
//! (4 bytes for every 32 MiB of the disk).
//!
//! ```text
//! header │ descriptor │ grains of 32 MiB, then their table │ … │ directory │ footer │ end-of-stream
//!         (gdOffset: at the end)   each with a marker before it            (the header with the directory's place)
//! ```
//! Source: "Stream-Optimized Compressed Sparse Extents" of the note.

use bytes::Bytes;
use tidemark_model::ByteLen;

use crate::descriptor::descriptor;
use crate::error::{Error, Result};
use crate::format::{
    DESCRIPTOR_SECTOR, DIRECTORY_AT_END, GRAIN_SIZE, Marker, OVERHEAD, SECTOR, SECTOR_BYTES, TABLE_ENTRIES,
    TABLE_SECTORS, TABLE_SPAN, header,
};
use crate::grain::{EncodedGrain, GrainEncoder};

/// What VMware's products take at most; the directory of such a disk has 8 MiB.
const MAX_CAPACITY: u64 = 62 << 40;
/// Tables hold sector numbers of 32 bits: the file ends before 2 TiB.
const MAX_SECTORS: u64 = 1 << 32;

/// What disk is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// The disk's size in bytes: whole sectors of 512 bytes, at least one, at most 62 TiB.
    pub capacity: ByteLen,
    /// The name that the descriptor gives the extent: a file name of printable ASCII. Nothing opens it.
    pub extent_name: String,
    /// The descriptor's `CID`; `u32::MAX` is taken by the format.
    pub content_id: u32,
}

/// Makes one VMDK.
#[derive(Debug)]
pub struct StreamWriter {
    capacity: ByteLen,
    out: Vec<Bytes>,
    out_bytes: usize,
    /// Where the next byte goes, in sectors.
    at: u64,
    /// The grain table being filled, and its index in the directory.
    table: Option<(usize, Box<[u32; TABLE_ENTRIES]>)>,
    /// Where each grain table lies; 0 where all grains are zero.
    directory: Vec<u32>,
    /// Guest bytes below this one are decided.
    frontier: u64,
}

impl StreamWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// `Invalid` for a capacity that is zero or no whole sectors, a name that the descriptor cannot hold, and the
    /// reserved content id; `TooLarge` above 62 TiB.
    pub fn new(spec: &DiskSpec) -> Result<Self> {
        let DiskSpec { capacity, extent_name, content_id } = spec;
        if capacity.0 == 0 || !capacity.0.is_multiple_of(SECTOR) {
            return Err(Error::invalid(format!(
                "a disk of {capacity} (whole sectors are needed, at least one)"
            )));
        }
        if capacity.0 > MAX_CAPACITY {
            return Err(Error::too_large(format!(
                "a disk of {capacity}; a VMDK holds {MAX_CAPACITY} at most"
            )));
        }
        let descriptor = descriptor(*capacity, extent_name, *content_id)?;
        let tables = usize::try_from(capacity.0.div_ceil(TABLE_SPAN)).unwrap_or(usize::MAX);
        let mut writer = Self {
            capacity: *capacity,
            out: Vec::new(),
            out_bytes: 0,
            at: 0,
            table: None,
            directory: vec![0; tables],
            frontier: 0,
        };
        let mut start = header(*capacity, DIRECTORY_AT_END).to_vec();
        debug_assert_eq!(start.len() as u64, DESCRIPTOR_SECTOR * SECTOR);
        start.extend_from_slice(&descriptor);
        start.resize(sectors_bytes(OVERHEAD), 0);
        writer.emit(Bytes::from(start));
        Ok(writer)
    }

    /// An encoder for this file's grains; clone it for each thread.
    #[must_use]
    pub fn encoder(&self) -> GrainEncoder {
        GrainEncoder::new()
    }

    /// Stores one grain. A grain that is never pushed reads as zeros.
    ///
    /// # Errors
    /// `Invalid` when its offset is off the grain grid, beyond the disk or below what is already decided;
    /// `TooLarge` when the file would reach 2 TiB.
    pub fn push(&mut self, grain: EncodedGrain) -> Result<()> {
        let EncodedGrain { guest, sectors } = grain;
        if !guest.0.is_multiple_of(GRAIN_SIZE) || guest.0 >= self.capacity.0 {
            return Err(Error::invalid(format!("a grain at {guest} of a disk of {}", self.capacity)));
        }
        if guest.0 < self.frontier {
            return Err(Error::invalid(format!(
                "{guest} after the disk was written up to byte {}",
                self.frontier
            )));
        }
        self.frontier = guest.0 + GRAIN_SIZE;
        let Some(sectors) = sectors else { return Ok(()) };
        let index = usize::try_from(guest.0 / TABLE_SPAN).unwrap_or(usize::MAX);
        if self.table.as_ref().is_some_and(|(current, _)| *current != index) {
            self.write_table()?;
        }
        let place = self.place()?;
        let (_, table) = self.table.get_or_insert_with(|| (index, Box::new([0; TABLE_ENTRIES])));
        // Below TABLE_ENTRIES by the remainder.
        let slot = usize::try_from(guest.0 % TABLE_SPAN / GRAIN_SIZE).unwrap_or(0);
        table[slot] = place;
        self.emit(sectors);
        Ok(())
    }

    /// The bytes to append now, in order.
    pub fn take_output(&mut self) -> Vec<Bytes> {
        self.out_bytes = 0;
        std::mem::take(&mut self.out)
    }

    /// Bytes held in memory: output that was not taken, the table in work, and the directory.
    #[must_use]
    pub fn pending(&self) -> usize {
        let table = self.table.as_ref().map_or(0, |_| TABLE_ENTRIES * 4);
        self.out_bytes + table + self.directory.len() * 4
    }

    /// Ends the file: the bytes to append after all that was taken.
    ///
    /// # Errors
    /// `TooLarge` when the file would reach 2 TiB.
    pub fn finish(mut self) -> Result<Vec<Bytes>> {
        self.write_table()?;
        let mut directory: Vec<u8> = self.directory.iter().flat_map(|place| place.to_le_bytes()).collect();
        directory.resize(directory.len().next_multiple_of(SECTOR_BYTES), 0);
        self.marked(Marker::Directory, Bytes::from(directory));
        let place = self.at - (self.directory.len() as u64 * 4).div_ceil(SECTOR);
        let footer = header(self.capacity, place);
        self.marked(Marker::Footer, Bytes::copy_from_slice(&footer));
        self.marked(Marker::EndOfStream, Bytes::new());
        Ok(self.out)
    }

    /// Appends the current grain table: its guest range is finished.
    fn write_table(&mut self) -> Result<()> {
        let Some((index, table)) = self.table.take() else { return Ok(()) };
        let bytes = Bytes::from_iter(table.iter().flat_map(|place| place.to_le_bytes()));
        debug_assert_eq!(bytes.len() as u64, TABLE_SECTORS * SECTOR);
        self.marked(Marker::Table, bytes);
        if self.at >= MAX_SECTORS {
            return Err(full());
        }
        // The directory names the table itself, not the marker before it.
        self.directory[index] = u32::try_from(self.at - TABLE_SECTORS).map_err(|_| full())?;
        Ok(())
    }

    fn marked(&mut self, marker: Marker, metadata: Bytes) {
        let sector = marker.sector(metadata.len() as u64 / SECTOR);
        self.emit(Bytes::copy_from_slice(&sector));
        if !metadata.is_empty() {
            self.emit(metadata);
        }
    }

    /// The sector where the next byte goes, as tables have it.
    fn place(&self) -> Result<u32> {
        u32::try_from(self.at).map_err(|_| full())
    }

    fn emit(&mut self, sectors: Bytes) {
        assert!(sectors.len().is_multiple_of(SECTOR_BYTES), "{} bytes are not whole sectors", sectors.len());
        self.at += sectors.len() as u64 / SECTOR;
        self.out_bytes += sectors.len();
        self.out.push(sectors);
    }
}

fn full() -> Error {
    Error::too_large("the compressed disk does not fit into a VMDK, whose file ends before 2 TiB")
}

fn sectors_bytes(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use tidemark_model::GuestOffset;

    fn spec(capacity: u64) -> DiskSpec {
        DiskSpec { capacity: ByteLen(capacity), extent_name: "disk.vmdk".to_owned(), content_id: 7 }
    }

    fn u32_at(file: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(*file[at..].first_chunk().unwrap())
    }

    #[test]
    fn the_layout_is_the_note_s() {
        // Grains 0 and 2 of the first table, none of the second, the last and cut one of the third.
        let capacity = 2 * TABLE_SPAN + 1024;
        let mut writer = StreamWriter::new(&spec(capacity)).unwrap();
        let mut encoder = writer.encoder();
        for guest in [0, 2 * GRAIN_SIZE, 2 * TABLE_SPAN] {
            writer.push(encoder.encode(GuestOffset(guest), &[9; 1024])).unwrap();
        }
        let mut file = writer.take_output().concat();
        file.extend(writer.finish().unwrap().concat());
        let sector = |number: usize| &file[number * 512..(number + 1) * 512];
        assert_eq!(sector(0), header(ByteLen(capacity), DIRECTORY_AT_END));
        assert!(sector(1).starts_with(b"# Disk DescriptorFile\n"));
        // Each of these grains takes one sector: two grains, a table, a grain, a table.
        assert_eq!(file[128 * 512..][..8], 0_u64.to_le_bytes());
        assert_eq!(file[129 * 512..][..8], 256_u64.to_le_bytes());
        assert_eq!(sector(130), Marker::Table.sector(4));
        assert_eq!((u32_at(&file, 131 * 512), u32_at(&file, 131 * 512 + 4)), (128, 0));
        assert_eq!(u32_at(&file, 131 * 512 + 8), 129);
        assert_eq!(file[135 * 512..][..8], (2 * TABLE_SPAN / 512).to_le_bytes());
        assert_eq!(sector(136), Marker::Table.sector(4));
        assert_eq!(sector(141), Marker::Directory.sector(1));
        let directory: Vec<u32> = (0..3).map(|entry| u32_at(&file, 142 * 512 + entry * 4)).collect();
        assert_eq!(directory, [131, 0, 137]);
        assert_eq!(sector(143), Marker::Footer.sector(1));
        assert_eq!(sector(144), header(ByteLen(capacity), 142));
        assert_eq!(sector(145), Marker::EndOfStream.sector(0));
        assert_eq!(file.len(), 146 * 512);
    }

    #[test]
    fn order_and_bounds_are_kept() {
        let mut writer = StreamWriter::new(&spec(3 * GRAIN_SIZE)).unwrap();
        let mut encoder = writer.encoder();
        let mut push = |guest, byte: u8| writer.push(encoder.encode(GuestOffset(guest), &[byte; 512]));
        push(GRAIN_SIZE, 1).unwrap();
        for (guest, byte) in [(0, 1), (GRAIN_SIZE, 0), (GRAIN_SIZE * 2 + 512, 1), (GRAIN_SIZE * 3, 1)] {
            assert_eq!(push(guest, byte).unwrap_err().kind(), ErrorKind::Invalid, "{guest}");
        }
        for (capacity, kind) in
            [(0, ErrorKind::Invalid), (513, ErrorKind::Invalid), ((62 << 40) + 512, ErrorKind::TooLarge)]
        {
            assert_eq!(StreamWriter::new(&spec(capacity)).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn memory_is_a_window() {
        let mut writer = StreamWriter::new(&spec(8 << 40)).unwrap();
        let mut encoder = writer.encoder();
        for step in 0..4096 {
            let guest = GuestOffset(step * (2 << 30));
            writer.push(encoder.encode(guest, &[1; 4096])).unwrap();
            writer.take_output();
            // A table and the directory of 8 TiB.
            assert!(writer.pending() <= 2048 + (1 << 20), "{}", writer.pending());
        }
    }

    #[test]
    fn a_file_that_outgrows_its_tables_is_refused() {
        let mut writer = StreamWriter::new(&spec(GRAIN_SIZE * 4)).unwrap();
        let grain = writer.encoder().encode(GuestOffset(GRAIN_SIZE), &[1; 512]);
        writer.at = MAX_SECTORS;
        assert_eq!(writer.push(grain).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
