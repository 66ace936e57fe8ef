//! Test cases of policies: a TOML file beside the script (`gfs.rhai` and `gfs.test.toml`).
//!
//! Each case has a moment that it plays at, backups or a VM, and what the policy should say about them. Nothing is taken
//! from the real world: no clock, no catalog. The keys are described in `docs/policies.md`.

mod file;
mod judge;
mod timeline;

use std::fmt;

use tidemark_model::{
    Candidate, History, KeepVerdict, ParsePolicyKindError, PolicyContext, PolicyKind, UtcMillis,
};
use toml::Spanned;

use crate::calendar::Zone;
use crate::floors::{Fate, Floors, apply_floors};
use crate::script::{Script, ScriptError};
use file::{Case, Expect, HistoryText, Reader};
use timeline::Timeline;

/// How one case came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// The line that it begins on, from 1.
    pub line: usize,
    /// What differs from what it expects, a sentence each. Empty where it passed.
    pub differences: Vec<String>,
}

impl CaseResult {
    /// Whether everything is as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// A file of cases that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CasesError {
    /// The line, from 1, where there is one.
    pub line: Option<usize>,
    /// What is wrong, in words.
    pub message: String,
}

impl fmt::Display for CasesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for CasesError {}

/// Runs all cases of a file against a script.
///
/// # Errors
/// A [`CasesError`] where the file cannot be read, has no case, or has one that expects nothing or names a backup that it
/// does not have. That a policy fails is no error but a difference.
pub fn run_cases(script: &Script, toml: &str) -> Result<Vec<CaseResult>, CasesError> {
    let reader = Reader(toml);
    let file = reader.file()?;
    if let Some(kind) = &file.kind {
        let wrong = |message: String| reader.wrong(kind, message);
        let named: PolicyKind =
            kind.get_ref().parse().map_err(|error: ParsePolicyKindError| wrong(error.to_string()))?;
        if named != script.kind() {
            let message = format!("these are cases of a {} policy, the script is another", named.as_str());
            return Err(wrong(message));
        }
    }
    if file.cases.is_empty() {
        return Err(CasesError { line: None, message: "there is no [[case]]".to_owned() });
    }
    file.cases.iter().map(|case| run_case(&reader, script, case)).collect()
}

/// The kind that a file of cases names at its top; none where it does not.
///
/// # Errors
/// A [`CasesError`] where the file cannot be read or names no kind of policy.
pub fn cases_kind(toml: &str) -> Result<Option<PolicyKind>, CasesError> {
    let reader = Reader(toml);
    let Some(kind) = reader.file()?.kind else { return Ok(None) };
    let parsed = kind.get_ref().parse();
    parsed.map(Some).map_err(|error: ParsePolicyKindError| reader.wrong(&kind, error.to_string()))
}

fn run_case(reader: &Reader<'_>, script: &Script, placed: &Spanned<Case>) -> Result<CaseResult, CasesError> {
    let case = placed.get_ref();
    let zone = reader.zone(case.time_zone.as_ref())?;
    let context = PolicyContext {
        now: reader.moment(&case.now, zone)?,
        time_zone: zone.name().to_owned(),
        settings_json: file::settings_json(&case.settings),
        vm: None,
    };
    let vm = case.vm.as_ref().map(|vm| reader.candidate(vm)).transpose()?;
    let differences = match script.kind() {
        PolicyKind::Retention => {
            only(reader, placed, &[("history", case.history.is_some()), ("expect", case.expect.is_some())])?;
            let expects =
                [case.keep.is_some(), case.keep_count.is_some(), case.drop.is_some(), case.reasons.is_some()];
            expects_something(reader, placed, expects.contains(&true))?;
            retention_case(reader, script, case, zone, PolicyContext { vm, ..context })?
        }
        PolicyKind::Group => {
            only(reader, placed, &[("timeline", !case.timeline.is_empty()), ("keep", case.keep.is_some())])?;
            expects_something(reader, placed, case.expect.is_some())?;
            let vm = vm.ok_or_else(|| reader.wrong(placed, format!("the case '{}' has no vm", case.name)))?;
            group_case(reader, script, case, zone, &vm, &context)?
        }
    };
    let line = reader.line(placed.span().start);
    Ok(CaseResult { name: case.name.clone(), line, differences })
}

