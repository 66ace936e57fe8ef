//! The repository runs full in the middle of a backup. The server runs in a mount namespace of its own, where a
//! small tmpfs lies over the repository's folder; nobody needs root for that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::process::tool;
use tidemark_tests::server::ServerOptions;
use tidemark_tests::site::{Site, SiteOptions, files_below};

use crate::disks::{self, MIB};

/// The only file in an empty repository.
const REPOSITORY_MARK: &str = ".tidemark-repository";

#[test]
fn a_full_repository_fails_cleanly_and_recovers() -> Result<()> {
    let Some(namespace) = mount_namespace() else {
        eprintln!("this machine allows no mount namespaces: what a full disk does was not tested");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let script = format!("mount -t tmpfs -o size=24m tmpfs '{}' && exec \"$@\"", folder.path().display());
    let mut wrapper: Vec<String> = namespace.iter().map(|&word| word.to_owned()).collect();
    wrapper.extend(["sh", "-c", &script, "sh"].map(str::to_owned));
    let options = SiteOptions {
        server: ServerOptions { wrapper, ..ServerOptions::default() },
        repository: Some(folder.path().to_path_buf()),
        ..SiteOptions::default()
    };
    let site = Site::start(options, too_much)?;
    // Seen from inside the server's namespace.
    let inside = PathBuf::from(format!("/proc/{}/root{}", site.server.pid()?, folder.path().display()));

    let job = site.submit_backup("full")?;
    let ended = site.ended_job(&job)?;
    ensure!(ended["status"] == "failed" && ended["error"]["kind"] == "no-space", "{ended}");
    let message = ended["error"]["message"].as_str().context("a message")?;
    ensure!(message.contains("space"), "{message}");
    ensure!(site.backups()?.is_empty(), "no backup is known");
    let mut left = files_below(&inside, "")?;
    left.retain(|file| file.file_name().is_none_or(|name| name != REPOSITORY_MARK));
    ensure!(left.is_empty(), "the space was given back: {left:?}");
    ensure!(site.simulator.snapshots(tidemark_tests::site::VM)?.is_empty(), "the snapshot is gone");

    // The administrator makes room; the same backup runs.
    let pid = site.server.pid()?.to_string();
    let mount = folder.path().to_string_lossy().into_owned();
    let grow = ["-t", &pid, "-m", "-U", "--preserve-credentials", "mount", "-o", "remount,size=96m", &mount];
    let grow: Vec<&str> = if namespace.contains(&"-U") || namespace.iter().any(|word| word.contains('U')) {
        grow.to_vec()
    } else {
        grow.iter().copied().filter(|word| !matches!(*word, "-U" | "--preserve-credentials")).collect()
    };
    tool("nsenter", grow)?;
    let full = site.backup("full")?;
    let image = full.detail["disks"][0]["path"].as_str().context("a path")?;
    let copy = site.folder().join("copied.qcow2");
    fs::copy(format!("/proc/{pid}/root{image}"), &copy)?;
    tidemark_tests::qemu::same_content(site.disks[0].path(), &copy)?;
    site.finish(&["space", "failed"])
}

/// More noise than the repository holds.
fn too_much(folder: &Path) -> Result<Vec<RawDisk>> {
    let disks = disks::busy(folder)?;
    disks[0].write(MIB, &bytes(Fill::Noise(77), 1000))?;
    Ok(disks)
}

/// How this machine gives a process mounts of its own, if it does.
fn mount_namespace() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["unshare", "-m"], &["unshare", "-Urm"]];
    ways.into_iter().find(|way| {
        let mut probe = Command::new(way[0]);
        probe.args(&way[1..]).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
        probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}
