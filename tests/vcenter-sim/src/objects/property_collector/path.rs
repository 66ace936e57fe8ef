//! Property paths: `config.hardware.device`, `snapshot.currentSnapshot`, `config.hardware.device[2000]`.

use super::Property;
use crate::objects::inventory::property;
use crate::soap::fault::Fault;
use crate::soap::schema::{TypeRef, schema};
use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;

/// Reads one path of an object; `None` when something on the way is unset.
///
/// # Errors
/// `InvalidProperty` for a path that the types on the way do not have.
pub(super) fn read(
    vcenter: &Vcenter,
    session: Option<&str>,
    of: &MoRef,
    path: &str,
) -> Result<Option<Property>, Fault> {
    let invalid = || Fault::invalid_property(path);
    let mut steps = path.split('.');
    let (first, key) = key_of(steps.next().unwrap_or_default()).ok_or_else(invalid)?;
    let definition = schema().get(&of.kind).and_then(|definition| definition.field(first));
    let field = definition.ok_or_else(invalid)?;
    let mut ty = field.ty;
    let mut value = property(vcenter, session, of, field.name);
    if let Some(key) = key {
        (ty, value) = item(ty, value, key);
    }
    for step in steps {
        let (name, key) = key_of(step).ok_or_else(invalid)?;
        // The object's own type knows fields that the declared one does not.
        let own = match &value {
            Some(Value::Obj(object)) => object.ty,
            _ => ty.name,
        };
        let definition = schema().get(own).ok_or_else(invalid)?;
        let field = definition.field(name).filter(|_| !ty.array).ok_or_else(invalid)?;
        value = match value {
            Some(Value::Obj(object)) => object.get(name).cloned(),
            _ => None,
        };
        ty = field.ty;
        if let Some(key) = key {
            (ty, value) = item(ty, value, key);
        }
    }
    Ok(value.map(|value| Property { path: path.to_owned(), ty, value }))
}

/// Splits `device[2000]`.
fn key_of(step: &str) -> Option<(&str, Option<&str>)> {
    match step.split_once('[') {
        None => Some((step, None)),
        Some((name, key)) => Some((name, Some(key.strip_suffix(']')?.trim_matches('"')))),
    }
}

/// The item of an array of keyed objects.
fn item(ty: TypeRef, value: Option<Value>, key: &str) -> (TypeRef, Option<Value>) {
    let Some(Value::List(items)) = value else { return (ty.item(), None) };
    let matches = |item: &Value| match item {
        Value::Obj(object) => match object.get("key") {
            Some(Value::Num(number)) => number.to_string() == key,
            Some(Value::Text(text)) => text == key,
            _ => false,
        },
        _ => false,
    };
    (ty.item(), items.into_iter().find(matches))
}
