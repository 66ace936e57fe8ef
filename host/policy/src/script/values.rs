//! Values that scripts can look at but not change: moments, lists, and records of settings.
//!
//! A plain array or map of the language is copied whenever it is passed on. These share what they hold, so that a run
//! over ten thousand backups hands each call the same answer of `prepare` without copying it.

use std::any::TypeId;
use std::sync::Arc;

use chrono::{Datelike as _, Timelike as _};
use rhai::{Array, Dynamic, FLOAT, INT, ImmutableString, Map, Module};
use serde_json::Value;
use tidemark_model::UtcMillis;

use super::error::{Refusal, refuse};
use super::functions::offer;
use crate::calendar::{Zone, age_days};

/// A moment in the policy's time zone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: UtcMillis,
    pub(super) zone: Zone,
}

/// A list; what lies outside it is an error.
#[derive(Debug, Clone)]
pub(super) struct List(pub(super) Arc<Array>);

/// Named values; what is not there is `()`.
#[derive(Debug, Clone)]
pub(super) struct Record(pub(super) Arc<Map>);

/// Maps and arrays made unchangeable, all the way down.
pub(super) fn freeze(value: Dynamic) -> Dynamic {
    if value.is_map() {
        let map = value.cast::<Map>();
        return Dynamic::from(Record(Arc::new(map.into_iter().map(|(k, v)| (k, freeze(v))).collect())));
    }
    if value.is_array() {
        let array = value.cast::<Array>();
        return Dynamic::from(List(Arc::new(array.into_iter().map(freeze).collect())));
    }
    value
}

/// JSON as a script sees it.
pub(super) fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(yes) => (*yes).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Dynamic::from(List(Arc::new(items.iter().map(from_json).collect()))),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.as_str().into(), from_json(value)));
            Dynamic::from(Record(Arc::new(fields.collect())))
        }
    }
}

/// What a script wrote as JSON: no other than plain values.
pub(super) fn to_json(value: &Dynamic) -> Result<Value, String> {
    let wrong = || format!("a {} is no setting", value.type_name());
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(yes) = value.as_bool() {
        return Ok(Value::Bool(yes));
    }
    if let Ok(whole) = value.as_int() {
        return Ok(whole.into());
    }
    if let Ok(number) = value.as_float() {
        return serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(wrong);
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok(Value::String(text.to_string()));
    }
    if let Ok(items) = value.as_array_ref() {
        return items.iter().map(to_json).collect::<Result<_, _>>().map(Value::Array);
    }
    if let Ok(fields) = value.as_map_ref() {
        let fields = fields.iter().map(|(name, value)| Ok((name.to_string(), to_json(value)?)));
        return fields.collect::<Result<_, String>>().map(Value::Object);
    }
    Err(wrong())
}

/// Texts as a list.
pub(super) fn texts(all: &[String]) -> List {
    List(Arc::new(all.iter().map(|text| text.as_str().into()).collect()))
}

pub(super) fn register(module: &mut Module) {
    module.set_custom_type::<Moment>("moment");
    module.set_custom_type::<List>("list");
    module.set_custom_type::<Record>("record");
    module.set_custom_type::<Refusal>("error");
    offer(module, "to_string", |error: &mut Refusal| Ok(error.0.clone()));
    register_moment(module);
    register_list(module);
    register_record(module);
}

