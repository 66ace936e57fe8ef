//! File systems that were in use when they were copied, as a snapshot of a running guest's disk is: what is read must be what
//! the kernel has after its own replay.

use std::fs::File;
use std::io::Write;

use super::*;

/// Options of `mke2fs` and of the mount.
const SETS: [(&str, &str); 9] = [
    ("-t ext3 -b 1024 -J size=1", "data=ordered"),
    ("-t ext3 -b 4096", "data=journal"),
    ("-t ext4 -J size=4", "data=ordered"),
    ("-t ext4 -b 1024 -J size=1", "data=journal"),
    ("-t ext4 -b 1024 -J size=1 -O ^64bit", "data=ordered"),
    ("-t ext4 -b 2048 -J size=3 -O ^metadata_csum", "data=journal"),
    ("-t ext4 -b 1024 -O inline_data,^metadata_csum,^64bit", "data=ordered"),
    ("-t ext4 -b 1024 -J size=1", "data=writeback,journal_async_commit"),
    ("-t ext4 -b 1024 -J size=1 -O bigalloc,orphan_file,metadata_csum_seed", "data=writeback"),
];
const ROUNDS: u32 = 5;

/// The same numbers in each run.
struct Random(u32);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % bound
    }
}

/// Whatever programs do: some of it is made sure of, some is not.
fn work(folder: &Path, random: &mut Random, steps: u32) {
    let name = |number: u32| folder.join(format!("d{}/f{number}", number % 5));
    for number in 0..5 {
        std::fs::create_dir_all(folder.join(format!("d{number}"))).unwrap();
    }
    for _ in 0..steps {
        let (one, other) = (name(random.below(60)), name(random.below(60)));
        // Some of these fail, as what they need is not there.
        match random.below(12) {
            0 => drop(std::fs::remove_file(&one)),
            1 => drop(std::fs::rename(&one, &other)),
            2 => drop(std::fs::hard_link(&one, &other)),
            3 => drop(std::os::unix::fs::symlink("x".repeat(random.below(100) as usize + 1), &one)),
            4 => {
                let folder = folder.join(format!("g{}", random.below(6)));
                if std::fs::create_dir(&folder).is_err() {
                    drop(std::fs::remove_dir_all(&folder));
                } else {
                    for number in 0..40 {
                        std::fs::write(folder.join(format!("{}{number}", "n".repeat(50))), b"").unwrap();
                    }
                }
            }
            5 => {
                if let Ok(file) = File::options().write(true).open(&one) {
                    file.set_len(u64::from(random.below(50_000))).unwrap();
                }
            }
            6 => drop(File::open(folder).unwrap().sync_all()),
            _ => {
                let Ok(mut file) = File::options().append(true).create(true).open(&one) else { continue };
                let mut bytes = vec![u8::try_from(random.below(256)).unwrap(); random.below(20_000) as usize];
                // Like a block of the journal, which it therefore keeps in another form.
                for block in bytes.chunks_exact_mut(1024).filter(|_| random.below(2) == 0) {
                    block[..4].copy_from_slice(&0xc03b_3998_u32.to_be_bytes());
                }
                file.write_all(&bytes).unwrap();
                if random.below(3) == 0 {
                    file.sync_all().unwrap();
                }
            }
        }
    }
}

fn sync(folder: &Path) {
    assert!(Command::new("sync").arg("-f").arg(folder).status().unwrap().success());
}

#[test]
fn a_guest_that_was_running_is_read_as_its_kernel_would() {
    for (options, mount) in SETS {
        let image = made(24 << 20, options);
        let kind = options.get(3..7).unwrap();
        let mounted = image.mounted(kind, &format!("barrier=0,commit=300,{mount}"));
        let mut random = Random(u32::try_from(options.len()).unwrap());
        for round in 0..ROUNDS {
            let what = format!("{options} {mount}, round {round}");
            work(mounted.folder(), &mut random, 60);
            if round % 2 == 0 {
                sync(mounted.folder());
            }
            work(mounted.folder(), &mut random, 100);
            File::create(mounted.folder().join("last")).unwrap().sync_all().unwrap();
            let copied = copy(&image);
            let volume = opened(&copied).unwrap_or_else(|error| panic!("{what}: {}", error.message));
            let info = volume.info();
            assert!(info.journal_replayed && info.warnings.len() == 1, "{what}: {info:?}");
            let tree = super::mounted(&copy(&copied), kind);
            assert!(tree.0.len() > 20, "{what}");
            tree.compare(&Tree::read(&volume), CHECKS, &what);
        }
    }
}

