//! Writes values as XML the way vCenter does: fields in schema order, `xsi:type` exactly where the value's type is
//! not the declared one, `ArrayOf…` wrappers in `anyType` positions.

use std::fmt::Write;

use time::format_description::well_known::Rfc3339;

use super::schema::{TypeRef, schema};
use super::value::{Obj, Value};

/// Escapes text for element content and attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no way to write the other control characters.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Writes `value` as an element `tag` (as several, for an array) in a position that declares `declared`.
pub fn write_element(out: &mut String, tag: &str, declared: TypeRef, value: &Value) {
    match value {
        Value::Typed(ty, inner) => write_any(out, tag, *ty, inner),
        Value::List(items) => {
            for item in items {
                write_element(out, tag, declared.item(), item);
            }
        }
        Value::Obj(object) => {
            let own_type = (object.ty != declared.name).then_some(object.ty);
            write_object(out, tag, own_type, object);
        }
        _ => write_leaf(out, tag, None, value),
    }
}

/// Writes `value`, whose declared type is `ty`, into an `anyType` position.
pub fn write_any(out: &mut String, tag: &str, ty: TypeRef, value: &Value) {
    match value {
        Value::Typed(ty, inner) => write_any(out, tag, *ty, inner),
        Value::List(items) => {
            let item_name = ty.name.trim_start_matches("xsd:");
            _ = write!(out, "<{tag} xsi:type=\"ArrayOf{}\">", capitalised(item_name));
            for item in items {
                match item {
                    Value::Ref(_) => write_leaf(out, item_name, Some(ty.name), item),
                    item => write_element(out, item_name, ty.item(), item),
                }
            }
            _ = write!(out, "</{tag}>");
        }
        Value::Obj(object) => write_object(out, tag, Some(object.ty), object),
        _ => write_leaf(out, tag, Some(ty.name), value),
    }
}

fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(characters).collect()
}

fn write_object(out: &mut String, tag: &str, own_type: Option<&str>, object: &Obj) {
    match own_type {
        Some(ty) => _ = write!(out, "<{tag} xsi:type=\"{ty}\">"),
        None => _ = write!(out, "<{tag}>"),
    }
    let definition = schema().get(object.ty);
    assert!(definition.is_some(), "the schema lacks the type {}", object.ty);
    let fields = definition.map(|definition| definition.fields.as_slice()).unwrap_or_default();
    for (name, _) in &object.fields {
        let known = fields.iter().any(|field| field.name == *name);
        assert!(known, "the type {} has no field {name}", object.ty);
    }
    for field in fields {
        if let Some(value) = object.get(field.name) {
            write_element(out, field.name, field.ty, value);
        }
    }
    _ = write!(out, "</{tag}>");
}

fn write_leaf(out: &mut String, tag: &str, ty: Option<&str>, value: &Value) {
    let attribute = ty.map(|ty| format!(" xsi:type=\"{ty}\"")).unwrap_or_default();
    match value {
        Value::Bool(value) => _ = write!(out, "<{tag}{attribute}>{value}</{tag}>"),
        Value::Num(value) => _ = write!(out, "<{tag}{attribute}>{value}</{tag}>"),
        Value::Text(value) => _ = write!(out, "<{tag}{attribute}>{}</{tag}>", escape(value)),
        Value::Time(value) => {
            let text = value.format(&Rfc3339).unwrap_or_default();
            _ = write!(out, "<{tag}{attribute}>{text}</{tag}>");
        }
        Value::Ref(reference) => {
            let (kind, id) = (escape(&reference.kind), escape(&reference.id));
            _ = write!(out, "<{tag} type=\"{kind}\"{attribute}>{id}</{tag}>");
        }
        Value::Obj(_) | Value::List(_) | Value::Typed(..) => {
            assert!(tag.is_empty(), "an object, list or typed value reached the leaves at {tag}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soap::value::MoRef;

    fn any(ty: &'static str, value: impl Into<Value>) -> String {
        let mut out = String::new();
        write_any(&mut out, "val", TypeRef::parse(ty), &value.into());
        out
    }

    #[test]
    fn any_positions_carry_their_type() {
        assert_eq!(any("xsd:int", 5), r#"<val xsi:type="xsd:int">5</val>"#);
        assert_eq!(
            any("VirtualMachinePowerState", "poweredOn"),
            r#"<val xsi:type="VirtualMachinePowerState">poweredOn</val>"#
        );
        assert_eq!(
            any("ManagedObjectReference[]", vec![MoRef::new("Datastore", "datastore-12")]),
            concat!(
                r#"<val xsi:type="ArrayOfManagedObjectReference">"#,
                r#"<ManagedObjectReference type="Datastore" xsi:type="ManagedObjectReference">"#,
                "datastore-12</ManagedObjectReference></val>"
            )
        );
    }

    #[test]
    fn fields_follow_the_schema_and_only_subtypes_name_themselves() {
        let backing =
            Obj::new("VirtualDiskFlatVer2BackingInfo").set("diskMode", "persistent").set("fileName", "a<b");
        let disk = Obj::new("VirtualDisk").set("capacityInKB", 4).set("key", 2000).set("backing", backing);
        assert_eq!(
            any("VirtualDevice[]", vec![disk]),
            concat!(
                r#"<val xsi:type="ArrayOfVirtualDevice"><VirtualDevice xsi:type="VirtualDisk"><key>2000</key>"#,
                r#"<backing xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>a&lt;b</fileName>"#,
                "<diskMode>persistent</diskMode></backing><capacityInKB>4</capacityInKB></VirtualDevice></val>"
            )
        );
    }
}
