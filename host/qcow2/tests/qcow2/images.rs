//! Making images with the writer the way a backup does, and asking qemu's tools about them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_model::{ByteLen, GuestOffset};
use tidemark_qcow2::{
    BackingFile, CLUSTER_SIZE, Chain, Compression, FinishedImage, Image, ImageSpec, ImageWriter, check,
};

pub(crate) const ZSTD: Compression = Compression::Zstd { level: 1 };
pub(crate) const CLUSTER: usize = 65536;

/// A file that receives a writer's output in order. Clusters of zeros become holes.
pub(crate) struct Sink {
    file: File,
    at: u64,
}

impl Sink {
    pub(crate) fn create(path: &Path) -> Self {
        Self { file: File::create(path).unwrap(), at: 0 }
    }

    pub(crate) fn append(&mut self, output: &[Bytes]) {
        for bytes in output {
            // Cheap for data: the first bytes nearly always differ from zero.
            if bytes.iter().any(|&byte| byte != 0) {
                self.file.write_all_at(bytes, self.at).unwrap();
            }
            self.skip(bytes.len() as u64);
        }
    }

    /// Counts bytes that are known to be zero.
    pub(crate) fn skip(&mut self, length: u64) {
        self.at += length;
        self.file.set_len(self.at).unwrap();
    }

    pub(crate) fn finish(mut self, image: &FinishedImage) {
        self.append(&image.tail);
        assert_eq!(self.at, image.file_size.0, "the file's size");
        self.file.write_all_at(&image.header, 0).unwrap();
    }
}

pub(crate) fn spec(size: u64, compression: Compression, backing: Option<&str>) -> ImageSpec {
    let backing = backing.map(|name| BackingFile { name: name.to_owned(), format: "qcow2".to_owned() });
    ImageSpec { virtual_size: ByteLen(size), compression, backing }
}

/// Writes the given clusters of a disk's bytes.
pub(crate) fn write_clusters(
    path: &Path,
    spec: ImageSpec,
    disk: &[u8],
    clusters: impl Iterator<Item = usize>,
) {
    let mut writer = ImageWriter::new(spec).unwrap();
    let mut encoder = writer.encoder();
    let mut sink = Sink::create(path);
    for index in clusters {
        let bytes = &disk[index * CLUSTER..((index + 1) * CLUSTER).min(disk.len())];
        let cluster = encoder.encode(Bytes::copy_from_slice(bytes));
        writer.push(GuestOffset(index as u64 * CLUSTER_SIZE), cluster).unwrap();
        sink.append(&writer.take_output());
    }
    sink.finish(&writer.finish().unwrap());
}

/// A whole disk as one image without a backing file.
pub(crate) fn write_full(path: &Path, compression: Compression, disk: &[u8]) {
    let clusters = disk.len().div_ceil(CLUSTER);
    write_clusters(path, spec(disk.len() as u64, compression, None), disk, 0..clusters);
}

pub(crate) fn open(path: &Path) -> Image {
    Image::open(Arc::new(File::open(path).unwrap())).unwrap()
}

/// A chain of files, the top first.
pub(crate) fn open_chain(paths: &[PathBuf]) -> Chain {
    Chain::new(paths.iter().map(|path| open(path)).collect()).unwrap()
}

pub(crate) fn read_all(chain: &Chain) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(chain.virtual_size().0).unwrap()];
    chain.read_at(GuestOffset(0), &mut bytes).unwrap();
    bytes
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a tool that must succeed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// No errors and no leaks, by qemu's word and by ours: qemu-img answers 2 or 3 otherwise.
pub(crate) fn assert_clean(path: &Path) {
    tool("qemu-img", &["check", "-f", "qcow2", text(path)]);
    let report = check(&open(path)).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// qemu reads from the image exactly these bytes, by comparing and by converting.
pub(crate) fn assert_qemu_reads(path: &Path, disk: &[u8]) {
    let raw = path.with_extension("expected.raw");
    std::fs::write(&raw, disk).unwrap();
    tool("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", text(path), text(&raw)]);
    let converted = path.with_extension("converted.raw");
    tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(path), text(&converted)]);
    assert!(std::fs::read(converted).unwrap() == disk, "qemu-img convert differs from the model");
}

/// Deterministic bytes that do not compress.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Deterministic bytes that compress to about half.
pub(crate) fn prose(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length).into_iter().map(|byte| b'a' + byte % 16).collect()
}
