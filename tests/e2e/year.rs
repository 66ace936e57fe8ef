//! A year in the life of a fleet, by a clock that jumps from one time of its schedules to the next: guests write, flows
//! fire every six hours and every day, retention merges and deletes, and the three hosts on one PostgreSQL are killed at
//! random again and again. No time is lost or fired twice, every VM has its backup for each time, and everything that is
//! kept restores to what the guest had at that moment.
//!
//! `TIDEMARK_FLEET_DAYS`, `TIDEMARK_FLEET_VMS` and `TIDEMARK_FLEET_DEATHS` make it longer (`make soak-fleet`: a year).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tidemark_tests::binaries::checkout;
use tidemark_tests::disk::{Fill, RawDisk, bytes, identical};
use tidemark_tests::postgres::Postgres;
use tidemark_tests::process::wait_for;
use tidemark_tests::qemu;
use tidemark_tests::server::{Server, ServerOptions, data_folder, token_file};
use tidemark_tests::simulator::{SimulatedVm, Simulator};
use tidemark_tests::site::{add_connector, add_repository, files_below};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const HOSTS: usize = 3;
const SIZE: u64 = 2 << 20;
/// The grid of the more frequent schedule, in milliseconds.
const STEP: i64 = 6 * 3_600_000;
const STEPS_A_DAY: i64 = 4;
const LONG: Duration = Duration::from_secs(180);
/// What hosts may say that are killed again and again.
const COMPLAINTS: &[&str] = &[
    "recover",
    "interrupted",
    "lease",
    "undo",
    "tried again",
    "not all went well",
    "job failed",
    "no VM could",
    "connection",
    "claiming",
];

/// The flows, and how many steps lie between two times of each.
const FLOWS: [(&str, i64, &str); 2] = [
    (
        "often",
        1,
        "repository = 'main'\n[select]\npolicy = 'by-name'\nsettings = { names = ['often*'] }\n\
         [schedule]\ncron = '0 */6 * * *'\n[backup]\nretry_after = '100ms'\nattempts = 8\n\
         [retention]\npolicy = 'gfs'\ngrace = '0s'\nmax_delete_percent = 100\n\
         settings = { last = 4, daily = 7, weekly = 4, monthly = 12, yearly = 0 }\n",
    ),
    (
        "daily",
        STEPS_A_DAY,
        "repository = 'main'\n[select]\npolicy = 'by-name'\nsettings = { names = ['daily*'] }\n\
         [schedule]\ncron = '0 0 * * *'\n[backup]\nretry_after = '100ms'\nattempts = 8\n\
         [retention]\npolicy = 'gfs'\ngrace = '0s'\nmax_delete_percent = 100\n\
         settings = { last = 0, daily = 7, weekly = 4, monthly = 12, yearly = 0 }\n",
    ),
];

/// A guest's write.
struct Write {
    step: i64,
    offset: u64,
    content: Vec<u8>,
}

struct Guest {
    name: String,
    writes: Vec<Write>,
}

/// The fleet beside what it must give back.
struct Year {
    folder: tempfile::TempDir,
    database: Postgres,
    simulator: Simulator,
    hosts: Vec<Server>,
    guests: Vec<Guest>,
    random: SmallRng,
    /// The time of step 0 in milliseconds: a midnight.
    begin: i64,
}

fn number(variable: &str, otherwise: i64) -> i64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn real_now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

#[test]
fn a_fleets_year_loses_no_time_and_every_kept_backup_restores() -> Result<()> {
    let (days, vms) = (number("TIDEMARK_FLEET_DAYS", 6), number("TIDEMARK_FLEET_VMS", 3));
    let (steps, deaths) = (days * STEPS_A_DAY, number("TIDEMARK_FLEET_DEATHS", 5));
    let mut year = Year::begin(usize::try_from(vms)?)?;
    let mut died = 0;
    for step in 0..=steps {
        year.guests_write(step)?;
        year.turn_to(step)?;
        if died < deaths * step / steps.max(1) {
            died += 1;
            year.somebody_dies()?;
        }
        year.settled(step).with_context(|| format!("at step {step} of {steps}"))?;
    }
    ensure!(died == deaths, "{died} deaths");
    for (flow, every, _) in FLOWS {
        year.every_time_once(flow, every, steps)?;
    }
    let restored = year.everything_kept_restores()?;
    println!("{days} days, {vms} VMs, {died} deaths: {restored} kept backups restore bit for bit");
    year.finish()
}

