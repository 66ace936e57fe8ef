//! Plugins that loop, eat memory, trap or answer nonsense: each fails its own job with a typed error, and the next
//! job of a good plugin runs on the same server.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidemark_tests::binaries::guest;
use tidemark_tests::process::wait_for;
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks;

const LONG: Duration = Duration::from_secs(60);

/// What the guest does, where, and a word that its error must hold.
const MISDEEDS: [(&str, &str); 4] =
    [("loop", "list-vms"), ("memory", "list-vms"), ("trap", "list-vms"), ("stack", "list-vms")];

#[test]
fn a_misbehaving_plugin_harms_only_its_own_work() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let cli = site.server.cli()?;
    let component = guest("connector")?;
    let component = component.to_string_lossy();
    cli.run(&["plugin", "install", component.as_ref()])?;
    cli.run(&["plugin", "activate", "hostile", "0.1.0"])?;
    for (misdeed, place) in MISDEEDS {
        let name = format!("hostile-{misdeed}");
        let behave = format!("behave={misdeed}");
        let place = format!("in={place}");
        cli.run(&["connector", "add", &name, "--plugin", "hostile", "--set", &behave, "--set", &place])?;
        let outcome = cli.outcome(&["connector", "discover", &name])?;
        ensure!(outcome.code == 1, "{outcome:?}");
        let words = format!("{}{}", outcome.stdout, outcome.stderr);
        ensure!(words.contains("hostile"), "the error names the plugin: {words}");
        let answer =
            site.rest().post("/api/v1/discovery/discover-vms", &serde_json::json!({"connector": name}))?;
        ensure!(answer.json()?["kind"] == "plugin", "{answer:?}");
        // Twice in a row: the version is not used any more until somebody says so.
        wait_for("the quarantine", LONG, || {
            let shown = cli.run(&["plugin", "inspect", "hostile"])?;
            Ok((!shown["plugins"][0]["quarantine"].is_null()).then_some(()))
        })?;
        cli.run(&["plugin", "release", "hostile", "0.1.0"])?;
        cli.run(&["plugin", "activate", "hostile", "0.1.0"])?;
    }
    let backup = site.backup("full")?;
    site.restores_to(&backup, &site.freeze("now")?)?;
    site.finish(&["hostile", "quarantine"])
}
