//! On a file system that shares extents, a merge takes almost no space: XFS and Btrfs on loop devices.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::process::tool;
use tidemark_tests::site::{REPOSITORY, Site, SiteOptions, files_below};

use crate::disks::{self, MIB};

/// A file system on a loop device, unmounted with this.
struct LoopMount {
    folder: tempfile::TempDir,
}

impl LoopMount {
    /// None, said aloud, where this machine cannot mount it.
    fn of(kind: &str) -> Result<Option<Self>> {
        let folder = tempfile::Builder::new().prefix("tidemark-loop-").tempdir()?;
        let (image, at) = (folder.path().join("image"), folder.path().join("mount"));
        RawDisk::create(&image, 640 * MIB)?;
        fs::create_dir(&at)?;
        let made = tool(&format!("mkfs.{kind}"), [Path::new("-q"), &image])
            .and_then(|_| tool("mount", [Path::new("-o"), Path::new("loop"), &image, &at]));
        match made {
            Ok(_) => Ok(Some(Self { folder })),
            Err(error) => {
                eprintln!("SKIPPED: this machine cannot mount {kind} on a loop device: {error:#}");
                Ok(None)
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    /// Bytes in use on the file system.
    fn used(&self) -> Result<u64> {
        tool("sync", ["-f".as_ref(), self.path().as_path()])?;
        let stat =
            tool("stat", ["-f", "-c", "%S %b %f"].map(Path::new).into_iter().chain([self.path().as_path()]))?;
        let figures: Vec<u64> = stat.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [block, blocks, free] = figures.as_slice() else { anyhow::bail!("stat said {stat}") };
        Ok((blocks - free) * block)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        // A second one cleans up where the first came too early.
        for _ in 0..20 {
            if tool("umount", [self.path()]).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
    }
}

#[test]
fn a_merge_shares_extents_on_xfs() -> Result<()> {
    shares_extents("xfs")
}

#[test]
fn a_merge_shares_extents_on_btrfs() -> Result<()> {
    shares_extents("btrfs")
}

fn shares_extents(kind: &str) -> Result<()> {
    let Some(mount) = LoopMount::of(kind)? else { return Ok(()) };
    let repository = Some(mount.path().join("repository"));
    let site = Site::start(SiteOptions { repository, ..SiteOptions::default() }, disks::busy)?;
    let mut points = vec![(site.backup("full")?, site.freeze("p0")?)];
    for round in 1..5_u64 {
        site.guest_writes(0, round * 9 * MIB, &bytes(Fill::Noise(round), 2 << 20))?;
        site.guest_writes(0, round * 11 * MIB, &bytes(Fill::Text(round), 1 << 20))?;
        points.push((site.backup("incremental")?, site.freeze(&format!("p{round}"))?));
    }
    let apparent = || -> Result<u64> {
        let files = files_below(&mount.path(), ".qcow2")?;
        files.iter().map(|file| Ok(fs::metadata(file)?.len())).sum()
    };
    let shown = || site.server.cli()?.run(&["repository", "show", REPOSITORY]);
    let before = shown()?;
    ensure!(before["space"]["objects_bytes"].as_u64() >= Some(apparent()?), "{before}");
    let (used, size) = (mount.used()?, apparent()?);
    let newest = points.last().context("a newest")?.0.id.clone();
    let made = site.server.cli()?.run(&["backup", "synthesize", &newest])?;
    let result = &made["result"];
    ensure!(result["shares_extents"] == true, "{kind}: {result}");
    let (used_more, size_more) = (mount.used()?.saturating_sub(used), apparent()? - size);
    eprintln!(
        "{kind}: images {} MiB larger, the file system {} KiB fuller",
        size_more >> 20,
        used_more >> 10
    );
    ensure!(size_more >= 50 * MIB, "{kind}: a full beside a full, {size_more} bytes more");
    ensure!(used_more <= 4 * MIB, "{kind}: {used_more} bytes more are in use for {size_more} apparent ones");
    let told = result["shared_bytes"].as_u64().context("shared_bytes")?;
    ensure!(told >= 50 * MIB && result["written_bytes"].as_u64().is_some_and(|w| w < 4 * MIB), "{result}");
    let after = shown()?;
    let grown = |field: &str| {
        let bytes = |shown: &serde_json::Value| shown["space"][field].as_u64().unwrap_or(0);
        bytes(&after).saturating_sub(bytes(&before))
    };
    ensure!(grown("objects_bytes") >= 50 * MIB, "{kind}: {before} {after}");
    ensure!(grown("file_system_used_bytes") <= 6 * MIB, "{kind}: {before} {after}");
    for (backup, frozen) in &points {
        site.restores_to(&site.view(&backup.id)?, frozen)?;
    }
    site.server.cli()?.run(&["backup", "verify", &newest, "--level", "deep"])?;
    let ids: Vec<&str> = points[..4].iter().map(|(backup, _)| backup.id.as_str()).collect();
    site.server.cli()?.run(&[&["backup", "delete"], ids.as_slice()].concat())?;
    let (newest, frozen) = points.last().context("a newest")?;
    site.restores_to(&site.view(&newest.id)?, frozen)?;
    site.finish(&[])
}
