//! `tidemark policy simulate`: a schedule and a policy played over some days, as a table, a drawing or a page.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use tidemark_api::wire::{BackupList, PolicySort, PolicyVersionEntry};
use tidemark_model::{ByteLen, Candidate, KeepVerdict, PolicyContext, PolicyKind, RetentionPoint, UtcMillis};
use tidemark_policy::{
    Floors, Schedule, Script, Simulation, SimulationInput, Zone, parse_moment, parse_size,
};

use super::policy::read;
use crate::args::SimulateArgs;
use crate::client::{Client, escape};
use crate::output::{Ended, Output};

pub(super) fn run(args: SimulateArgs, client: &dyn Fn() -> Result<Client>, output: &Output) -> Result<Ended> {
    let script = script_of(&args.name_or_file, client)?;
    let plan = match &args.plan {
        Some(file) => Some(
            Script::compile(PolicyKind::Group, &read(file)?).with_context(|| file.display().to_string())?,
        ),
        None => None,
    };
    let settings = settings(&args.settings)?;
    let schedule = Schedule::parse(&args.every, &args.time_zone).map_err(|e| anyhow!("--every: {e}"))?;
    let zone = Zone::parse(&args.time_zone).map_err(|e| anyhow!("--time-zone: {e}"))?;
    let start = match &args.start {
        Some(day) => parse_moment(&format!("{day}T00:00:00"), zone).map_err(|e| anyhow!("--start: {e}"))?,
        None => UtcMillis::now(),
    };
    let (full_size, change_per_day) = sizes(&args, client)?;
    let mut retain =
        |points: &[RetentionPoint], context: &PolicyContext| -> Result<Vec<KeepVerdict>, String> {
            script.retain(points, context).map_err(|error| error.to_string())
        };
    let mut planned = plan.map(|plan| {
        move |vm: &Candidate, history: &tidemark_model::History, context: &PolicyContext| {
            plan.plan(vm, history, context).map_err(|error| error.to_string())
        }
    });
    let input = SimulationInput {
        title: args.name_or_file.clone(),
        retain: &mut retain,
        plan: planned.as_mut().map(|plan| plan as _),
        schedule,
        start,
        days: args.days,
        settings_json: Value::Object(settings).to_string(),
        vm: Candidate { name: args.like.clone().unwrap_or_else(|| "vm".to_owned()), ..Candidate::default() },
        full_size,
        change_per_day,
        max_chain_depth: args.max_chain_depth,
        floors: Floors::new(start),
        existing: Vec::new(),
    };
    let played = tidemark_policy::simulate(input).map_err(|error| anyhow!("{error}"))?;
    if let Some(file) = &args.svg {
        write(file, &played.render_svg())?;
    }
    if let Some(file) = &args.html {
        write(file, &played.render_html())?;
    }
    let table = played.render_table();
    output.document(document(&played), |_: Value| table)?;
    Ok(if played.warnings.is_empty() { Ended::Done } else { Ended::Warnings })
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// A file where there is one of this name, else a stored policy.
fn script_of(name_or_file: &str, client: &dyn Fn() -> Result<Client>) -> Result<Script> {
    let path = Path::new(name_or_file);
    if path.is_file() || path.extension().is_some_and(|extension| extension == "rhai") {
        return Script::compile(PolicyKind::Retention, &read(path)?).with_context(|| name_or_file.to_owned());
    }
    let stored = client()?.get(&format!("/api/v1/policies/{}", escape(name_or_file)))?;
    let stored: PolicyVersionEntry = serde_json::from_value(stored)?;
    if stored.kind != PolicySort::Retention {
        bail!(
            "'{name_or_file}' is a group policy: simulate a retention policy, and give the group's file as --plan"
        );
    }
    Script::compile(PolicyKind::Retention, &stored.source).with_context(|| name_or_file.to_owned())
}

/// `daily=7` is a number, `strict=true` a truth, everything else text.
fn settings(given: &[String]) -> Result<Map<String, Value>> {
    let mut settings = Map::new();
    for pair in given {
        let (name, text) =
            pair.split_once('=').with_context(|| format!("--set {pair}: NAME=VALUE is expected"))?;
        let value = match serde_json::from_str::<Value>(text) {
            Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Array(_))) => value,
            _ => Value::String(text.to_owned()),
        };
        settings.insert(name.to_owned(), value);
    }
    Ok(settings)
}

