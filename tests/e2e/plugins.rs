//! Plugins at run time: versions that are activated and rolled back while jobs run, upgrades that ask for more, quarantine
//! of what misbehaves, signatures, hosts that follow, and components that would keep the compiler busy for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidemark_tests::binaries::guest;
use tidemark_tests::cli::Cli;
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::nbd::NbdServer;
use tidemark_tests::postgres::Postgres;
use tidemark_tests::process::wait_for;
use tidemark_tests::server::{Server, ServerOptions, data_folder, token_file};
use tidemark_tests::site::add_repository;

const LONG: Duration = Duration::from_secs(120);
/// The size of the guest's only disk.
const CAPACITY: u64 = 1 << 20;
/// Jobs that run while versions change.
const JOBS: usize = 20;

/// A server with the static connector of the tests, and a disk for it to read.
struct Lab {
    folder: tempfile::TempDir,
    server: Server,
    source: NbdServer,
}

impl Lab {
    fn start(config: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidemark-plugins-").tempdir()?;
        let disk = RawDisk::create(&folder.path().join("disk.raw"), CAPACITY)?;
        disk.write(0, &bytes(Fill::Noise(50), 900_000))?;
        let source = NbdServer::start(disk.path())?;
        let file = folder.path().join("tidemark.toml");
        fs::write(&file, config)?;
        let server = Server::start(&ServerOptions {
            folder: folder.path().to_path_buf(),
            arguments: vec!["--config".to_owned(), file.display().to_string()],
            ..ServerOptions::default()
        })?;
        let lab = Self { folder, server, source };
        add_repository(&lab.cli()?, &lab.folder.path().join("repository"))?;
        Ok(lab)
    }

    fn cli(&self) -> Result<Cli> {
        self.server.cli()
    }

    /// The first version, active and with the right to read the disk.
    fn install(&self) -> Result<()> {
        let cli = self.cli()?;
        cli.run(&["plugin", "install", &file(guest("connector")?)])?;
        cli.run(&["plugin", "activate", "hostile", "0.1.0"])?;
        cli.run(&["plugin", "grant", "hostile", &self.source.capability()])?;
        Ok(())
    }

    /// A connection, and the id of its only VM.
    fn connect(&self, name: &str, more: &[&str]) -> Result<String> {
        let cli = self.cli()?;
        let url = format!("nbd_url={}", self.source.url());
        let mut args = vec!["connector", "add", name, "--plugin", "hostile", "--set", &url];
        args.extend(more.iter().flat_map(|setting| ["--set", setting]));
        cli.run(&args)?;
        let added = cli.run(&["vm", "add", name, "static-1"])?;
        added["vms"][0]["id"].as_str().map(str::to_owned).with_context(|| format!("no id in {added}"))
    }

    fn submit(&self, vm: &str, repository: &str) -> Result<String> {
        let order = json!({"vm_name": vm, "repository_id": repository, "backup_type": "full"});
        let accepted = self.server.rest().post("/api/v1/backups", &order)?.expect(202)?;
        accepted["job_id"].as_str().map(str::to_owned).context("a job_id")
    }

    fn job(&self, id: &str) -> Result<Value> {
        self.server.rest().get(&format!("/api/v1/jobs/{id}"))?.expect(200)
    }

