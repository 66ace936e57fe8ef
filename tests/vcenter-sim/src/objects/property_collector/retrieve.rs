//! Walks from the objects of a specification along its traversals, and reads what is asked of each.

use std::collections::HashSet;

use super::spec::{FilterSpec, PropertySpec, Selection, Traversal};
use super::{Property, path};
use crate::objects::inventory::{exists, property};
use crate::soap::fault::Fault;
use crate::soap::schema::schema;
use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;

/// An object and what was read of it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The object.
    pub object: MoRef,
    /// Its properties, those that are set.
    pub properties: Vec<Property>,
}

/// Reads everything that a specification asks for.
///
/// # Errors
/// `ManagedObjectNotFound` for an object that is not there, unless the client wants it skipped; `InvalidProperty`.
pub fn collect(vcenter: &Vcenter, session: Option<&str>, spec: &FilterSpec) -> Result<Vec<Found>, Fault> {
    let mut walk =
        Walk { vcenter, session, spec, seen: HashSet::new(), been: HashSet::new(), order: Vec::new() };
    for start in &spec.objects {
        if exists(vcenter, &start.object) {
            walk.visit(&start.object, start.skip, &start.selections);
        } else if !spec.report_missing {
            return Err(Fault::not_found(&start.object));
        }
    }
    let mut found = Vec::new();
    for object in walk.order {
        if let Some(properties) = read_object(vcenter, session, spec, &object)? {
            found.push(Found { object, properties });
        }
    }
    Ok(found)
}

struct Walk<'a> {
    vcenter: &'a Vcenter,
    session: Option<&'a str>,
    spec: &'a FilterSpec,
    seen: HashSet<MoRef>,
    /// Steps taken, so that traversals that name each other come to an end.
    been: HashSet<(MoRef, *const Traversal)>,
    order: Vec<MoRef>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, object: &MoRef, skip: bool, selections: &'a [Selection]) {
        if !skip && self.seen.insert(object.clone()) {
            self.order.push(object.clone());
        }
        for selection in selections {
            let traversal = match selection {
                Selection::Traversal(traversal) => traversal,
                Selection::Named(name) => match self.spec.named(name) {
                    Some(traversal) => traversal,
                    None => continue,
                },
            };
            let fits = schema().is_a(&object.kind, &traversal.ty);
            if fits && self.been.insert((object.clone(), std::ptr::from_ref(traversal))) {
                for next in self.targets(object, &traversal.path) {
                    self.visit(&next, traversal.skip, &traversal.selections);
                }
            }
        }
    }

    fn targets(&self, object: &MoRef, path: &str) -> Vec<MoRef> {
        match property(self.vcenter, self.session, object, path) {
            Some(Value::Ref(one)) => vec![one],
            Some(Value::List(items)) => items
                .into_iter()
                .filter_map(|item| match item {
                    Value::Ref(reference) => Some(reference),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// What the property specifications ask of one object; `None` when none is for its type.
fn read_object(
    vcenter: &Vcenter,
    session: Option<&str>,
    spec: &FilterSpec,
    object: &MoRef,
) -> Result<Option<Vec<Property>>, Fault> {
    let fitting: Vec<&PropertySpec> =
        spec.properties.iter().filter(|wanted| schema().is_a(&object.kind, &wanted.ty)).collect();
    if fitting.is_empty() {
        return Ok(None);
    }
    let mut paths: Vec<&str> = Vec::new();
    for wanted in fitting {
        if wanted.all {
            let fields = schema().get(&object.kind).map(|definition| definition.fields.as_slice());
            paths.extend(fields.unwrap_or_default().iter().map(|field| field.name));
        }
        paths.extend(wanted.paths.iter().map(String::as_str));
    }
    let mut once = HashSet::new();
    paths.retain(|path| once.insert(*path));
    let mut properties = Vec::new();
    for path in paths {
        properties.extend(path::read(vcenter, session, object, path)?);
    }
    Ok(Some(properties))
}
