//! A file-system reader, typed. Guest file systems are untrusted input, and so is the reader that parsed them: what
//! it returns is bounded, its cursors have to advance, and it never gives more bytes than were asked for.

mod exports;

use tidemark_model::{ByteLen, GuestOffset};
use wasmtime::component::ResourceAny;

use crate::bindings::filesystem::exports::tidemark::plugin::filesystem as fs;
use crate::bindings::placement::exports::tidemark::plugin0_3_0::placement as pl;
use crate::error::{Error, ErrorKind};
use crate::guest::{Guest, call_guest};
use crate::offered::disk::MAX_READ_BYTES;
use crate::offered::log::printable;

pub(crate) use exports::{Exports, LinkedFilesystem};

const MAX_NAME_BYTES: usize = 4096;
/// Runs that a reader tells at once, at most.
const MAX_RUNS: usize = 10_000;
/// The longest access list that is shown: more than the 64 KiB of a descriptor of Windows become as text.
const MAX_ACCESS_BYTES: usize = 512 << 10;

/// An open volume of one [`GuestFilesystem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeId(usize);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or other thing.
    Other,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// For example `ext4`.
    pub filesystem: String,
    /// Its label.
    pub label: String,
    /// Its identifier.
    pub uuid: String,
    /// Its size.
    pub total_bytes: u64,
    /// What the user must know.
    pub warnings: Vec<String>,
    /// Whether its journal was replayed.
    pub journal_replayed: bool,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStat {
    /// The reader's number for it.
    pub node: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Its size.
    pub size_bytes: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: Option<i64>,
    /// Likewise.
    pub created_ns: Option<i64>,
    /// Likewise.
    pub accessed_ns: Option<i64>,
    /// Unix permission bits.
    pub mode: Option<u32>,
    /// The owner, as the file system names it.
    pub owner: Option<String>,
    /// The group.
    pub group: Option<String>,
    /// How many names it has.
    pub links: u32,
}

/// A name in a directory. Names are bytes; none is `.`, `..` or holds `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name.
    pub name: Vec<u8>,
    /// What it names.
    pub stat: NodeStat,
}

/// A part of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPage {
    /// The entries.
    pub entries: Vec<DirectoryEntry>,
    /// For the next part.
    pub next: Option<u64>,
}

/// A named stream of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedStream {
    /// Its name.
    pub name: Vec<u8>,
    /// Its size.
    pub size_bytes: u64,
}

/// What a file system keeps of a node beyond its stat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeAttributes {
    /// What is set, a word each: `read-only`, `hidden`, `immutable`.
    pub flags: Vec<String>,
    /// Who may do what, beyond mode and owners.
    pub access_list: Option<String>,
}

/// Bytes of a file that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedRun {
    /// How many they are.
    pub length: ByteLen,
    /// Where on the disk; none for zeros.
    pub offset: Option<GuestOffset>,
}

/// A running file-system reader.
pub struct GuestFilesystem {
    guest: Guest<Exports>,
    volumes: Vec<ResourceAny>,
}

/// Calls a method of the `volume` resource.
macro_rules! call_volume {
    ($self:ident, $volume:ident, $operation:literal, $function:ident($($argument:expr),*)) => {{
        let handle = $self.handle($operation, $volume)?;
        let limit = $self.guest.begin($operation)?;
        let volume = $self.guest.bindings.tidemark_plugin_filesystem().volume();
        let call = volume.$function(&mut $self.guest.store, handle, $($argument),*);
        let outcome = tokio::time::timeout(limit, call).await;
        $self.guest.settle($operation, outcome)?
    }};
}

impl GuestFilesystem {
    pub(crate) async fn start(guest: Guest<Exports>, contract: &str) -> Result<Self, Error> {
        let mut filesystem = Self { guest, volumes: Vec::new() };
        let guest = &mut filesystem.guest;
        let said = call_guest!(guest, "describe", tidemark_plugin_filesystem.call_describe());
        guest.check_description(said, contract)?;
        Ok(filesystem)
    }

    /// The memory that the sandbox has taken so far.
    #[must_use]
    pub fn memory(&self) -> ByteLen {
        ByteLen(self.guest.store.data().memory_bytes as u64)
    }

