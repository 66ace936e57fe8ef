//! Many files, and large ones.

use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::Instant;

use super::*;

#[test]
fn a_folder_of_100_000_files() {
    let home = tempfile::tempdir().unwrap();
    // One file by 100,000 names: making as many would take far longer than reading them.
    let (file, list) = (home.path().join("file"), home.path().join("list"));
    std::fs::write(&file, b"").unwrap();
    let names = (0..100_000).map(|number| format!("/file-{number:06}={}\n", file.display()));
    std::fs::write(&list, names.collect::<String>()).unwrap();
    let image = disc(GENISOIMAGE, "-R -iso-level 3 -l -graft-points -path-list", &list);
    let volume = opened(of_bytes(bytes(&image))).unwrap();
    let begun = Instant::now();
    let (mut cursor, mut count) = (Some(0), 0);
    while let Some(at) = cursor {
        let page = volume.list(1, at, 10_000).unwrap();
        count += page.entries.iter().filter(|entry| entry.stat.mode.is_some()).count();
        cursor = page.next;
    }
    eprintln!("{count} entries in {:?}", begun.elapsed());
    assert_eq!(count, 100_000);
}

#[test]
fn a_file_of_5_gib_lies_in_two_parts() {
    const SIZE: u64 = 5 << 30;
    let home = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(home.path().join("large")).unwrap();
    file.set_len(SIZE).unwrap();
    let places = [0, 100_000, (4 << 30) - 5000, 4 << 30, SIZE - 7];
    for at in places {
        file.write_all_at(b"7 bytes", at).unwrap();
    }
    std::fs::write(home.path().join("last"), b"of all").unwrap();
    // The disc passes through a pipe, and its zeros are left out of the image.
    let image = Image::new(0);
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-iso-level", "3", "-o", "-"]).arg(home.path());
    let mut writing = xorriso.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut dd = Command::new("dd");
    dd.arg(format!("of={}", image.path().display())).args([
        "bs=1M",
        "iflag=fullblock",
        "conv=sparse,notrunc",
    ]);
    dd.stdin(writing.stdout.take().unwrap()).stderr(Stdio::null());
    assert!(dd.status().unwrap().success() && writing.wait().unwrap().success());
    let volume = opened(image.disk()).unwrap();
    let names: Vec<_> = volume.list(1, 0, 10).unwrap().entries;
    assert_eq!(names.len(), 2);
    let large = volume.lookup(1, b"large".to_vec()).unwrap();
    assert_eq!(large.size_bytes, SIZE);
    for at in places {
        let read = volume.read(large.node, None, at.saturating_sub(3), 20).unwrap();
        let expected: &[u8] = if at == 0 { b"7 bytes\0" } else { b"\0\0\x007 bytes" };
        assert!(read.starts_with(expected), "{at}");
    }
    let begun = Instant::now();
    for at in (0..256_u64 << 20).step_by(1 << 20) {
        assert_eq!(volume.read(large.node, None, at, 1 << 20).unwrap().len(), 1 << 20);
    }
    eprintln!("256 MiB in {:?}", begun.elapsed());
    let last = volume.lookup(1, b"last".to_vec()).unwrap();
    assert_eq!(volume.read(last.node, None, 0, 99).unwrap(), b"of all");
}
