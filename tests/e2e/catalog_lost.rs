//! The catalog is lost; the repository alone brings it back.

use std::fs;

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::site::{REPOSITORY, Site, SiteOptions, VM, add_connector, add_repository};

use crate::disks::{self, MIB};

#[test]
fn a_repository_describes_itself() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::two)?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let (incremental, at_incremental) = (site.backup("incremental")?, site.freeze("incremental")?);

    site.server.finish(&[])?;
    let folder = site.folder.path().to_path_buf();
    fs::remove_dir_all(folder.join("data"))?;
    site.server = Server::start(&ServerOptions { folder: folder.clone(), ..ServerOptions::default() })?;
    let cli = site.server.cli()?;
    add_repository(&cli, &site.repository)?;
    cli.run(&["repository", "import", REPOSITORY])?;

    ensure!(site.backups()?.len() == 2, "both backups are back");
    for (old, frozen) in [(&full, &at_full), (&incremental, &at_incremental)] {
        let found = site.view(&old.id)?;
        for field in
            ["backup_type", "created_at", "reason_code", "parent_backup_id", "stored_bytes", "read_bytes"]
        {
            ensure!(found.detail[field] == old.detail[field], "{field}: {} {}", found.detail, old.detail);
        }
        for disk in 0..2 {
            let (now, then) = (&found.detail["disks"][disk], &old.detail["disks"][disk]);
            ensure!(now["change_id"] == then["change_id"] && now["digest"] == then["digest"], "{now} {then}");
        }
        site.restores_to(&found, frozen)?;
    }
    // Importing again finds nothing new.
    cli.run(&["repository", "import", REPOSITORY])?;
    ensure!(site.backups()?.len() == 2, "a second import adds nothing");

    // With the connector back, the chain goes on where it was.
    add_connector(&cli, &site.simulator, &folder)?;
    cli.run(&["vm", "add", tidemark_tests::site::CONNECTOR, VM])?;
    site.guest_writes(1, MIB, &bytes(Fill::Noise(8), 5000))?;
    let next = site.backup("auto")?;
    ensure!(next.detail["backup_type"] == "incremental", "{next:?}");
    let parent = next.detail["parent_backup_id"].as_str().context("a parent")?;
    ensure!(parent == incremental.id, "the chain goes on: {next:?}");
    site.restores_to(&next, &site.freeze("next")?)?;
    site.finish(&[])
}
