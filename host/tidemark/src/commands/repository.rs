//! `tidemark repository`

use anyhow::Result;
use serde_json::Value;
use tidemark_api::wire::{
    CheckRepository, ConnectionEntry, JobEntry, RepositoryDetail, RepositoryList, SpaceEntry,
};

use super::connection::{self, Bounds};
use super::finish;
use crate::args::{Bandwidth, MaxDisks, RepositoryBounds, RepositoryVerb};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, fields, or_dash, size, yes_no};

pub(crate) fn run(verb: RepositoryVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        RepositoryVerb::Add { connection: args, bounds } => {
            let added = connection::add(client, "repositories", args, bounds_of(bounds))?;
            output.document(added, |entry: ConnectionEntry| format!("repository '{}' added", entry.name))?;
        }
        RepositoryVerb::Update { name, values, bounds } => {
            let updated = connection::update(client, "repositories", &name, values, bounds_of(bounds))?;
            output
                .document(updated, |entry: ConnectionEntry| format!("repository '{}' changed", entry.name))?;
        }
        RepositoryVerb::List => {
            let list = client.list("/api/v1/repositories", "repositories")?;
            output.document(list, |list: RepositoryList| {
                connection::table(list.repositories, "no repositories")
            })?;
        }
        RepositoryVerb::Show { name } => {
            let shown = client.get(&format!("/api/v1/repositories/{}", escape(&name)))?;
            output.document(shown, |shown: RepositoryDetail| {
                format!("{}{}", connection::show(shown.entry), space(&shown.space))
            })?;
        }
        RepositoryVerb::Import { name, wait } => {
            let accepted = client.act(&format!("/api/v1/repositories/{}/actions/import", escape(&name)))?;
            return finish(client, output, accepted, &wait, imported);
        }
        RepositoryVerb::Check { name, delete, grace_hours, wait } => {
            let path = format!("/api/v1/repositories/{}/actions/check", escape(&name));
            let accepted = client.post(&path, &CheckRepository { delete, grace_hours })?;
            return finish(client, output, accepted, &wait, checked);
        }
        RepositoryVerb::Remove { name } => {
            client.delete(&format!("/api/v1/repositories/{}", escape(&name)))?;
            output.done(&format!("repository '{name}' is forgotten; its files stay"))?;
        }
    }
    Ok(Ended::Done)
}

fn bounds_of(bounds: RepositoryBounds) -> Bounds {
    let RepositoryBounds { disks: MaxDisks { max_disks }, rate: Bandwidth { bandwidth } } = bounds;
    Bounds { max_disks, bandwidth }
}

fn space(space: &SpaceEntry) -> String {
    let known = |bytes: Option<u64>| or_dash(bytes.map(size));
    fields(&[
        (
            "objects",
            format!("{} (sum of sizes; files that share extents use less)", size(space.objects_bytes)),
        ),
        ("used", format!("{} on its file system, other files included", known(space.file_system_used_bytes))),
        ("free", known(space.file_system_free_bytes)),
    ])
}

fn imported(job: &JobEntry) -> String {
    let (imported, known) = (number(job, "imported"), number(job, "already_known"));
    format!("{imported} backups imported, {known} were known already")
}

/// What was found, a line each, and the sum.
fn checked(job: &JobEntry) -> String {
    let mut table = Table::new(&["FINDING", "OBJECT", "SIZE", "BACKUP", "AFFECTS", "DELETED", "WHAT"]);
    let findings = job.result.as_ref().and_then(|result| result["findings"].as_array());
    for finding in findings.into_iter().flatten() {
        let text = |key: &str| or_dash(finding[key].as_str().map(str::to_owned));
        table.row([
            text("kind"),
            text("object_key"),
            or_dash(finding["size_bytes"].as_u64().map(size)),
            text("backup_id"),
            finding["affected_backups"].as_array().map_or(0, Vec::len).to_string(),
            yes_no(finding["deleted"].as_bool().unwrap_or(false)),
            text("message"),
        ]);
    }
    let (found, shown) = (number(job, "findings_total"), findings.map_or(0, Vec::len));
    let mut text = table.render("nothing is wrong\n");
    if found > shown as u64 {
        text.push_str(&format!("and {} more\n", found - shown as u64));
    }
    text.push_str(&format!(
        "\n{} backups, {} objects, {}; {} deleted ({}); {} objects wait for deletion, {} merged backups for their names",
        number(job, "backups"),
        number(job, "objects"),
        size(number(job, "stored_bytes")),
        number(job, "deleted_objects"),
        size(number(job, "freed_bytes")),
        number(job, "doomed_objects"),
        number(job, "staged_backups"),
    ));
    text
}

fn number(job: &JobEntry, key: &str) -> u64 {
    job.result.as_ref().and_then(|result| result.get(key)).and_then(Value::as_u64).unwrap_or(0)
}