    fn ended(&self, id: &str) -> Result<Value> {
        wait_for("the job's end", LONG, || {
            let job = self.job(id)?;
            Ok(matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled")).then_some(job))
        })
    }

    /// The version of the connector that made a backup.
    fn made_by(&self, id: &str) -> Result<Value> {
        let backup = self.server.rest().get(&format!("/api/v1/backups/{id}"))?.expect(200)?;
        Ok(backup["plugins"]["hostile"].clone())
    }

    fn version(&self, version: &str) -> Result<Value> {
        let shown = self.cli()?.run(&["plugin", "inspect", "hostile"])?;
        let versions = shown["plugins"].as_array().context("'plugins'")?;
        let found = versions.iter().find(|known| known["version"] == version).cloned();
        found.with_context(|| format!("no version {version} in {shown}"))
    }

    fn finish(self, expected_complaints: &[&str]) -> Result<()> {
        self.source.stop()?;
        self.server.finish(expected_complaints)
    }
}

fn file(path: PathBuf) -> String {
    path.display().to_string()
}

#[test]
fn an_upgrade_under_load_and_its_rollback_touch_no_running_job() -> Result<()> {
    let places = JOBS + 2;
    let lab = Lab::start(&format!("[limits]\njobs = {places}\ndisks = {places}\n"))?;
    let cli = lab.cli()?;
    lab.install()?;
    let mut vms = Vec::new();
    for number in 0..JOBS {
        vms.push(lab.connect(&format!("many-{number:02}"), &[])?);
    }
    let late = lab.connect("late", &[])?;
    // 18 MB that do not compress need five minutes there, unless it becomes faster.
    let slow = file(lab.folder.path().join("slow"));
    fs::create_dir(&slow)?;
    cli.run(&["plugin", "grant", "local", &format!("path:{slow}")])?;
    let setting = format!("path={slow}");
    cli.run(&["repository", "add", "slow", "--plugin", "local", "--set", &setting, "--bandwidth", "64KiB"])?;
    let jobs = vms.iter().map(|vm| lab.submit(vm, "slow")).collect::<Result<Vec<_>>>()?;
    for job in &jobs {
        wait_for("the job to move its disk", LONG, || {
            Ok((lab.job(job)?["progress"]["disks"][0]["state"] == "moving").then_some(()))
        })?;
    }

    cli.run(&["plugin", "install", &file(guest("connector-next")?)])?;
    let refused =
        lab.server.rest().post("/api/v1/plugins/hostile/actions/activate", &json!({"version": "0.2.0"}))?;
    let problem = refused.json()?;
    ensure!(refused.status == 409 && problem["asks_for_more"][0]["name"] == "vddk", "{refused:?}");
    let refused = cli.outcome(&["plugin", "activate", "hostile", "0.2.0"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("asks for more"), "{refused:?}");
    ensure!(lab.version("0.1.0")?["active"] == true, "nothing changed");
    let approved = cli.run(&["plugin", "activate", "hostile", "0.2.0", "--approve"])?;
    let granted = approved["grants"].as_array().context("'grants'")?;
    ensure!(granted.iter().any(|grant| grant["capability"] == "vddk"), "{approved}");

    let next = lab.submit(&late, "main")?;
    ensure!(lab.ended(&next)?["status"] == "succeeded", "{}", lab.job(&next)?);
    ensure!(lab.made_by(&next)? == "0.2.0", "new jobs use the new version: {}", lab.made_by(&next)?);
    let used = cli.outcome(&["plugin", "remove", "hostile", "0.1.0"])?;
    ensure!(used.code == 1 && used.stderr.contains("works with plugin hostile 0.1.0"), "{used:?}");
    cli.run(&["plugin", "rollback", "hostile"])?;
    let again = lab.submit(&late, "main")?;
    ensure!(lab.ended(&again)?["status"] == "succeeded", "{}", lab.job(&again)?);
    ensure!(lab.made_by(&again)? == "0.1.0", "and the old one after the rollback");

    cli.run(&["repository", "update", "slow", "--bandwidth", "0"])?;
    for job in &jobs {
        let ended = lab.ended(job)?;
        ensure!(ended["status"] == "succeeded", "{ended}");
        ensure!(lab.made_by(job)? == "0.1.0", "{job} was made by {}", lab.made_by(job)?);
    }
    cli.run(&["plugin", "remove", "hostile", "0.2.0"])?;
    let audit = lab.server.rest().get("/api/v1/audit?limit=200")?.expect(200)?.to_string();
    for action in ["plugin.install", "plugin.activate", "plugin.rollback", "plugin.remove", "plugin.grant"] {
        ensure!(audit.contains(action), "{action} is not in the audit trail");
    }
    lab.finish(&[])
}

#[test]
fn what_misbehaves_twice_in_a_row_is_in_quarantine_until_it_is_released() -> Result<()> {
    let lab = Lab::start("")?;
    let cli = lab.cli()?;
    lab.install()?;
    let good = lab.connect("good", &[])?;
    let bad = lab.connect("bad", &["behave=trap", "in=create-snapshot"])?;
    let run = |vm: &str| -> Result<Value> { lab.ended(&lab.submit(vm, "main")?) };
    let strikes =
        |count: u64| {
            wait_for("the strike to count", LONG, || {
                Ok((lab.version("0.1.0")?["strikes"] == count).then_some(()))
            })
        };
    ensure!(run(&bad)?["status"] == "failed", "it traps");
    strikes(1)?;
    ensure!(run(&good)?["status"] == "succeeded", "a good job");
    strikes(0)?;
    ensure!(run(&bad)?["status"] == "failed", "it traps");
    strikes(1)?;
    ensure!(run(&bad)?["status"] == "failed", "it traps again");
    let held = wait_for("the quarantine", LONG, || {
        Ok(Some(lab.version("0.1.0")?).filter(|version| !version["quarantine"].is_null()))
    })?;
    ensure!(held["active"] == false, "{held}");
    let reason = held["quarantine"].as_str().context("a reason")?;
    ensure!(reason.contains("plugin hostile 0.1.0: create-snapshot"), "{reason}");

    let refused = run(&good)?;
    let message = refused["error"]["message"].to_string();
    ensure!(refused["status"] == "failed" && message.contains("in quarantine"), "{refused}");
    ensure!(message.contains("tidemark plugin release hostile 0.1.0"), "it says what to do: {message}");
    let outcome = cli.outcome(&["plugin", "activate", "hostile", "0.1.0"])?;
    ensure!(outcome.code == 1 && outcome.stderr.contains("quarantine"), "{outcome:?}");
    cli.run(&["plugin", "release", "hostile", "0.1.0"])?;
    cli.run(&["plugin", "activate", "hostile", "0.1.0"])?;
    ensure!(run(&good)?["status"] == "succeeded", "it is used again");
    let audit = lab.server.rest().get("/api/v1/audit?limit=200")?.expect(200)?.to_string();
    ensure!(audit.contains("plugin.quarantine") && audit.contains("plugin.release"), "{audit}");
    lab.finish(&["hostile", "misbehaved", "quarantine"])
}

#[test]
fn every_host_of_an_installation_has_what_one_of_them_installed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = Postgres::start(folder.path())?;
    let mut hosts: Vec<Server> = Vec::new();
    for number in 0..2 {
        let folder = folder.path().join(format!("host-{number}"));
        let data = data_folder(&folder);
        fs::create_dir_all(&data)?;
        if let Some(first) = hosts.first() {
            fs::write(token_file(&data), &first.token)?;
        }
        let environment = vec![("TIDEMARK_SECRET_KEY".to_owned(), "5a".repeat(32))];
        let database_url = Some(database.url());
        hosts.push(Server::start(&ServerOptions {
            folder,
            database_url,
            environment,
            ..ServerOptions::default()
        })?);
    }
    let (one, other) = (hosts[0].cli()?, hosts[1].cli()?);
    one.run(&["plugin", "install", &file(guest("connector")?)])?;
    other.run(&["plugin", "activate", "hostile", "0.1.0"])?;
    other.run(&["connector", "add", "there", "--plugin", "hostile"])?;
    other.run(&["connector", "test", "there"])?;
    one.run(&["connector", "test", "there"])?;
    // A copy that was damaged on one host is taken from the catalog again.
    let copies = data_folder(&folder.path().join("host-1")).join("plugins");
    let digest = one.run(&["plugin", "inspect", "hostile"])?["plugins"][0]["digest"].clone();
    let copy = copies.join(format!("{}.wasm", digest.as_str().context("a digest")?));
    fs::write(&copy, b"something else")?;
    let mut restarted = hosts.pop().context("a host")?;
    restarted.stop()?;
    hosts.push(restarted.restart_stopped()?);
    hosts[1].cli()?.run(&["connector", "test", "there"])?;
    ensure!(fs::read(&copy)? == fs::read(guest("connector")?)?, "the copy is whole again");
    for host in hosts {
        host.finish(&[])?;
    }
    database.stop()
}

/// Makes a key pair and signs a file with minisign; answers the public key's line.
fn sign(folder: &Path, component: &Path, signature: &Path) -> Result<String> {
    let (public, secret) = (folder.join("key.pub"), folder.join("key.sec"));
    let run = |args: &[&std::ffi::OsStr]| -> Result<()> {
        let done =
            Command::new("minisign").args(args).output().context("minisign (make test installs it)")?;
        ensure!(done.status.success(), "{done:?}");
        Ok(())
    };
    if !public.exists() {
        run(&["-G".as_ref(), "-W".as_ref(), "-p".as_ref(), public.as_ref(), "-s".as_ref(), secret.as_ref()])?;
    }
    run(&[
        "-S".as_ref(),
        "-s".as_ref(),
        secret.as_ref(),
        "-m".as_ref(),
        component.as_ref(),
        "-x".as_ref(),
        signature.as_ref(),
    ])?;
    let text = fs::read_to_string(public)?;
    text.lines().last().map(str::to_owned).context("a key")
}

#[test]
fn only_signed_plugins_are_installed_where_that_is_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let component = folder.path().join("hostile.wasm");
    fs::copy(guest("connector")?, &component)?;
    let signature = folder.path().join("hostile.wasm.minisig");
    let key = sign(folder.path(), &component, &signature)?;
    let lab = Lab::start(&format!("[plugin_trust]\nkeys = ['{key}']\nrequire_signature = true\n"))?;
    let cli = lab.cli()?;
    let other = file(guest("connector-next")?);
    let refused = cli.outcome(&["plugin", "install", &other])?;
    ensure!(refused.code == 1 && refused.stderr.contains("signed plugins only"), "{refused:?}");
    let refused = cli.outcome(&["plugin", "install", &other, "--signature", &file(signature.clone())])?;
    ensure!(refused.code == 1 && refused.stderr.contains("not by a key"), "{refused:?}");
    // The signature beside the file is found by itself.
    let installed = cli.run(&["plugin", "install", &file(component)])?;
    ensure!(installed["signed_by"] == key.as_str(), "{installed}");
    lab.finish(&[])
}

