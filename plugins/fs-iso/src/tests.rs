//! Real discs of xorriso and genisoimage, whole and damaged.

mod damaged;
mod large;

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tidemark_fs_testing::{Checks, Content, Image, Tree, Wanted};
use tidemark_plugin::attributes::Attributes;
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::guest_filesystem::GuestVolume;
use tidemark_plugin::nodes::ByInode;
use tidemark_plugin::{Error, ErrorKind, Result};

use crate::Opened;
use crate::descriptors::Descriptors;

/// What Rock Ridge can hold.
const WANTED: Wanted = Wanted {
    links: true,
    owners: true,
    times: true,
    longest_name: 255,
    sparse: 0,
    many: 300,
    large: 200_000,
};
/// What Joliet can hold.
const JOLIET: Wanted = Wanted { links: false, owners: false, times: true, longest_name: 64, ..WANTED };

const SECOND: i64 = 1_000_000_000;
const XORRISO: &str = "xorriso -as mkisofs -quiet";
const GENISOIMAGE: &str = "genisoimage -quiet";

fn opened(disk: CachedDisk) -> Result<ByInode<Opened>> {
    Opened::new(disk).map(ByInode::new)
}

fn source(wanted: Wanted) -> (TempDir, Tree) {
    let home = tempfile::tempdir().unwrap();
    wanted.fill(home.path());
    let tree = tree_of(home.path());
    (home, tree)
}

/// What a folder has, as a disc keeps it: Rock Ridge has no empty part at the end of a link.
fn tree_of(folder: &Path) -> Tree {
    let mut tree = Tree::of(folder);
    for item in tree.0.values_mut() {
        if let Content::Link(target) = &mut item.content {
            target.truncate(target.len() - usize::from(target.ends_with(b"/")));
        }
    }
    tree
}

