//! File-system readers over disks of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_model::{ByteLen, GuestOffset};
use tidemark_plugins::{DiskRead, ErrorKind, GuestFilesystem, Limits, PlacedRun, ReadOnlyDisk, Session};

use crate::guests::{filesystem_bytes, runtime};

/// Some bytes as a disk, and how far ahead it was told to read.
pub(crate) struct Bytes {
    content: Vec<u8>,
    ahead: AtomicU64,
}

impl Bytes {
    pub(crate) fn saying(word: &str) -> Arc<Self> {
        let mut content = vec![0; 4 << 20];
        content[..word.len()].copy_from_slice(word.as_bytes());
        content[4096] = 7;
        Self::of(content)
    }

    pub(crate) fn of(content: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { content, ahead: AtomicU64::new(0) })
    }
}

impl ReadOnlyDisk for Bytes {
    fn size(&self) -> ByteLen {
        ByteLen(self.content.len() as u64)
    }

    fn read_at(&self, offset: GuestOffset, length: u32) -> DiskRead<'_> {
        let start = usize::try_from(offset.0).unwrap();
        let bytes = self.content[start..start + length as usize].to_vec();
        Box::pin(async move { Ok(bytes) })
    }

    fn read_ahead(&self, offset: GuestOffset, length: ByteLen) {
        self.ahead.store(offset.0 + length.0, Ordering::Relaxed);
    }
}

async fn open(disk: Arc<Bytes>) -> GuestFilesystem {
    let runtime = runtime(Limits::default());
    let plugin = runtime.load(filesystem_bytes()).await.unwrap();
    runtime.guest_filesystem(&plugin, Session::bare("mount-1"), vec![disk]).await.unwrap()
}

#[tokio::test]
async fn a_volume_is_read() {
    let disk = Bytes::saying("good");
    let mut filesystem = open(Arc::clone(&disk)).await;
    assert_eq!(filesystem.probe(0).await.unwrap().as_deref(), Some("word"));
    assert_eq!(filesystem.probe(1).await.unwrap_err().kind(), &ErrorKind::NotFound, "there is no disk 1");
    let volume = filesystem.open(0).await.unwrap();
    assert_eq!(filesystem.info(volume).await.unwrap().label, "good");
    let root = filesystem.root(volume).await.unwrap();
    let page = filesystem.list(volume, root, 0, 10).await.unwrap();
    assert_eq!((page.entries.len(), page.next), (1, None));
    let file = filesystem.lookup(volume, root, b"disk").await.unwrap();
    assert_eq!(file.size_bytes, 4 << 20);
    assert_eq!(filesystem.read(volume, file.node, None, 4096, 2).await.unwrap(), [7, 0]);
    assert_eq!(disk.ahead.load(Ordering::Relaxed), 4 << 20, "the hint was clipped to the disk");
    assert_eq!(filesystem.read(volume, file.node, None, 0, 1 << 20).await.unwrap().len(), 1 << 20);
    let error = filesystem.read(volume, file.node, None, 0, (1 << 20) + 1).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Config);
    assert_eq!(filesystem.lookup(volume, root, b"x").await.unwrap_err().kind(), &ErrorKind::NotFound);
    assert_eq!(filesystem.next_data(volume, file.node, 5).await.unwrap(), Some(5));
    assert_eq!(filesystem.streams(volume, file.node).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_reader_that_lies_is_refused() {
    for word in ["stuck-cursor", "slash-name", "flood", "long-read", "backwards"] {
        let mut filesystem = open(Bytes::saying(word)).await;
        let volume = filesystem.open(0).await.unwrap();
        let error = match word {
            "long-read" => filesystem.read(volume, 2, None, 0, 16).await.unwrap_err(),
            "backwards" => filesystem.next_data(volume, 2, 5).await.unwrap_err(),
            _ => filesystem.list(volume, 1, 0, 10).await.unwrap_err(),
        };
        assert_eq!(error.kind(), &ErrorKind::Invalid, "{word}: {error}");
        assert_eq!((error.plugin(), error.version()), ("hostile-filesystem", "0.1.0"));
        assert!(filesystem.root(volume).await.is_err(), "the session is over");
    }
}

#[tokio::test]
async fn what_may_be_left_out_is_told_by_those_who_have_it() {
    let mut filesystem = open(Bytes::saying("good")).await;
    let volume = filesystem.open(0).await.unwrap();
    let attributes = filesystem.attributes(volume, 2).await.unwrap().unwrap();
    // What a terminal would take for a command is not given on.
    assert_eq!(attributes.flags, ["hidden "]);
    assert_eq!(attributes.access_list.as_deref(), Some("D:"));
    let size = ByteLen(4 << 20);
    let runs = filesystem.placed(volume, 2, 100, size).await.unwrap().unwrap();
    assert_eq!(runs, [PlacedRun { length: ByteLen(size.0 - 100), offset: Some(GuestOffset(100)) }]);
}

#[tokio::test]
async fn runs_and_words_that_cannot_be_are_refused() {
    let size = ByteLen(4 << 20);
    for word in ["empty-run", "many-runs", "flags"] {
        let mut filesystem = open(Bytes::saying(word)).await;
        let volume = filesystem.open(0).await.unwrap();
        let error = match word {
            "flags" => filesystem.attributes(volume, 2).await.unwrap_err(),
            _ => filesystem.placed(volume, 2, 0, size).await.unwrap_err(),
        };
        assert!(error.is_misbehaviour(), "{word}: {error}");
        assert!(filesystem.root(volume).await.is_err(), "the session is over");
    }
    // A guest may have made it so long.
    let mut filesystem = open(Bytes::saying("long-access")).await;
    let volume = filesystem.open(0).await.unwrap();
    let error = filesystem.attributes(volume, 2).await.unwrap_err();
    assert!(error.kind() == &ErrorKind::Unsupported && !error.is_misbehaviour(), "{error}");
    assert_eq!(filesystem.root(volume).await.unwrap(), 1);
    // A damaged file system may say so: the reader is asked for the bytes, and has its own words for it.
    for word in ["run-beyond", "overflow"] {
        let mut filesystem = open(Bytes::saying(word)).await;
        let volume = filesystem.open(0).await.unwrap();
        assert_eq!(filesystem.placed(volume, 2, 0, size).await.unwrap(), None, "{word}");
        assert_eq!(filesystem.root(volume).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn the_disk_ends_where_it_ends() {
    let mut filesystem = open(Bytes::saying("beyond")).await;
    let volume = filesystem.open(0).await.unwrap();
    let error = filesystem.read(volume, 2, None, 0, 2).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Corrupt, "{error}");
    assert!(error.message().contains("cannot be read"), "{error}");
}
