//! Filters and waiting: what changed since the client looked last.
//!
//! A filter remembers what it reported. A wait compares that with what is now; the first one of a collector, or one
//! with an empty version, reports everything. The HTTP side asks again whenever the state changes.

use std::collections::HashMap;
use std::time::Duration;

use super::spec::FilterSpec;
use super::{Property, collect};
use crate::objects::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::value::{MoRef, Obj, Value};
use crate::state::Vcenter;

/// A filter of one session.
#[derive(Debug)]
pub struct Filter {
    pub(super) session: String,
    pub(super) collector: MoRef,
    spec: FilterSpec,
    reported: HashMap<MoRef, Vec<Property>>,
}

/// A wait that has not been answered yet.
#[derive(Debug, Clone)]
pub struct Wait {
    /// The method that waits.
    pub method: &'static str,
    /// How long to wait; `None` for as long as it takes.
    pub limit: Option<Duration>,
    session: String,
    collector: MoRef,
    max_objects: usize,
}

pub(super) fn call(call: Call) -> Result<Reply, Fault> {
    let session = call.session_key()?;
    match call.method {
        "CreateFilter" => {
            let args = call.args.one("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
            let spec = FilterSpec::read(args)?;
            // A path or object that cannot be read is refused now, not when somebody waits.
            collect(call.vcenter, Some(&session), &spec)?;
            let id = format!("session[{session}]filter-{}", call.vcenter.take_id());
            let filter = Filter { session, collector: call.this.clone(), spec, reported: HashMap::new() };
            call.vcenter.collectors.filters.insert(id.clone(), filter);
            Ok(Reply::Value(MoRef::new("PropertyFilter", id).into()))
        }
        "DestroyPropertyFilter" => match call.vcenter.collectors.filters.remove(&call.this.id) {
            Some(_) => Ok(Reply::Void),
            None => Err(Fault::not_found(call.this)),
        },
        "WaitForUpdates" | "WaitForUpdatesEx" | "CheckForUpdates" => start(call, session),
        "CancelWaitForUpdates" => Ok(Reply::Void),
        method => Err(Fault::method_not_found(call.this, method)),
    }
}

fn start(call: Call, session: String) -> Result<Reply, Fault> {
    let version = call.args.text("version");
    let collectors = &mut call.vcenter.collectors;
    let current = collectors.versions.get(&(session.clone(), call.this.id.clone()));
    if version.is_empty() {
        for filter in collectors.filters.values_mut() {
            if filter.session == session && filter.collector == *call.this {
                filter.reported.clear();
            }
        }
    } else if current.map(ToString::to_string).as_deref() != Some(version) {
        return Err(Fault::invalid_collector_version());
    }
    let options = call.args.one("options");
    let seconds = options.and_then(|options| options.number("maxWaitSeconds"));
    let limit = match (call.method, seconds) {
        ("CheckForUpdates", _) => Some(Duration::ZERO),
        (_, Some(seconds)) => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default())),
        _ => None,
    };
    let objects = options.and_then(|options| options.number("maxObjectUpdates"));
    let max_objects =
        objects.and_then(|objects| usize::try_from(objects).ok()).filter(|&objects| objects > 0);
    let max_objects = max_objects.unwrap_or(usize::MAX);
    let wait = Wait { method: call.method, limit, session, collector: call.this.clone(), max_objects };
    Ok(Reply::Wait(wait))
}

impl Wait {
    /// What there is to report by now.
    ///
    /// # Errors
    /// `NotAuthenticated` when the session ended meanwhile.
    pub fn poll(&self, vcenter: &mut Vcenter) -> Result<Option<Value>, Fault> {
        if vcenter.sessions.get(&self.session).is_none() {
            return Err(Fault::not_authenticated(&self.collector));
        }
        let mut filters = std::mem::take(&mut vcenter.collectors.filters);
        let mut sets = Vec::new();
        let mut left = self.max_objects;
        for (id, filter) in &mut filters {
            if filter.session != self.session || filter.collector != self.collector {
                continue;
            }
            let updates = filter.updates(vcenter, &mut left);
            if !updates.is_empty() {
                let reference = MoRef::new("PropertyFilter", id.as_str());
                sets.push(
                    Obj::new("PropertyFilterUpdate").set("filter", reference).set("objectSet", updates),
                );
            }
        }
        vcenter.collectors.filters = filters;
        if sets.is_empty() {
            return Ok(None);
        }
        let key = (self.session.clone(), self.collector.id.clone());
        let version = vcenter.collectors.versions.entry(key).or_default();
        *version += 1;
        let set = Obj::new("UpdateSet").set("version", version.to_string()).set("filterSet", sets);
        Ok(Some(set.set_some("truncated", (left == 0).then_some(true)).into()))
    }
}

impl Filter {
    /// The changes of at most `left` objects, which count as reported from now on.
    fn updates(&mut self, vcenter: &Vcenter, left: &mut usize) -> Vec<Obj> {
        // An object that is gone by now is left out; its own update says so.
        let mut spec = self.spec.clone();
        spec.report_missing = true;
        let now = collect(vcenter, Some(&self.session), &spec).unwrap_or_default();
        let mut updates = Vec::new();
        let gone: Vec<MoRef> = self
            .reported
            .keys()
            .filter(|object| now.iter().all(|found| found.object != **object))
            .cloned()
            .collect();
        for object in gone.into_iter().take(*left) {
            self.reported.remove(&object);
            updates.push(Obj::new("ObjectUpdate").set("kind", "leave").set("obj", object));
            *left -= 1;
        }
        for found in now {
            if *left == 0 {
                break;
            }
            let before = self.reported.get(&found.object);
            let kind = if before.is_some() { "modify" } else { "enter" };
            let changes = changes(before.map(Vec::as_slice).unwrap_or_default(), &found.properties);
            if before.is_some() && changes.is_empty() {
                continue;
            }
            let update = Obj::new("ObjectUpdate").set("kind", kind).set("obj", found.object.clone());
            updates.push(update.set("changeSet", changes));
            self.reported.insert(found.object, found.properties);
            *left -= 1;
        }
        updates
    }
}

fn changes(before: &[Property], now: &[Property]) -> Vec<Obj> {
    let assigned = now.iter().filter(|property| !before.contains(property)).map(|property| {
        let value = Value::Typed(property.ty, Box::new(property.value.clone()));
        Obj::new("PropertyChange").set("name", property.path.as_str()).set("op", "assign").set("val", value)
    });
    let unset = before.iter().filter(|old| now.iter().all(|property| property.path != old.path));
    let unset =
        unset.map(|old| Obj::new("PropertyChange").set("name", old.path.as_str()).set("op", "remove"));
    assigned.chain(unset).collect()
}