#[test]
fn fast_commits_are_told_and_all_before_is_read() {
    let image = made(64 << 20, "-t ext4 -O fast_commit -J size=8");
    let mounted = image.mounted("ext4", "barrier=0,commit=300");
    // Renamed folders and the like would make the kernel commit in the usual way.
    std::fs::create_dir(mounted.folder().join("d1")).unwrap();
    small_files(mounted.folder());
    sync(mounted.folder());
    let before = Tree::of(mounted.folder());
    let mut file = File::create(mounted.folder().join("d1/new")).unwrap();
    file.write_all(&[1; 5000]).unwrap();
    file.sync_all().unwrap();
    let copied = copy(&image);
    let info = opened(&copied).unwrap().info();
    assert!(info.warnings.iter().any(|warning| warning.contains("fast commits")), "{info:?}");
    let found = read(&copied, "fast commits");
    // The folder's time may be of either state.
    before.compare(&found, Checks { time_step_ns: 0, ..CHECKS }, "fast commits");
}

/// Journals as older systems wrote them, and what no kernel writes on demand: revocations, and transactions without an end.
#[test]
fn journals_of_all_versions_are_replayed() {
    for (options, open) in [
        ("-t ext4 -O ^metadata_csum,^64bit", "jo"),
        ("-t ext4 -O ^metadata_csum", "jo"),
        ("-t ext4 -O ^64bit", "jo -c -v 2"),
        ("-t ext4", "jo -c -v 2"),
        ("-t ext4 -O ^64bit", "jo -c -v 3"),
        ("-t ext4", "jo -c -v 3"),
    ] {
        let image = made(24 << 20, &format!("{options} -b 1024"));
        let mounted = image.mounted("ext4", "");
        for name in ["one", "two", "three"] {
            std::fs::write(mounted.folder().join(name), [9; 1024]).unwrap();
        }
        drop(mounted);
        let block = |name: &str| {
            let mut tool = Command::new("/sbin/debugfs");
            let output = tool.args(["-R", &format!("bmap {name} 0")]).arg(image.path()).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().unwrap()
        };
        let (one, two, three) = (block("one"), block("two"), block("three"));
        let home = image.home().to_path_buf();
        let file = |name: &str, bytes: &[u8]| {
            std::fs::write(home.join(name), bytes).unwrap();
            home.join(name).display().to_string()
        };
        let (a, b) = (file("a", &[b'a'; 1024]), file("b", &[b'b'; 1024]));
        let magic = file("magic", &[&0xc03b_3998_u32.to_be_bytes()[..], &[1; 1020]].concat());
        let commands = format!(
            "{open}\njw -b {one} {a}\njw -b {two} {a}\njw -b {three} {magic}\njw -r {two}\njw -b {one} {b}\n\
             jw -b {three} -c {a}\njc\n"
        );
        debugfs(&image, &commands);
        let copied = copy(&image);
        assert!(opened(&copied).unwrap().info().journal_replayed, "{options} {open}");
        let found = read(&copied, options);
        super::mounted(&image, "ext4").compare(&found, CHECKS, &format!("{options} {open}"));
        let volume = opened(&copied).unwrap();
        let first = |name: &str| {
            let node = volume.lookup(volume.root(), name.as_bytes().to_vec()).unwrap().node;
            volume.read(node, None, 0, 1024).unwrap()
        };
        assert!(first("one") == [b'b'; 1024] && first("two") == [9; 1024], "{options} {open}");
        assert_eq!(first("three")[..5], [0xc0, 0x3b, 0x39, 0x98, 1], "{options} {open}");
    }
}
