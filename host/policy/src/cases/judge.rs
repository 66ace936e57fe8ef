//! Holds what a policy said against what a case expects, and words the difference.

use tidemark_model::{KeepVerdict, PlanDecision, Selection};

use super::CasesError;
use super::file::{At, Case, Expect, Reader};
use super::timeline::Timeline;

/// So many backups of a difference are named.
const MOST_NAMED: usize = 12;

/// What a retention case finds wrong with the verdicts.
pub(super) fn retention(
    reader: &Reader<'_>,
    case: &Case,
    timeline: &Timeline,
    verdicts: &[KeepVerdict],
) -> Result<Vec<String>, CasesError> {
    let mut wrong = Vec::new();
    let kept = |at: usize| matches!(verdicts.get(at), Some(KeepVerdict::Keep(_)));
    let all = || 0..timeline.points.len();
    if let Some(keep) = &case.keep {
        let expected = meant(reader, timeline, keep)?;
        let extra: Vec<usize> = all().filter(|at| kept(*at) && !expected.contains(at)).collect();
        let missing: Vec<usize> = all().filter(|at| !kept(*at) && expected.contains(at)).collect();
        wrong.extend(named(timeline, verdicts, &missing, "should be kept but may go"));
        wrong.extend(named(timeline, verdicts, &extra, "should go but is kept"));
    }
    if let Some(drop) = &case.drop {
        let expected = meant(reader, timeline, drop)?;
        let still: Vec<usize> = expected.into_iter().filter(|at| kept(*at)).collect();
        wrong.extend(named(timeline, verdicts, &still, "should go but is kept"));
    }
    let count = all().filter(|at| kept(*at)).count();
    if let Some(expected) = case.keep_count.filter(|expected| *expected != count) {
        wrong.push(format!("{count} backups are kept, {expected} should be"));
    }
    for (name, expected) in case.reasons.iter().flatten() {
        let found = timeline.meant(name.get_ref());
        if found.is_empty() {
            return Err(unknown(reader, name, name.get_ref()));
        }
        for at in found {
            match &verdicts[at] {
                KeepVerdict::Keep(reason) if reason == expected => {}
                KeepVerdict::Keep(reason) => wrong.push(format!(
                    "{} is kept for '{reason}', the reason should be '{expected}'",
                    timeline.label(at)
                )),
                KeepVerdict::MayGo => {
                    wrong.push(format!("{} may go, it should be kept for '{expected}'", timeline.label(at)));
                }
            }
        }
    }
    Ok(wrong)
}

fn unknown<T>(reader: &Reader<'_>, at: &At<T>, text: &str) -> CasesError {
    reader.wrong(at, format!("'{text}' is no backup of the timeline, by id, time or day"))
}

fn meant(
    reader: &Reader<'_>,
    timeline: &Timeline,
    texts: &[At<toml::Value>],
) -> Result<std::collections::BTreeSet<usize>, CasesError> {
    let mut all = std::collections::BTreeSet::new();
    for text in texts {
        let found = timeline.meant(&reader.text(text)?);
        if found.is_empty() {
            return Err(unknown(reader, text, &reader.text(text)?));
        }
        all.extend(found);
    }
    Ok(all)
}

/// One line a backup, with its reason where it is kept; the rest of many as a number.
fn named(timeline: &Timeline, verdicts: &[KeepVerdict], places: &[usize], what: &str) -> Vec<String> {
    let line = |at: &usize| match &verdicts[*at] {
        KeepVerdict::Keep(reason) => format!("{} {what} ({reason})", timeline.label(*at)),
        KeepVerdict::MayGo => format!("{} {what}", timeline.label(*at)),
    };
    let mut lines: Vec<String> = places.iter().take(MOST_NAMED).map(line).collect();
    if places.len() > MOST_NAMED {
        lines.push(format!("and {} more that {what}", places.len() - MOST_NAMED));
    }
    lines
}

/// What a group case finds wrong with a selection.
pub(super) fn selection(expect: &Expect, found: &Selection) -> Vec<String> {
    let mut wrong = Vec::new();
    let word = |protect: bool| if protect { "protected" } else { "not protected" };
    if let Some(protect) = expect.protect.filter(|protect| *protect != found.protect) {
        wrong.push(format!(
            "the VM is {} ({}), it should be {}",
            word(found.protect),
            found.reason,
            word(protect)
        ));
    }
    if let Some(reason) = expect.reason.as_ref().filter(|reason| **reason != found.reason) {
        wrong.push(format!("the reason is '{}', it should be '{reason}'", found.reason));
    }
    if let Some(disks) = &expect.exclude_disks {
        let sorted = |mut keys: Vec<String>| {
            keys.sort();
            keys.join(", ")
        };
        let (found, expected) =
            (sorted(found.exclude_disks.iter().map(|key| key.0.clone()).collect()), sorted(disks.clone()));
        if found != expected {
            wrong.push(format!("the disks left out are [{found}], they should be [{expected}]"));
        }
    }
    wrong
}

/// What a group case finds wrong with a plan.
pub(super) fn plan(expect: &Expect, found: &PlanDecision) -> Vec<String> {
    let mut wrong = Vec::new();
    let kind = found.kind.as_str();
    if let Some(plan) = expect.plan.as_ref().filter(|plan| plan.as_str() != kind) {
        wrong.push(format!("the plan is '{kind}' ({}), it should be '{plan}'", found.reason));
    }
    if let Some(reason) = expect.plan_reason.as_ref().filter(|reason| **reason != found.reason) {
        wrong.push(format!("the plan's reason is '{}', it should be '{reason}'", found.reason));
    }
    wrong
}