/// As given, or as a VM's backups of the last weeks were.
fn sizes(args: &SimulateArgs, client: &dyn Fn() -> Result<Client>) -> Result<(ByteLen, ByteLen)> {
    let size = |text: &str| parse_size(text).map_err(|error| anyhow!(error));
    let Some(vm) = &args.like else { return Ok((size(&args.full_size)?, size(&args.change_per_day)?)) };
    let list = client()?.list(&format!("/api/v1/backups?vm_name={}", escape(vm)), "backups")?;
    let mut list: BackupList = serde_json::from_value(list)?;
    list.backups.retain(|backup| backup.copy_of.is_none());
    let full = list.backups.iter().find(|backup| backup.backup_type == "full");
    let full = full.with_context(|| format!("VM '{vm}' has no full backup to learn from"))?.stored_bytes;
    let increments: Vec<_> =
        list.backups.iter().filter(|backup| backup.backup_type == "incremental").collect();
    let total: u64 = increments.iter().map(|backup| backup.stored_bytes).sum();
    let days = match (list.backups.first(), list.backups.last()) {
        (Some(newest), Some(oldest)) => days_between(&oldest.created_at, &newest.created_at)?,
        _ => 1,
    };
    Ok((ByteLen(full), ByteLen(total / days.max(1))))
}

fn days_between(older: &str, newer: &str) -> Result<u64> {
    let zone = Zone::parse("UTC").map_err(|e| anyhow!("{e}"))?;
    let moment = |text: &str| parse_moment(text, zone).map_err(|e| anyhow!(e));
    let length = moment(newer)?.0 - moment(older)?.0;
    Ok(u64::try_from(length / 86_400_000).unwrap_or(0))
}

fn document(played: &Simulation) -> Value {
    let days: Vec<Value> = played
        .days
        .iter()
        .map(|day| {
            json!({
                "date": day.date, "made": day.made, "dropped": day.dropped, "count": day.count,
                "oldest_ms": day.oldest.map(|at| at.0), "newest_ms": day.newest.map(|at| at.0),
                "chain_depth": day.chain_depth, "stored_bytes": day.bytes.0,
            })
        })
        .collect();
    let kept: Vec<Value> = played
        .kept()
        .map(
            |life| json!({ "made_ms": life.made.0, "reason": life.reason, "stored_bytes": life.last_size.0 }),
        )
        .collect();
    let warnings: Vec<Value> = played
        .warnings
        .iter()
        .map(|warning| json!({ "first_ms": warning.first.0, "times": warning.times, "message": warning.message }))
        .collect();
    json!({
        "title": played.title,
        "schedule": played.schedule,
        "start_ms": played.start.0,
        "end_ms": played.end.0,
        "days": days,
        "kept": kept,
        "fulls": played.totals.fulls,
        "incrementals": played.totals.incrementals,
        "synthetic_fulls": played.totals.synthetic_fulls,
        "dropped": played.totals.dropped,
        "peak_bytes": played.totals.peak.0,
        "stored_bytes": played.totals.last.0,
        "warnings": warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_their_types() {
        let given = ["daily=7", "strict=true", "tag=prod", "patterns=[\"a\"]"].map(str::to_owned);
        let settings = settings(&given).unwrap();
        assert_eq!(
            Value::Object(settings),
            json!({"daily": 7, "strict": true, "tag": "prod", "patterns": ["a"]})
        );
        assert!(super::settings(&["daily".to_owned()]).is_err());
    }
}
