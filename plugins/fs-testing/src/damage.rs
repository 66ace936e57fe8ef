//! Damage of an image: what a disk that fails, a hostile guest or a bug leaves behind.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::placement::Placement;
use tidemark_plugin::{Error, Result};

use crate::image::Image;
use crate::tree::{Content, Tree};

const SECTOR: usize = 512;
/// Bytes that a reader may ask for in one round: more means that it goes in circles.
const MAX_READ: u64 = 4 << 30;

/// Damages an image again and again, each time afresh, and reads all of it.
#[derive(Debug, Clone, Copy)]
pub struct Damage {
    /// How often.
    pub rounds: u32,
    /// Names come from metadata with checksums: one that was never there fails the test.
    pub names_checked: bool,
    /// Contents have checksums: wrong ones fail the test.
    pub contents_checked: bool,
    /// The reader's library may panic, which ends its sandbox; else a panic fails the test.
    pub may_panic: bool,
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Endured {
    /// Rounds in which the volume could not be opened.
    pub refused: u32,
    /// Rounds in which something in it could not be read.
    pub partly: u32,
    /// Rounds in which all was as before.
    pub whole: u32,
    /// Rounds in which something was wrong without an error: only where nothing is checked.
    pub wrong: u32,
    /// Rounds that ended by a panic.
    pub panicked: u32,
}

/// One piece of damage: bytes that lie where others lay.
type Patch = (usize, Vec<u8>);

impl Damage {
    /// Runs all rounds over an image, of which `tree` is what is in it, with damage anywhere.
    pub fn endure<V: Placement>(
        &self,
        image: &Image,
        tree: &Tree,
        open: impl Fn(CachedDisk) -> Result<V>,
    ) -> Endured {
        self.endure_at(image, tree, |_| true, open)
    }

    /// The same with damage to sectors of 512 bytes that are aimed at.
    pub fn endure_at<V: Placement>(
        &self,
        image: &Image,
        tree: &Tree,
        aim: impl Fn(usize) -> bool,
        open: impl Fn(CachedDisk) -> Result<V>,
    ) -> Endured {
        let whole = Arc::new(image.bytes(0, usize::try_from(image.size()).unwrap()));
        // Damage elsewhere shows nothing.
        let used: Vec<usize> = whole
            .chunks(SECTOR)
            .enumerate()
            .filter(|(number, sector)| sector.iter().any(|byte| *byte != 0) && aim(*number))
            .map(|(number, _)| number * SECTOR)
            .collect();
        let random = Random(Cell::new(0x2545_f491_4f6c_dd1d));
        let mut endured = Endured::default();
        let hook = std::panic::take_hook();
        if self.may_panic {
            std::panic::set_hook(Box::new(|_| {}));
        }
        for round in 0..self.rounds {
            let patches = patches(&whole, &used, round, &random);
            let disk = damaged(&whole, &patches);
            let outcome = catch_unwind(AssertUnwindSafe(|| open(disk).map(|volume| Tree::read(&volume))));
            match outcome {
                Err(_) if self.may_panic => endured.panicked += 1,
                Err(panic) => {
                    let places: Vec<usize> = patches.iter().map(|(at, _)| *at).collect();
                    eprintln!("round {round} with damage at {places:?}");
                    std::panic::resume_unwind(panic);
                }
                Ok(Err(_)) => endured.refused += 1,
                Ok(Ok(found)) => self.judge(tree, &found, round, &mut endured),
            }
        }
        std::panic::set_hook(hook);
        endured
    }

    fn judge(&self, tree: &Tree, found: &Tree, round: u32, endured: &mut Endured) {
        let refused = |item: &Content| matches!(item, Content::Refused(_) | Content::Other);
        let mut wrong = None;
        for (path, item) in &found.0 {
            match tree.0.get(path) {
                _ if refused(&item.content) => {}
                None => {
                    assert!(!self.names_checked, "round {round}: {} was never there", shown(path));
                    wrong = Some(path);
                }
                Some(known) if known.content != item.content => {
                    assert!(!self.contents_checked, "round {round}: {} is wrong", shown(path));
                    wrong = Some(path);
                }
                Some(_) => {}
            }
        }
        let lost = tree.0.keys().any(|path| !found.0.contains_key(path));
        if found.0.values().any(|item| refused(&item.content)) {
            endured.partly += 1;
        } else if wrong.is_some() || lost {
            // A name that is gone without a word is as wrong as one that was never there.
            assert!(!self.names_checked || !lost, "round {round}: something is gone without an error");
            endured.wrong += 1;
        } else {
            endured.whole += 1;
        }
    }
}

/// One to four pieces of damage: bits, sectors of zeros, sectors of noise, and sectors that lie where others should.
fn patches(whole: &[u8], used: &[usize], round: u32, random: &Random) -> Vec<Patch> {
    let sector_at = |at: usize| whole[at..(at + SECTOR).min(whole.len())].to_vec();
    let patch = |_| {
        let at = used[random.below(used.len())];
        let mut sector = sector_at(at);
        match round % 5 {
            0 | 1 => {
                let place = random.below(sector.len());
                sector[place] ^= 1 << random.below(8);
            }
            2 => sector.fill(0),
            3 => sector = sector_at(used[random.below(used.len())]),
            _ => {
                // A few bytes become large, or small: lengths, pointers, counts.
                let place = random.below(sector.len());
                let end = (place + 1 + random.below(8)).min(sector.len());
                sector[place..end].fill([0, 0xff, 0x7f, 0x80][random.below(4)]);
            }
        }
        (at, sector)
    };
    (0..=random.below(4)).map(patch).collect()
}

fn damaged(whole: &Arc<Vec<u8>>, patches: &[Patch]) -> CachedDisk {
    let (whole, patches) = (Arc::clone(whole), patches.to_vec());
    let read = AtomicU64::new(0);
    CachedDisk::over(whole.len() as u64, move |offset, length| {
        if read.fetch_add(u64::from(length), Ordering::Relaxed) > MAX_READ {
            panic!("the reader goes in circles: {MAX_READ} bytes were read");
        }
        let start = usize::try_from(offset).unwrap();
        let end = start + length as usize;
        let mut bytes = whole.get(start..end).ok_or_else(|| Error::corrupt("beyond the end"))?.to_vec();
        for (at, patch) in &patches {
            let (from, to) = ((*at).max(start), (at + patch.len()).min(end));
            if from < to {
                bytes[from - start..to - start].copy_from_slice(&patch[from - at..to - at]);
            }
        }
        Ok(bytes)
    })
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The same numbers in each run, so that a failure can be looked into.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, bound: usize) -> usize {
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.set(state);
        usize::try_from(state % bound as u64).unwrap()
    }
}
