//! A connector that turns bad in the middle of its backups. Its fulls are good; then the changes it reports are
//! nonsense, or it does not answer at all. Each such job fails as the plugin's fault, nothing is left behind, and good
//! connectors on the same server are not disturbed.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidemark_tests::binaries::guest;
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::nbd::NbdServer;
use tidemark_tests::process::wait_for;
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks;

const LONG: Duration = Duration::from_secs(60);
/// The size of the guest's only disk.
const CAPACITY: u64 = 1 << 20;
/// The guest's only VM. Each connection shows it anew, so only ids tell those VMs apart.
const HOSTILE_VM: &str = "static-1";

/// What the reported changes look like.
const NONSENSE: [&str; 8] = [
    "unsorted",
    "overlapping",
    "beyond",
    "overflow",
    "empty-extent",
    "complete-beyond",
    "outside-page",
    "stuck-page",
];

/// What else it does, and in which call of a backup.
const MISDEEDS: [(&str, &str); 7] = [
    ("trap", "preflight"),
    ("memory", "create-snapshot"),
    ("stack", "open-disk"),
    ("trap", "changed-areas"),
    ("memory", "changed-areas"),
    ("stack", "changed-areas"),
    ("loop", "changed-areas"),
];

#[test]
fn reported_nonsense_fails_the_incremental_and_nothing_else() -> Result<()> {
    let (site, source) = site()?;
    for misdeed in NONSENSE {
        let vm = connect(&site, &source.url(), misdeed, "changed-areas")?;
        good_full_then_failed_incremental(&site, &vm).with_context(|| misdeed.to_owned())?;
    }
    others_go_on(&site)?;
    source.stop()?;
    site.finish(&["hostile"])
}

#[test]
fn a_connector_that_does_not_answer_fails_its_job_and_nothing_else() -> Result<()> {
    let (site, source) = site()?;
    let good = connect(&site, &source.url(), "nothing", "nowhere")?;
    for (misdeed, place) in MISDEEDS {
        // A version that misbehaves twice in a row is not used any more: a good job in between.
        let between = ended(&site, &good, "full")?;
        ensure!(between["status"] == "succeeded", "{between}");
        let vm = connect(&site, &source.url(), misdeed, place)?;
        let tried = if place == "changed-areas" {
            good_full_then_failed_incremental(&site, &vm)
        } else {
            fails_by_the_plugin(&site, &vm, "full", place)
        };
        tried.with_context(|| format!("{misdeed} in {place}"))?;
    }
    others_go_on(&site)?;
    source.stop()?;
    site.finish(&["hostile"])
}

#[test]
fn a_source_that_was_not_granted_is_never_contacted() -> Result<()> {
    let (site, source) = site()?;
    // Somebody listens there: were it contacted, it would see that.
    let elsewhere = TcpListener::bind("127.0.0.1:0")?;
    elsewhere.set_nonblocking(true)?;
    let address = elsewhere.local_addr()?;
    let vm = connect(&site, &format!("nbd://{address}/disk"), "", "")?;
    let failed = ended(&site, &vm, "full")?;
    ensure!(failed["status"] == "failed" && failed["error"]["kind"] == "denied", "{failed}");
    ensure!(elsewhere.accept().is_err(), "the host spoke to a server that was not granted");
    let refused = wait_for("the denial in the audit trail", LONG, || {
        let audit = site.rest().get("/api/v1/audit")?.expect(200)?;
        let entries = audit["entries"].as_array().context("'entries'")?;
        Ok(entries.iter().find(|entry| entry["outcome"] == "denied").cloned())
    })?;
    ensure!(refused.to_string().contains(&address.to_string()), "{refused}");
    others_go_on(&site)?;
    source.stop()?;
    site.finish(&["hostile"])
}

/// A site where the hostile plugin is installed and may read one disk.
fn site() -> Result<(Site, NbdServer)> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let disk = RawDisk::create(&site.folder().join("hostile.raw"), CAPACITY)?;
    disk.write(0, &bytes(Fill::Noise(50), 300_000))?;
    let source = NbdServer::start(disk.path())?;
    let cli = site.server.cli()?;
    let component = guest("connector")?;
    cli.run(&["plugin", "install", component.to_string_lossy().as_ref()])?;
    cli.run(&["plugin", "activate", "hostile", "0.1.0"])?;
    cli.run(&["plugin", "grant", "hostile", &source.capability()])?;
    Ok((site, source))
}

/// Adds a connection that misbehaves, and its VM; answers the VM's id.
fn connect(site: &Site, url: &str, misdeed: &str, place: &str) -> Result<String> {
    let cli = site.server.cli()?;
    let name = format!("hostile-{misdeed}-{place}");
    let settings = [format!("behave={misdeed}"), format!("in={place}"), format!("nbd_url={url}")];
    let mut args = vec!["connector", "add", &name, "--plugin", "hostile"];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
    cli.run(&args)?;
    let added = cli.run(&["vm", "add", &name, HOSTILE_VM])?;
    added["vms"][0]["id"].as_str().map(str::to_owned).with_context(|| format!("no id in {added}"))
}

fn good_full_then_failed_incremental(site: &Site, vm: &str) -> Result<()> {
    let full = ended(site, vm, "full")?;
    ensure!(full["status"] == "succeeded", "{full}");
    fails_by_the_plugin(site, vm, "incremental", "changed-areas")?;
    let known = site.rest().get(&format!("/api/v1/backups?vm_name={vm}"))?.expect(200)?;
    let known = known["backups"].as_array().context("'backups'")?;
    ensure!(known.len() == 1 && known[0]["backup_type"] == "full", "the full only: {known:?}");
    // What was good before stays good: the guest's bytes are those of the source.
    let id = known[0]["backup_id"].as_str().context("a backup_id")?;
    site.restores_to(&site.view(id)?, &[RawDisk::open(&site.folder().join("hostile.raw"))?])
}

fn fails_by_the_plugin(site: &Site, vm: &str, backup_type: &str, place: &str) -> Result<()> {
    let stored = site.stored("")?;
    let failed = ended(site, vm, backup_type)?;
    ensure!(failed["status"] == "failed" && failed["error"]["kind"] == "plugin", "{failed}");
    let message = failed["error"]["message"].as_str().context("a message")?;
    for word in ["plugin hostile 0.1.0", place] {
        ensure!(message.contains(word), "'{word}' is not in: {message}");
    }
    ensure!(site.stored("")? == stored, "the failed job left files");
    Ok(())
}

fn ended(site: &Site, vm: &str, backup_type: &str) -> Result<Value> {
    site.ended_job(&site.submit_backup_of(vm, backup_type)?)
}

/// The good connector works on the same server, into the same repository.
fn others_go_on(site: &Site) -> Result<()> {
    let backup = site.backup("full")?;
    site.restores_to(&backup, &site.freeze("now")?)?;
    site.guest_writes(0, 0, &bytes(Fill::Noise(51), 5000))?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == backup.id.as_str(), "{next:?}");
    site.restores_to(&next, &site.freeze("next")?)
}
