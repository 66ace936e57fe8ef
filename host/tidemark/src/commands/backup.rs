//! `tidemark backup`

use std::collections::HashMap;

use anyhow::Result;
use serde_json::Value;
use tidemark_api::wire::{
    BackupChain, BackupDetail, BackupList, BackupSummary, DeleteBackups, JobEntry, RepositoryList,
    RequestedBackupType, StartBackup, StartedBackup, StartedDeletion, VerifyBackup, VerifyDepth,
};

use super::{finish, finish_telling};
use crate::args::{BackupVerb, LevelArg, TypeArg, Wait};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, fields, moment, or_dash, size, yes_no};
use crate::watch::{Style, conclude, follow};

impl From<TypeArg> for RequestedBackupType {
    fn from(arg: TypeArg) -> Self {
        match arg {
            TypeArg::Full => Self::Full,
            TypeArg::Incremental => Self::Incremental,
            TypeArg::Auto => Self::Auto,
        }
    }
}

impl From<LevelArg> for VerifyDepth {
    fn from(arg: LevelArg) -> Self {
        match arg {
            LevelArg::Quick => Self::Quick,
            LevelArg::Full => Self::Full,
            LevelArg::Deep => Self::Deep,
        }
    }
}

pub(crate) fn run(verb: BackupVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        BackupVerb::Run { vm, repository, backup_type, bound, wait } => {
            let order = StartBackup {
                vm_name: vm,
                repository_id: repository,
                backup_type: backup_type.into(),
                bandwidth_bytes_per_second: bound.bandwidth,
            };
            return back_up(client, output, &order, &wait);
        }
        BackupVerb::List { vm } => {
            let filter = vm.map(|vm| format!("?vm_name={}", escape(&vm))).unwrap_or_default();
            let list = client.list(&format!("/api/v1/backups{filter}"), "backups")?;
            let places = places(client, output)?;
            output.document(list, |list: BackupList| table(list.backups, &places))?;
        }
        BackupVerb::Show { id } => {
            let shown = client.get(&format!("/api/v1/backups/{}", escape(&id)))?;
            output.document(shown, |backup: BackupDetail| show(&backup))?;
        }
        BackupVerb::Chain { vm } => {
            let chain = client.get(&format!("/api/v1/backups/chain/{}", escape(&vm)))?;
            let places = places(client, output)?;
            output.document(chain, |chain: BackupChain| table(chain.backups, &places))?;
        }
        BackupVerb::Verify { id, level, wait } => {
            let path = format!("/api/v1/backups/{}/actions/verify", escape(&id));
            let accepted = client.post(&path, &VerifyBackup { level: level.into() })?;
            return verify(client, output, accepted, &wait);
        }
        BackupVerb::Pin { id } => pin(client, output, &id, "pin")?,
        BackupVerb::Unpin { id } => pin(client, output, &id, "unpin")?,
        BackupVerb::Delete { ids, wait } => return delete(client, output, ids, &wait),
        BackupVerb::Synthesize { id, wait } => {
            let accepted = client.act(&format!("/api/v1/backups/{}/actions/synthesize", escape(&id)))?;
            return finish(client, output, accepted, &wait, |job| {
                format!("backup {id} is a full; {}", merged(job))
            });
        }
    }
    Ok(Ended::Done)
}

/// Ends with the backup's own document: it also tells of one that failed.
fn back_up(client: &Client, output: &Output, order: &StartBackup, wait: &Wait) -> Result<Ended> {
    let document = client.post("/api/v1/backups", order)?;
    let started: StartedBackup = serde_json::from_value(document.clone())?;
    if wait.no_wait {
        output.document(document, |started: StartedBackup| started.message)?;
        return Ok(Ended::Done);
    }
    let (job, _) = follow(client, output, &started.job_id, Style::Progress)?;
    let ended = conclude(output, &job);
    if output.is_json() || ended != Ended::Failed {
        let made = client.get(&format!("/api/v1/backups/{}", escape(&started.backup_id)))?;
        output.document(made, |backup: BackupDetail| show(&backup))?;
    }
    Ok(ended)
}

/// One job a VM and repository; one alone is shown as any job.
fn delete(client: &Client, output: &Output, backup_ids: Vec<String>, wait: &Wait) -> Result<Ended> {
    let accepted = client.post("/api/v1/backups/actions/delete", &DeleteBackups { backup_ids })?;
    let started: StartedDeletion = serde_json::from_value(accepted.clone())?;
    if wait.no_wait || started.jobs.len() == 1 {
        return finish(client, output, accepted, wait, deleted);
    }
    let (mut worst, mut documents) = (Ended::Done, Vec::new());
    for job in &started.jobs {
        let (job, document) = follow(client, output, &job.job_id, Style::Progress)?;
        worst = worst.max(conclude(output, &job));
        documents.push(document);
    }
    output.document(serde_json::json!({ "jobs": documents }), |ended: DeletionsEnded| {
        ended.jobs.iter().map(deleted).collect::<Vec<_>>().join("\n")
    })?;
    Ok(worst)
}

