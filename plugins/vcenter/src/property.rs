//! The property collector: which properties of which objects, page by page.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_plugin::{Error, Result};

use crate::fault::Fault;
use crate::session::{Repeat, Session};
use crate::xml::{Element, Ref, Xml};

const PAGE_OBJECTS: u32 = 200;
/// Bounds the pages of one retrieval, should a server never come to the end.
const MAX_PAGES: usize = 10_000;

/// An object with those of the wanted properties that it has and the user may read.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) of: Ref,
    properties: BTreeMap<String, Element>,
}

impl Object {
    pub(crate) fn get(&self, path: &str) -> Option<&Element> {
        self.properties.get(path)
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.get(path).map(|value| value.text.trim()).filter(|text| !text.is_empty())
    }

    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        self.get(path).and_then(Element::as_bool)
    }
}

/// One page, and the token of the next where there is more.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Object>,
    pub(crate) token: Option<String>,
}

/// The first page of all objects of a type in a container view.
pub(crate) fn first_of_view(
    session: &mut Session,
    view: &Ref,
    kind: &str,
    paths: &[&str],
    limit: u32,
) -> Result<Result<Page, Fault>> {
    let collector = session.content()?.property_collector.clone();
    let answer = session.try_call("RetrievePropertiesEx", &collector, Repeat::Safe, &|xml| {
        let xml = xml.typed("specSet", "PropertyFilterSpec", |xml| {
            let xml = wanted(xml, kind, paths);
            xml.typed("objectSet", "ObjectSpec", |xml| {
                xml.reference("obj", view).element("skip", "true").typed(
                    "selectSet",
                    "TraversalSpec",
                    |xml| {
                        xml.element("name", "view")
                            .element("type", "ContainerView")
                            .element("path", "view")
                            .element("skip", "false")
                    },
                )
            })
        });
        options(xml, limit)
    })?;
    answer.map_or_else(|fault| Ok(Err(fault)), |answer| page(&answer).map(Ok))
}

/// The page after `token`.
pub(crate) fn next(session: &mut Session, token: &str) -> Result<Result<Page, Fault>> {
    let collector = session.content()?.property_collector.clone();
    let answer = session.try_call("ContinueRetrievePropertiesEx", &collector, Repeat::Never, &|xml| {
        xml.element("token", token)
    })?;
    answer.map_or_else(|fault| Ok(Err(fault)), |answer| page(&answer).map(Ok))
}

/// The properties of these objects, all pages of them. Starts again where the session was renewed in between, as
/// the token died with the old one.
pub(crate) fn of_objects(
    session: &mut Session,
    objects: &[Ref],
    paths: &[&str],
    doing: &str,
) -> Result<Vec<Object>> {
    for _ in 0..3 {
        let logins = {
            session.content()?;
            session.logins()
        };
        match all_pages(session, objects, paths)? {
            Ok(found) => return Ok(found),
            Err(_) if session.logins() != logins => {}
            Err(fault) => return Err(fault.to_error(doing)),
        }
    }
    Err(Error::unavailable(format!("{doing}: the session expires again and again")))
}

/// The properties of one object.
pub(crate) fn of_object(session: &mut Session, object: &Ref, paths: &[&str], doing: &str) -> Result<Object> {
    let found = of_objects(session, std::slice::from_ref(object), paths, doing)?;
    let object = found.into_iter().find(|found| found.of.id == object.id);
    object.ok_or_else(|| Error::not_found(format!("{doing}: the server does not show the object")))
}

fn all_pages(session: &mut Session, objects: &[Ref], paths: &[&str]) -> Result<Result<Vec<Object>, Fault>> {
    let collector = session.content()?.property_collector.clone();
    let kinds: BTreeSet<&str> = objects.iter().map(|object| object.kind.as_str()).collect();
    let answer = session.try_call("RetrievePropertiesEx", &collector, Repeat::Safe, &|xml| {
        let xml = xml.typed("specSet", "PropertyFilterSpec", |xml| {
            let xml = kinds.iter().fold(xml, |xml, kind| wanted(xml, kind, paths));
            objects.iter().fold(xml, |xml, object| {
                xml.typed("objectSet", "ObjectSpec", |xml| {
                    xml.reference("obj", object).element("skip", "false")
                })
            })
        });
        options(xml, PAGE_OBJECTS)
    })?;
    let mut current = match answer {
        Ok(answer) => page(&answer)?,
        Err(fault) => return Ok(Err(fault)),
    };
    let mut found = std::mem::take(&mut current.objects);
    for _ in 0..MAX_PAGES {
        let Some(token) = current.token.take() else { return Ok(Ok(found)) };
        match next(session, &token)? {
            Ok(page) => current = page,
            Err(fault) => return Ok(Err(fault)),
        }
        found.append(&mut current.objects);
    }
    Err(Error::corrupt("the property collector does not come to an end"))
}

fn wanted(xml: Xml, kind: &str, paths: &[&str]) -> Xml {
    xml.typed("propSet", "PropertySpec", |xml| {
        let xml = xml.element("type", kind).element("all", "false");
        paths.iter().fold(xml, |xml, path| xml.element("pathSet", path))
    })
}

fn options(xml: Xml, limit: u32) -> Xml {
    xml.typed("options", "RetrieveOptions", |xml| xml.element("maxObjects", &limit.to_string()))
}

/// An answer without `returnval` is an empty page: that is how the server says that nothing was found.
fn page(answer: &Element) -> Result<Page> {
    let Some(result) = answer.child("returnval") else {
        return Ok(Page { objects: Vec::new(), token: None });
    };
    let mut objects = Vec::new();
    for content in result.all("objects") {
        let of =
            content.ref_of("obj").ok_or_else(|| Error::corrupt("a retrieved object has no reference"))?;
        let mut properties = BTreeMap::new();
        for property in content.all("propSet") {
            if let (Some(name), Some(value)) = (property.text_of("name"), property.child("val")) {
                properties.insert(name.to_owned(), value.clone());
            }
        }
        objects.push(Object { of, properties });
    }
    let token = result.text_of("token").filter(|token| !token.is_empty()).map(str::to_owned);
    Ok(Page { objects, token })
}
