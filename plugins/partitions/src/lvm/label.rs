//! What makes a partition or disk a physical volume: a label in one of its first four sectors, with a header that says where
//! its metadata is, and each area of metadata with a header that says where in its circular buffer the newest text is
//! (lvm2's `lib/label/label.h` and `lib/format_text/layout.h`).

use tidemark_plugin::{Error, Result, fields};

use crate::bytes::{Bytes, says};
use crate::checksum;

const SECTOR: usize = 512;
/// Sectors that may hold the label.
const LABELS: usize = 4;
const LABEL: &[u8] = b"LABELONE";
const KIND: &[u8] = b"LVM2 001";
/// Bytes of the header of an area; the text begins after it, and goes on there where it reaches the area's end.
const HEADER: u32 = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// More than any text is; LVM2's areas have a megabyte.
const MAX_TEXT: u64 = 8 << 20;
/// What the host gives at once.
const MAX_READ: u64 = 1 << 20;
/// An area that another one stands in for.
const IGNORED: u32 = 1;

/// What a physical volume says of itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Label {
    /// Its UUID, without hyphens.
    pub(crate) id: String,
    /// Where its metadata is: offset and length.
    pub(crate) areas: Vec<(u64, u64)>,
}

impl Label {
    /// The first label of a volume that is sound; none where there is none at all.
    ///
    /// # Errors
    /// Corrupt where those that are there are damaged.
    pub(crate) fn read(volume: &impl Bytes) -> Result<Option<Self>> {
        let head = u32::try_from(volume.size()).unwrap_or(u32::MAX).min(2048);
        let head = volume.read_inside(0, head)?.unwrap_or_default();
        let mut damage = None;
        for (sector, number) in head.as_chunks::<SECTOR>().0.iter().take(LABELS).zip(0_u64..) {
            if !says(sector, 0, LABEL) {
                continue;
            }
            match Self::parse(sector, number) {
                Ok(label) => return Ok(Some(label)),
                Err(error) => damage = Some(error.during("the label of a physical volume")),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    fn parse(sector: &[u8; SECTOR], number: u64) -> Result<Self> {
        let checked = fields::slice(sector, 20, SECTOR - 20)?;
        if checksum::lvm(checked) != fields::le32(sector, 16)? || fields::le64(sector, 8)? != number {
            return Err(Error::corrupt("its checksum is wrong"));
        }
        if !says(sector, 24, KIND) {
            return Err(Error::unsupported("it is of a kind that is not known"));
        }
        let header = fields::index(u64::from(fields::le32(sector, 20)?))?;
        let id = fields::slice(sector, header, 32)?;
        if !id.iter().all(u8::is_ascii_alphanumeric) {
            return Err(Error::corrupt("its UUID is none"));
        }
        // After the UUID and the size two lists, each with an end of zeros: of data, and of metadata.
        let mut at = header + 40;
        let mut list = || {
            let mut places = Vec::new();
            loop {
                let place = (fields::le64(sector, at)?, fields::le64(sector, at + 8)?);
                at += 16;
                if place.0 == 0 {
                    return Ok::<_, Error>(places);
                }
                places.push(place);
            }
        };
        list()?;
        Ok(Self { id: String::from_utf8_lossy(id).into_owned(), areas: list()? })
    }
}

/// The newest text of an area of metadata; none where it holds none.
///
/// # Errors
/// Corrupt where a checksum is wrong or the area does not fit.
pub(crate) fn text(volume: &impl Bytes, area: (u64, u64)) -> Result<Option<String>> {
    let (start, _) = area;
    let beyond = || Error::corrupt("it leads beyond its end");
    let header = volume.read_inside(start, HEADER)?.ok_or_else(beyond)?;
    if checksum::lvm(fields::slice(&header, 4, SECTOR - 4)?) != fields::le32(&header, 0)? {
        return Err(Error::corrupt("the checksum of its header is wrong"));
    }
    let sane =
        says(&header, 4, MAGIC) && fields::le32(&header, 20)? == 1 && fields::le64(&header, 24)? == start;
    if !sane {
        return Err(Error::corrupt("its header is none"));
    }
    let size = fields::le64(&header, 32)?;
    // The first place is of what is in force, the second of what is about to be.
    let (offset, length) = (fields::le64(&header, 40)?, fields::le64(&header, 48)?);
    if offset == 0 || length == 0 || fields::le32(&header, 60)? & IGNORED != 0 {
        return Ok(None);
    }
    let (first, room) = (u64::from(HEADER), size.saturating_sub(u64::from(HEADER)));
    if offset < first || offset >= size || length > room || length > MAX_TEXT {
        return Err(Error::corrupt("its text does not lie in it"));
    }
    let ahead = length.min(size - offset);
    let mut bytes = Vec::with_capacity(fields::index(length)?);
    for (from, count) in [(offset, ahead), (first, length - ahead)] {
        let from = start.checked_add(from).ok_or_else(beyond)?;
        append(volume, from, count, &mut bytes)?.ok_or_else(beyond)?;
    }
    if checksum::lvm(&bytes) != fields::le32(&header, 56)? {
        return Err(Error::corrupt("the checksum of its text is wrong"));
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Error::corrupt("its text is none"))
}

/// Reads as much as the host gives at once, again and again; none where it leads beyond the end.
fn append(volume: &impl Bytes, from: u64, count: u64, bytes: &mut Vec<u8>) -> Result<Option<()>> {
    let mut done = 0;
    while done < count {
        let piece = u32::try_from((count - done).min(MAX_READ)).unwrap_or(0);
        let Some(at) = from.checked_add(done) else { return Ok(None) };
        let Some(mut found) = volume.read_inside(at, piece)? else { return Ok(None) };
        bytes.append(&mut found);
        done += u64::from(piece);
    }
    Ok(Some(()))
}