#[derive(serde::Deserialize)]
struct DeletionsEnded {
    jobs: Vec<JobEntry>,
}

fn deleted(job: &JobEntry) -> String {
    let result = job.result.as_ref();
    let gone = result.and_then(|result| result["removed"].as_array()).map_or(0, Vec::len);
    format!("{gone} backup(s) deleted; {}", merged(job))
}

/// What a changed chain took and gave.
fn merged(job: &JobEntry) -> String {
    let number = |key: &str| job.result.as_ref().and_then(|result| result[key].as_u64());
    let merges = job.result.as_ref().and_then(|result| result["merged"].as_array()).map_or(0, Vec::len);
    let mut words = match merges {
        0 => "nothing had to be merged".to_owned(),
        _ => format!(
            "{merges} merged: {} written, {} shared",
            size(number("written_bytes").unwrap_or(0)),
            size(number("shared_bytes").unwrap_or(0))
        ),
    };
    if let (Some(before), Some(after)) = (number("free_bytes_before"), number("free_bytes_after")) {
        words.push_str(&format!("; free space {} before, {} now", size(before), size(after)));
    }
    words
}

/// Where there is damage, the findings are the result.
fn verify(client: &Client, output: &Output, accepted: Value, wait: &Wait) -> Result<Ended> {
    let has_findings = |job: &JobEntry| job.error.as_ref().and_then(|error| error.get("detail")).is_some();
    finish_telling(client, output, accepted, wait, has_findings, verified)
}

fn pin(client: &Client, output: &Output, id: &str, verb: &str) -> Result<()> {
    let changed = client.act(&format!("/api/v1/backups/{}/actions/{verb}", escape(id)))?;
    output.document(changed, |backup: BackupDetail| {
        let state = if backup.summary.pinned { "pinned" } else { "not pinned any more" };
        format!("backup {} is {state}", backup.summary.backup_id)
    })
}

/// The repositories' names by id, where people read them.
fn places(client: &Client, output: &Output) -> Result<HashMap<String, String>> {
    if output.is_json() {
        return Ok(HashMap::new());
    }
    let list: RepositoryList = serde_json::from_value(client.list("/api/v1/repositories", "repositories")?)?;
    Ok(list.repositories.into_iter().map(|repository| (repository.id, repository.name)).collect())
}

fn table(backups: Vec<BackupSummary>, places: &HashMap<String, String>) -> String {
    let mut table = Table::new(&[
        "BACKUP",
        "VM",
        "REPOSITORY",
        "TYPE",
        "STATUS",
        "SNAPSHOT",
        "DISKS",
        "READ",
        "STORED",
        "PINNED",
        "REASON",
    ]);
    for backup in backups {
        let place = backup.repository_id.map(|id| places.get(&id).cloned().unwrap_or(id));
        table.row([
            backup.backup_id,
            backup.vm_name,
            or_dash(place),
            backup.backup_type,
            backup.status,
            moment(&backup.created_at),
            backup.disks_count.to_string(),
            size(backup.read_bytes),
            size(backup.stored_bytes),
            yes_no(backup.pinned),
            backup.reason_code,
        ]);
    }
    table.render("no backups")
}

fn show(backup: &BackupDetail) -> String {
    let summary = &backup.summary;
    let seconds = |ms: i64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    let mut shown = fields(&[
        ("backup", summary.backup_id.clone()),
        ("VM", format!("{} ({})", summary.vm_name, summary.vm_id)),
        ("type", summary.backup_type.clone()),
        ("reason", or_dash(Some(summary.reason.clone()))),
        ("status", summary.status.clone()),
        ("snapshot", moment(&summary.created_at)),
        ("took", or_dash(backup.duration_ms.map(seconds))),
        ("parent", or_dash(summary.parent_backup_id.clone())),
        ("read", size(summary.read_bytes)),
        ("skipped", size(summary.skipped_bytes)),
        ("stored", size(summary.stored_bytes)),
        ("pinned", yes_no(summary.pinned)),
        ("verified", or_dash(verified_when(summary))),
        ("manifest", or_dash(backup.manifest_path.clone())),
        ("job", or_dash(backup.job_id.clone())),
    ]);
    for warning in &backup.warnings {
        shown.push_str(&format!("warning   {warning}\n"));
    }
    if let Some(error) = &backup.error {
        shown.push_str(&format!("error     {}\n", error["message"].as_str().unwrap_or_default()));
    }
    if backup.disks.is_empty() {
        return shown;
    }
    let mut table = Table::new(&["DISK", "LABEL", "SIZE", "READ", "SKIPPED", "STORED", "RATE", "IMAGE"]);
    for disk in &backup.disks {
        table.row([
            disk.disk_index.to_string(),
            disk.label.clone(),
            size(disk.capacity_bytes),
            size(disk.read_bytes),
            size(disk.skipped_bytes),
            size(disk.stored_bytes),
            rate(disk.read_bytes, disk.moved_ms),
            disk.path.clone(),
        ]);
    }
    shown.push('\n');
    shown.push_str(&table.render(""));
    shown
}

