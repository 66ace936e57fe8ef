//! The kit of those who write plugins: a new plugin of each kind works at once, what is wrong with one is said before it
//! is installed, and one that is worked on follows its sources onto a server.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidemark_tests::binaries::{checkout, target, tidemark};
use tidemark_tests::cli::Outcome;
use tidemark_tests::disk::RawDisk;
use tidemark_tests::process::{Guarded, wait_for};
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::simulator::{SimulatedVm, Simulator};

/// A build of a plugin on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// What an author's shell has: one target folder for all, so that what they share is compiled once, and crates as they
/// were fetched for the first-party plugins, which use the same ones.
pub(crate) fn surroundings(command: &mut Command) -> &mut Command {
    command.env("CARGO_TARGET_DIR", target().join("components")).env("CARGO_NET_OFFLINE", "true")
}

/// An author at work, without a server.
pub(crate) struct Author {
    home: tempfile::TempDir,
}

impl Author {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { home: tempfile::Builder::new().prefix("tidemark-kit-").tempdir()? })
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(tidemark()?);
        surroundings(&mut command).current_dir(self.home.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command.env_remove("TIDEMARK_URL").env_remove("TIDEMARK_TOKEN");
        Ok(command)
    }

    pub(crate) fn outcome(&self, args: &[&str]) -> Result<Outcome> {
        let output = self.command()?.args(args).arg("--json").output()?;
        Ok(Outcome {
            command: format!("tidemark {}", args.join(" ")),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    pub(crate) fn run(&self, args: &[&str]) -> Result<Value> {
        self.outcome(args)?.expect(0)
    }

    pub(crate) fn path(&self, place: &str) -> PathBuf {
        self.home.path().join(place)
    }

    /// Replaces a text that has to be there.
    pub(crate) fn edit(&self, place: &str, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.path(place))?;
        ensure!(text.contains(from), "{place} does not contain '{from}'");
        Ok(fs::write(self.path(place), text.replace(from, to))?)
    }

    /// A new plugin, of which nothing was built: the target folder is one for all, also for the tests' last run.
    fn begins(&self, kind: &str, name: &str) -> Result<()> {
        self.begins_in("rust", kind, name)
    }

    pub(crate) fn begins_in(&self, language: &str, kind: &str, name: &str) -> Result<()> {
        let left = target().join("components/plugins").join(format!("{name}.wasm"));
        if left.exists() {
            fs::remove_file(left)?;
        }
        let begun = self.run(&["plugin", "new", name, "--kind", kind, "--lang", language])?;
        ensure!(begun["kind"] == kind && begun["language"] == language && begun["dir"] == name, "{begun}");
        Ok(())
    }

    /// A new plugin from its first minute: begun, looked at, built and tried out, and looked at again.
    fn tries(&self, kind: &str, name: &str, more: &[&str]) -> Result<Value> {
        self.begins(kind, name)?;
        let checked = self.run(&["plugin", "check", name])?;
        ensure!(checked["component"].is_null(), "{checked}");
        let args: Vec<&str> = ["plugin", "test", name].into_iter().chain(more.iter().copied()).collect();
        let tried = self.run(&args)?;
        ensure!(tried["failed"] == 0 && tried["name"] == name, "{tried}");
        let checked = self.run(&["plugin", "check", name])?;
        ensure!(checked["component"].is_string() && checked["kind"] == kind, "{checked}");
        Ok(tried)
    }
}

/// The names of the checks that failed.
fn failed(tried: &Value) -> Vec<&str> {
    let checks = tried["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    checks.iter().filter(|check| check["ok"] == false).filter_map(|check| check["name"].as_str()).collect()
}

#[test]
fn a_new_policy_works_and_one_that_invents_backups_does_not() -> Result<()> {
    let author = Author::new()?;
    author.tries("policy", "kit-policy", &["--set", "newest=30"])?;
    author.edit(
        "kit-policy/src/lib.rs",
        "Ok(points.into_iter().map(verdict).collect())",
        "Ok(points.into_iter().map(verdict).chain([KeepVerdict { id: \"ghost\".into(), reason: None }]).collect())",
    )?;
    let tried = author.outcome(&["plugin", "test", "kit-policy"])?.expect(1)?;
    let failed = failed(&tried);
    ensure!(failed.len() == 1 && failed[0].starts_with("retain judges 400 backups"), "{tried}");
    Ok(())
}

#[test]
fn a_new_storage_target_works() -> Result<()> {
    let tried = Author::new()?.tries("storage-target", "kit-storage", &[])?;
    ensure!(tried.to_string().contains("odd names come back"), "{tried}");
    Ok(())
}

#[test]
fn a_new_connector_works_and_one_that_forgets_its_snapshots_does_not() -> Result<()> {
    let author = Author::new()?;
    let settings = ["--set", "nbd_url=nbd://127.0.0.1:10809/disk", "--set", "size_bytes=1048576"];
    author.tries("connector", "kit-connector", &settings)?;
    author.edit(
        "kit-connector/src/lib.rs",
        "Ok(self.snapshots.iter().map(own).collect())",
        "Ok(self.snapshots.iter().skip(1).map(own).collect())",
    )?;
    let args: Vec<&str> = ["plugin", "test", "kit-connector"].into_iter().chain(settings).collect();
    let tried = author.outcome(&args)?.expect(1)?;
    ensure!(failed(&tried) == ["its own tests", "list-own-snapshots names it by its key"], "{tried}");
    Ok(())
}

#[test]
fn a_new_file_system_reader_works() -> Result<()> {
    let author = Author::new()?;
    let (files, disk) = (author.path("files"), author.path("disk.tar"));
    fs::create_dir_all(files.join("etc/deep"))?;
    fs::write(files.join("etc/motd"), "hello\n")?;
    fs::write(files.join("etc/deep/large"), vec![7; 100_000])?;
    std::os::unix::fs::symlink("motd", files.join("etc/issue"))?;
    let mut tar = Command::new("tar");
    tar.args(["--format=ustar", "--create", "--file"]).arg(&disk).arg("--directory").arg(&files).arg("etc");
    ensure!(tar.status()?.success(), "tar makes the disk");
    let disk = disk.display().to_string();
    let tried = author.tries("guest-filesystem", "kit-reader", &["--disk", &disk])?;
    ensure!(tried.to_string().contains("files are read to their ends"), "{tried}");
    Ok(())
}

#[test]
fn what_comes_with_the_product_keeps_to_the_contract() -> Result<()> {
    let author = Author::new()?;
    let disk = RawDisk::create(&author.path("web01.raw"), 1 << 20)?;
    let vm = SimulatedVm { name: "web01".to_owned(), disks: vec![disk.path().to_path_buf()] };
    let simulator = Simulator::start(author.home.path(), &[vm], &[])?;
    let (host, port) = simulator.endpoints.host_port()?;
    fs::write(author.path("password"), &simulator.endpoints.password)?;
    let settings = [
        format!("--set=host={host}"),
        format!("--set=port={port}"),
        format!("--set=username={}", simulator.endpoints.username),
        format!("--set=thumbprint={}", simulator.endpoints.thumbprint),
        format!("--set=nbd_url={}", simulator.endpoints.nbd_url),
        "--set=transport=nbd".to_owned(),
        format!("--secret=password=@{}", author.path("password").display()),
    ];
    for (name, settings) in [("vcenter", &settings[..]), ("local", &[]), ("gfs", &[])] {
        let source = checkout().join("plugins").join(name).display().to_string();
        let mut args = vec!["plugin", "test", source.as_str()];
        args.extend(settings.iter().map(String::as_str));
        let tried = author.run(&args)?;
        ensure!(tried["failed"] == 0, "{tried}");
    }
    let snapshots = simulator.snapshots("web01")?;
    ensure!(snapshots.is_empty(), "snapshots on the VM: {snapshots:?}");
    replays_without_a_server(&author, simulator, &settings)
}

/// What `vcenter` says to the simulator is recorded; then it is given again by nobody, and has to be the same.
fn replays_without_a_server(author: &Author, simulator: Simulator, settings: &[String]) -> Result<()> {
    let source = checkout().join("plugins/vcenter").display().to_string();
    let file = author.path("talk.json").display().to_string();
    let mut args = vec!["plugin", "test", source.as_str(), "--record", &file];
    args.extend(settings.iter().map(String::as_str));
    let tried = author.run(&args)?;
    ensure!(tried["failed"] == 0, "{tried}");
    let password = simulator.endpoints.password.clone();
    drop(simulator);
    let talk = fs::read_to_string(&file)?;
    ensure!(talk.contains("RetrieveServiceContent") && !talk.contains(&password), "the recording: {talk}");
    let replay = ["plugin", "test", source.as_str(), "--replay", &file];
    let tried = author.run(&replay)?;
    ensure!(tried["failed"] == 0, "{tried}");
    ensure!(tried.to_string().contains("its requests are the recorded ones"), "{tried}");
    // Another question than the recorded one is not answered.
    fs::write(&file, talk.replacen("RetrieveServiceContent", "RetrieveOtherContent", 1))?;
    let tried = author.outcome(&replay)?.expect(1)?;
    let strayed = tried["checks"].as_array().and_then(|checks| checks.last()).context("a check")?;
    ensure!(
        strayed["problem"].as_str().is_some_and(|why| why.contains("request 1: the body of")),
        "{strayed}"
    );
    let refused = author.outcome(&["plugin", "test", &source, "--record", &file])?;
    ensure!(refused.code == 1 && refused.stderr.contains("exists already"), "{refused:?}");
    Ok(())
}

#[test]
fn what_cannot_be_begun_is_refused() -> Result<()> {
    let author = Author::new()?;
    for name in ["Mine", "1st", "my_plugin", "../mine"] {
        let refused = author.outcome(&["plugin", "new", name, "--kind", "policy"])?;
        ensure!(refused.code == 1 && refused.stderr.contains("lower-case letters"), "{refused:?}");
    }
    author.run(&["plugin", "new", "mine", "--kind", "policy", "--dir", "there"])?;
    let refused = author.outcome(&["plugin", "new", "mine", "--kind", "policy", "--dir", "there"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("is not empty"), "{refused:?}");
    let refused = author.outcome(&["plugin", "new", "mine", "--kind", "volume-reader"])?;
    ensure!(refused.code == 2, "{refused:?}");
    for kind in ["connector", "storage-target", "guest-filesystem", "policy"] {
        ensure!(refused.stderr.contains(kind), "{refused:?}");
    }
    Ok(())
}

#[test]
fn all_that_is_wrong_is_said_at_once() -> Result<()> {
    let author = Author::new()?;
    author.begins("connector", "kit-wrong")?;
    author.edit("kit-wrong/plugin.toml", "version = \"0.1.0\"", "version = \"one\"")?;
    author.edit(
        "kit-wrong/plugin.toml",
        "targets = [\"${config.nbd_url}\"]",
        "targets = [\"${config.ndb_url}\"]",
    )?;
    author.edit("kit-wrong/plugin.toml", "type = \"integer\"", "type = \"whole\"")?;
    let checked = author.outcome(&["plugin", "check", "kit-wrong"])?.expect(1)?;
    let problems = checked["problems"].as_array().context("'problems'")?;
    ensure!(problems.len() == 3, "{checked}");
    for (problem, word) in problems.iter().zip(["'one' is no version", "JSON Schema", "${config.ndb_url}"]) {
        ensure!(problem.as_str().is_some_and(|problem| problem.contains(word)), "{problem} on {word}");
    }
    fs::write(author.path("nothing.wasm"), "\0asm")?;
    let checked = author.outcome(&["plugin", "check", "nothing.wasm"])?.expect(1)?;
    ensure!(checked["problems"].as_array().is_some_and(|problems| problems.len() == 1), "{checked}");
    let local = tidemark_tests::binaries::component("local")?.display().to_string();
    author.run(&["plugin", "check", &local])?;
    Ok(())
}

#[test]
fn a_plugin_under_work_follows_its_sources_onto_the_server() -> Result<()> {
    let author = Author::new()?;
    let server = ServerOptions { folder: author.home.path().to_path_buf(), ..ServerOptions::default() };
    let server = Server::start(&server)?;
    author.run(&["plugin", "new", "kit-dev", "--kind", "policy"])?;
    let mut command = author.command()?;
    command.args(["plugin", "dev", "kit-dev"]).stdout(Stdio::null());
    command.env("TIDEMARK_URL", &server.url).env("TIDEMARK_TOKEN", &server.token);
    let mut dev = Guarded::start("tidemark plugin dev", &mut command, &author.path("dev.log"))?;
    let active = |version: &str, not: &str| {
        wait_for("the version to be active", LONG, || {
            let Ok(shown) = server.cli()?.run(&["plugin", "inspect", "kit-dev"]) else { return Ok(None) };
            let versions = shown["plugins"].as_array().cloned().unwrap_or_default();
            let found = versions.iter().find(|known| {
                known["version"] == version && known["active"] == true && known["digest"] != not
            });
            Ok(found.and_then(|known| known["digest"].as_str().map(str::to_owned)))
        })
    };
    let first = active("0.1.0", "")?;
    // Nothing uses it, so other bytes take the same number.
    author.edit("kit-dev/src/lib.rs", "one of the newest", "among the newest")?;
    active("0.1.0", &first)?;
    for place in ["kit-dev/plugin.toml", "kit-dev/Cargo.toml"] {
        author.edit(place, "version = \"0.1.0\"", "version = \"0.2.0\"")?;
    }
    active("0.2.0", &first)?;
    dev.stop()?;
    server.finish(&[])
}
