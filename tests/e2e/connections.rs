//! Connections are changed: what is given replaces what was, wrong values are named by their field, and a repository's
//! new place must be that repository.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::site::{CONNECTOR, REPOSITORY, Site, SiteOptions, VM};

use crate::disks::{self, MIB};

#[test]
fn a_repository_moves_only_to_where_its_backups_are() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::two)?;
    let cli = site.server.cli()?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    let place = |folder: &std::path::Path| format!("path={}", folder.display());

    let bare = site.folder().join("bare");
    fs::create_dir(&bare)?;
    let unmarked = cli.outcome(&["repository", "update", REPOSITORY, "--set", &place(&bare)])?;
    ensure!(unmarked.code == 1 && unmarked.stdout.contains("unavailable"), "{unmarked:?}");
    ensure!(fs::read_dir(&bare)?.next().is_none(), "nothing is made there");
    let other = site.folder().join("other");
    cli.run(&["repository", "add", "other", "--plugin", "local", "--set", &place(&other)])?;
    let foreign = cli.outcome(&["repository", "update", REPOSITORY, "--set", &place(&other)])?;
    ensure!(foreign.code == 1 && foreign.stdout.contains("none of the backups"), "{foreign:?}");

    let moved = site.folder().join("moved");
    fs::rename(&site.repository, &moved)?;
    let shown = cli.run(&["repository", "update", REPOSITORY, "--set", &place(&moved)])?;
    ensure!(shown["settings"]["path"] == moved.to_string_lossy().as_ref(), "{shown}");
    site.repository = moved;
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == full.id.as_str(), "the chain goes on: {next:?}");
    site.restores_to(&site.view(&full.id)?, &at_full)?;
    site.restores_to(&next, &site.freeze("next")?)?;
    site.finish(&[])
}

#[test]
fn wrong_values_are_named_by_their_field() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let rest = site.rest();
    let connector = format!("/api/v1/connectors/{CONNECTOR}/actions/update");
    let repository = format!("/api/v1/repositories/{REPOSITORY}/actions/update");
    for (path, body, field) in [
        (&connector, json!({"settings": {"port": "many"}}), "settings.port"),
        (&connector, json!({"settings": {"prot": 1}}), "settings.prot"),
        (&connector, json!({"secrets": {"password": ""}}), "secrets.password"),
        (&connector, json!({"bandwidth_bytes_per_second": 1_048_576}), "bandwidth_bytes_per_second"),
        (&connector, json!({"max_disks": -1}), "max_disks"),
        (&repository, json!({"max_disks": "one"}), "max_disks"),
        (&repository, json!({"bandwidth_bytes_per_second": 1}), "bandwidth_bytes_per_second"),
        (&repository, json!({"settings": {"path": 5}}), "settings.path"),
    ] {
        let answer = rest.post(path, &body)?;
        let problem = answer.json()?;
        ensure!(answer.status == 400 && problem["field"] == field, "{body}: {answer:?}");
    }
    let shown = rest.post(&connector, &json!({"max_disks": 3}))?.expect(200)?;
    ensure!(shown["max_disks"] == 3 && shown["settings"]["transport"] == "nbd", "{shown}");
    let shown = rest.post(&connector, &json!({"max_disks": 0}))?.expect(200)?;
    ensure!(shown["max_disks"].is_null(), "0 takes the bound away: {shown}");
    let both = json!({"max_disks": 2, "bandwidth_bytes_per_second": 1_048_576});
    let shown = rest.post(&repository, &both)?.expect(200)?;
    ensure!(shown["max_disks"] == 2 && shown["bandwidth_bytes_per_second"] == 1_048_576, "{shown}");
    rest.post(&repository, &json!({"max_disks": 0, "bandwidth_bytes_per_second": 0}))?.expect(200)?;

    // Bodies of the routes that were kept may hold more than we know; what is not known is told.
    let order = json!({"vm_name": VM, "repository_id": REPOSITORY, "backup_type": "full", "bandwith": 5});
    let started = rest.post("/api/v1/backups", &order)?.expect(202)?;
    let warned = started["warnings"][0].as_str().unwrap_or_default();
    ensure!(warned.contains("bandwith"), "{started}");
    let job = started["job_id"].as_str().unwrap_or_default();
    ensure!(site.ended_job(job)?["status"] == "succeeded");
    site.finish(&[])
}