/// When and how thoroughly.
fn verified_when(summary: &BackupSummary) -> Option<String> {
    let at = moment(summary.verified_at.as_deref()?);
    Some(match &summary.verified_level {
        Some(level) => format!("{at} ({level})"),
        None => at,
    })
}

/// Bytes that were really read, by the time it really took.
fn rate(read_bytes: u64, moved_ms: u64) -> String {
    if moved_ms == 0 || read_bytes == 0 {
        return "-".to_owned();
    }
    let a_second = u128::from(read_bytes) * 1000 / u128::from(moved_ms);
    format!("{}/s", size(u64::try_from(a_second).unwrap_or(u64::MAX)))
}

fn verified(job: &JobEntry) -> String {
    let nothing = Value::Null;
    let detail = job.error.as_ref().and_then(|error| error.get("detail"));
    let report = job.result.as_ref().or(detail).unwrap_or(&nothing);
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut shown = String::new();
    let findings = list(&report["findings"]);
    if findings.is_empty() {
        shown = format!("good: {} objects, {} stored\n", number("objects"), size(number("stored_bytes")));
    } else {
        let mut table =
            Table::new(&["BACKUP", "DISK", "DAMAGE", "GUEST RANGE", "AFFECTED BACKUPS", "OBJECT"]);
        for finding in findings {
            let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            let affected: Vec<_> = list(&finding["affected_backups"])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            table.row([
                word("backup_id"),
                or_dash(finding["disk_index"].as_u64().map(|index| index.to_string())),
                word("kind"),
                guest_ranges(&finding),
                or_dash(Some(affected.join(" "))),
                word("object"),
            ]);
        }
        shown.push_str(&table.render(""));
    }
    for disk in list(&report["not_compared"]) {
        let (backup, reason) = (disk["backup_id"].as_str(), disk["reason"].as_str());
        shown.push_str(&format!(
            "nothing to compare with: backup {} disk {} ({} clusters read): {}\n",
            backup.unwrap_or_default(),
            disk["disk_index"],
            disk["clusters"],
            reason.unwrap_or_default(),
        ));
    }
    shown
}

/// The first damaged range and how much there is.
fn guest_ranges(finding: &Value) -> String {
    let first = &finding["guest_ranges"][0];
    let (Some(offset), Some(length)) = (first["offset"].as_u64(), first["length"].as_u64()) else {
        return "-".to_owned();
    };
    let more = finding["guest_ranges_count"].as_u64().unwrap_or(1).saturating_sub(1);
    let bytes = finding["damaged_bytes"].as_u64().unwrap_or(length);
    let more = if more == 0 { String::new() } else { format!(" and {more} more, {}", size(bytes)) };
    format!("{offset}..{}{more}", offset + length)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_physical() {
        assert_eq!(rate(10 << 20, 500), "20.0 MiB/s");
        assert_eq!(rate(0, 500), "-");
        assert_eq!(rate(5, 0), "-");
    }

    #[test]
    fn findings_are_a_table() {
        let finding = |ranges: Value, count: u64| {
            json!({
                "kind": "data", "backup_id": "b1", "disk_index": 0, "object": "o", "guest_ranges": ranges,
                "guest_ranges_count": count, "damaged_bytes": 131_072, "affected_backups": ["b1", "b2"],
            })
        };
        let one = json!([{ "offset": 65_536, "length": 65_536 }]);
        assert_eq!(guest_ranges(&finding(one.clone(), 1)), "65536..131072");
        assert_eq!(guest_ranges(&finding(one.clone(), 3)), "65536..131072 and 2 more, 128.0 KiB");
        assert_eq!(guest_ranges(&finding(json!([]), 0)), "-");
        let job = |result: Value, error: Value| -> JobEntry {
            serde_json::from_value(json!({
                "job_id": "1", "kind": "verify", "status": "failed", "request": {}, "progress": {},
                "result": result, "error": error, "warnings": [], "cancel_requested": false, "host": null,
                "created_at": "t", "started_at": null, "ended_at": null,
            }))
            .unwrap()
        };
        let damaged = job(Value::Null, json!({ "detail": { "findings": [finding(one, 1)] } }));
        assert!(verified(&damaged).contains("b1 b2"), "{}", verified(&damaged));
        let old =
            json!([{ "backup_id": "b", "disk_index": 1, "clusters": 7, "reason": "made by an old version" }]);
        let good = verified(&job(json!({ "objects": 3, "findings": [], "not_compared": old }), Value::Null));
        assert!(
            good.starts_with("good: 3 objects") && good.contains("nothing to compare with: backup b disk 1")
        );
    }
}