#[test]
fn a_component_that_keeps_the_compiler_busy_costs_its_process_only() -> Result<()> {
    let lab = Lab::start("[plugin_trust]\ncompile_seconds = 3\n")?;
    let cli = lab.cli()?;
    let slow = lab.folder.path().join("slow.wasm");
    let mut component = fs::read(guest("policy")?)?;
    component.extend(endless_module());
    fs::write(&slow, component)?;
    let refused = cli.outcome(&["plugin", "install", &file(slow)])?;
    ensure!(refused.code == 1, "{refused:?}");
    ensure!(refused.stderr.contains("does not compile") && refused.stderr.contains("3 s"), "{refused:?}");
    // The server is as it was, and compiles the next one.
    lab.install()?;
    let vm = lab.connect("good", &[])?;
    let job = lab.submit(&vm, "main")?;
    ensure!(lab.ended(&job)?["status"] == "succeeded", "{}", lab.job(&job)?);
    lab.finish(&[])
}

/// A section of a component: a core module, valid and never used, whose one function has so many loops over so many
/// locals that a compiler has to look at each local in each loop.
fn endless_module() -> Vec<u8> {
    const LOCALS: u64 = 2_000;
    const LOOPS: usize = 420;
    let mut once = vec![0x03, 0x40];
    for local in 0..LOCALS {
        once.push(0x20);
        once.extend(leb(local));
        once.extend([0x41, 0x01, 0x6a, 0x21]);
        once.extend(leb(local));
    }
    // Again while the first one is not zero.
    once.extend([0x20, 0x00, 0x0d, 0x00, 0x0b]);
    let mut body = vec![0x01];
    body.extend(leb(LOCALS));
    body.push(0x7f);
    body.extend(once.repeat(LOOPS));
    body.push(0x0b);
    let mut code = vec![0x01];
    code.extend(leb(body.len() as u64));
    code.extend(body);
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in [(1, vec![0x01, 0x60, 0x00, 0x00]), (3, vec![0x01, 0x00]), (10, code)] {
        module.push(id);
        module.extend(leb(content.len() as u64));
        module.extend(content);
    }
    let mut section = vec![0x01];
    section.extend(leb(module.len() as u64));
    section.extend(module);
    section
}

fn leb(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