fn register_moment(module: &mut Module) {
    type Part = fn(chrono::NaiveDateTime) -> INT;
    let parts: [(&str, Part); 7] = [
        ("year", |local| local.year().into()),
        ("month", |local| local.month().into()),
        ("day", |local| local.day().into()),
        ("hour", |local| local.hour().into()),
        ("minute", |local| local.minute().into()),
        ("weekday", |local| local.weekday().number_from_monday().into()),
        ("iso_week", |local| local.iso_week().week().into()),
    ];
    for (name, part) in parts {
        module.set_getter_fn(name, move |moment: &mut Moment| Ok(part(moment.zone.local(moment.at))));
    }
    module.set_getter_fn("ms", |moment: &mut Moment| Ok(moment.at.0));
    module.set_getter_fn("text", |moment: &mut Moment| Ok(moment.zone.text(moment.at)));
    module.set_getter_fn("date", |moment: &mut Moment| {
        Ok(moment.zone.local(moment.at).date().format("%Y-%m-%d").to_string())
    });
    offer(module, "to_string", |moment: &mut Moment| Ok(moment.zone.text(moment.at)));
    type Compare = fn(UtcMillis, UtcMillis) -> bool;
    let comparisons: [(&str, Compare); 6] = [
        ("<", |a, b| a < b),
        ("<=", |a, b| a <= b),
        (">", |a, b| a > b),
        (">=", |a, b| a >= b),
        ("==", |a, b| a == b),
        ("!=", |a, b| a != b),
    ];
    for (name, compare) in comparisons {
        offer(module, name, move |a: Moment, b: Moment| Ok(compare(a.at, b.at)));
    }
    offer(module, "-", |later: Moment, earlier: Moment| -> Result<FLOAT, _> {
        Ok(age_days(earlier.at, later.at))
    });
}

fn register_list(module: &mut Module) {
    module.set_indexer_get_fn(|list: &mut List, at: INT| {
        let found = usize::try_from(at).ok().and_then(|at| list.0.get(at).cloned());
        found.map_or_else(|| refuse(format!("a list of {} has no place {at}", list.0.len())), Ok)
    });
    offer(module, "len", |list: &mut List| Ok(length(list.0.len())));
    offer(module, "is_empty", |list: &mut List| Ok(list.0.is_empty()));
    offer(module, "contains", |list: &mut List, value: Dynamic| Ok(holds(&list.0, &value)));
    offer(module, "to_array", |list: &mut List| Ok(list.0.as_ref().clone()));
    module.set_iter(TypeId::of::<List>(), |list| {
        let list = list.cast::<List>();
        Box::new((0..list.0.len()).map(move |at| list.0[at].clone()))
    });
}

fn register_record(module: &mut Module) {
    module.set_indexer_get_fn(|record: &mut Record, name: ImmutableString| {
        Ok(record.0.get(name.as_str()).cloned().unwrap_or(Dynamic::UNIT))
    });
    offer(module, "len", |record: &mut Record| Ok(length(record.0.len())));
    offer(module, "is_empty", |record: &mut Record| Ok(record.0.is_empty()));
    offer(module, "contains", |record: &mut Record, name: ImmutableString| {
        Ok(record.0.contains_key(name.as_str()))
    });
    offer(module, "keys", |record: &mut Record| -> Result<Array, _> {
        Ok(record.0.keys().map(|name| name.as_str().into()).collect())
    });
}

/// A count as a script's number.
pub(super) fn length(count: usize) -> INT {
    INT::try_from(count).unwrap_or(INT::MAX)
}

/// Whether one of `items` is the plain value `wanted`.
pub(super) fn holds(items: &[Dynamic], wanted: &Dynamic) -> bool {
    items.iter().any(|item| same(item, wanted))
}

/// Equality of plain values; numbers are equal whatever they are written as.
fn same(a: &Dynamic, b: &Dynamic) -> bool {
    if let (Ok(a), Ok(b)) = (a.as_immutable_string_ref(), b.as_immutable_string_ref()) {
        return *a == *b;
    }
    if let (Ok(a), Ok(b)) = (a.as_bool(), b.as_bool()) {
        return a == b;
    }
    if let (Ok(a), Ok(b)) = (a.as_int(), b.as_int()) {
        return a == b;
    }
    let number =
        |value: &Dynamic| value.as_float().ok().or_else(|| value.as_int().ok().map(|whole| whole as FLOAT));
    matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
}
