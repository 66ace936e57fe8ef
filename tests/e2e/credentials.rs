//! Logging in to a vCenter: the wrong password, a login that is refused for once, sessions that end in the middle.

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::site::{CONNECTOR, Site, SiteOptions, VM, add_connector_with};

use crate::disks::{self, MIB};

#[test]
fn a_wrong_password_is_named_and_says_what_to_do() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let cli = site.server.cli()?;
    let transport = ["transport=nbd".to_owned(), format!("nbd_url={}", site.simulator.endpoints.nbd_url)];
    add_connector_with(&cli, &site.simulator, "mistyped", site.folder(), "not-the-password", &transport)?;

    let tested = cli.outcome(&["connector", "test", "mistyped"])?;
    ensure!(tested.code == 1, "{tested:?}");
    let words = format!("{}{}", tested.stdout, tested.stderr);
    let user = site.simulator.endpoints.username.as_str();
    for word in ["mistyped", user, "password", "check"] {
        ensure!(words.contains(word), "'{word}' is not in: {words}");
    }
    ensure!(!words.contains("not-the-password"), "the password is shown: {words}");
    let answer = site.rest().post("/api/v1/connectors/mistyped/actions/test", &serde_json::json!({}))?;
    let problem = answer.json()?;
    ensure!(problem["kind"] == "auth" && answer.status != 401, "our own token was good: {answer:?}");
    let tested = cli.run(&["connector", "test", CONNECTOR])?;
    let product = &tested["product"];
    ensure!(product["name"] == "VMware vCenter Server" && product["version"] == "8.0.3", "{tested}");
    ensure!(product["instance"].is_string(), "{tested}");

    let right = site.folder().join("right.password");
    std::fs::write(&right, &site.simulator.endpoints.password)?;
    let secret = format!("password=@{}", right.display());
    cli.run(&["connector", "update", "mistyped", "--secret", &secret])?;
    cli.run(&["connector", "test", "mistyped"])?;
    let wrong = cli.outcome(&["connector", "update", "mistyped", "--set", "transport=carrier-pigeon"])?;
    ensure!(wrong.code == 1 && format!("{wrong:?}").contains("transport"), "{wrong:?}");
    cli.run(&["connector", "test", "mistyped"])?;

    // The password is changed in vCenter: the nightly backup fails for that reason, and nothing is left.
    let full = site.backup("full")?;
    site.simulator.fault("InvalidLogin", None, 1)?;
    let ended = site.ended_job(&site.submit_backup("incremental")?)?;
    ensure!(ended["status"] == "failed" && ended["error"]["kind"] == "auth", "{ended}");
    let message = ended["error"]["message"].as_str().context("a message")?;
    ensure!(message.contains(user) && message.contains("password"), "{message}");
    site.nothing_left_behind()?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == full.id.as_str(), "{next:?}");
    site.finish(&["auth"])
}

#[test]
fn an_expired_session_is_survived_anywhere_in_the_loop() -> Result<()> {
    // Ten areas with gaps between them: one call for each of them, for the first disk alone.
    let simulator = ["--areas-per-page", "1"].map(str::to_owned).to_vec();
    let site = Site::start(SiteOptions { simulator, ..SiteOptions::default() }, disks::two)?;
    site.simulator.fault("NotAuthenticated", None, 1)?;
    site.backup("full")?;
    for round in [1_u32, 2, 5, 9] {
        for place in 0..10 {
            site.guest_writes(0, place * 4 * MIB, &bytes(Fill::Noise(u64::from(round) + place), 4096))?;
        }
        site.simulator.fault("NotAuthenticated", Some(&format!("QueryChangedDiskAreas:{round}")), 1)?;
        let incremental = site.backup("incremental").with_context(|| format!("call {round}"))?;
        let waiting = site.simulator.faults()?;
        ensure!(waiting.is_empty(), "it never struck: {waiting:?}");
        ensure!(incremental.detail["backup_type"] == "incremental", "{incremental:?}");
        site.restores_to(&incremental, &site.freeze(&format!("round-{round}"))?)?;
    }
    site.finish(&["session"])
}

/// The session ends once before each of the calls that change something: none of them is made twice or not at all.
#[test]
fn an_expired_session_is_survived_at_the_snapshots_calls() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let mut parent = site.backup("full")?.id;
    for call in ["CreateSnapshot_Task", "RemoveSnapshot_Task"] {
        site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(call.len() as u64), 100_000))?;
        site.simulator.fault("NotAuthenticated", Some(call), 1)?;
        let backup = site.backup("incremental").with_context(|| call.to_owned())?;
        let waiting = site.simulator.faults()?;
        ensure!(waiting.is_empty(), "it never struck: {waiting:?}");
        ensure!(backup.detail["parent_backup_id"] == parent.as_str(), "{backup:?}");
        site.nothing_left_behind()?;
        site.restores_to(&backup, &site.freeze(call)?)?;
        parent = backup.id;
    }
    let chain = site.rest().get(&format!("/api/v1/backups/chain/{VM}"))?.expect(200)?;
    ensure!(chain["backups"].as_array().is_some_and(|links| links.len() == 3), "{chain}");
    site.finish(&["session"])
}

/// A right that is taken away is named, and the VM is not touched without it.
#[test]
fn a_missing_privilege_is_named_before_anything_is_done() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let privilege = "VirtualMachine.State.RemoveSnapshot";
    site.simulator.fault("NoPermission", Some(privilege), 1_000_000)?;
    let ended = site.ended_job(&site.submit_backup("full")?)?;
    ensure!(ended["status"] == "failed" && ended["error"]["kind"] == "auth", "{ended}");
    let message = ended["error"]["message"].as_str().context("a message")?;
    for word in [privilege, VM, site.simulator.endpoints.username.as_str()] {
        ensure!(message.contains(word), "'{word}' is not in: {message}");
    }
    // A snapshot that could not be removed again was never taken.
    site.nothing_left_behind()?;
    site.simulator.fault("NoPermission", Some(privilege), 0)?;
    site.restores_to(&site.backup("full")?, &site.freeze("now")?)?;
    site.finish(&["lacks"])
}
