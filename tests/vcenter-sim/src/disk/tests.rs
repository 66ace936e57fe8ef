//! The disk against a plain vector of bytes: frozen contents are exact, and changed areas cover every difference.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const CAPACITY: u64 = 9 * BLOCK_BYTES + 1536;

#[derive(Debug, Clone)]
enum Step {
    Write { offset: u64, length: u64, byte: u8 },
    Trim { offset: u64, length: u64 },
    Freeze,
    Release { index: usize },
    Revert { index: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..CAPACITY, 1..3 * BLOCK_BYTES).prop_map(|(o, l)| (o, l.min(CAPACITY - o)));
    prop_oneof![
        6 => (range.clone(), any::<u8>())
            .prop_map(|((offset, length), byte)| Step::Write { offset, length, byte }),
        2 => range.prop_map(|(offset, length)| Step::Trim { offset, length }),
        3 => Just(Step::Freeze),
        2 => (0..8usize).prop_map(|index| Step::Release { index }),
        1 => (0..8usize).prop_map(|index| Step::Revert { index }),
    ]
}

fn disk_of(content: &[u8]) -> (TempDir, Disk) {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source.raw");
    std::fs::write(&source, content).unwrap();
    let disk = Disk::open(&source, &folder.path().join("state")).unwrap();
    (folder, disk)
}

fn content_of(frozen: &Frozen) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(frozen.capacity()).unwrap()];
    frozen.read(0, &mut bytes).unwrap();
    bytes
}

fn covers(areas: &ExtentList, position: usize) -> bool {
    areas.iter().any(|area| (area.offset.0..area.end().0).contains(&(position as u64)))
}

/// One frozen disk beside the bytes it must hold.
struct Kept {
    frozen: Arc<Frozen>,
    bytes: Vec<u8>,
}

fn check_pair(earlier: &Kept, later: &Kept) {
    let since = ChangedSince::Id(earlier.frozen.change_id().unwrap().clone());
    // A revert in between ends the history; then the answer must be a refusal, never a partial map.
    let Ok(areas) = later.frozen.changed(&since) else { return };
    for position in (0..earlier.bytes.len()).step_by(512) {
        let end = (position + 512).min(earlier.bytes.len());
        if earlier.bytes[position..end] != later.bytes[position..end] {
            assert!(covers(&areas, position), "a change at {position} is missing from {areas:?}");
        }
    }
}

fn play(steps: Vec<Step>) {
    let mut bytes: Vec<u8> = (0..CAPACITY).map(|at| u8::try_from(at / 4096 % 251).unwrap()).collect();
    let (_folder, disk) = disk_of(&bytes);
    disk.track(true);
    let mut kept: Vec<Kept> = Vec::new();
    for step in steps {
        match step {
            Step::Write { offset, length, byte } => {
                let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
                bytes[range.clone()].fill(byte);
                disk.write(offset, &bytes[range]).unwrap();
            }
            Step::Trim { offset, length } => {
                disk.trim(offset, length).unwrap();
                bytes[usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap()].fill(0);
            }
            Step::Freeze => kept.push(Kept { frozen: disk.freeze(), bytes: bytes.clone() }),
            Step::Release { index } if index < kept.len() => {
                let gone = kept.remove(index);
                disk.release(&gone.frozen);
                assert!(matches!(gone.frozen.read(0, &mut [0; 8]), Err(DiskError::Released)));
            }
            Step::Revert { index } if index < kept.len() => {
                disk.revert(&kept[index].frozen).unwrap();
                bytes.clone_from(&kept[index].bytes);
            }
            Step::Release { .. } | Step::Revert { .. } => {}
        }
        for one in &kept {
            assert_eq!(content_of(&one.frozen), one.bytes, "a frozen content changed");
        }
    }
    let mut live = vec![0; bytes.len()];
    disk.read(0, &mut live).unwrap();
    assert_eq!(live, bytes, "the live content differs");
    for (index, later) in kept.iter().enumerate() {
        kept[..index].iter().for_each(|earlier| check_pair(earlier, later));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frozen_contents_are_exact_and_every_change_is_reported(steps in prop::collection::vec(step(), 1..40)) {
        play(steps);
    }
}

#[test]
fn untouched_blocks_are_not_reported() {
    let (_folder, disk) = disk_of(&vec![7; usize::try_from(CAPACITY).unwrap()]);
    disk.track(true);
    let first = disk.freeze();
    disk.write(BLOCK_BYTES - 1, &[1, 2]).unwrap();
    disk.trim(CAPACITY - 1, 1).unwrap();
    let second = disk.freeze();
    let areas = second.changed(&ChangedSince::Id(first.change_id().unwrap().clone())).unwrap();
    let found: Vec<(u64, u64)> = areas.iter().map(|area| (area.offset.0, area.length.0)).collect();
    assert_eq!(found, [(0, 2 * BLOCK_BYTES), (9 * BLOCK_BYTES, 1536)]);
}

#[test]
fn holes_of_the_source_are_not_allocated() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("sparse.raw");
    let file = File::create(&source).unwrap();
    file.set_len(64 * BLOCK_BYTES).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[9; 4096], 32 * BLOCK_BYTES).unwrap();
    let disk = Disk::open(&source, &folder.path().join("state")).unwrap();
    disk.track(true);
    let frozen = disk.freeze();
    let areas = frozen.changed(&ChangedSince::Creation).unwrap();
    assert_eq!(areas.total(), ByteLen(BLOCK_BYTES), "{areas:?}");
    assert!(covers(&areas, usize::try_from(32 * BLOCK_BYTES).unwrap()));
}

#[test]
fn a_reset_makes_earlier_ids_foreign_and_a_grown_disk_reports_its_new_part() {
    let (_folder, disk) = disk_of(&[1; 4096]);
    disk.track(true);
    let first = disk.freeze();
    disk.resize(3 * BLOCK_BYTES).unwrap();
    assert!(matches!(disk.resize(4096), Err(DiskError::Shrink { .. })));
    let grown = disk.freeze();
    let since = ChangedSince::Id(first.change_id().unwrap().clone());
    assert_eq!(grown.changed(&since).unwrap().total(), ByteLen(2 * BLOCK_BYTES));
    disk.reset_tracking();
    assert!(matches!(disk.freeze().changed(&since), Err(DiskError::ForeignChangeId)));
    disk.revert_to_initial().unwrap();
    assert_eq!(disk.capacity(), 4096);
}

#[test]
fn writes_outside_the_disk_are_refused() {
    let (_folder, disk) = disk_of(&[1; 4096]);
    assert!(matches!(disk.write(4095, &[0; 2]), Err(DiskError::Range(_))));
    assert!(matches!(disk.trim(u64::MAX, 2), Err(DiskError::Range(_))));
}
