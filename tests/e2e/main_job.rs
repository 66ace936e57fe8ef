//! The main job: a VM with two disks, full, guest writes, incremental, everything back bit for bit.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidemark_tests::changes::CLUSTER;
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::qemu;
use tidemark_tests::server::token_file;
use tidemark_tests::site::{BackupView, REPOSITORY, Site, SiteOptions, VM, object_path};

use crate::disks::{self, MIB};

#[test]
fn a_vm_comes_back_bit_for_bit_from_full_and_incremental() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let at_full = site.freeze("full")?;
    let full = site.backup("auto")?;
    ensure!(full.detail["backup_type"] == "full" && full.detail["reason_code"] == "first-backup", "{full:?}");

    let written = guest_works(&site)?;
    let at_incremental = site.freeze("incremental")?;
    let incremental = site.backup("incremental")?;
    ensure!(incremental.detail["backup_type"] == "incremental", "{incremental:?}");
    moved_about(&incremental, written)?;

    // What the guest does afterwards belongs to no backup.
    site.guest_writes(0, 20 * MIB, &bytes(Fill::Noise(9), 64 << 10))?;
    for (backup, frozen) in [(&full, &at_full), (&incremental, &at_incremental)] {
        site.restores_to(backup, frozen)?;
    }
    backing_chain(&site, &full, &incremental)?;
    lists_and_chains(&site, &full, &incremental)?;
    let cli = site.server.cli()?;
    for (backup, level) in [(&full, "quick"), (&incremental, "full"), (&incremental, "deep")] {
        cli.run(&["backup", "verify", &backup.id, "--level", level])?;
    }
    ensure!(site.stored(".json")?.len() == 2, "each backup has a manifest beside its disks");
    token_is_private(&site)?;
    site.finish(&[])
}

#[test]
fn an_unchanged_vm_costs_nothing_and_a_requested_full_says_so() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    site.backup("full")?;
    let second = site.backup("auto")?;
    ensure!(second.detail["backup_type"] == "incremental", "{second:?}");
    moved_about(&second, 0)?;
    let third = site.backup("full")?;
    ensure!(third.detail["reason_code"] == "requested", "{third:?}");
    site.restores_to(&third, &site.freeze("now")?)?;
    site.restores_to(&second, &site.freeze("now")?)?;
    site.finish(&[])
}

#[test]
fn a_long_chain_restores_at_every_link() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let mut links = vec![(site.backup("full")?, site.freeze("link-0")?)];
    for link in 1..=4_u64 {
        // Each link overwrites half of the one before, zeroes a bit and touches one new place.
        site.guest_writes(0, 7 * MIB + link * 32_768, &bytes(Fill::Noise(link), 64 << 10))?;
        site.guest_writes(0, 9 * MIB + link * CLUSTER, &vec![0; 64 << 10])?;
        site.guest_writes(1, 10 * MIB * (link % 3) + 512, &bytes(Fill::Text(link), 700))?;
        links.push((site.backup("auto")?, site.freeze(&format!("link-{link}"))?));
    }
    for (backup, frozen) in &links {
        site.restores_to(backup, frozen)?;
    }
    let last = site.repository.join(object_path(&links[4].0, 0)?);
    ensure!(qemu::chain(&last)?.len() == 5, "five images stand behind the last link");
    site.finish(&[])
}

/// Rewrites, appends and zeroes; answers how many bytes an incremental has to move, in whole clusters.
fn guest_works(site: &Site) -> Result<u64> {
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 300_000))?;
    site.guest_writes(0, 30 * MIB + 100, &bytes(Fill::Text(7), 4096))?;
    // Data becomes zeros: an overlay has to mask what its parent has there.
    site.guest_writes(0, MIB, &vec![0; 128 << 10])?;
    site.guest_writes(1, 33 * MIB, &bytes(Fill::Noise(8), 512))?;
    Ok((5 + 1 + 2) * CLUSTER + 512)
}

/// The incremental read what changed, rounded to clusters, and not the disk's size.
fn moved_about(backup: &BackupView, written: u64) -> Result<()> {
    let read = backup.detail["read_bytes"].as_u64().context("read_bytes")?;
    let stored = backup.detail["stored_bytes"].as_u64().context("stored_bytes")?;
    ensure!(
        (written..=written + 4 * CLUSTER).contains(&read),
        "{read} bytes were read for {written} changed ones"
    );
    ensure!(stored <= written + 16 * CLUSTER, "{stored} bytes are stored for {written} changed ones");
    Ok(())
}

fn backing_chain(site: &Site, full: &BackupView, incremental: &BackupView) -> Result<()> {
    for disk in 0..2 {
        let (base, overlay) = (object_path(full, disk)?, object_path(incremental, disk)?);
        let overlay = site.repository.join(overlay);
        let name = base.file_name().and_then(|name| name.to_str()).context("a file name")?;
        ensure!(
            qemu::backing_name(&overlay)?.as_deref() == Some(name),
            "the backing name is the sibling's own"
        );
        let chain = qemu::chain(&overlay)?;
        ensure!(chain.len() == 2 && chain[1].ends_with(name), "{chain:?}");
        ensure!(qemu::virtual_size(&overlay)? == site.disks[disk].size(), "the capacity is the disk's");
        let folder = overlay.parent().and_then(|path| path.file_name()).context("a folder")?;
        ensure!(folder == format!("disk-{disk}").as_str(), "{}", overlay.display());
        let file = overlay.file_name().and_then(|name| name.to_str()).context("a file name")?;
        ensure!(file.ends_with(&format!("-{}-incr.qcow2", &incremental.id[..8])), "{file}");
    }
    Ok(())
}

fn lists_and_chains(site: &Site, full: &BackupView, incremental: &BackupView) -> Result<()> {
    let rest = site.rest();
    let list = site.backups()?;
    ensure!(list.len() == 2, "one entry a backup, not one a disk: {list:?}");
    for entry in &list {
        ensure!(
            entry["disks_count"] == 2 && entry["vm_name"] == VM && entry["status"] == "completed",
            "{entry}"
        );
    }
    let chain = rest.get(&format!("/api/v1/backups/chain/{VM}"))?.expect(200)?;
    let order: Vec<_> =
        chain["backups"].as_array().context("'backups'")?.iter().map(|b| &b["backup_id"]).collect();
    ensure!(order == [full.id.as_str(), incremental.id.as_str()], "{chain}");
    for disk in 0..2 {
        let recorded = &incremental.detail["disks"][disk]["change_id"];
        ensure!(recorded.as_str().is_some_and(|id| id.contains('/')), "a change id: {recorded}");
        ensure!(*recorded != full.detail["disks"][disk]["change_id"], "the change id moved on");
        let answer =
            rest.get(&format!("/api/v1/backups/changeid?vm_name={VM}&disk_id={disk}"))?.expect(200)?;
        ensure!(answer["change_id"] == *recorded, "{answer}");
    }
    let shown = site.server.cli()?.run(&["backup", "chain", VM])?;
    ensure!(mentions(&shown, &full.id) && mentions(&shown, &incremental.id), "{shown}");
    let repositories = site.server.cli()?.run(&["repository", "list"])?;
    ensure!(mentions(&repositories, REPOSITORY), "{repositories}");
    Ok(())
}

fn mentions(document: &Value, text: &str) -> bool {
    document.to_string().contains(text)
}

fn token_is_private(site: &Site) -> Result<()> {
    let mode = std::fs::metadata(token_file(&site.server.data_folder()))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "the token file has mode {mode:o}");
    Ok(())
}
