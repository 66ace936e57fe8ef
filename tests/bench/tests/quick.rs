//! The benchmark itself, on small disks: every contender that this machine has runs, every result equals its source (the benchmark
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
    let mut wanted = vec![
        "### summary",
        "| full, uncompressed, disk | qemu-img convert | ≥ 1× | ",
        "| peak memory, eight disks at once | tidemark, idle | ≤ 256 MiB more | ",
        "### full, uncompressed, fast sink: 64 MiB",
        "### full, uncompressed: 64 MiB",
        "### full, zstd: 64 MiB",
        "### sparse: 1 GiB with 4 MiB",
        "### incremental from a list: 1 GiB with 2 MiB",
        "### memory, huge disk: 1024 GiB with 1 MiB",
        "| tidemark | ",
        "| tidemark, idle | ",
        "| tidemark, zstd 1 | ",
        "| tidemark, zstd 3 | ",
        "| tidemark, 8 disks at once, zstd 1 | ",
        "| qemu-img convert | ",
        "| qemu-img convert -c (zstd) | ",
        "| nbdcopy → qemu-nbd | ",
        "| restore of a chain, disk | qemu-img convert, tuned | ",
        "| restore of a zstd chain, disk | qemu-img convert, default | ",
        "| deep verify of a chain | qemu-img compare | ",
        "| merge of all layers | qemu-img rebase | ",
    ];
    // What this machine lacks is left out with a word.
    for (row, without) in [
        ("| full, uncompressed, fast sink | qemu-img convert | ", "left out: "),
        ("| merge of all layers, reflinks: new space | ", "left out: "),
        ("| libnbd, 16 in flight → qemu-nbd | ", "in flight → qemu-nbd left out: "),
        ("| fio, direct writes (the limit) | ", "(the limit) left out: "),
    ] {
        wanted.push(if written.contains(without) { without } else { row });
    }
    for row in wanted {
        assert!(written.contains(row), "no '{row}' in:\n{written}");
    }
    assert!(written.ends_with(&published[end..]), "what follows the figures was changed");
    assert_eq!(std::fs::read_dir(dir.path().join("work")).unwrap().count(), 0, "something was left behind");
}
