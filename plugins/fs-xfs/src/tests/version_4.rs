//! Version 4, which newer kernels do not mount: images that `mkfs.xfs` filled itself. Its journals were
//! compared with what Linux 6.1 makes of them, by hand.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;

const SETS: [&str; 9] = [
    "",
    "-b size=512 -n size=4096",
    "-b size=1024 -i size=256",
    "-b size=65536",
    "-n size=65536 -i size=2048",
    "-n ftype=1",
    "-n version=ci",
    "-l version=1",
    "-i attr=1,projid32bit=0",
];

/// A folder in the words of `mkfs.xfs -p`, which knows no names with spaces.
fn described(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.mode();
        let bit = |bit: u32, letter: char| if mode & bit == 0 { '-' } else { letter };
        let rights = format!(
            "{}{}{:03o} {} {}",
            bit(0o4000, 'u'),
            bit(0o2000, 'g'),
            mode & 0o777,
            metadata.uid(),
            metadata.gid()
        );
        let name = path.file_name().unwrap().to_str().unwrap();
        let path = path.display();
        if metadata.is_dir() {
            writeln!(into, "{name} d{rights}").unwrap();
            described(&folder.join(name), into);
            writeln!(into, "$").unwrap();
        } else if metadata.is_symlink() {
            writeln!(into, "{name} l{rights} {}", std::fs::read_link(folder.join(name)).unwrap().display())
                .unwrap();
        } else {
            writeln!(into, "{name} -{rights} {path}").unwrap();
        }
    }
}

fn filled(options: &str) -> (Image, Tree) {
    let image = Image::new(300 * MIB);
    let folder = image.home().join("tree");
    Wanted { times: false, many: 1100, sparse: 0, large: 500_000, ..WANTED }.fill(&folder_of(&folder));
    for spaced in
        ["emoji 🦀", "with  spaces", "UPPER and lower", "fragments one", "fragments two", "long link"]
    {
        std::fs::remove_file(folder.join(spaced)).unwrap();
    }
    std::fs::remove_file(folder.join("a/second name")).unwrap();
    std::os::unix::fs::symlink("../far/".repeat(70), folder.join("long-link")).unwrap();
    let tree = Tree::of(&folder);
    let mut words = "/dev/null\n0 0\nd--755 0 0\n".to_owned();
    described(&folder, &mut words);
    words.push_str("$\n");
    let prototype = image.home().join("prototype");
    std::fs::write(&prototype, words).unwrap();
    image.run("mkfs.xfs", &format!("-q -f -L label -m crc=0 -p {} {options}", prototype.display()));
    (image, tree)
}

fn folder_of(path: &Path) -> std::path::PathBuf {
    std::fs::create_dir(path).unwrap();
    path.to_owned()
}

#[test]
fn every_option_set_gives_every_byte() {
    for options in SETS {
        let (image, tree) = filled(options);
        let (info, found) = read(&image);
        assert_eq!((info.filesystem.as_str(), info.label.as_str()), ("xfs", "label"), "{options}");
        assert!(info.warnings.is_empty() && !info.journal_replayed, "{options}: {info:?}");
        tree.compare(&found, Checks { time_step_ns: 0, ..ALL }, options);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let recent = |at: i64| now.abs_diff(u64::try_from(at).unwrap() / 1_000_000_000) < 3600;
        assert!(found.0.values().all(|item| item.modified_ns.is_some_and(recent)), "{options}");
    }
}
