//! Reads what scripts answer; anything that is not exactly an answer is an error.

use rhai::{Dynamic, Map};
use tidemark_model::{Candidate, KeepVerdict, PlanDecision, PlanType, Selection};

use super::error::{ScriptError, ScriptErrorKind};
use super::values::List;

/// The longest reason, in characters; a longer one is cut.
const LONGEST_REASON: usize = 200;

fn wrong(message: impl Into<String>) -> ScriptError {
    ScriptError::new(ScriptErrorKind::Answer, message)
}

fn word(value: &Dynamic) -> &'static str {
    match value.type_name() {
        "()" => "nothing",
        "i64" => "a whole number",
        "f64" => "a number",
        "bool" => "true or false",
        "string" => "a string",
        "array" => "an array",
        "map" => "a map",
        _ => "something else",
    }
}

fn reason(value: &Dynamic, whose: &str) -> Result<String, ScriptError> {
    let text = value.as_immutable_string_ref();
    let text = text.map_err(|_| wrong(format!("{whose} is a string, not {}", word(value))))?;
    let plain: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect();
    if plain.trim().is_empty() {
        return Err(wrong(format!("{whose} is empty")));
    }
    Ok(plain.trim().to_owned())
}

/// A reason keeps, nothing lets go.
pub(super) fn verdict(answer: &Dynamic) -> Result<KeepVerdict, ScriptError> {
    if answer.is_unit() {
        return Ok(KeepVerdict::MayGo);
    }
    if !answer.is_string() {
        let message =
            format!("retain answers a reason (a string) to keep or () to let go, not {}", word(answer));
        return Err(wrong(message));
    }
    reason(answer, "the reason to keep").map(KeepVerdict::Keep)
}

/// The fields of a map, of which no other may be there.
fn fields(answer: Dynamic, function: &str, known: &[&str]) -> Result<Map, ScriptError> {
    let kind = word(&answer);
    let map = answer.try_cast::<Map>();
    let map = map
        .ok_or_else(|| wrong(format!("{function} answers a map #{{ {} }}, not {kind}", known.join(", "))))?;
    match map.keys().find(|name| !known.contains(&name.as_str())) {
        Some(other) => Err(wrong(format!("{function} answers no '{other}' (known: {})", known.join(", ")))),
        None => Ok(map),
    }
}

fn field<'a>(map: &'a Map, name: &str, function: &str) -> Result<&'a Dynamic, ScriptError> {
    map.get(name).ok_or_else(|| wrong(format!("{function} answers no '{name}'")))
}

pub(super) fn selection(answer: Dynamic, vm: &Candidate) -> Result<Selection, ScriptError> {
    let map = fields(answer, "select", &["protect", "reason", "exclude_disks"])?;
    let protect = field(&map, "protect", "select")?;
    let protect =
        protect.as_bool().map_err(|_| wrong(format!("protect is true or false, not {}", word(protect))))?;
    let reason = reason(field(&map, "reason", "select")?, "the reason")?;
    let left_out = map.get("exclude_disks").map_or_else(|| Ok(Vec::new()), names)?;
    let exclude_disks: Vec<_> = vm
        .disks
        .iter()
        .filter(|disk| left_out.iter().any(|name| *name == disk.key.0 || *name == disk.label))
        .map(|disk| disk.key.clone())
        .collect();
    if protect && !vm.disks.is_empty() && exclude_disks.len() == vm.disks.len() {
        return Err(wrong("exclude_disks leaves out every disk; answer protect: false instead"));
    }
    Ok(Selection { protect, reason, exclude_disks })
}

fn names(value: &Dynamic) -> Result<Vec<String>, ScriptError> {
    let items = match value.clone().try_cast::<List>() {
        Some(list) => list.0.as_ref().clone(),
        None if value.is_unit() => Vec::new(),
        None => value.clone().try_cast().ok_or_else(|| {
            wrong(format!("exclude_disks is an array of keys or labels, not {}", word(value)))
        })?,
    };
    let text = |item: Dynamic| {
        let kind = word(&item);
        item.into_string().map_err(|_| wrong(format!("a disk is named by a string, not {kind}")))
    };
    items.into_iter().map(text).collect()
}

pub(super) fn plan(answer: Dynamic) -> Result<PlanDecision, ScriptError> {
    let map = fields(answer, "plan", &["type", "reason"])?;
    let name = field(&map, "type", "plan")?;
    let kinds = [PlanType::Full, PlanType::Incremental, PlanType::SyntheticFull, PlanType::Defer];
    let kind = name
        .as_immutable_string_ref()
        .ok()
        .and_then(|name| kinds.into_iter().find(|kind| kind.as_str() == name.as_str()));
    let known = kinds.map(PlanType::as_str).join(", ");
    let kind = kind.ok_or_else(|| wrong(format!("'{name}' is no type of a plan (known: {known})")))?;
    Ok(PlanDecision { kind, reason: reason(field(&map, "reason", "plan")?, "the reason")? })
}
