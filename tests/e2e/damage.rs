//! Stored bytes go bad or go away behind the product's back. It says which, restores nothing wrong, and begins a new
//! chain by itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::site::{BackupView, REPOSITORY, Site, SiteOptions, add_repository, object_path};

use crate::disks::{self, MIB};

#[test]
fn a_flipped_byte_is_found_and_ends_the_chain() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let (old, at_old) = (site.backup("full")?, site.freeze("old")?);
    let full = site.backup("full")?;
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let incremental = site.backup("incremental")?;
    let object = object_path(&full, 1)?;
    flip_a_byte(&site.repository.join(&object))?;

    let verified = site.server.cli()?.outcome(&["backup", "verify", &incremental.id, "--level", "full"])?;
    ensure!(verified.code == 1, "{verified:?}");
    let words = format!("{}{}", verified.stdout, verified.stderr);
    let name = object.file_name().and_then(|name| name.to_str()).context("a file name")?;
    for word in [full.id.as_str(), "disk 1", name, "digest"] {
        ensure!(words.contains(word), "the finding does not name '{word}': {words}");
    }
    for (backup, status) in [(&old, "completed"), (&full, "damaged"), (&incremental, "damaged")] {
        let seen = site.view(&backup.id)?;
        ensure!(seen.detail["status"] == status, "expected {status}: {}", seen.detail);
    }
    // The other disk is sound, but a backup is refused as a whole.
    for backup in [&full, &incremental] {
        refused(&site, backup, "damaged")?;
    }
    site.restores_to(&old, &at_old)?;
    new_chain(&site, "parent-damaged", None)?;
    site.finish(&["damaged"])
}

#[test]
fn a_missing_object_is_named_and_ends_the_chain() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let incremental = site.backup("incremental")?;
    let object = object_path(&incremental, 0)?;
    fs::remove_file(site.repository.join(&object))?;

    let name = object.file_name().and_then(|name| name.to_str()).context("a file name")?;
    refused(&site, &incremental, name)?;
    site.restores_to(&full, &at_full)?;
    site.guest_writes(1, MIB, &bytes(Fill::Noise(7), 1000))?;
    new_chain(&site, "parent-missing", Some(name))?;
    site.finish(&["missing", "not-found", "failed"])
}

/// An image that lies on another one than its manifest says is reported by an import, not taken in.
#[test]
fn an_import_refuses_an_image_on_the_wrong_parent() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::two)?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let incremental = site.backup("incremental")?;
    let image = site.repository.join(object_path(&incremental, 1)?);
    let rebase = ["rebase", "-u", "-b", "another.qcow2", "-F", "qcow2"].map(Path::new);
    tidemark_tests::process::tool("qemu-img", rebase.into_iter().chain([image.as_path()]))?;
    site.server.finish(&[])?;
    let folder = site.folder.path().to_path_buf();
    fs::remove_dir_all(folder.join("data"))?;
    site.server = Server::start(&ServerOptions { folder, ..ServerOptions::default() })?;
    let cli = site.server.cli()?;
    add_repository(&cli, &site.repository)?;
    let imported = cli.outcome(&["repository", "import", REPOSITORY])?.expect(3)?;
    let skipped = imported["result"]["skipped"].to_string();
    ensure!(skipped.contains("another.qcow2"), "{imported}");
    ensure!(site.backups()?.len() == 1, "only the full came in");
    site.restores_to(&full, &at_full)?;
    site.finish(&[])
}

/// One byte in the middle of the image's data.
fn flip_a_byte(image: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(image)?;
    let (middle, mut byte) = (file.metadata()?.len() / 2, [0]);
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 0x10], middle)?;
    Ok(())
}

/// A restore of the first disk fails, says why with `word`, and leaves no file.
fn refused(site: &Site, backup: &BackupView, word: &str) -> Result<()> {
    let to = site.folder().join("must-not-exist.raw");
    let file = to.to_string_lossy();
    let outcome =
        site.server.cli()?.outcome(&["restore", "disk", &backup.id, "--disk", "0", "--to", file.as_ref()])?;
    ensure!(outcome.code == 1, "{outcome:?}");
    let words = format!("{}{}", outcome.stdout, outcome.stderr);
    ensure!(words.contains(word), "'{word}' is not in: {words}");
    let left: Vec<_> = fs::read_dir(site.folder())?.filter_map(Result::ok).map(|e| e.file_name()).collect();
    let left = left.iter().any(|name| name.to_string_lossy().contains("must-not-exist"));
    ensure!(!left, "the refused restore left a file");
    Ok(())
}

/// What was to be an incremental is a full with this reason, and the one after it an incremental of that.
fn new_chain(site: &Site, reason_code: &str, names: Option<&str>) -> Result<()> {
    let forced = site.backup("auto")?;
    ensure!(forced.detail["backup_type"] == "full", "{forced:?}");
    ensure!(forced.detail["reason_code"] == reason_code, "{forced:?}");
    let reason = forced.detail["reason"].as_str().context("a reason")?;
    ensure!(names.is_none_or(|name| reason.contains(name)), "the reason names the object: {reason}");
    site.restores_to(&forced, &site.freeze("forced")?)?;
    site.guest_writes(0, 20 * MIB, &bytes(Fill::Noise(9), 5000))?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == forced.id.as_str(), "a new chain begins: {next:?}");
    site.restores_to(&next, &site.freeze("next")?)
}