impl Year {
    fn begin(vms: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidemark-year-").tempdir()?;
        let database = Postgres::start(folder.path())?;
        let (mut guests, mut simulated) = (Vec::new(), Vec::new());
        for number in 0..vms {
            let name = if number == 0 { "often00".to_owned() } else { format!("daily{number:02}") };
            let path = folder.path().join(format!("{name}.raw"));
            RawDisk::create(&path, SIZE)?;
            simulated.push(SimulatedVm { name: name.clone(), disks: vec![path] });
            guests.push(Guest { name, writes: Vec::new() });
        }
        let simulator = Simulator::start(folder.path(), &simulated, &[])?;
        let day = STEP * STEPS_A_DAY;
        let mut year = Self {
            begin: (real_now()? / day + 2) * day,
            folder,
            database,
            simulator,
            hosts: Vec::new(),
            guests,
            random: SmallRng::seed_from_u64(11),
        };
        year.set_clock(year.begin - STEP)?;
        for number in 0..HOSTS {
            year.add_host(number)?;
        }
        year.set_up()?;
        Ok(year)
    }

    fn add_host(&mut self, number: usize) -> Result<()> {
        let folder = self.folder.path().join(format!("host-{number}"));
        // The token of the installation is made once, by its first host.
        let data = data_folder(&folder);
        fs::create_dir_all(&data)?;
        if let Some(first) = self.hosts.first() {
            fs::write(token_file(&data), &first.token)?;
        }
        let environment = [
            ("TIDEMARK_TEST_CLOCK", self.clock().display().to_string()),
            // Hosts that share a catalog share the key that seals its secrets.
            ("TIDEMARK_SECRET_KEY", "5a".repeat(32)),
        ];
        self.hosts.push(Server::start(&ServerOptions {
            folder,
            database_url: Some(self.database.url()),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            ..ServerOptions::default()
        })?);
        Ok(())
    }

