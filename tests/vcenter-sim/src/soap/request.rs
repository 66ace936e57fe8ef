//! Reads a request: the envelope, the method and its object, and arguments that were checked against the schema.
//!
//! vCenter reads elements strictly in their declared order and refuses what it does not know; so does this.

use roxmltree::{Document, Node};

use super::fault::Fault;
use super::schema::{Field, MethodDef, TypeRef, schema};
use super::value::MoRef;

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// What a request asks.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    /// A method of the schema.
    Method(&'static MethodDef),
    /// One property of the object, the way pyvmomi reads attributes.
    Fetch,
}

/// A request whose arguments follow the schema.
#[derive(Debug)]
pub struct Request<'a> {
    /// The object it is for.
    pub this: MoRef,
    /// What it asks.
    pub operation: Operation,
    /// Its arguments.
    pub args: Args<'a>,
}

/// The children of an element, read by name.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a>(Node<'a, 'a>);

/// Reads a parsed envelope.
///
/// # Errors
/// `InvalidRequest` for anything that is no request of the schema, `MethodNotFound` for an unknown method.
pub fn read<'a>(document: &'a Document<'a>) -> Result<Request<'a>, Fault> {
    let body = document
        .root_element()
        .children()
        .find(|node| node.has_tag_name((ENVELOPE, "Body")))
        .ok_or_else(|| Fault::invalid_request("The envelope has no body."))?;
    let call = elements(body).next().ok_or_else(|| Fault::invalid_request("The body is empty."))?;
    if call.tag_name().namespace() != Some("urn:vim25") {
        return Err(Fault::invalid_request("The operation is not in the namespace urn:vim25."));
    }
    let mut children = elements(call);
    let this =
        children.next().filter(|node| node.tag_name().name() == "_this").and_then(reference).ok_or_else(
            || Fault::invalid_request("The first element of a call is its _this, with its type."),
        )?;
    let name = call.tag_name().name();
    let rest: Vec<Node> = children.collect();
    let operation = match name {
        "Fetch" => Operation::Fetch,
        _ => {
            let method = schema().method(&this.kind, name);
            let method = method.ok_or_else(|| Fault::method_not_found(&this, name))?;
            check(name, &rest, &method.params)?;
            Operation::Method(method)
        }
    };
    Ok(Request { this, operation, args: Args(call) })
}

fn elements<'a>(node: Node<'a, 'a>) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children().filter(Node::is_element)
}

fn reference(node: Node<'_, '_>) -> Option<MoRef> {
    let id = node.text()?.trim();
    let kind = node.attribute("type").filter(|kind| !kind.is_empty())?;
    Some(MoRef::new(kind, id))
}

/// Checks the children of an element against its fields: known, in order, repeated only where declared, complete.
fn check(of: &str, children: &[Node], fields: &[Field]) -> Result<(), Fault> {
    let mut next = 0;
    let mut seen = None;
    for child in children {
        let name = child.tag_name().name();
        if matches!(name, "dynamicType" | "dynamicProperty") {
            continue;
        }
        let position = match fields[next..].iter().position(|field| field.name == name) {
            Some(ahead) => next + ahead,
            None => return Err(unexpected(of, name, fields)),
        };
        let field = fields[position];
        if seen == Some(position) && !field.ty.array {
            return Err(Fault::invalid_request(format!("The element \"{name}\" of {of} appears twice.")));
        }
        missing(of, fields, next + usize::from(seen == Some(next)), position)?;
        check_value(*child, field.ty)?;
        (next, seen) = (position, Some(position));
    }
    missing(of, fields, next + usize::from(seen == Some(next)), fields.len())
}

fn missing(of: &str, fields: &[Field], from: usize, to: usize) -> Result<(), Fault> {
    let skipped = fields.get(from..to).unwrap_or_default();
    match skipped.iter().find(|field| !field.optional) {
        Some(field) => Err(Fault::invalid_request(format!(
            "Required property {} is missing from data object of type {of}",
            field.name
        ))),
        None => Ok(()),
    }
}

fn unexpected(of: &str, name: &str, fields: &[Field]) -> Fault {
    let why = match fields.iter().any(|field| field.name == name) {
        true => "out of its order",
        false => "unknown",
    };
    Fault::invalid_request(format!("Unexpected element tag \"{name}\" seen while parsing {of}: it is {why}."))
}

fn check_value(node: Node, declared: TypeRef) -> Result<(), Fault> {
    let name = node.tag_name().name();
    let bad = |why: &str| Err(Fault::invalid_request(format!("The element \"{name}\" {why}.")));
    let text = node.text().unwrap_or_default().trim();
    match declared.name {
        "ManagedObjectReference" if reference(node).is_none() => bad("is no reference with a type"),
        "xsd:boolean" if !matches!(text, "true" | "false" | "0" | "1") => bad("is no boolean"),
        "xsd:int" if text.parse::<i32>().is_err() => bad("is no int"),
        "xsd:long" if text.parse::<i64>().is_err() => bad("is no long"),
        _ => {
            let own = own_type(node);
            let ty = own.unwrap_or(declared.name);
            match schema().get(ty) {
                Some(_) if schema().get(declared.name).is_some() && !schema().is_a(ty, declared.name) => {
                    bad(&format!("is a {ty} where a {} belongs", declared.name))
                }
                Some(definition) => check(ty, &elements_of(node), &definition.fields),
                None => Ok(()),
            }
        }
    }
}

