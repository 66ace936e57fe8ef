//! The same job with PostgreSQL as the catalog.

use anyhow::{Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::postgres::Postgres;
use tidemark_tests::server::ServerOptions;
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks::{self, MIB};

#[test]
fn the_main_job_runs_on_postgresql() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = Postgres::start(folder.path())?;
    let server = ServerOptions { database_url: Some(database.url()), ..ServerOptions::default() };
    let mut site = Site::start(SiteOptions { server, ..SiteOptions::default() }, disks::two)?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    // What is known is known to the database, not to the process.
    site.server = site.server.restart()?;
    let incremental = site.backup("incremental")?;
    ensure!(incremental.detail["parent_backup_id"] == full.id.as_str(), "{incremental:?}");
    site.restores_to(&full, &at_full)?;
    site.restores_to(&incremental, &site.freeze("now")?)?;
    site.finish(&[])?;
    database.stop()
}
