//! Streams against the disk's bytes: every format, every kind of range, and what a failing layer does to them.

use std::io;

use tidemark_model::HostOffset;
use tidemark_qcow2::{BackingFile, Compression, Image, ImageSpec, ImageWriter, ReadAt, is_zero};
use tidemark_vmdk::DiskSpec;
use tokio::sync::Semaphore;

use super::*;

const CLUSTER: usize = 65536;
const SIZE: usize = (3 << 20) + 5 * CLUSTER + 1536;

/// An object of which the end cannot be read.
struct Broken(Vec<u8>, u64);

impl ReadAt for Broken {
    fn read_at(&self, offset: HostOffset, buffer: &mut [u8]) -> io::Result<()> {
        // The tables at the end are read when the image is opened, the data in the middle is not.
        let end = offset.0 + buffer.len() as u64;
        if offset.0 < self.1 && end > self.1 {
            return Err(io::Error::other("the disk beneath is gone"));
        }
        ReadAt::read_at(&self.0, offset, buffer)
    }

    fn size(&self) -> io::Result<ByteLen> {
        ReadAt::size(&self.0)
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// A disk of holes, text and noise; its last cluster is cut short.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    disk[CLUSTER..2 * CLUSTER].fill(b'x');
    disk[(2 << 20) + 100..(2 << 20) + 7 * CLUSTER].copy_from_slice(&noise(1, 7 * CLUSTER - 100));
    disk[SIZE - 1000..].copy_from_slice(&noise(2, 1000));
    disk
}

/// The clusters of a disk that differ from the one below, as an image.
fn image(disk: &[u8], below: Option<&[u8]>, compression: Compression) -> Vec<u8> {
    let backing = below.map(|_| BackingFile { name: "below.qcow2".to_owned(), format: "qcow2".to_owned() });
    let spec = ImageSpec { virtual_size: ByteLen(disk.len() as u64), compression, backing };
    let mut writer = ImageWriter::new(spec).unwrap();
    let mut encoder = writer.encoder();
    for (index, cluster) in disk.chunks(CLUSTER).enumerate() {
        let at = index * CLUSTER;
        if below.is_none_or(|below| &below[at..at + cluster.len()] != cluster) {
            let encoded = encoder.encode(Bytes::copy_from_slice(cluster));
            writer.push(GuestOffset(at as u64), encoded).unwrap();
        }
    }
    let mut file = writer.take_output().concat();
    let finished = writer.finish().unwrap();
    file.extend(finished.tail.concat());
    file[..finished.header.len()].copy_from_slice(&finished.header);
    file
}

fn chain(layers: Vec<Arc<dyn ReadAt>>) -> Arc<Chain> {
    Arc::new(Chain::new(layers.into_iter().map(|layer| Image::open(layer).unwrap()).collect()).unwrap())
}

/// The disk as a full and an incremental that changes, zeroes and adds.
fn reader() -> (DiskReader, Vec<u8>) {
    let below = disk();
    let mut disk = below.clone();
    disk[CLUSTER..CLUSTER + 512].fill(0);
    disk[2 << 20..(2 << 20) + CLUSTER].fill(0);
    disk[5 * CLUSTER..6 * CLUSTER].fill(b'y');
    let top = image(&disk, Some(&below), Compression::Zstd { level: 1 });
    let bottom = image(&below, None, Compression::None);
    (DiskReader::new(chain(vec![Arc::new(top), Arc::new(bottom)]), 3), disk)
}

async fn collect(stream: ExportStream) -> Vec<u8> {
    stream.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

fn range(offset: usize, length: usize) -> Extent {
    Extent::new(offset as u64, length as u64).unwrap()
}

#[tokio::test]
async fn raw_is_the_disk_whole_and_in_parts() {
    let (reader, disk) = reader();
    assert!(collect(reader.raw(reader.whole())).await == disk);
    for (offset, length) in
        [(0, 1), (SIZE - 1, 1), (511, 2), (CLUSTER - 1, 2), ((1 << 20) - 3, (1 << 20) + 7), (5, SIZE - 5)]
    {
        let part = collect(reader.raw(range(offset, length))).await;
        assert!(part == disk[offset..offset + length], "{length} bytes at {offset}");
    }
}

#[tokio::test]
async fn qcow2_is_an_image_of_the_foretold_length() {
    let (reader, disk) = reader();
    let layout = reader.layout().await.unwrap();
    let file = collect(reader.qcow2(Arc::clone(&layout))).await;
    assert_eq!(file.len() as u64, layout.file_size().0);
    // The zero mark of the incremental is no data: 1 + 1 + 7 clusters less the masked one, and the cut one.
    assert_eq!(layout.data().total().0, 8 * CLUSTER_SIZE + 1536);
    let back = chain(vec![Arc::new(file)]);
    let mut bytes = vec![1; SIZE];
    back.read_at(GuestOffset(0), &mut bytes).unwrap();
    assert!(bytes == disk);
    assert!(tidemark_qcow2::check(&back.layers()[0]).unwrap().is_clean());
}

#[tokio::test]
async fn vmdk_in_parallel_is_the_same_as_one_grain_after_the_other() {
    let (reader, disk) = reader();
    let spec = DiskSpec { capacity: reader.capacity(), extent_name: "disk.vmdk".to_owned(), content_id: 1 };
    let mut writer = StreamWriter::new(&spec).unwrap();
    let mut encoder = writer.encoder();
    for (index, grain) in disk.chunks(CLUSTER).enumerate().filter(|(_, grain)| !is_zero(grain)) {
        writer.push(encoder.encode(GuestOffset((index * CLUSTER) as u64), grain)).unwrap();
    }
    let mut expected = writer.take_output().concat();
    expected.extend(writer.finish().unwrap().concat());
    let sent = collect(reader.vmdk(StreamWriter::new(&spec).unwrap())).await;
    assert!(sent == expected);
}

#[tokio::test]
async fn a_layer_that_fails_ends_every_stream_with_an_error() {
    let image = image(&disk(), None, Compression::None);
    let broken = Broken(image, 4 * CLUSTER_SIZE + 10);
    let reader = DiskReader::new(chain(vec![Arc::new(broken)]), 2);
    let spec = DiskSpec { capacity: reader.capacity(), extent_name: "d".to_owned(), content_id: 1 };
    let layout = reader.layout().await.unwrap();
    let vmdk = reader.vmdk(StreamWriter::new(&spec).unwrap());
    for stream in [reader.raw(reader.whole()), reader.qcow2(layout), vmdk] {
        let slots = Arc::new(Semaphore::new(1));
        let slot = Arc::clone(&slots).try_acquire_owned().unwrap();
        let mut watched = Sending::new(BackupId::random(), 0, slot).watch(stream);
        let mut sent = 0;
        let error = loop {
            match watched.next().await {
                Some(Ok(bytes)) => sent += bytes.len(),
                Some(Err(error)) => break error,
                None => panic!("a clean end after {sent} bytes"),
            }
        };
        assert!(error.chain().contains("the disk beneath is gone"), "{}", error.chain());
        assert!(slots.try_acquire().is_err(), "the slot is held until the stream has ended");
        assert!(watched.next().await.is_none());
        assert!(slots.try_acquire().is_ok());
    }
}

#[test]
fn blocks_are_zero_only_as_a_whole() {
    let mapping = |offset: u64, length: u64, kind| Mapping {
        extent: Extent { offset: GuestOffset(offset), length: ByteLen(length) },
        kind,
    };
    let data = MappingKind::Compressed { layer: 0 };
    let window = [
        mapping(CLUSTER_SIZE, 3 * BLOCK, MappingKind::Zero),
        mapping(CLUSTER_SIZE + 3 * BLOCK, CLUSTER_SIZE, data),
        mapping(2 * CLUSTER_SIZE + 3 * BLOCK, BLOCK, MappingKind::Zero),
    ];
    let found: Vec<_> = blocks_of(&window)
        .into_iter()
        .map(|block| (block.extent.offset.0, block.extent.length.0, block.zero))
        .collect();
    assert_eq!(
        found,
        [
            (CLUSTER_SIZE, BLOCK - CLUSTER_SIZE, true),
            (BLOCK, BLOCK, true),
            (2 * BLOCK, BLOCK, true),
            (3 * BLOCK, BLOCK, false),
            (4 * BLOCK, 2 * CLUSTER_SIZE, true),
        ]
    );
}