    fn set_up(&self) -> Result<()> {
        let cli = self.hosts[0].cli()?;
        add_connector(&cli, &self.simulator, self.folder.path())?;
        fs::create_dir_all(self.repository())?;
        add_repository(&cli, &self.repository())?;
        for (kind, folder, name) in [("group", "groups", "by-name"), ("retention", "retention", "gfs")] {
            let file = checkout().join("policies").join(folder).join(format!("{name}.rhai"));
            cli.run(&["policy", "put", name, &file.display().to_string(), "--kind", kind])?;
        }
        for (name, _, definition) in FLOWS {
            let file = self.folder.path().join(format!("{name}.toml"));
            fs::write(&file, definition)?;
            cli.run(&["flow", "create", name, "--file", &file.display().to_string()])?;
        }
        Ok(())
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn clock(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// The hosts' clock shows this moment now, and goes on from there.
    fn set_clock(&self, at: i64) -> Result<()> {
        let next = self.folder.path().join("clock.next");
        fs::write(&next, (at - real_now()?).to_string())?;
        fs::rename(next, self.clock()).context("the clock")
    }

    fn guests_write(&mut self, step: i64) -> Result<()> {
        for guest in &mut self.guests {
            let content = bytes(Fill::Noise(self.random.random()), self.random.random_range(1..40_000));
            let offset = self.random.random_range(0..SIZE - content.len() as u64);
            self.simulator.write(&guest.name, 0, offset, &content)?;
            guest.writes.push(Write { step, offset, content });
        }
        Ok(())
    }

    fn turn_to(&self, step: i64) -> Result<()> {
        self.set_clock(self.begin + step * STEP + 500)
    }

    /// A host dies in the middle of things, and comes back.
    fn somebody_dies(&mut self) -> Result<()> {
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..900)));
        let victim = self.random.random_range(0..HOSTS);
        let dead = self.hosts.remove(victim);
        self.hosts.insert(victim, dead.kill_and_restart()?);
        Ok(())
    }

    /// All that is due by this step has fired and ended.
    fn settled(&self, step: i64) -> Result<()> {
        let host = &self.hosts[0];
        let now =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.begin + step * STEP) * 1_000_000)?;
        let now = now.format(&Rfc3339)?;
        wait_for("the runs to end", LONG, || {
            let flows = host.rest().get("/api/v1/protection-flows")?.expect(200)?;
            let next = |flow: &Value| flow["next_execution"].as_str().unwrap_or_default().to_owned();
            let fired =
                flows["flows"].as_array().is_some_and(|flows| flows.iter().all(|flow| next(flow) > now));
            for state in ["queued", "running"] {
                let jobs = host.rest().get(&format!("/api/v1/jobs?status={state}&limit=1"))?.expect(200)?;
                if !jobs["jobs"].as_array().is_some_and(Vec::is_empty) {
                    return Ok(None);
                }
            }
            Ok(fired.then_some(()))
        })
    }

    /// Each time of a flow fired once, with a run in which every VM got its backup.
    fn every_time_once(&self, flow: &str, every: i64, steps: i64) -> Result<()> {
        let list = self.hosts[0].cli()?.run(&["flow", "firings", flow])?;
        let fired: Vec<&str> = list["firings"]
            .as_array()
            .context("'firings'")?
            .iter()
            .filter_map(|firing| firing["fire_at"].as_str())
            .collect();
        let mut expected = Vec::new();
        for step in (0..=steps).rev().filter(|step| step % every == 0) {
            let at = i128::from(self.begin + step * STEP) * 1_000_000;
            expected.push(OffsetDateTime::from_unix_timestamp_nanos(at)?.format(&Rfc3339)?);
        }
        let seconds = |text: &str| text.get(..19).unwrap_or(text).to_owned();
        let (fired, expected): (Vec<String>, Vec<String>) =
            (fired.into_iter().map(seconds).collect(), expected.iter().map(|text| seconds(text)).collect());
        ensure!(fired == expected, "{flow} fired for {fired:?}, not for {expected:?}");
        let runs = self.hosts[0].cli()?.run(&["flow", "runs", flow])?;
        let runs = runs["executions"].as_array().context("'executions'")?.clone();
        ensure!(runs.len() == expected.len(), "{} runs of {flow}", runs.len());
        for run in &runs {
            let id = run["id"].as_str().context("an id")?;
            let run = self.hosts[0].cli()?.run(&["flow", "runs", flow, "--run", id])?;
            let vms = run["vms"].as_array().context("'vms'")?;
            let served = vms.iter().all(|vm| vm["state"] == "succeeded");
            ensure!(served && !vms.is_empty(), "a VM got no backup: {run}");
        }
        Ok(())
    }

    /// Restores every backup that is left, and compares it with the guest's writes up to its moment.
    fn everything_kept_restores(&self) -> Result<usize> {
        let cli = self.hosts[1].cli()?;
        let mut restored = 0;
        for guest in &self.guests {
            let list = cli.run(&["backup", "list", "--vm", &guest.name])?;
            let backups = list["backups"].as_array().context("'backups'")?;
            ensure!(!backups.is_empty(), "{} has no backup", guest.name);
            let mut steps = BTreeMap::new();
            for backup in backups {
                let at = backup["created_at"].as_str().context("created_at")?;
                let at = OffsetDateTime::parse(at, &Rfc3339)?.unix_timestamp() * 1000;
                let step = (at - self.begin).div_euclid(STEP);
                ensure!(steps.insert(step, ()).is_none(), "{}: two backups for one time", guest.name);
                self.restores(backup, guest, step)?;
                restored += 1;
            }
        }
        for image in files_below(&self.repository(), ".qcow2")? {
            qemu::check(&image)?;
        }
        let checked = cli.run(&["repository", "check", "main", "--grace-hours", "0"])?;
        ensure!(checked["result"]["findings"].as_array().is_none_or(Vec::is_empty), "{checked}");
        Ok(restored)
    }

    fn restores(&self, backup: &Value, guest: &Guest, step: i64) -> Result<()> {
        let truth = self.folder.path().join("truth.raw");
        let disk = RawDisk::create(&truth, SIZE)?;
        for write in guest.writes.iter().filter(|write| write.step <= step) {
            disk.write(write.offset, &write.content)?;
        }
        let id = backup["backup_id"].as_str().context("a backup_id")?;
        let to = self.folder.path().join("restored.raw");
        let file = to.display().to_string();
        self.hosts[1].cli()?.run(&["restore", "disk", id, "--disk", "0", "--to", &file])?;
        identical(&truth, &to).with_context(|| format!("{} at step {step}: {backup}", guest.name))?;
        fs::remove_file(to)?;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        for guest in &self.guests {
            let snapshots = self.simulator.snapshots(&guest.name)?;
            ensure!(snapshots.is_empty(), "snapshots on {}: {snapshots:?}", guest.name);
        }
        for host in self.hosts {
            host.finish(COMPLAINTS)?;
        }
        self.database.stop()
    }
}