    /// What a disk looks like; none where this reader does not know it.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn probe(&mut self, disk: u32) -> Result<Option<String>, Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "probe", tidemark_plugin_filesystem.call_probe(disk));
        Ok(guest.returned("probe", result)?.map(|name| printable(&name)))
    }

    /// Opens the file system on a disk.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn open(&mut self, disk: u32) -> Result<VolumeId, Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "open", tidemark_plugin_filesystem.call_open(disk));
        let handle = guest.returned("open", result)?;
        self.volumes.push(handle);
        Ok(VolumeId(self.volumes.len() - 1))
    }

    /// What the volume is.
    ///
    /// # Errors
    /// How the plugin misbehaved.
    pub async fn info(&mut self, volume: VolumeId) -> Result<VolumeInfo, Error> {
        let info = call_volume!(self, volume, "info", call_info());
        let fs::VolumeInfo { filesystem, label, uuid, total_bytes, warnings, journal_replayed } = info;
        let warnings = self.guest.bounded("info", warnings)?.iter().map(|text| printable(text)).collect();
        let (filesystem, label, uuid) = (printable(&filesystem), printable(&label), printable(&uuid));
        Ok(VolumeInfo { filesystem, label, uuid, total_bytes, warnings, journal_replayed })
    }

    /// The root directory.
    ///
    /// # Errors
    /// How the plugin misbehaved.
    pub async fn root(&mut self, volume: VolumeId) -> Result<u64, Error> {
        Ok(call_volume!(self, volume, "root", call_root()))
    }

    /// What a name in a directory names.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn lookup(&mut self, volume: VolumeId, directory: u64, name: &[u8]) -> Result<NodeStat, Error> {
        let result = call_volume!(self, volume, "lookup", call_lookup(directory, name));
        self.guest.returned("lookup", result).map(stat)
    }

    /// A part of a directory, from a cursor on (0 begins).
    ///
    /// # Errors
    /// See [`ErrorKind`]; [`ErrorKind::Invalid`] where the cursor does not advance.
    pub async fn list(
        &mut self,
        volume: VolumeId,
        directory: u64,
        cursor: u64,
        limit: u32,
    ) -> Result<EntryPage, Error> {
        let result = call_volume!(self, volume, "list", call_list(directory, cursor, limit));
        let fs::EntryPage { entries, next } = self.guest.returned("list", result)?;
        if next.is_some_and(|next| next <= cursor) {
            return Err(self
                .guest
                .nonsense("list", format!("its cursor {cursor} does not advance: {next:?}")));
        }
        if u32::try_from(entries.len()).map_or(true, |count| count > limit) {
            return Err(self
                .guest
                .nonsense("list", format!("{} entries; {limit} were asked for", entries.len())));
        }
        let mut checked = Vec::new();
        for fs::Entry { name, stat: of } in entries {
            // Such a name would become a path elsewhere when it is restored.
            let odd =
                name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
            if odd || name.len() > MAX_NAME_BYTES {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(self.guest.nonsense("list", format!("the name '{name}'")));
            }
            checked.push(DirectoryEntry { name, stat: stat(of) });
        }
        Ok(EntryPage { entries: checked, next })
    }

    /// What is known of a node.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn stat(&mut self, volume: VolumeId, node: u64) -> Result<NodeStat, Error> {
        let result = call_volume!(self, volume, "stat", call_stat(node));
        self.guest.returned("stat", result).map(stat)
    }

    /// Bytes of a file or of one of its named streams; fewer than asked for only at its end.
    ///
    /// # Errors
    /// See [`ErrorKind`]; [`ErrorKind::Config`] where more than 1 MiB is asked for.
    pub async fn read(
        &mut self,
        volume: VolumeId,
        node: u64,
        stream: Option<&[u8]>,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, Error> {
        if length > MAX_READ_BYTES {
            return Err(self.guest.error(ErrorKind::Config, "read", "more than 1 MiB was asked for at once"));
        }
        let stream = stream.map(<[u8]>::to_vec);
        let result = call_volume!(self, volume, "read", call_read(node, stream.as_deref(), offset, length));
        let bytes = self.guest.returned("read", result)?;
        if u32::try_from(bytes.len()).map_or(true, |got| got > length) {
            return Err(self
                .guest
                .nonsense("read", format!("{} bytes; {length} were asked for", bytes.len())));
        }
        Ok(bytes)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn readlink(&mut self, volume: VolumeId, node: u64) -> Result<Vec<u8>, Error> {
        let result = call_volume!(self, volume, "readlink", call_readlink(node));
        self.guest.returned("readlink", result)
    }

    /// The named streams of a file.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn streams(&mut self, volume: VolumeId, node: u64) -> Result<Vec<NamedStream>, Error> {
        let result = call_volume!(self, volume, "streams", call_streams(node));
        let streams = self.guest.returned("streams", result)?;
        let streams = self.guest.bounded("streams", streams)?;
        Ok(streams
            .into_iter()
            .map(|fs::NamedStream { name, size_bytes }| NamedStream { name, size_bytes })
            .collect())
    }

    /// The first offset at or after `offset` that is not in a hole.
    ///
    /// # Errors
    /// See [`ErrorKind`]; [`ErrorKind::Invalid`] where it goes back.
    pub async fn next_data(
        &mut self,
        volume: VolumeId,
        node: u64,
        offset: u64,
    ) -> Result<Option<u64>, Error> {
        let result = call_volume!(self, volume, "next-data", call_next_data(node, offset));
        let found = self.guest.returned("next-data", result)?;
        if found.is_some_and(|found| found < offset) {
            return Err(self
                .guest
                .nonsense("next-data", format!("asked from {offset}, it answers {found:?}")));
        }
        Ok(found)
    }

    /// What the file system keeps of a node beyond its stat; none where the reader does not tell it.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn attributes(&mut self, volume: VolumeId, node: u64) -> Result<Option<NodeAttributes>, Error> {
        let handle = self.handle("attributes", volume)?;
        let guest = &mut self.guest;
        let Some(found) = guest.bindings.attributes() else { return Ok(None) };
        let result = call_guest!(guest, "attributes", found => attributes.call_of_node(handle, node));
        let Some(told) = self.guest.returned("attributes", result)? else { return Ok(None) };
        let flags = self.guest.bounded("attributes", told.flags)?;
        if told.access_list.as_ref().is_some_and(|list| list.len() > MAX_ACCESS_BYTES) {
            // As a guest may have made it: nobody is to blame.
            let message = format!("an access list of more than {MAX_ACCESS_BYTES} bytes");
            return Err(self.guest.error(ErrorKind::Unsupported, "attributes", message));
        }
        let flags = flags.iter().map(|word| printable(word)).collect();
        // All of it: half an access list would grant what the whole one denies.
        let clean = |list: String| list.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let access_list = told.access_list.map(clean);
        Ok(Some(NodeAttributes { flags, access_list }))
    }

    /// Where the bytes of a file from `offset` on lie, as far as is told at once, all of it inside a disk of `size` bytes; none
    /// where they are to be had from the reader only.
    ///
    /// # Errors
    /// See [`ErrorKind`]; [`ErrorKind::Invalid`] for runs that cannot be.
    pub async fn placed(
        &mut self,
        volume: VolumeId,
        node: u64,
        offset: u64,
        size: ByteLen,
    ) -> Result<Option<Vec<PlacedRun>>, Error> {
        let handle = self.handle("placement", volume)?;
        let guest = &mut self.guest;
        let Some(found) = guest.bindings.placement() else { return Ok(None) };
        let result = call_guest!(guest, "placement", found => placement.call_of_file(handle, node, offset));
        let Some(told) = self.guest.returned("placement", result)? else { return Ok(None) };
        if told.len() > MAX_RUNS || told.iter().any(|run| run.length == 0) {
            let message = format!("{} runs, where at most {MAX_RUNS} may be and none is empty", told.len());
            return Err(self.guest.nonsense("placement", message));
        }
        let ends = told.iter().filter_map(|run| run.offset.map(|offset| offset.checked_add(run.length)));
        if ends.into_iter().any(|end| end.is_none_or(|end| end > size.0)) {
            // Damage, and no fault of the reader's, who says so where it is read.
            return Ok(None);
        }
        let run =
            |run: pl::Run| PlacedRun { length: ByteLen(run.length), offset: run.offset.map(GuestOffset) };
        Ok(Some(told.into_iter().map(run).collect()))
    }

    fn handle(&self, operation: &str, volume: VolumeId) -> Result<ResourceAny, Error> {
        let missing =
            || self.guest.error(ErrorKind::NotFound, operation, "there is no such volume in this session");
        self.volumes.get(volume.0).copied().ok_or_else(missing)
    }
}

fn stat(stat: fs::Stat) -> NodeStat {
    let fs::Stat { node, kind, size_bytes, modified_ns, created_ns, accessed_ns, mode, owner, group, links } =
        stat;
    let kind = match kind {
        fs::NodeKind::File => NodeKind::File,
        fs::NodeKind::Directory => NodeKind::Directory,
        fs::NodeKind::Symlink => NodeKind::Symlink,
        fs::NodeKind::Other => NodeKind::Other,
    };
    NodeStat { node, kind, size_bytes, modified_ns, created_ns, accessed_ns, mode, owner, group, links }
}

impl std::fmt::Debug for GuestFilesystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.guest.store.data();
        write!(f, "GuestFilesystem({} {})", state.plugin, state.version)
    }
}