/// A disc with all that a folder has.
fn disc(tool: &str, options: &str, folder: &Path) -> Image {
    let image = Image::new(0);
    let mut words = tool.split(' ').chain(options.split_whitespace());
    let mut command = Command::new(words.next().unwrap());
    command.env("LC_ALL", "C.UTF-8");
    let tool_words = tool.split(' ').count() - 1;
    command.args(words.by_ref().take(tool_words)).arg("-o").arg(image.path()).args(words).arg(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    image
}

fn of_bytes(bytes: Vec<u8>) -> CachedDisk {
    CachedDisk::over(bytes.len() as u64, move |offset, length| {
        let start = usize::try_from(offset).unwrap();
        Ok(bytes[start..start + length as usize].to_vec())
    })
}

fn bytes(image: &Image) -> Vec<u8> {
    image.bytes(0, usize::try_from(image.size()).unwrap())
}

#[test]
fn rock_ridge_gives_all_of_a_file() {
    let (home, tree) = source(WANTED);
    for (tool, options) in [
        (XORRISO, "-R -V LABEL"),
        (XORRISO, "-R -J -V LABEL"),
        (XORRISO, "-R -iso-level 3 -V LABEL -rr_reloc_dir /moved"),
        (XORRISO, "-R -iso-level 4 -J -joliet-long -V LABEL"),
        (GENISOIMAGE, "-R -V LABEL"),
        (GENISOIMAGE, "-R -J -V LABEL -D"),
        (GENISOIMAGE, "-R -iso-level 3 -l -V LABEL"),
    ] {
        let image = disc(tool, options, home.path());
        let volume = opened(image.disk()).unwrap();
        let info = volume.info();
        let named = (info.filesystem.as_str(), info.label.as_str(), info.uuid.len());
        assert_eq!(named, ("iso9660", "LABEL", 22), "{tool} {options}");
        assert!(info.warnings.is_empty() && info.total_bytes <= image.size(), "{tool} {options}: {info:?}");
        let mut found = Tree::read_placed(&volume, &image.disk());
        // The folder that held the too deep ones is empty.
        for name in [&b"/rr_moved"[..], b"/moved"] {
            assert!(found.0.remove(name).is_none_or(|item| item.content == Content::Folder));
        }
        let checks = Checks { time_step_ns: SECOND, owners: true, links: tool == XORRISO };
        tree.compare(&found, checks, &format!("{tool} {options}"));
    }
}

#[test]
fn joliet_gives_names_where_rock_ridge_does_not() {
    let (home, tree) = source(JOLIET);
    for (tool, options) in
        [(XORRISO, "--norock -J -V Läbel"), (XORRISO, "--norock -J -joliet-utf16"), (GENISOIMAGE, "-J -D")]
    {
        let image = disc(tool, &format!("{options} -joliet-long"), home.path());
        let volume = opened(image.disk()).unwrap();
        let mut found = Tree::read(&volume);
        let mut expected = tree.clone();
        // UCS-2 has no letters beyond the first 65,536.
        if !options.contains("utf16") {
            let emoji = "/emoji 🦀".as_bytes();
            expected.0.remove(emoji);
            found.0.retain(|path, _| !path.starts_with(b"/emoji "));
        }
        expected.compare(
            &found,
            Checks { time_step_ns: SECOND, owners: false, links: false },
            &format!("{tool} {options}"),
        );
        let label = volume.info().label;
        assert!(!options.contains("Läbel") || label == "Läbel", "{label}");
    }
}

#[test]
fn plain_names_lose_their_version() {
    let home = tempfile::tempdir().unwrap();
    for name in ["readme.txt", "noext", "other.c"] {
        std::fs::write(home.path().join(name), name).unwrap();
    }
    std::fs::create_dir(home.path().join("folder")).unwrap();
    for (tool, options) in [(XORRISO, "--norock -iso-level 1"), (GENISOIMAGE, ""), (GENISOIMAGE, "-N -d")] {
        let image = disc(tool, options, home.path());
        let found = Tree::read(&opened(image.disk()).unwrap());
        let names: Vec<_> = found.0.keys().map(|path| String::from_utf8_lossy(path)).collect();
        assert_eq!(names, ["/FOLDER", "/NOEXT", "/OTHER.C", "/README.TXT"], "{tool} {options}");
        assert_eq!(found.refused().count(), 0);
    }
}

#[test]
fn what_is_not_read_is_said() {
    let ext = Image::new(4 << 20);
    ext.run("mke2fs", "-q -F");
    for disk in [ext.disk(), of_bytes(vec![0; 1 << 20]), of_bytes(vec![7; 100]), of_bytes(vec![])] {
        assert!(!Descriptors::probed(&disk).unwrap());
        let Error { kind, message, .. } = Opened::new(disk).unwrap_err();
        assert_eq!((kind, message.as_str()), (ErrorKind::Corrupt, "this is no ISO 9660 file system"));
    }
    let (home, _) = source(Wanted { many: 3, ..WANTED });
    let image = disc(GENISOIMAGE, "-R -udf", home.path());
    let warnings = opened(image.disk()).unwrap().info().warnings;
    assert_eq!(
        warnings,
        ["the disc holds a UDF file system too, which is not read: files may be missing here"]
    );

    std::fs::write(home.path().join("odd"), vec![7; 300_000]).unwrap();
    let image = Image::new(0);
    let mut xorriso = Command::new("xorriso");
    xorriso.arg("-dev").arg(image.path()).args(["-blank", "as_needed", "-map"]).arg(home.path());
    xorriso.args(["/", "-set_filter", "--zisofs", "/odd", "--", "-commit"]);
    assert!(xorriso.output().unwrap().status.success());
    let volume = opened(image.disk()).unwrap();
    let odd = volume.lookup(1, b"odd".to_vec()).unwrap();
    assert_eq!(odd.size_bytes, 300_000);
    let Error { kind, message, .. } = volume.read(odd.node, None, 0, 10).unwrap_err();
    let words = "the file is compressed (zisofs) or sparse in Rock Ridge's way: copy it in the guest";
    assert_eq!((kind, message.as_str()), (ErrorKind::Unsupported, words));
    assert!(volume.read(odd.node, Some(b"x".to_vec()), 0, 1).is_err() && volume.readlink(odd.node).is_err());
}

#[test]
fn hidden_files_are_shown_as_such() {
    let (home, _) = source(WANTED);
    let image = disc(GENISOIMAGE, "-R -hidden small", home.path());
    let volume = opened(image.disk()).unwrap();
    let flags = |name: &str| {
        let node = volume.lookup(volume.root(), name.into()).unwrap().node;
        volume.attributes(node).unwrap().flags
    };
    assert_eq!((flags("small"), flags("few")), (vec!["hidden".to_owned()], vec![]));
}
