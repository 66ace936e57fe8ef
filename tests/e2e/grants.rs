//! Plugins do nothing that was not granted, and the audit trail says who tried.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemark_tests::process::wait_for;
use tidemark_tests::site::{CONNECTOR, Site, SiteOptions, VM, grant_simulator};

use crate::disks;

#[test]
fn without_a_grant_a_plugin_reaches_nobody() -> Result<()> {
    let site = Site::start(SiteOptions { without_grants: true, ..SiteOptions::default() }, disks::two)?;
    let cli = site.server.cli()?;
    let refused = cli.outcome(&["connector", "discover", CONNECTOR])?;
    ensure!(refused.code == 1, "{refused:?}");
    ensure!(format!("{}{}", refused.stdout, refused.stderr).contains("denied"), "{refused:?}");
    // What a plugin was refused is written beside its call, not before its answer.
    let denial = wait_for("the denial in the audit trail", Duration::from_secs(30), || {
        let audit = site.rest().get("/api/v1/audit")?.expect(200)?;
        let entries = audit["entries"].as_array().context("'entries'")?;
        Ok(entries.iter().find(|entry| entry["outcome"] == "denied").cloned())
    })?;
    ensure!(denial["actor"].as_str().is_some_and(|actor| actor.contains("vcenter")), "{denial}");

    grant_simulator(&cli, &site.simulator)?;
    cli.run(&["connector", "discover", CONNECTOR])?;
    cli.run(&["vm", "add", CONNECTOR, VM])?;
    let backup = site.backup("full")?;
    site.restores_to(&backup, &site.freeze("now")?)?;
    site.finish(&["denied"])
}
