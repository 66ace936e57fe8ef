//! `PropertyCollector` and `PropertyFilter`: reading properties in bulk, and waiting for their changes.

mod path;
mod retrieve;
pub mod spec;
pub mod wait;

use std::collections::HashMap;

use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::schema::TypeRef;
use crate::soap::value::{MoRef, Obj, Value};
use crate::state::Vcenter;
use spec::FilterSpec;
use wait::Filter;

pub use retrieve::{Found, collect};

/// One property that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// Its path as it was asked for.
    pub path: String,
    /// Its declared type.
    pub ty: TypeRef,
    /// Its value.
    pub value: Value,
}

/// What a continuation will answer.
#[derive(Debug)]
struct Pages {
    session: String,
    limit: usize,
    rest: Vec<Value>,
}

/// The collectors, their filters, and the pages that wait for a continuation.
#[derive(Debug, Default)]
pub struct Collectors {
    /// Made by clients, beside the one that always exists: id and session.
    own: HashMap<String, String>,
    /// By id.
    pub(in crate::objects) filters: HashMap<String, Filter>,
    /// By session and collector: the version that was given out last.
    versions: HashMap<(String, String), u64>,
    /// By token.
    pages: HashMap<String, Pages>,
}

impl Collectors {
    /// Whether a collector or filter exists.
    #[must_use]
    pub fn knows(&self, of: &MoRef) -> bool {
        self.own.contains_key(&of.id) || self.filters.contains_key(&of.id)
    }

    /// Drops what lived as long as a session.
    pub fn forget_session(&mut self, session: &str) {
        self.own.retain(|_, owner| owner != session);
        self.filters.retain(|_, filter| filter.session != session);
        self.versions.retain(|(owner, _), _| owner != session);
        self.pages.retain(|_, pages| pages.session != session);
    }
}

pub(super) fn property(vcenter: &Vcenter, of: &MoRef, name: &str) -> Option<Value> {
    let own = vcenter.collectors.filters.iter().filter(|(_, filter)| filter.collector == *of);
    (name == "filter")
        .then(|| own.map(|(id, _)| MoRef::new("PropertyFilter", id.as_str())).collect::<Vec<_>>().into())
}

pub(super) fn call(mut call: Call) -> Result<Reply, Fault> {
    match call.method {
        "RetrieveProperties" => {
            let objects = retrieve_all(&call)?;
            Ok(Reply::Value(objects.into()))
        }
        "RetrievePropertiesEx" => {
            let objects = retrieve_all(&call)?;
            let asked = call.args.one("options").and_then(|options| options.number("maxObjects"));
            if asked.is_some_and(|asked| asked < 0) {
                return Err(Fault::invalid_argument("options.maxObjects"));
            }
            let asked = asked.and_then(|asked| usize::try_from(asked).ok()).filter(|&asked| asked > 0);
            let limit = asked.unwrap_or(usize::MAX).min(call.vcenter.settings.objects_per_page.max(1));
            Ok(page(&mut call, objects, limit))
        }
        "ContinueRetrievePropertiesEx" => {
            let pages = take_pages(&mut call)?;
            Ok(page(&mut call, pages.rest, pages.limit))
        }
        "CancelRetrievePropertiesEx" => take_pages(&mut call).map(|_| Reply::Void),
        "CreatePropertyCollector" => {
            let session = call.session_key()?;
            let id = format!("session[{session}]collector-{}", call.vcenter.take_id());
            call.vcenter.collectors.own.insert(id.clone(), session);
            Ok(Reply::Value(MoRef::new("PropertyCollector", id).into()))
        }
        "DestroyPropertyCollector" => {
            if call.vcenter.collectors.own.remove(&call.this.id).is_none() {
                return Err(Fault::invalid_state("The default property collector cannot be destroyed."));
            }
            let this = call.this.clone();
            call.vcenter.collectors.filters.retain(|_, filter| filter.collector != this);
            Ok(Reply::Void)
        }
        _ => wait::call(call),
    }
}

fn retrieve_all(call: &Call) -> Result<Vec<Value>, Fault> {
    let mut objects = Vec::new();
    for set in call.args.all("specSet") {
        let spec = FilterSpec::read(set)?;
        if call.session.is_none() && !spec.is_for_anybody() {
            return Err(Fault::not_authenticated(call.this));
        }
        let found = collect(call.vcenter, call.session.as_deref(), &spec)?;
        objects.extend(found.into_iter().map(|found| Value::from(content(found))));
    }
    Ok(objects)
}

fn content(found: Found) -> Obj {
    let properties: Vec<Obj> = found.properties.into_iter().map(dynamic_property).collect();
    Obj::new("ObjectContent").set("obj", found.object).set("propSet", properties)
}

fn dynamic_property(property: Property) -> Obj {
    let value = Value::Typed(property.ty, Box::new(property.value));
    Obj::new("DynamicProperty").set("name", property.path).set("val", value)
}

/// One page of objects; the rest waits under a token.
fn page(call: &mut Call, mut objects: Vec<Value>, limit: usize) -> Reply {
    if objects.is_empty() {
        return Reply::Void;
    }
    let rest = objects.split_off(limit.min(objects.len()));
    let token = (!rest.is_empty()).then(|| {
        let token = call.vcenter.take_id().to_string();
        let session = call.session.clone().unwrap_or_default();
        call.vcenter.collectors.pages.insert(token.clone(), Pages { session, limit, rest });
        token
    });
    Reply::Value(Obj::new("RetrieveResult").set_some("token", token).set("objects", objects).into())
}

fn take_pages(call: &mut Call) -> Result<Pages, Fault> {
    let session = call.session_key()?;
    let token = call.args.text("token");
    match call.vcenter.collectors.pages.remove(token) {
        Some(pages) if pages.session == session => Ok(pages),
        _ => Err(Fault::invalid_argument("token")),
    }
}
