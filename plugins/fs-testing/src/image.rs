//! Images in files, made and filled by the real tools.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tidemark_plugin::disk::CachedDisk;

/// A file that holds a disk, sparse, with a folder of its own that goes with it.
#[derive(Debug)]
pub struct Image {
    home: TempDir,
    path: PathBuf,
    file: Arc<File>,
}

/// A mounted image. It is unmounted when this is dropped.
#[derive(Debug)]
pub struct Mounted {
    folder: PathBuf,
    /// A loop device that was made for it.
    device: Option<String>,
}

impl Image {
    /// An empty disk.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("image");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        Self { home, path, file: Arc::new(file) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder for what is needed beside it.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs a tool with these arguments and the image's path, and gives what it printed.
    pub fn run(&self, program: &str, arguments: &str) -> String {
        let mut command = tool(program);
        command.args(arguments.split_whitespace()).arg(&self.path);
        succeed(&mut command)
    }

    /// Mounts it with the kernel (`xfs`, `btrfs`, `ext4`, with `-o loop`) or, for `ntfs-3g` and other FUSE programs, with that.
    /// That needs root, or sudo without a password.
    #[must_use]
    pub fn mounted(&self, with: &str, options: &str) -> Mounted {
        let folder = self.home.path().join("mounted");
        std::fs::create_dir_all(&folder).unwrap();
        let kernel = !matches!(with, "ntfs-3g" | "mount.exfat-fuse");
        let mut command = if kernel { as_root("mount") } else { as_root(with) };
        if kernel {
            command.args(["-t", with, "-o", &format!("loop,{options}")]);
        } else if !options.is_empty() {
            command.args(["-o", options]);
        }
        // exfat-fuse mounts nothing but block devices where root calls it.
        let device = (with == "mount.exfat-fuse").then(|| {
            let mut losetup = as_root("losetup");
            succeed(losetup.args(["--find", "--show"]).arg(&self.path)).trim().to_owned()
        });
        let mounted = Mounted { folder, device };
        match &mounted.device {
            Some(device) => command.arg(device),
            None => command.arg(&self.path),
        };
        succeed(command.arg(&mounted.folder));
        mounted
    }

    /// How large it is.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    /// What lies at a place.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    /// Writes over what lies at a place.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).unwrap();
    }

    /// As a reader sees it.
    #[must_use]
    pub fn disk(&self) -> CachedDisk {
        let file = Arc::clone(&self.file);
        CachedDisk::over(self.size(), move |offset, length| {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, offset).unwrap();
            Ok(bytes)
        })
    }
}

impl Mounted {
    /// Makes the file `marked`, with what `letters` have chattr(1) set for it.
    pub fn mark(&self, letters: &str) {
        let file = self.folder.join("marked");
        std::fs::write(&file, [7; 9000]).unwrap();
        succeed(as_root("chattr").arg(format!("+{letters}")).arg(file));
    }

    /// Where.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Mounted {
    fn unmount(&self) {
        // Something may still look into it for a moment.
        for _ in 0..50 {
            if as_root("umount").arg(&self.folder).output().is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        drop(as_root("umount").arg("-l").arg(&self.folder).output());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
        if let Some(device) = &self.device {
            drop(as_root("losetup").args(["--detach", device]).output());
        }
    }
}

/// A program; the file-system tools lie in /sbin, which an ordinary user's PATH lacks on Debian.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

pub(crate) fn as_root(program: &str) -> Command {
    // A process owns its own entry there.
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    if own == 0 {
        return tool(program);
    }
    let mut command = tool("sudo");
    command.args(["-n", program]);
    command
}

pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said} {complained}");
    said
}
