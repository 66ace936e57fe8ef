//! Long random histories against a model: guests write, trim and grow disks; backups, deletions, synthetic fulls and
//! verifications run in any order; the server dies at steps of all of them. The model keeps a copy of every disk at
//! every moment that was backed up. Whatever happened: every backup that the catalog calls good restores equal, every
//! object is a clean image, and nothing unfinished stays.
//!
//! `TIDEMARK_HISTORY_SEED` repeats a history, `TIDEMARK_HISTORY_STEPS` makes it longer (`make soak`).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tidemark_tests::disk::{Fill, RawDisk, bytes, identical};
use tidemark_tests::process::wait_for;
use tidemark_tests::qemu;
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::site::{REPOSITORY, Site, SiteOptions, VM};

use crate::disks::MIB;
use crate::{chain_crash, crash};

const SEED: u64 = 3;
const STEPS: u32 = 45;
/// What a server that is killed again and again may say.
const COMPLAINTS: &[&str] = &["recover", "interrupted", "undo", "lease", "abort", "the chain"];
const LONG: Duration = Duration::from_secs(120);

/// The product beside what it must give back.
struct History {
    site: Site,
    random: SmallRng,
    /// Each backup's disks as they were, by its id.
    truths: BTreeMap<String, Vec<RawDisk>>,
    moments: u32,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Event {
    Write,
    Trim,
    Grow,
    Backup(&'static str),
    Delete,
    Synthesize,
    Verify,
    DieInBackup,
    DieInDeletion,
    DieInSynthesis,
}

/// What a history is made of; what stands more often happens more often.
const EVENTS: &[Event] = &[
    Event::Write,
    Event::Write,
    Event::Write,
    Event::Trim,
    Event::Grow,
    Event::Backup("auto"),
    Event::Backup("auto"),
    Event::Backup("auto"),
    Event::Backup("incremental"),
    Event::Backup("incremental"),
    Event::Backup("full"),
    Event::Delete,
    Event::Delete,
    Event::Synthesize,
    Event::Verify,
    Event::DieInBackup,
    Event::DieInDeletion,
    Event::DieInSynthesis,
];

#[test]
fn every_good_backup_of_a_random_history_restores_equal() -> Result<()> {
    let seed = number("TIDEMARK_HISTORY_SEED").unwrap_or(SEED);
    let steps = number("TIDEMARK_HISTORY_STEPS").unwrap_or(u64::from(STEPS));
    println!("history of {steps} events from seed {seed}");
    let mut history = History::begin(seed)?;
    for step in 0..steps {
        let event = *EVENTS.choose(&mut history.random).context("an event")?;
        history
            .happens(event)
            .and_then(|()| history.judge())
            .with_context(|| format!("event {step}, {event:?}, of the history from seed {seed}"))?;
    }
    history.judge_all()?;
    history.site.finish(COMPLAINTS)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

impl History {
    fn begin(seed: u64) -> Result<Self> {
        let site = Site::start(SiteOptions::default(), |folder| {
            let system = RawDisk::create(&folder.join("system.raw"), 12 * MIB)?;
            system.write(MIB, &bytes(Fill::Text(1), 3 << 20))?;
            let data = RawDisk::create(&folder.join("data.raw"), 5 * MIB + 512)?;
            data.write(0, &bytes(Fill::Noise(2), 2 << 20))?;
            Ok(vec![system, data])
        })?;
        let mut history =
            Self { site, random: SmallRng::seed_from_u64(seed), truths: BTreeMap::new(), moments: 0 };
        history.backup("full")?;
        Ok(history)
    }

    fn happens(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Write => self.write(),
            Event::Trim => self.trim(),
            Event::Grow => self.grow(),
            Event::Backup(kind) => self.backup(kind),
            Event::Delete => self.delete(),
            Event::Synthesize => self.synthesize(),
            Event::Verify => self.verify(),
            Event::DieInBackup => {
                let step = *crash::STEPS.choose(&mut self.random).context("a step")?;
                let body = json!({"vm_name": VM, "repository_id": REPOSITORY, "backup_type": "auto"});
                self.dies(step, "/api/v1/backups", &body)
            }
            Event::DieInDeletion => {
                let Some(doomed) = self.some_backups()? else { return Ok(()) };
                let (step, _) = *chain_crash::STEPS.choose(&mut self.random).context("a step")?;
                self.dies(step, "/api/v1/backups/actions/delete", &json!({ "backup_ids": doomed }))
            }
            Event::DieInSynthesis => {
                let Some(id) = self.an_incremental()? else { return Ok(()) };
                let (step, _) = *chain_crash::STEPS.choose(&mut self.random).context("a step")?;
                self.dies(step, &format!("/api/v1/backups/{id}/actions/synthesize"), &json!({}))
            }
        }
    }

    fn write(&mut self) -> Result<()> {
        for _ in 0..self.random.random_range(1..5) {
            let disk = self.random.random_range(0..2);
            let size = self.site.disks[disk].size();
            let length = self.random.random_range(1..300_000_u64).min(size);
            let offset = self.random.random_range(0..=size - length);
            let seed = self.random.random();
            let fill = if self.random.random() { Fill::Noise(seed) } else { Fill::Text(seed >> 30) };
            let mut content = bytes(fill, usize::try_from(length)?);
            if self.random.random_ratio(1, 4) {
                content.fill(0);
            }
            self.site.guest_writes(disk, offset, &content)?;
        }
        Ok(())
    }

    /// A trimmed range reads as zero in the simulator; on the grid, so that it frees what it covers.
    fn trim(&mut self) -> Result<()> {
        let disk = self.random.random_range(0..2);
        let clusters = self.site.disks[disk].size() / 65536;
        let first = self.random.random_range(0..clusters - 1);
        let count = self.random.random_range(1..=(clusters - first).min(20));
        let (offset, length) = (first * 65536, count * 65536);
        self.site.disks[disk].write(offset, &vec![0; usize::try_from(length)?])?;
        self.site.simulator.trim(VM, disk, offset, length)
    }

    fn grow(&mut self) -> Result<()> {
        // Seldom: each makes the next backup a full.
        if !self.random.random_ratio(1, 3) {
            return Ok(());
        }
        let disk = &mut self.site.disks[0];
        let size = disk.size() + 192 * 1024;
        self.site.simulator.fault("Resize", Some(&format!("{VM}/0={size}")), 1)?;
        std::fs::File::options().write(true).open(disk.path())?.set_len(size)?;
        *disk = RawDisk::open(disk.path())?;
        Ok(())
    }

    fn backup(&mut self, kind: &str) -> Result<()> {
        let truth = self.freeze()?;
        let backup = self.site.backup(kind)?;
        self.truths.insert(backup.id, truth);
        Ok(())
    }

    fn delete(&mut self) -> Result<()> {
        let Some(doomed) = self.some_backups()? else { return Ok(()) };
        let body = json!({ "backup_ids": doomed });
        let answer = self.site.rest().post("/api/v1/backups/actions/delete", &body)?.expect(202)?;
        self.must_succeed(&answer)?;
        let left = self.ids()?;
        ensure!(doomed.iter().all(|id| !left.contains(id)), "{doomed:?} were deleted, {left:?} are left");
        Ok(())
    }

    fn synthesize(&mut self) -> Result<()> {
        let Some(id) = self.an_incremental()? else { return Ok(()) };
        let path = format!("/api/v1/backups/{id}/actions/synthesize");
        let answer = self.site.rest().post(&path, &json!({}))?.expect(202)?;
        self.must_succeed(&answer)?;
        let backup = self.site.view(&id)?;
        ensure!(backup.detail["backup_type"] == "full", "a synthetic full: {backup:?}");
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        let ids = self.ids()?;
        let Some(id) = ids.choose(&mut self.random) else { return Ok(()) };
        self.site.server.cli()?.run(&["backup", "verify", id, "--level", "deep"]).map(drop)
    }

    /// The server dies when the work reaches `step`, or ends the work where it never does; then it is started again.
    fn dies(&mut self, step: &str, path: &str, body: &Value) -> Result<()> {
        let truth = self.freeze()?;
        let fatal = vec![("TIDEMARK_ABORT_AT_STEP".to_owned(), step.to_owned())];
        self.restart(fatal)?;
        let answer = self.site.rest().post(path, body)?.expect(202)?;
        let job = answer["job_id"].as_str().context("a job_id")?.to_owned();
        wait_for("the fail point or the job's end", LONG, || {
            let died = !self.site.server.is_running();
            let ended = || self.site.job(&job).is_ok_and(|job| job["ended_at"].is_string());
            Ok((died || ended()).then_some(()))
        })?;
        self.restart(Vec::new())?;
        self.site.ended_job(&job)?;
        wait_for("the clean-up", LONG, || Ok(self.site.nothing_left_behind().ok()))
            .with_context(|| format!("after dying at {step}"))?;
        for id in self.ids()? {
            self.truths.entry(id).or_insert_with(|| truth.clone());
        }
        Ok(())
    }

    fn restart(&mut self, environment: Vec<(String, String)>) -> Result<()> {
        let folder = self.site.folder().to_path_buf();
        let options = ServerOptions { folder, environment, ..ServerOptions::default() };
        self.site.server.stop()?;
        self.site.server = Server::start(&options)?;
        Ok(())
    }

    /// All objects are sound; the newest good backup and one more restore equal.
    fn judge(&mut self) -> Result<()> {
        let known = self.ids()?;
        self.truths.retain(|id, _| known.contains(id));
        for image in self.site.stored(".qcow2")? {
            qemu::check(&image)?;
        }
        let newest = self.good()?.into_iter().next();
        let another = self.good()?.choose(&mut self.random).cloned();
        for id in newest.iter().chain(&another) {
            self.restores(id)?;
        }
        Ok(())
    }

    fn judge_all(&mut self) -> Result<()> {
        let good = self.good()?;
        ensure!(good.len() == self.ids()?.len(), "nothing was damaged here, and nothing may be called so");
        for id in good {
            self.restores(&id)?;
            self.site.server.cli()?.run(&["backup", "verify", &id, "--level", "deep"])?;
        }
        Ok(())
    }

    fn restores(&self, id: &str) -> Result<()> {
        let Some(truth) = self.truths.get(id) else { bail!("backup {id} is of no known moment") };
        for (index, wanted) in truth.iter().enumerate() {
            let to = self.site.folder().join(format!("{id}-{index}.raw"));
            let (file, number) = (to.to_string_lossy(), index.to_string());
            self.site.server.cli()?.run(&["restore", "disk", id, "--disk", &number, "--to", &file])?;
            identical(wanted.path(), &to).with_context(|| format!("disk {index} of backup {id}"))?;
            std::fs::remove_file(&to)?;
        }
        Ok(())
    }

    fn freeze(&mut self) -> Result<Vec<RawDisk>> {
        self.moments += 1;
        self.site.freeze(&format!("moment-{}", self.moments))
    }

    fn must_succeed(&self, answer: &Value) -> Result<()> {
        let job = self.site.ended_job(answer["job_id"].as_str().context("a job_id")?)?;
        ensure!(job["status"] == "succeeded", "{job}");
        Ok(())
    }

    /// One to three backups, never all.
    fn some_backups(&mut self) -> Result<Option<Vec<String>>> {
        let ids = self.ids()?;
        let count = self.random.random_range(1..=3).min(ids.len().saturating_sub(1));
        Ok((count > 0).then(|| ids.sample(&mut self.random, count).cloned().collect()))
    }

    fn an_incremental(&mut self) -> Result<Option<String>> {
        let backups = self.site.backups()?;
        let incrementals: Vec<&Value> =
            backups.iter().filter(|backup| backup["backup_type"] == "incremental").collect();
        let chosen = incrementals.choose(&mut self.random);
        Ok(chosen.and_then(|backup| backup["backup_id"].as_str()).map(str::to_owned))
    }

    /// All backups, the newest first.
    fn ids(&self) -> Result<Vec<String>> {
        self.ids_where(|_| true)
    }

    fn good(&self) -> Result<Vec<String>> {
        self.ids_where(|backup| backup["status"] == "completed")
    }

    fn ids_where(&self, wanted: impl Fn(&Value) -> bool) -> Result<Vec<String>> {
        let backups = self.site.backups()?;
        let ids = backups
            .iter()
            .filter(|backup| wanted(backup))
            .map(|backup| backup["backup_id"].as_str().map(str::to_owned).context("a backup_id"));
        ids.collect()
    }
}
