//! Who takes part, each with its best flags, and each ending with its result durable:
//! ours syncs before it publishes, `qemu-img` and `qemu-nbd` write past the page cache and flush at their end.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemark_tests::process::{terminate, tool, wait_for};

use crate::measure::{Measured, Meter, Sample};

/// A way to do a work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The engine's mover, at a zstd level or uncompressed.
    Ours(Option<i32>),
    /// `qemu-img convert`.
    QemuImg {
        /// With zstd-compressed clusters.
        compressed: bool,
    },
    /// `nbdcopy` into a `qemu-nbd` over a fresh image: two processes.
    NbdCopy,
    /// Nothing but sequential direct writes of as many bytes: what the disk gives.
    Fio,
}

impl Contender {
    /// How the tables call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ours(None) => "tidemark".to_owned(),
            Self::Ours(Some(level)) => format!("tidemark, zstd {level}"),
            Self::QemuImg { compressed: false } => "qemu-img convert".to_owned(),
            Self::QemuImg { compressed: true } => "qemu-img convert -c (zstd)".to_owned(),
            Self::NbdCopy => "nbdcopy → qemu-nbd".to_owned(),
            Self::Fio => "fio, direct writes (the limit)".to_owned(),
        }
    }

    /// Whether it is one of ours.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours(_))
    }

    /// Whether its result is an image that can be compared.
    pub(crate) fn makes_image(self) -> bool {
        self != Self::Fio
    }

    /// Does the work once. `to` does not exist yet; `data_bytes` is what a bare writer would write.
    pub(crate) fn run(self, uri: &str, size: u64, data_bytes: u64, to: &Path) -> Result<Sample> {
        let mut meter = Meter::start();
        match self {
            Self::Ours(level) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("copy").arg(uri).arg(to);
                if let Some(level) = level {
                    command.arg(format!("--level={level}"));
                }
                meter.run(&mut command)?;
            }
            Self::QemuImg { compressed } => {
                let mut command = Command::new("qemu-img");
                command.args("convert -W -m 16 -t none -f raw -O qcow2".split(' '));
                if compressed {
                    command.args(["-c", "-o", "compression_type=zstd"]);
                }
                meter.run(command.arg(uri).arg(to))?;
            }
            Self::NbdCopy => nbdcopy(&mut meter, uri, size, to)?,
            Self::Fio => {
                let mut command = Command::new("fio");
                command.args(
                    "--name=limit --rw=write --bs=1M --direct=1 --ioengine=libaio --iodepth=8".split(' '),
                );
                command.args(["--end_fsync=1", "--output=/dev/null"]);
                command.arg(format!("--size={data_bytes}")).arg(format!("--filename={}", to.display()));
                meter.run(&mut command)?;
            }
        }
        let metadata = std::fs::metadata(to).with_context(|| format!("{} left no result", self.name()))?;
        Ok(meter.stop(metadata.blocks() * 512))
    }
}

/// Both processes count, and so does the making of the image and the server's last flush.
fn nbdcopy(meter: &mut Meter, uri: &str, size: u64, to: &Path) -> Result<()> {
    let socket = to.with_extension("sock");
    meter
        .run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(to).arg(size.to_string()))?;
    let mut command = Command::new("qemu-nbd");
    command.args("--persistent --shared=8 --format=qcow2 --cache=none --aio=native".split(' '));
    let server = Measured::start(command.arg("--socket").arg(&socket).arg(to))?;
    let deadline = Duration::from_secs(10);
    // The socket's file is there a moment before it is listened on.
    wait_for("qemu-nbd's socket", deadline, || Ok(UnixStream::connect(&socket).ok()))?;
    let mut copy = Command::new("nbdcopy");
    copy.args(["--flush", "--destination-is-zero"]);
    meter.run(copy.arg(uri).arg(nbd_uri(&socket)))?;
    terminate(server.pid().context("qemu-nbd has ended by itself")?)?;
    meter.reap(server).context("qemu-nbd over the result failed")
}

/// The address of a server on a Unix socket.
pub(crate) fn nbd_uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

/// Whether this machine has `fio`; it is no condition.
pub(crate) fn has_fio() -> bool {
    tool("fio", ["--version"]).is_ok()
}

/// Fails unless the image is consistent and a guest would see in it what is on the disk.
pub(crate) fn judge(disk: &Path, image: &Path) -> Result<()> {
    tidemark_tests::qemu::check(image)?;
    tidemark_tests::qemu::same_content(disk, image)?;
    ensure!(
        tidemark_tests::qemu::virtual_size(image)? == std::fs::metadata(disk)?.len(),
        "{} has another size than its source",
        image.display()
    );
    Ok(())
}