/// Keys that mean nothing to this kind of policy would be passed over in silence.
fn only(reader: &Reader<'_>, case: &Spanned<Case>, foreign: &[(&str, bool)]) -> Result<(), CasesError> {
    match foreign.iter().find(|key| key.1) {
        Some((key, _)) => Err(reader.wrong(case, format!("'{key}' is of the other kind of policy"))),
        None => Ok(()),
    }
}

fn expects_something(reader: &Reader<'_>, case: &Spanned<Case>, any: bool) -> Result<(), CasesError> {
    if any || case.get_ref().error.is_some() {
        return Ok(());
    }
    Err(reader.wrong(case, format!("the case '{}' expects nothing", case.get_ref().name)))
}

fn retention_case(
    reader: &Reader<'_>,
    script: &Script,
    case: &Case,
    zone: Zone,
    context: PolicyContext,
) -> Result<Vec<String>, CasesError> {
    let timeline = Timeline::read(reader, &case.timeline, context.now, zone)?;
    let verdicts = match (script.retain(&timeline.points, &context), &case.error) {
        (Err(error), expected) => return Ok(failure(&error, expected.as_deref())),
        (Ok(_), Some(expected)) => return Ok(vec![no_failure(expected)]),
        (Ok(verdicts), None) => verdicts,
    };
    let verdicts = if case.floors { with_floors(&timeline, &verdicts, context.now) } else { verdicts };
    judge::retention(reader, case, &timeline, &verdicts)
}

fn with_floors(timeline: &Timeline, verdicts: &[KeepVerdict], now: UtcMillis) -> Vec<KeepVerdict> {
    let outcome = apply_floors(&timeline.points, verdicts, &Floors::new(now));
    let verdict = |fate| match fate {
        Fate::Kept { reason, .. } => KeepVerdict::Keep(reason),
        Fate::Dropped => KeepVerdict::MayGo,
    };
    outcome.fates.into_iter().map(verdict).collect()
}

fn group_case(
    reader: &Reader<'_>,
    script: &Script,
    case: &Case,
    zone: Zone,
    vm: &Candidate,
    context: &PolicyContext,
) -> Result<Vec<String>, CasesError> {
    let nothing = Expect::default();
    let expect = case.expect.as_ref().unwrap_or(&nothing);
    let plans = expect.plan.is_some() || expect.plan_reason.is_some() || case.history.is_some();
    let history =
        case.history.as_ref().map_or(Ok(History::default()), |text| read_history(reader, text, zone))?;
    let answers = script.select(vm, context).and_then(|selection| {
        let plan = if plans { Some(script.plan(vm, &history, context)?) } else { None };
        Ok((selection, plan))
    });
    match (answers, &case.error) {
        (Err(error), expected) => Ok(failure(&error, expected.as_deref())),
        (Ok(_), Some(expected)) => Ok(vec![no_failure(expected)]),
        (Ok((selection, plan)), None) => {
            let mut wrong = judge::selection(expect, &selection);
            wrong.extend(plan.iter().flat_map(|plan| judge::plan(expect, plan)));
            Ok(wrong)
        }
    }
}

fn read_history(reader: &Reader<'_>, text: &HistoryText, zone: Zone) -> Result<History, CasesError> {
    let HistoryText { chain_length, last_full, last_backup, full_size, increments_size, changed } = text;
    let moment = |value: &Option<_>| value.as_ref().map(|value| reader.moment(value, zone)).transpose();
    let size = |value: &Option<_>| value.as_ref().map(|value| reader.size(value)).transpose();
    Ok(History {
        chain_length: *chain_length,
        last_full: moment(last_full)?,
        last_backup: moment(last_backup)?,
        full_size: size(full_size)?,
        increments_size: size(increments_size)?.unwrap_or_default(),
        changed: size(changed)?,
    })
}

fn failure(error: &ScriptError, expected: Option<&str>) -> Vec<String> {
    match expected {
        Some(expected) if error.to_string().contains(expected) => Vec::new(),
        Some(expected) => vec![format!("the policy failed with '{error}', not with '{expected}'")],
        None => vec![format!("the policy failed: {error}")],
    }
}

fn no_failure(expected: &str) -> String {
    format!("the policy should have failed with '{expected}'")
}

#[cfg(test)]
mod tests;
