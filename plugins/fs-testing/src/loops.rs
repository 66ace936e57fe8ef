//! Files as block devices, for tools that take nothing else.

use std::path::{Path, PathBuf};

use crate::image::{Image, as_root, succeed};

/// A range of an image as a loop device. It is gone when this is dropped.
#[derive(Debug)]
pub struct Looped {
    device: PathBuf,
}

impl Image {
    /// Makes a block device of a range, up to the end where `length` is 0. That needs root, or sudo without a password.
    #[must_use]
    pub fn looped(&self, offset: u64, length: u64) -> Looped {
        let mut command = as_root("losetup");
        command.args(["--find", "--show", "--offset", &offset.to_string()]);
        if length > 0 {
            command.args(["--sizelimit", &length.to_string()]);
        }
        let said = succeed(command.arg(self.path()));
        Looped { device: PathBuf::from(said.trim()) }
    }
}

impl Looped {
    /// The device.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        drop(as_root("losetup").arg("--detach").arg(&self.device).output());
    }
}

/// Runs a tool as root, with these arguments, and gives what it printed.
pub fn run_as_root<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    succeed(as_root(program).args(arguments))
}
