//! Sudden death at every step of a change of a chain: before the catalog's transaction nothing has changed, after it
//! everything is finished, by this host, by another one, or by an import where the catalog is lost as well.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::postgres::Postgres;
use tidemark_tests::process::wait_for;
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::site::{REPOSITORY, Site, SiteOptions, VM, add_repository, files_below};

use crate::chains::{Point, all_is_well, chain, nothing_else};
use crate::crash::{RECOVERY, dies_at};
use crate::disks::{self, MIB};
use crate::fleet::add_offsite;

/// Every step that a change of a chain records, in order, and whether the change stands then.
pub(crate) const STEPS: [(&str, bool); 5] = [
    ("merge-begun", false),
    ("merge-publishing", false),
    ("chain-committing", false),
    ("chain-renaming", true),
    ("chain-sweeping", true),
];

const LONG: Duration = Duration::from_secs(120);

fn submit_delete(server: &Server, ids: &[&str]) -> Result<()> {
    let body = json!({ "backup_ids": ids });
    server.rest().post("/api/v1/backups/actions/delete", &body)?.expect(202)?;
    Ok(())
}

/// The job that died has ended, and nothing more is left in the repository than belongs to the backups.
fn settled(site: &Site, backups: usize) -> Result<()> {
    wait_for("the recovered job", LONG, || {
        let jobs = site.rest().get("/api/v1/jobs?status=running")?.expect(200)?;
        let quiet = jobs["jobs"].as_array().is_some_and(Vec::is_empty);
        Ok((quiet && site.backups()?.len() == backups && nothing_else(site, backups).is_ok()).then_some(()))
    })
    .with_context(|| format!("{:?}", site.stored("")))?;
    site.nothing_left_behind()
}

#[test]
fn a_deletion_that_dies_happened_or_did_not() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::two)?;
    let points = chain(&site, 4)?;
    let mut kept: Vec<&Point> = points.iter().collect();
    for (step, stands) in STEPS {
        // The second of what is left: a merge into the middle; when that stood once, into the head.
        let gone = kept[kept.len() - 2].0.id.clone();
        site.server =
            dies_at(site.server, site.folder.path(), step, |server| submit_delete(server, &[&gone]))
                .with_context(|| format!("dying at {step}"))?;
        if stands {
            kept.remove(kept.len() - 2);
        }
        settled(&site, kept.len()).with_context(|| format!("after dying at {step}"))?;
        all_is_well(&site, &kept).with_context(|| format!("after dying at {step}"))?;
    }
    site.finish(RECOVERY)
}

#[test]
fn a_synthetic_full_that_dies_happened_or_did_not() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::two)?;
    let points = chain(&site, 3)?;
    let kept: Vec<&Point> = points.iter().collect();
    let id = points[2].0.id.clone();
    for (step, stands) in [("chain-committing", false), ("chain-renaming", true)] {
        site.server = dies_at(site.server, site.folder.path(), step, |server| {
            server
                .rest()
                .post(&format!("/api/v1/backups/{id}/actions/synthesize"), &json!({}))?
                .expect(202)?;
            Ok(())
        })?;
        settled(&site, kept.len()).with_context(|| format!("after dying at {step}"))?;
        let expected = if stands { "full" } else { "incremental" };
        let view = site.view(&id)?;
        ensure!(view.detail["backup_type"] == expected, "after dying at {step}: {view:?}");
        all_is_well(&site, &kept)?;
    }
    site.finish(RECOVERY)
}

/// A copy is known with all of its objects or not at all: dying on the way leaves nothing in the other repository.
#[test]
fn a_copy_that_dies_leaves_nothing_and_is_made_when_asked_again() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::two)?;
    let offsite = site.folder.path().join("offsite");
    add_offsite(&site.server.cli()?, &offsite)?;
    let copy = |server: &Server| {
        let body = json!({ "from": REPOSITORY, "to": "offsite" });
        server.rest().post(&format!("/api/v1/vms/{VM}/actions/copy"), &body)?.expect(202)
    };
    // First the copy of a full, then that of an incremental onto it.
    for known in 0..2 {
        site.guest_writes(0, (3 + known) * MIB, &bytes(Fill::Noise(known), 90_000))?;
        let (point, frozen) = (site.backup("auto")?, site.freeze(&format!("point-{known}"))?);
        for step in ["merge-begun", "merge-publishing", "committing"] {
            let folder = site.folder.path().to_path_buf();
            site.server = dies_at(site.server, &folder, step, |server| copy(server).map(drop))
                .with_context(|| format!("dying at {step}"))?;
            wait_for("the clean-up", LONG, || {
                let jobs = site.rest().get("/api/v1/jobs?status=running")?.expect(200)?;
                let quiet = jobs["jobs"].as_array().is_some_and(Vec::is_empty);
                let left = files_below(&offsite, "")?;
                let objects =
                    left.iter().filter(|path| !path.ends_with(".tidemark-repository")).count() as u64;
                // Two images with their digests and a manifest a copy.
                Ok((quiet && objects == known * 5).then_some(()))
            })
            .with_context(|| format!("after dying at {step}: {:?}", files_below(&offsite, "")))?;
            ensure!(copies(&site)?.len() as u64 == known, "after dying at {step}: {:?}", copies(&site)?);
        }
        let job = copy(&site.server)?["job_ids"][0].as_str().context("a job")?.to_owned();
        ensure!(site.ended_job(&job)?["status"] == "succeeded", "{}", site.job(&job)?);
        let made = copies(&site)?.into_iter().find(|copy| copy["copy_of"] == point.id.as_str());
        let id = made.context("the copy")?["backup_id"].as_str().context("an id")?.to_owned();
        site.restores_to(&site.view(&id)?, &frozen)?;
        site.server.cli()?.run(&["backup", "verify", &id, "--level", "deep"])?;
    }
    site.finish(RECOVERY)
}

