//! Real images of `mke2fs`, filled by it and by the kernel.

mod damaged;
mod large;
mod refused;
mod sets;
mod unclean;

use std::path::Path;
use std::process::Command;

use tidemark_fs_testing::{Checks, Image, Tree, Wanted};
use tidemark_plugin::guest_filesystem::GuestVolume;

use super::*;

/// A tree with everything that these file systems have, small enough to be made often.
const TREE: Wanted = Wanted {
    links: true,
    owners: true,
    times: true,
    longest_name: 255,
    // Beyond what two levels of pointers reach in blocks of 1 KiB.
    sparse: 70 << 20,
    many: 300,
    large: 1 << 20,
};
const CHECKS: Checks = Checks { time_step_ns: 1, owners: true, links: true };

/// A new file system.
fn made(size: u64, options: &str) -> Image {
    let image = Image::new(size);
    image.run("mke2fs", &format!("-q -F -L label {options}"));
    image
}

fn opened(image: &Image) -> Result<ByInode<Opened>> {
    Opened::new(image.disk()).map(ByInode::new)
}

/// What a reader finds; what is wrong with opening it fails the test.
fn read(image: &Image, what: &str) -> Tree {
    Tree::read(&opened(image).unwrap_or_else(|error| panic!("{what}: {}", error.message)))
}

/// The newest state of an image that is mounted, as a backup would find it.
fn copy(image: &Image) -> Image {
    let copy = Image::new(image.size());
    let mut command = Command::new("cp");
    command.args(["--sparse=always", "--no-preserve=all"]).arg(image.path()).arg(copy.path());
    assert!(command.status().unwrap().success());
    copy
}

/// What the kernel finds, after whatever it does to an unclean file system.
fn mounted(image: &Image, kind: &str) -> Tree {
    Tree::of(image.mounted(kind, "barrier=0").folder())
}

/// Gives a command to `debugfs`, which changes the image.
fn debugfs(image: &Image, command: &str) {
    let file = image.home().join("commands");
    std::fs::write(&file, command).unwrap();
    let mut tool = Command::new("debugfs");
    tool.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    let output = tool.args(["-w", "-f"]).arg(&file).arg(image.path()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Files of every size up to a few hundred bytes.
fn small_files(folder: &Path) {
    std::fs::create_dir(folder.join("sizes")).unwrap();
    for size in (0..400_usize).step_by(3) {
        std::fs::write(folder.join(format!("sizes/{size}")), "0123456789".repeat(40).get(..size).unwrap())
            .unwrap();
    }
}
