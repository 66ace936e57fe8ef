//! `nbdkit vddk` on a private unix socket: how the host reads a disk through VMware's library without linking it.
//!
//! The plugin gives a descriptor; the command line is built here, argument by argument, never through a shell. The
//! password goes through a file that only this user may read, never through the arguments. Folder, socket,
//! password and process all end with the [`VddkServer`].

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tidemark_plugins::VddkSource;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::error::{Error, ErrorKind, Result};
use crate::secrets::write_private;

/// How long nbdkit may take to offer its socket.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct VddkOptions {
    /// `nbdkit`, by name or path.
    pub(crate) nbdkit: PathBuf,
    /// The folder of the VDDK distribution (`vmware-vix-disklib-distrib`).
    pub(crate) libdir: Option<PathBuf>,
}

impl Default for VddkOptions {
    fn default() -> Self {
        Self { nbdkit: PathBuf::from("nbdkit"), libdir: None }
    }
}

/// A running `nbdkit vddk`.
pub(crate) struct VddkServer {
    child: Child,
    folder: PathBuf,
}

impl VddkServer {
    /// Starts it and waits until its socket is there.
    pub(crate) async fn start(disk: &VddkSource, password: &str, options: &VddkOptions) -> Result<Self> {
        let folder = private_folder()?;
        let started = Self::start_in(&folder, disk, password, options).await;
        if started.is_err() {
            let _ = std::fs::remove_dir_all(&folder);
        }
        started
    }

    async fn start_in(
        folder: &Path,
        disk: &VddkSource,
        password: &str,
        options: &VddkOptions,
    ) -> Result<Self> {
        let password_file = folder.join("password");
        write_private(&password_file, password)?;
        let socket = folder.join("nbd.sock");
        let child = Command::new(&options.nbdkit)
            .args(arguments(disk, &socket, &password_file, options.libdir.as_deref())?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| {
                Error::io(
                    format!("starting {} (install nbdkit and its vddk plugin)", options.nbdkit.display()),
                    e,
                )
            })?;
        let mut server = Self { child, folder: folder.to_path_buf() };
        server.wait_for(&socket).await?;
        Ok(server)
    }

    async fn wait_for(&mut self, socket: &Path) -> Result<()> {
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        // The socket's file is there a moment before it is listened on.
        while UnixStream::connect(socket).await.is_err() {
            if let Some(status) = self.child.try_wait().map_err(|e| Error::io("waiting for nbdkit", e))? {
                let words = self.last_words().await;
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("nbdkit vddk ended ({status}) before it served the disk: {words}"),
                ));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "nbdkit vddk did not serve the disk within a minute",
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = tokio::time::timeout(STOP_LIMIT, stderr.take(4096).read_to_end(&mut text)).await;
        }
        String::from_utf8_lossy(&text).trim().replace('\n', "; ")
    }

    /// The address of the disk.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.folder.join("nbd.sock").display())
    }

    /// Ends the process (politely, then not) and removes folder and password.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

impl Drop for VddkServer {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// nbdkit's arguments (nbdkit-vddk-plugin(1)): read-only, in the foreground, ends with its parent.
fn arguments(
    disk: &VddkSource,
    socket: &Path,
    password_file: &Path,
    libdir: Option<&Path>,
) -> Result<Vec<OsString>> {
    let VddkSource {
        server,
        port,
        username,
        password_secret: _,
        thumbprint,
        vm_moref,
        snapshot_moref,
        file,
        modes,
    } = disk;
    for (what, value) in [("vm", vm_moref), ("snapshot", snapshot_moref), ("file", file), ("server", server)]
    {
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(Error::invalid(format!("the plugin's VDDK descriptor has an unusable {what}")));
        }
    }
    let mut arguments: Vec<OsString> =
        ["--foreground", "--exit-with-parent", "--readonly", "--newstyle", "--unix"]
            .into_iter()
            .map(OsString::from)
            .collect();
    arguments.push(socket.into());
    arguments.push("vddk".into());
    let mut set = |key: &str, value: &std::ffi::OsStr| {
        let mut argument = OsString::from(key);
        argument.push("=");
        argument.push(value);
        arguments.push(argument);
    };
    if let Some(libdir) = libdir {
        set("libdir", libdir.as_os_str());
    }
    set("server", server.as_ref());
    set("port", port.to_string().as_ref());
    set("user", username.as_ref());
    let mut from_file = OsString::from("+");
    from_file.push(password_file);
    set("password", &from_file);
    set("thumbprint", thumbprint.as_ref());
    set("vm", format!("moref={vm_moref}").as_ref());
    set("snapshot", snapshot_moref.as_ref());
    set("transports", modes.as_ref());
    set("file", file.as_ref());
    Ok(arguments)
}