fn copies(site: &Site) -> Result<Vec<Value>> {
    Ok(site.backups()?.into_iter().filter(|backup| backup["copy_of"].is_string()).collect())
}

/// Another host that shares the catalog finishes the names and the deleting while the dead one stays away, and ends its job.
#[test]
fn another_host_finishes_what_a_dead_one_changed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = Postgres::start(folder.path())?;
    // Hosts that share a catalog share the key that seals its secrets.
    let key = ("TIDEMARK_SECRET_KEY".to_owned(), "5a".repeat(32));
    let ordinary = ServerOptions {
        database_url: Some(database.url()),
        environment: vec![key],
        ..ServerOptions::default()
    };
    let mut site =
        Site::start(SiteOptions { server: ordinary.clone(), ..SiteOptions::default() }, disks::two)?;
    let points = chain(&site, 3)?;
    site.server.finish(RECOVERY)?;
    let mut fatal = ServerOptions { folder: site.folder.path().to_path_buf(), ..ordinary.clone() };
    fatal.environment.push(("TIDEMARK_ABORT_AT_STEP".to_owned(), "chain-renaming".to_owned()));
    let mut dying = Server::start(&fatal)?;
    submit_delete(&dying, &[&points[1].0.id])?;
    wait_for("the fail point", LONG, || Ok((!dying.is_running()).then_some(())))?;
    let left = files_below(&site.repository, ".qcow2")?;
    ensure!(left.iter().any(|path| path.to_string_lossy().contains(".merged-")), "not named yet: {left:?}");

    // The administrator's token is in the folder of the host that made it, and good at every host.
    let elsewhere = site.folder.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("data"))?;
    fs::copy(site.folder.path().join("data/admin.token"), elsewhere.join("data/admin.token"))?;
    site.server = Server::start(&ServerOptions { folder: elsewhere, ..ordinary })?;
    settled(&site, 2)?;
    all_is_well(&site, &[&points[0], &points[2]])?;
    site.finish(RECOVERY)?;
    database.stop()
}

/// The process dies and the catalog goes with it: the repository still gives every kept backup back.
#[test]
fn a_change_that_died_with_its_catalog_is_imported() -> Result<()> {
    for step in ["chain-committing", "chain-renaming", "chain-sweeping"] {
        let mut site = Site::start(SiteOptions::default(), disks::two)?;
        let points = chain(&site, 3)?;
        let gone = points[1].0.id.clone();
        let folder = site.folder.path().to_path_buf();
        site.server.finish(RECOVERY)?;
        let environment = vec![("TIDEMARK_ABORT_AT_STEP".to_owned(), step.to_owned())];
        let mut server = Server::start(&ServerOptions {
            folder: folder.clone(),
            environment,
            ..ServerOptions::default()
        })?;
        submit_delete(&server, &[&gone])?;
        wait_for("the fail point", LONG, || Ok((!server.is_running()).then_some(())))?;
        fs::remove_dir_all(folder.join("data"))?;
        site.server = Server::start(&ServerOptions { folder, ..ServerOptions::default() })?;
        let cli = site.server.cli()?;
        add_repository(&cli, &site.repository)?;
        cli.run(&["repository", "import", REPOSITORY])?;
        for (backup, frozen) in [&points[0], &points[2]] {
            site.restores_to(&site.view(&backup.id)?, frozen).with_context(|| format!("died at {step}"))?;
        }
        // What was deleted may be back: nobody remembers that it was to go.
        for backup in site.backups()? {
            let id = backup["backup_id"].as_str().context("a backup_id")?;
            site.server.cli()?.run(&["backup", "verify", id, "--level", "deep"])?;
        }
        site.finish(RECOVERY)?;
    }
    Ok(())
}
