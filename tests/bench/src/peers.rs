//! What people use today, with the flags that make it fastest.
//!
//! `qemu-nbd` over a fresh image runs with `--aio=threads`: `native` waits in `io_submit` whenever a write allocates,
//! which is always here, and takes up to four times as long.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tidemark_tests::process::{terminate, tool, wait_for};

use crate::data::text;
use crate::measure::Meter;

/// The peer that comes as source.
const LIST_LOOP: &str = include_str!("../peers/copy-list.c");
/// What makes `qemu-img convert` fastest: out of order, 16 at once, past the page cache.
const TUNED: [&str; 6] = ["convert", "-W", "-m", "16", "-t", "none"];

/// From NBD to an image.
pub(crate) fn convert(meter: &mut Meter, uri: &str, to: &Path, compressed: bool) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(TUNED).args(["-f", "raw", "-O", "qcow2"]);
    if compressed {
        command.args(["-c", "-o", "compression_type=zstd"]);
    }
    meter.run(command.arg(uri).arg(to))
}

/// Both processes count, and so does the making of the image and the server's last flush.
pub(crate) fn nbdcopy(meter: &mut Meter, uri: &str, size: u64, to: &Path) -> Result<()> {
    meter
        .run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(to).arg(size.to_string()))?;
    let mut copy = Command::new("nbdcopy");
    copy.args(["--flush", "--destination-is-zero"]).arg(uri);
    through_server(meter, to, &mut copy, &[])
}

/// The same with the listed blocks and an overlay.
pub(crate) fn copy_list(
    meter: &mut Meter,
    tools: &Path,
    uri: &str,
    list: &Path,
    parent: &Path,
    to: &Path,
    in_flight: u32,
) -> Result<()> {
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(parent);
    meter.run(create.arg(to))?;
    let mut copy = Command::new(list_loop(tools));
    copy.arg(uri);
    through_server(meter, to, &mut copy, &[text(list), in_flight.to_string()])
}

/// Runs `copy` with a `qemu-nbd` over the image as its target, followed by `more` arguments.
fn through_server(meter: &mut Meter, image: &Path, copy: &mut Command, more: &[String]) -> Result<()> {
    let (socket, pid) = (image.with_extension("sock"), image.with_extension("pid"));
    let mut server = Command::new("qemu-nbd");
    server.args("--persistent --shared=8 --format=qcow2 --cache=none --aio=threads".split(' '));
    let server = meter.begin(server.arg("--socket").arg(&socket).arg("--pid-file").arg(&pid).arg(image))?;
    // The socket's file is there a moment before it is listened on.
    wait_for("qemu-nbd's socket", Duration::from_secs(10), || Ok(UnixStream::connect(&socket).ok()))?;
    meter.run(copy.arg(nbd_uri(&socket)).args(more))?;
    // By its own word: the process begun may be a tracer.
    let server_pid = std::fs::read_to_string(&pid)?.trim().parse().context("qemu-nbd left no pid")?;
    terminate(server_pid)?;
    meter.reap(server).context("qemu-nbd over the result failed")?;
    std::fs::remove_file(&pid).or_else(gone)?;
    std::fs::remove_file(&socket).or_else(gone)?;
    Ok(())
}

/// qemu-nbd itself may take its files away.
fn gone(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Nothing but writing.
pub(crate) fn fio(meter: &mut Meter, bytes: u64, to: &Path) -> Result<()> {
    let mut command = Command::new("fio");
    command.args("--name=limit --rw=write --bs=1M --direct=1 --ioengine=libaio --iodepth=8".split(' '));
    command.args(["--end_fsync=1", "--output=/dev/null"]);
    meter.run(command.arg(format!("--size={bytes}")).arg(format!("--filename={}", to.display())))
}

/// From a chain to a raw file. As it comes, it leaves the result in the page cache: a sync ends it.
pub(crate) fn convert_chain(meter: &mut Meter, top: &Path, to: &Path, tuned: bool) -> Result<()> {
    let mut command = Command::new("qemu-img");
    if tuned {
        command.args(TUNED);
    } else {
        command.arg("convert");
    }
    meter.run(command.args(["-f", "qcow2", "-O", "raw"]).arg(top).arg(to))?;
    if tuned { Ok(()) } else { meter.run(Command::new("sync").arg(to)) }
}

/// Everything between an image and the full goes into that image.
pub(crate) fn rebase(meter: &mut Meter, base: &str, image: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["rebase", "-f", "qcow2", "-t", "none", "-F", "qcow2", "-b", base]);
    meter.run(command.arg(image))
}

/// A chain beside the raw disk.
pub(crate) fn compare(meter: &mut Meter, disk: &Path, top: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    meter.run(command.args(["compare", "-f", "raw", "-F", "qcow2"]).arg(disk).arg(top))
}

/// The address of a server on a Unix socket.
pub(crate) fn nbd_uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

/// Where the loop over a list is, once it was built.
pub(crate) fn list_loop(tools: &Path) -> PathBuf {
    tools.join("copy-list")
}

/// Builds it, where that is possible; answers why not otherwise.
pub(crate) fn build_list_loop(tools: &Path) -> Result<()> {
    let source = tools.join("copy-list.c");
    std::fs::write(&source, LIST_LOOP)?;
    tool("cc", ["-O2", "-o", &text(&list_loop(tools)), &text(&source), "-lnbd"]).map(drop)
}
