//! The MFT: a file of records, of which the first describes the table itself.

use std::cmp::Ordering;
use std::rc::Rc;

use tidemark_plugin::disk::{CachedDisk, Run, Runs};
use tidemark_plugin::fields::{byte, index, le16, le32, le64, slice};
use tidemark_plugin::{Error, Result};

use crate::attribute::{Attribute, Form, kind};
use crate::boot::Boot;
use crate::mapping;
use crate::record::{Record, Reference};

/// What all records of a file may take: as many as the largest list of attributes can name, of 1 KiB each.
const MAX_RECORDS_BYTES: u64 = 8 << 20;
const MAX_LIST: u64 = 256 << 10;

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) disk: Rc<CachedDisk>,
    pub(crate) cluster_bytes: u64,
    record_bytes: u64,
    total_bytes: u64,
    runs: Runs,
    size: u64,
    /// Its first record was damaged, and the copy of that was taken.
    pub(crate) is_from_copy: bool,
}

/// All records of a file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) reference: Reference,
    pub(crate) is_directory: bool,
    first: Record,
    /// Those that it is continued in.
    others: Vec<Record>,
}

/// One line of a list of attributes: where a piece of an attribute is.
struct Listed {
    kind: u32,
    is_named: bool,
    first: u64,
    holder: Reference,
}

impl Table {
    /// Finds the table by its first record, or by the copy of that.
    pub(crate) fn open(disk: Rc<CachedDisk>, boot: &Boot) -> Result<Self> {
        let mut table = Self {
            cluster_bytes: boot.cluster_bytes,
            record_bytes: boot.record_bytes,
            total_bytes: boot.total_bytes,
            runs: Runs::default(),
            size: 0,
            is_from_copy: false,
            disk,
        };
        let first = match table.first_record(boot.table_at) {
            Ok(first) => first,
            Err(error) => {
                table.is_from_copy = true;
                table.first_record(boot.mirror_at).map_err(|_| error.during("finding the file table"))?
            }
        };
        let mut runs = Vec::new();
        for attribute in first.attributes() {
            if let Form::Elsewhere(extent) = own_data(&attribute?) {
                if extent.first == 0 {
                    table.size = extent.size;
                }
                mapping::decode(&extent, table.cluster_bytes, &mut runs)?;
            }
        }
        table.runs = table.checked(runs.clone())?;
        // The table's own further records lie in the part of it that is known by then.
        let mut listed = table.list_of(&first)?;
        listed.sort_by_key(|listed| listed.first);
        for Listed { kind, is_named, holder, .. } in listed {
            if kind != kind::DATA || is_named || holder.record == 0 {
                continue;
            }
            for attribute in table.record(holder)?.attributes() {
                if let Form::Elsewhere(extent) = own_data(&attribute?) {
                    mapping::decode(&extent, table.cluster_bytes, &mut runs)?;
                }
            }
            table.runs = table.checked(runs.clone())?;
        }
        let covered = table.runs.allocated(0..table.size);
        if covered < table.size || table.size < 16 * table.record_bytes {
            return Err(Error::corrupt("the file table is not whole"));
        }
        Ok(table)
    }

    fn first_record(&self, at: u64) -> Result<Record> {
        let mut bytes = vec![0; index(self.record_bytes)?];
        self.disk.read(at, &mut bytes)?;
        let record = Record::parse(bytes, 0)?;
        // While there is a copy to be taken instead.
        record.attributes().try_for_each(|attribute| attribute.map(drop))?;
        Ok(record)
    }

    /// Runs of a file, all of them inside the volume.
    pub(crate) fn checked(&self, runs: Vec<Run>) -> Result<Runs> {
        let limit = self.disk.size().max(self.total_bytes);
        let beyond = |run: &Run| run.at.is_some_and(|at| at.saturating_add(run.length) > limit);
        if runs.iter().any(beyond) {
            return Err(Error::corrupt("a part of a file lies beyond the volume's end"));
        }
        Runs::new(runs)
    }

