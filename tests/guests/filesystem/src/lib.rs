//! A file system whose only file is the disk itself. The disk's first 16 bytes choose how it misbehaves: `good`,
//! `stuck-cursor`, `long-read`, `slash-name`, `backwards`, `beyond` (reads past the end), `flood` (more entries than
//! asked for), `empty-run`, `many-runs`, `run-beyond` (lies past the end), `overflow` (lies beyond all numbers), `flags` (more
//! words than may be), `long-access`.

wit_bindgen::generate!({
    path: ["../../../sdk/wit", "../../../sdk/wit/0.2", "../../../sdk/wit/0.3"],
    world: "tidemark:plugin/guest-filesystem@0.3.0",
    generate_all,
});

use exports::tidemark::plugin0_1_0::filesystem::{
    Entry, EntryPage, Guest, GuestVolume, NamedStream, NodeKind, Stat, Volume, VolumeBorrow, VolumeInfo,
};
use exports::tidemark::plugin0_3_0::{attributes, placement};
use tidemark::plugin0_1_0::disk;
use tidemark::plugin0_1_0::types::{Description, Error, ErrorKind};

struct Filesystem;
export!(Filesystem);

struct Opened {
    disk: u32,
    behave: String,
}

fn word(index: u32) -> Result<String, Error> {
    let bytes = disk::read_at(index, 0, 16)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
}

fn stat(node: u64, size_bytes: u64) -> Stat {
    Stat {
        node,
        kind: if node == 1 { NodeKind::Directory } else { NodeKind::File },
        size_bytes,
        modified_ns: Some(0),
        created_ns: None,
        accessed_ns: None,
        mode: Some(0o644),
        owner: None,
        group: None,
        links: 1,
    }
}

impl Guest for Filesystem {
    type Volume = Opened;

    fn describe() -> Description {
        Description { name: "hostile-filesystem".into(), version: "0.1.0".into(), contract: "0.3.0".into() }
    }

    fn probe(index: u32) -> Result<Option<String>, Error> {
        Ok((!word(index)?.is_empty()).then(|| "word".into()))
    }

    fn open(index: u32) -> Result<Volume, Error> {
        Ok(Volume::new(Opened { disk: index, behave: word(index)? }))
    }
}

impl GuestVolume for Opened {
    fn info(&self) -> VolumeInfo {
        VolumeInfo {
            filesystem: "word".into(),
            label: self.behave.clone(),
            uuid: String::new(),
            total_bytes: disk::size(self.disk).unwrap_or(0),
            warnings: vec![],
            journal_replayed: false,
        }
    }

    fn root(&self) -> u64 {
        1
    }

    fn lookup(&self, _: u64, name: Vec<u8>) -> Result<Stat, Error> {
        if name == b"disk" {
            return Ok(stat(2, disk::size(self.disk)?));
        }
        Err(Error {
            kind: ErrorKind::NotFound,
            message: "no such name".into(),
            retry_after_ms: None,
            detail: None,
        })
    }

    fn list(&self, _: u64, cursor: u64, limit: u32) -> Result<EntryPage, Error> {
        let name: &[u8] = if self.behave == "slash-name" { b"../../etc/passwd" } else { b"disk" };
        let count = if self.behave == "flood" { limit + 1 } else { 1 };
        let entries = (0..count).map(|_| Entry { name: name.to_vec(), stat: stat(2, 1) }).collect();
        Ok(EntryPage { entries, next: (self.behave == "stuck-cursor").then_some(cursor) })
    }

    fn stat(&self, node: u64) -> Result<Stat, Error> {
        Ok(stat(node, disk::size(self.disk)?))
    }

    fn read(&self, _: u64, _: Option<Vec<u8>>, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
        match self.behave.as_str() {
            "long-read" => Ok(vec![0; length as usize + 1]),
            "beyond" => disk::read_at(self.disk, disk::size(self.disk)? - 1, 2),
            _ => {
                disk::read_ahead(self.disk, offset, u64::MAX);
                disk::read_at(self.disk, offset, length)
            }
        }
    }

    fn readlink(&self, _: u64) -> Result<Vec<u8>, Error> {
        Ok(b"../disk".to_vec())
    }

    fn streams(&self, _: u64) -> Result<Vec<NamedStream>, Error> {
        Ok(vec![NamedStream { name: b"s".to_vec(), size_bytes: 1 }])
    }

    fn next_data(&self, _: u64, offset: u64) -> Result<Option<u64>, Error> {
        Ok(Some(if self.behave == "backwards" { offset - 1 } else { offset }))
    }
}

impl attributes::Guest for Filesystem {
    fn of_node(of: VolumeBorrow<'_>, _: u64) -> Result<Option<attributes::NodeAttributes>, Error> {
        let behave = of.get::<Opened>().behave.as_str();
        Ok(Some(attributes::NodeAttributes {
            flags: vec!["hidden\u{1b}".into(); if behave == "flags" { 2_000_000 } else { 1 }],
            access_list: Some("D:".repeat(if behave == "long-access" { 300_000 } else { 1 })),
        }))
    }
}

impl placement::Guest for Filesystem {
    fn of_file(of: VolumeBorrow<'_>, _: u64, at: u64) -> Result<Option<Vec<placement::Run>>, Error> {
        let opened = of.get::<Opened>();
        let size = disk::size(opened.disk)?;
        let whole = placement::Run { length: size - at, offset: Some(at) };
        Ok(Some(match opened.behave.as_str() {
            "empty-run" => vec![placement::Run { length: 0, offset: Some(0) }, whole],
            "many-runs" => vec![placement::Run { length: 1, offset: None }; 10_001],
            "run-beyond" => vec![placement::Run { length: size, offset: Some(1) }],
            "overflow" => vec![placement::Run { length: 2, offset: Some(u64::MAX) }],
            _ => vec![whole],
        }))
    }
}
