//! The benchmark itself, on small disks: every contender runs, every result equals its source (the benchmark
//! checks that), and the figures reach the document. How long anything took is not looked at.

use std::process::Command;

#[test]
fn a_quick_run_fills_the_document() {
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let published = std::fs::read_to_string(format!("{checkout}/docs/performance.md")).unwrap();
    // The build's folder lies on a disk, the system's temporary one perhaps in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let document = dir.path().join("performance.md");
    let begin = published.find("<!-- figures: begin").unwrap();
    let end = published.find("<!-- figures: end").unwrap();
    let line_end = begin + published[begin..].find('\n').unwrap();
    std::fs::write(&document, format!("{}\n{}", &published[..line_end], &published[end..])).unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_tidemark-bench"))
        .arg("--quick")
        .arg("--dir")
        .arg(dir.path().join("work"))
        .arg("--write")
        .arg(&document)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let written = std::fs::read_to_string(&document).unwrap();
    for row in [
        "### full, uncompressed: 64 MiB",
        "### full, zstd: 64 MiB",
        "### sparse: 1 GiB with 4 MiB",
        "| tidemark | ",
        "| tidemark, zstd 1 | ",
        "| tidemark, zstd 3 | ",
        "| qemu-img convert | ",
        "| qemu-img convert -c (zstd) | ",
        "| nbdcopy → qemu-nbd | ",
    ] {
        assert!(written.contains(row), "no '{row}' in:\n{written}");
    }
    assert!(written.ends_with(&published[end..]), "what follows the figures was changed");
    assert_eq!(std::fs::read_dir(dir.path().join("work")).unwrap().count(), 0, "something was left behind");
}