fn elements_of<'a, 'i>(node: Node<'a, 'i>) -> Vec<Node<'a, 'i>> {
    node.children().filter(Node::is_element).collect()
}

/// The local name of `xsi:type`, when there is one.
fn own_type<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let text = node.attribute((INSTANCE, "type"))?;
    Some(text.rsplit_once(':').map_or(text, |(_, local)| local))
}

impl<'a> Args<'a> {
    /// The children of that name.
    pub fn all(self, name: &'static str) -> impl Iterator<Item = Args<'a>> {
        elements(self.0).filter(move |node| node.tag_name().name() == name).map(Args)
    }

    /// The first child of that name.
    #[must_use]
    pub fn one(self, name: &'static str) -> Option<Args<'a>> {
        self.all(name).next()
    }

    /// Its `xsi:type`, without the prefix.
    #[must_use]
    pub fn own_type(self) -> Option<&'a str> {
        own_type(self.0)
    }

    /// The text of this element.
    #[must_use]
    pub fn own_text(self) -> &'a str {
        self.0.text().unwrap_or_default()
    }

    /// The reference that this element is.
    #[must_use]
    pub fn own_reference(self) -> Option<MoRef> {
        reference(self.0)
    }

    /// The text of a child; empty when it is absent.
    #[must_use]
    pub fn text(self, name: &'static str) -> &'a str {
        self.one(name).map(Args::own_text).unwrap_or_default()
    }

    /// The texts of all children of that name.
    #[must_use]
    pub fn texts(self, name: &'static str) -> Vec<String> {
        self.all(name).map(|child| child.own_text().to_owned()).collect()
    }

    /// A child that is a boolean.
    #[must_use]
    pub fn boolean(self, name: &'static str) -> Option<bool> {
        self.one(name).map(|child| matches!(child.own_text().trim(), "true" | "1"))
    }

    /// A child that is a number.
    #[must_use]
    pub fn number(self, name: &'static str) -> Option<i64> {
        self.one(name).and_then(|child| child.own_text().trim().parse().ok())
    }

    /// A child that is a reference.
    #[must_use]
    pub fn reference(self, name: &'static str) -> Option<MoRef> {
        self.one(name).and_then(Args::own_reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(call: &str) -> Result<(), Fault> {
        let text = format!(
            "<e:Envelope xmlns:e=\"{ENVELOPE}\" xmlns:xsi=\"{INSTANCE}\"><e:Body>{call}</e:Body></e:Envelope>"
        );
        let document = Document::parse(&text).unwrap();
        read(&document).map(drop)
    }

    fn query(inner: &str) -> Result<(), Fault> {
        let this = "<_this type=\"VirtualMachine\">vm-10</_this>";
        answer(&format!("<QueryChangedDiskAreas xmlns=\"urn:vim25\">{this}{inner}</QueryChangedDiskAreas>"))
    }

    #[test]
    fn arguments_follow_the_declared_order() {
        let snapshot = "<snapshot type=\"VirtualMachineSnapshot\">snapshot-1</snapshot>";
        let (key, offset, id) =
            ("<deviceKey>2000</deviceKey>", "<startOffset>0</startOffset>", "<changeId>*</changeId>");
        query(&format!("{snapshot}{key}{offset}{id}")).unwrap();
        query(&format!("{key}{offset}{id}")).unwrap();
        for wrong in [
            format!("{key}{snapshot}{offset}{id}"),
            format!("{snapshot}{key}{offset}"),
            format!("{snapshot}{key}{key}{offset}{id}"),
            format!("{snapshot}{offset}{id}"),
            format!("{snapshot}{key}<startOffset>x</startOffset>{id}"),
            format!("<snapshot>snapshot-1</snapshot>{key}{offset}{id}"),
        ] {
            assert_eq!(query(&wrong).unwrap_err().detail.ty, "InvalidRequest", "{wrong}");
        }
    }

    #[test]
    fn a_traversal_must_say_that_it_is_one() {
        let call = |attribute: &str| {
            answer(&format!(
                "<RetrievePropertiesEx xmlns=\"urn:vim25\"><_this type=\"PropertyCollector\">pc</_this><specSet>\
                 <propSet><type>VirtualMachine</type><pathSet>name</pathSet></propSet>\
                 <objectSet><obj type=\"ContainerView\">v</obj><skip>true</skip>\
                 <selectSet{attribute}><name>t</name><type>ContainerView</type><path>view</path></selectSet>\
                 </objectSet></specSet><options/></RetrievePropertiesEx>"
            ))
        };
        call(" xsi:type=\"TraversalSpec\"").unwrap();
        assert_eq!(call("").unwrap_err().detail.ty, "InvalidRequest");
    }

    #[test]
    fn unknown_methods_are_named() {
        let call =
            "<Frobnicate xmlns=\"urn:vim25\"><_this type=\"VirtualMachine\">vm-10</_this></Frobnicate>";
        assert_eq!(answer(call).unwrap_err().detail.ty, "MethodNotFound");
    }
}
