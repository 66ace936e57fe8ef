//! Several hosts on one PostgreSQL: each time fires once, whoever is there, and policies as plugins decide as scripts do.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidemark_tests::binaries::checkout;
use tidemark_tests::postgres::Postgres;
use tidemark_tests::process::wait_for;
use tidemark_tests::server::{Server, ServerOptions};

use crate::fleet::{DAY, Fleet};

const LONG: Duration = Duration::from_secs(120);
const MINUTE: i64 = 60_000;

#[test]
fn three_hosts_fire_each_time_once_while_they_die() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = Postgres::start(folder.path())?;
    let clock = folder.path().join("clock");
    fs::write(&clock, "0")?;
    let mut hosts: Vec<Server> = Vec::new();
    for number in 0..3 {
        let folder = folder.path().join(format!("host-{number}"));
        // The token of the installation is made once, by its first host.
        let data = tidemark_tests::server::data_folder(&folder);
        fs::create_dir_all(&data)?;
        if let Some(first) = hosts.first() {
            fs::write(tidemark_tests::server::token_file(&data), &first.token)?;
        }
        let options = ServerOptions {
            folder,
            database_url: Some(database.url()),
            environment: vec![("TIDEMARK_TEST_CLOCK".to_owned(), clock.display().to_string())],
            ..ServerOptions::default()
        };
        hosts.push(Server::start(&options)?);
    }
    let cli = hosts[0].cli()?;
    let repository = folder.path().join("repository");
    fs::create_dir_all(&repository)?;
    tidemark_tests::site::add_repository(&cli, &repository)?;
    let script = checkout().join("policies/groups/by-tag.rhai").display().to_string();
    cli.run(&["policy", "put", "by-tag", &script, "--kind", "group"])?;
    let file = folder.path().join("minutely.toml");
    fs::write(&file, "repository = 'main'\n[select]\npolicy = 'by-tag'\n[schedule]\ncron = '* * * * *'\n")?;
    cli.run(&["flow", "create", "minutely", "--file", &file.display().to_string()])?;

    let firings = |host: &Server| -> Result<Vec<Value>> {
        let list = host.rest().get("/api/v1/protection-flows/minutely/executions?limit=1000")?.expect(200)?;
        Ok(list["executions"].as_array().context("'executions'")?.clone())
    };
    let begun = Instant::now();
    for step in 1..=24_i64 {
        fs::write(folder.path().join("next"), (step * MINUTE).to_string())?;
        fs::rename(folder.path().join("next"), &clock)?;
        let wanted = usize::try_from(step)?;
        wait_for("the firing", LONG, || Ok((firings(&hosts[0])?.len() >= wanted).then_some(())))?;
        if step % 6 == 0 {
            // A host dies in the middle of things; the others go on.
            let dead = hosts.pop().context("a host")?;
            hosts.push(dead.kill_and_restart()?);
            hosts.swap(1, 2);
        }
    }
    wait_for("all runs to end", LONG, || {
        Ok(firings(&hosts[0])?.iter().all(|run| run["status"] == "succeeded").then_some(()))
    })?;
    let mut times: Vec<String> =
        firings(&hosts[0])?.iter().filter_map(|run| run["fire_at"].as_str().map(str::to_owned)).collect();
    let fired = times.len();
    times.sort();
    times.dedup();
    ensure!(times.len() == fired, "no time fired twice: {times:?}");
    // The real clock goes on as well, and fires for minutes of its own.
    let most = 25 + usize::try_from(begun.elapsed().as_secs() / 60)?;
    ensure!((24..=most).contains(&fired), "{fired} firings, at most {most} minutes passed");
    for host in hosts {
        host.finish(&["recover", "interrupted", "lease", "undo"])?;
    }
    database.stop()
}

#[test]
fn a_policy_plugin_decides_as_the_script_does() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    fleet.cli()?.run(&["vm", "add", "vcenter-a", "web01"])?;
    fleet.shipped("retention", "gfs")?;
    let definition = |policy: &str| {
        format!(
            "repository = 'main'\n[select]\nvms = ['web01']\n[retention]\npolicy = '{policy}'\nlevel = 'monitor'\n\
             settings = {{ last = 1, hourly = 2, daily = 2, weekly = 1, monthly = 0, yearly = 0 }}\n\
             time_zone = 'Europe/Berlin'\nmax_delete_percent = 100\n"
        )
    };
    fleet.flow("daily", &definition("gfs"))?;
    for _ in 0..7 {
        fleet.run("daily")?;
        fleet.pass(DAY / 2 + 5 * MINUTE)?;
    }
    let decisions = |fleet: &Fleet| -> Result<Value> {
        let outcome = fleet.cli()?.outcome(&["prune", "run", "--repository", "main", "--dry-run"])?;
        Ok(outcome.json()?["result"]["decisions"].clone())
    };
    let script = decisions(&fleet)?;
    ensure!(script[0]["may_go"].as_array().is_some_and(|gone| !gone.is_empty()), "{script}");
    let file = fleet.file("plugin.toml", &definition("plugin:gfs"))?;
    fleet.cli()?.run(&["flow", "update", "daily", "--file", &file])?;
    let plugin = decisions(&fleet)?;
    ensure!(plugin == script, "the plugin: {plugin}\nthe script: {script}");
    fleet.finish(&[])
}