fn private_folder() -> Result<PathBuf> {
    let name = format!("tidemark-vddk-{}", hex::encode(rand::random::<[u8; 8]>()));
    let folder = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|e| Error::io(format!("creating {}", folder.display()), e))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn disk() -> VddkSource {
        VddkSource {
            server: "vc.example".to_owned(),
            port: 443,
            username: "backup@vsphere.local".to_owned(),
            password_secret: "password".to_owned(),
            thumbprint: "AA:BB".to_owned(),
            vm_moref: "vm-10".to_owned(),
            snapshot_moref: "snapshot-3".to_owned(),
            file: "[ds 1] web/web.vmdk".to_owned(),
            modes: "nbdssl:nbd".to_owned(),
        }
    }

    #[test]
    fn the_arguments_are_structured_and_hold_no_password() {
        let args =
            arguments(&disk(), Path::new("/r/s"), Path::new("/r/p"), Some(Path::new("/opt/vddk"))).unwrap();
        let args: Vec<_> = args.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(
            args,
            [
                "--foreground",
                "--exit-with-parent",
                "--readonly",
                "--newstyle",
                "--unix",
                "/r/s",
                "vddk",
                "libdir=/opt/vddk",
                "server=vc.example",
                "port=443",
                "user=backup@vsphere.local",
                "password=+/r/p",
                "thumbprint=AA:BB",
                "vm=moref=vm-10",
                "snapshot=snapshot-3",
                "transports=nbdssl:nbd",
                "file=[ds 1] web/web.vmdk",
            ]
        );
        let mut odd = disk();
        odd.file = "a\nb".to_owned();
        assert_eq!(
            arguments(&odd, Path::new("/s"), Path::new("/p"), None).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }

    /// A stand-in for nbdkit that records how it was called and then serves through the real one.
    fn recording_nbdkit(dir: &Path, body: &str) -> VddkOptions {
        let script = dir.join("nbdkit-stand-in");
        std::fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        VddkOptions { nbdkit: script, libdir: None }
    }

    #[tokio::test]
    async fn the_server_is_called_as_documented_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("record");
        let body = format!(
            "printf '%s\\n' \"$@\" > {record}\n\
             for a in \"$@\"; do case $a in password=+*) stat -c %a \"${{a#password=+}}\" > {record}.mode; \
             cat \"${{a#password=+}}\" > {record}.password;; esac; done\n\
             exec nbdkit --foreground --exit-with-parent --readonly --unix \"$6\" memory size=1M",
            record = record.display()
        );
        let options = recording_nbdkit(dir.path(), &body);
        let server = VddkServer::start(&disk(), "s3cret", &options).await.unwrap();
        let folder = server.folder.clone();
        let client =
            tidemark_nbd::Client::connect(tidemark_nbd::ClientOptions::new(server.uri().parse().unwrap()))
                .await
                .unwrap();
        assert_eq!(client.size().0, 1 << 20);
        client.close().await;
        server.stop().await;
        assert!(!folder.exists(), "socket and password are gone");
        let called = std::fs::read_to_string(&record).unwrap();
        assert!(!called.contains("s3cret") && called.contains("snapshot=snapshot-3"), "{called}");
        assert_eq!(std::fs::read_to_string(record.with_extension("mode")).unwrap().trim(), "600");
        assert_eq!(std::fs::read_to_string(record.with_extension("password")).unwrap(), "s3cret");
    }

    #[tokio::test]
    async fn a_failing_server_says_why_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("socket");
        let body =
            format!("echo \"$6\" > {}; echo 'libvixDiskLib.so.8: not found' >&2; exit 1", record.display());
        let options = recording_nbdkit(dir.path(), &body);
        let error = VddkServer::start(&disk(), "s3cret", &options).await.err().unwrap();
        assert!(error.to_string().contains("libvixDiskLib.so.8: not found"), "{error}");
        let socket = std::fs::read_to_string(&record).unwrap();
        assert!(!Path::new(socket.trim()).parent().unwrap().exists());
    }
}