    fn record(&self, reference: Reference) -> Result<Record> {
        let Reference { record: number, sequence } = reference;
        let at = number.checked_mul(self.record_bytes);
        let at = at.filter(|at| at.saturating_add(self.record_bytes) <= self.size);
        let at = at.ok_or_else(|| Error::not_found(format!("there is no record {number} in the MFT")))?;
        let mut bytes = vec![0; index(self.record_bytes)?];
        self.runs.read(&self.disk, at, &mut bytes)?;
        let record = Record::parse(bytes, number)?;
        if sequence != 0 && record.sequence != sequence {
            let message = format!("record {number} of the MFT is of another file by now");
            return Err(Error::not_found(message));
        }
        Ok(record)
    }

    /// A file with all of its records.
    pub(crate) fn file(&self, reference: Reference) -> Result<File> {
        let first = self.record(reference)?;
        if first.base.is_some() {
            let message = format!("record {} of the MFT is no file's first", reference.record);
            return Err(Error::corrupt(message));
        }
        let own = Reference { sequence: first.sequence, ..reference };
        let mut holders: Vec<Reference> =
            self.list_of(&first)?.into_iter().map(|listed| listed.holder).collect();
        holders.sort_unstable();
        holders.dedup();
        holders.retain(|holder| holder.record != own.record);
        if holders.len() as u64 > MAX_RECORDS_BYTES / self.record_bytes {
            return Err(Error::unsupported(format!("a file with {} records", holders.len())));
        }
        let is_directory = first.is_directory;
        let mut others = Vec::new();
        for holder in holders {
            let record = self.record(holder)?;
            if record.base.is_none_or(|base| base.record != own.record) {
                let message = format!("record {} of the MFT belongs to another file", holder.record);
                return Err(Error::corrupt(message));
            }
            others.push(record);
        }
        Ok(File { reference: own, is_directory, first, others })
    }

    /// The list of a file's attributes, where it has one.
    fn list_of(&self, record: &Record) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for attribute in record.attributes() {
            let attribute = attribute?;
            match attribute.kind.cmp(&kind::ATTRIBUTE_LIST) {
                Ordering::Less => continue,
                Ordering::Equal => {}
                // They are in the order of their types.
                Ordering::Greater => break,
            }
            let value = match attribute.form {
                Form::Resident(value) => value.to_vec(),
                Form::Elsewhere(extent) => {
                    if extent.size > MAX_LIST {
                        return Err(Error::corrupt(format!("a list of attributes of {} bytes", extent.size)));
                    }
                    let mut runs = Vec::new();
                    mapping::decode(&extent, self.cluster_bytes, &mut runs)?;
                    let mut value = vec![0; index(extent.size)?];
                    self.checked(runs)?.read(&self.disk, 0, &mut value)?;
                    value
                }
            };
            let mut at = 0;
            while at < value.len() {
                let length = usize::from(le16(&value, at + 4)?);
                if length < 26 {
                    return Err(Error::corrupt("a list of attributes is damaged"));
                }
                let line = slice(&value, at, length.min(value.len() - at))?;
                listed.push(Listed {
                    kind: le32(line, 0)?,
                    is_named: byte(line, 6)? != 0,
                    first: le64(line, 8)?,
                    holder: Reference::from_disk(le64(line, 16)?),
                });
                at += length;
            }
            // A file has one list.
            break;
        }
        Ok(listed)
    }
}

impl File {
    /// The attributes of all its records.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = Result<Attribute<'_>>> {
        std::iter::once(&self.first).chain(&self.others).flat_map(Record::attributes)
    }

    /// The value of an attribute that lies in a record, where the file has it.
    pub(crate) fn resident(&self, kind: u32, name: &[u8]) -> Result<Option<&[u8]>> {
        for attribute in self.attributes() {
            let attribute = attribute?;
            if attribute.is(kind, name)
                && let Form::Resident(value) = attribute.form
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// The table's own data, where this is a piece of them.
fn own_data<'a>(attribute: &Attribute<'a>) -> Form<'a> {
    if attribute.is(kind::DATA, &[]) { attribute.form } else { Form::Resident(&[]) }
}
