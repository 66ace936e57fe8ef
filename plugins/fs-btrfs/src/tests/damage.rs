//! Damage is an error or costs nothing; it never makes a panic, a hang or wrong bytes.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_fs_testing::{Content, Damage, Endured};
use tidemark_plugin::guest_filesystem::GuestVolume;

use super::*;

const SMALL: Wanted = Wanted { many: 40, large: 20_000, sparse: 300_000, ..WANTED };

fn endured(size: u64, options: &str, mount: &str) -> Endured {
    let (image, tree) = filled(size, options, mount, &SMALL);
    let damage = Damage { rounds: 5000, names_checked: true, contents_checked: true, may_panic: false };
    let endured = damage.endure(&image, &tree, open);
    assert_eq!((endured.wrong, endured.panicked), (0, 0), "{endured:?}");
    endured
}

#[test]
fn damage_is_an_error() {
    let endured = endured(64 << 20, "--mixed -m single -d single", "compress-force=zstd");
    assert!(endured.partly > 1500 && endured.refused > 30, "{endured:?}");
}

#[test]
fn damage_of_one_copy_costs_nothing() {
    let endured = endured(160 << 20, "--mixed -m dup -d dup", "compress=lzo");
    assert!(endured.whole > 4500, "{endured:?}");
}

/// All places of some bytes.
fn places(whole: &[u8], wanted: &[u8]) -> Vec<u64> {
    whole.windows(wanted.len()).enumerate().filter(|(_, at)| *at == wanted).map(|(at, _)| at as u64).collect()
}

#[test]
fn a_flipped_bit_of_data_is_an_error_or_read_from_the_other_copy() {
    for (options, copies) in [("-d single", 1), ("-d dup", 2), ("--mixed -m dup -d dup", 2)] {
        let image = made(256 << 20, options);
        let mounted = image.mounted("btrfs", "defaults");
        let mark: Vec<u8> =
            (0..100_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(mounted.folder().join("file"), &mark).unwrap();
        drop(mounted);
        let whole = image.bytes(0, usize::try_from(image.size()).unwrap());
        let places = places(&whole, &mark[200_000..200_032]);
        assert_eq!(places.len(), copies, "{options}");
        let read = || {
            let volume = open(image.disk()).unwrap();
            let file = volume.lookup(volume.root(), b"file".to_vec()).unwrap();
            (volume.read(file.node, None, 0, 1 << 20), volume.read(file.node, None, 200_001, 5))
        };
        assert_eq!(read(), (Ok(mark.clone()), Ok(mark[200_001..200_006].to_vec())), "{options}");
        for (damaged, place) in places.iter().enumerate() {
            let byte = image.bytes(*place, 1);
            image.write(*place, &[byte[0] ^ 4]);
            let (all, few) = read();
            if damaged + 1 < copies {
                assert_eq!((all, few), (Ok(mark.clone()), Ok(mark[200_001..200_006].to_vec())), "{options}");
            } else {
                let words = all.unwrap_err().message;
                assert!(words.contains("do not have their checksum") && few.is_err(), "{options}: {words}");
            }
        }
    }
}

/// A guest that means harm gives its blocks right checksums.
#[test]
fn metadata_that_lie_are_endured() {
    for (mount, rounds) in [("compress-force=zlib", 500), ("compress-force=lzo", 500), ("defaults", 500)] {
        let (image, _) = filled(64 << 20, "--mixed -m single -d single -n 4096", mount, &SMALL);
        let whole = Arc::new(image.bytes(0, usize::try_from(image.size()).unwrap()));
        let uuid = &whole[(64 << 10) + 0x20..(64 << 10) + 0x30];
        let blocks: Vec<usize> = (0..whole.len())
            .step_by(4096)
            .filter(|at| &whole[at + 32..at + 48] == uuid && whole[at + 0x40..at + 0x48] != *b"_BHRfS_M")
            .collect();
        assert!(blocks.len() > 20);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (opened, refusals) = (Cell::new(0), Cell::new(0));
        for _ in 0..rounds {
            let patches: Vec<(usize, Vec<u8>)> = (0..=random.below(8))
                .map(|_| lie(&whole, blocks[random.below(blocks.len())], &mut random))
                .collect();
            if let Ok(volume) = open(disk(&whole, patches)) {
                opened.set(opened.get() + 1);
                let found = Tree::read(&volume);
                let refused =
                    found.0.values().any(|item| matches!(item.content, Content::Refused(_) | Content::Other));
                refusals.set(refusals.get() + u32::from(refused));
            }
        }
        assert!(
            opened.get() > rounds / 4 && refusals.get() > rounds / 50,
            "{} {}",
            opened.get(),
            refusals.get()
        );
    }
}

/// A block with a few wrong bytes, and its checksum.
fn lie(whole: &[u8], block: usize, random: &mut Random) -> (usize, Vec<u8>) {
    let mut bytes = whole[block..block + 4096].to_vec();
    for _ in 0..=random.below(3) {
        // Keys and places of items lie before, items at the end; what is between is not used.
        let place = match random.below(3) {
            0 => 80 + random.below(400),
            1 => 3000 + random.below(1096),
            _ => 48 + random.below(4040),
        };
        match random.below(4) {
            0 => bytes[place] ^= 1 << random.below(8),
            1 => bytes[place] = u8::try_from(random.below(256)).unwrap(),
            2 => bytes[place..(place + 8).min(4096)].fill([0, 0xff, 0x7f, 0x80][random.below(4)]),
            _ => {
                let from = 101 + random.below(3900);
                let to = place.min(4096 - 17);
                bytes.copy_within(from..from + 17, to);
            }
        }
    }
    let sum = crc32c::crc32c(&bytes[32..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    (block, bytes)
}

/// The image with other blocks, which may be read only so often.
fn disk(whole: &Arc<Vec<u8>>, patches: Vec<(usize, Vec<u8>)>) -> CachedDisk {
    let (whole, read) = (Arc::clone(whole), AtomicU64::new(0));
    CachedDisk::over(whole.len() as u64, move |offset, length| {
        assert!(read.fetch_add(u64::from(length), Ordering::Relaxed) < 8 << 30, "the reader goes in circles");
        let start = usize::try_from(offset).unwrap();
        let mut bytes = whole[start..start + length as usize].to_vec();
        for (at, patch) in &patches {
            let (from, to) = ((*at).max(start), (at + patch.len()).min(start + bytes.len()));
            if from < to {
                bytes[from - start..to - start].copy_from_slice(&patch[from - at..to - at]);
            }
        }
        Ok(bytes)
    })
}
