//! The part of the vim25 type system that the simulator speaks: names, order and types of fields, as data.
//!
//! `schema.txt` is printed by `pyvmomi/schema.py` from pyvmomi's tables. Requests are checked against it and
//! answers are written by it, so that neither side gets away with what a real vCenter would refuse.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A type as a field names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeRef {
    /// `xsd:int`, `VirtualDevice`, `ManagedObjectReference`, ….
    pub name: &'static str,
    /// Whether it repeats.
    pub array: bool,
}

impl TypeRef {
    /// A type that says nothing about its value.
    pub const ANY: Self = Self { name: "xsd:anyType", array: false };

    /// Reads `name` or `name[]`.
    #[must_use]
    pub fn parse(text: &'static str) -> Self {
        match text.strip_suffix("[]") {
            Some(name) => Self { name, array: true },
            None => Self { name: text, array: false },
        }
    }

    /// The type of one item of an array; itself for anything else.
    #[must_use]
    pub fn item(self) -> Self {
        Self { array: false, ..self }
    }
}

/// A field of a data object, a property of a managed object, or a parameter of a method.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its element name.
    pub name: &'static str,
    /// Its declared type.
    pub ty: TypeRef,
    /// Whether it may be absent.
    pub optional: bool,
}

/// A data object, a fault or a managed object.
#[derive(Debug)]
pub struct TypeDef {
    base: &'static str,
    /// Inherited fields first, in wire order.
    pub fields: Vec<Field>,
}

impl TypeDef {
    /// The field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// A method of a managed object.
#[derive(Debug)]
pub struct MethodDef {
    /// Its element name.
    pub name: &'static str,
    /// The privilege it needs on its object, when it needs a fixed one.
    pub privilege: Option<&'static str>,
    /// What it returns; `None` for nothing.
    pub result: Option<TypeRef>,
    /// Its parameters in wire order.
    pub params: Vec<Field>,
}

/// All types and methods.
#[derive(Debug, Default)]
pub struct Schema {
    types: HashMap<&'static str, TypeDef>,
    methods: HashMap<(&'static str, &'static str), MethodDef>,
}

/// The one schema.
#[must_use]
pub fn schema() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("schema.txt")));
    &SCHEMA
}

impl Schema {
    fn parse(text: &'static str) -> Self {
        let mut schema = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
            if kind == "method" {
                schema.add_method(name, words);
            } else if let Some(base) = words.next() {
                schema.types.insert(name, TypeDef { base, fields: words.map(field).collect() });
            }
        }
        schema
    }

    fn add_method(&mut self, path: &'static str, mut words: impl Iterator<Item = &'static str>) {
        let (Some((object, name)), Some(privilege), Some(result)) =
            (path.split_once('.'), words.next(), words.next())
        else {
            return;
        };
        let privilege = Some(privilege).filter(|&text| text != "-");
        let result = Some(result).filter(|&text| text != "void").map(TypeRef::parse);
        let method = MethodDef { name, privilege, result, params: words.map(field).collect() };
        self.methods.insert((object, name), method);
    }

    /// The type of that name, when the simulator knows its fields.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TypeDef> {
        self.types.get(name)
    }

    /// A method of a managed object's type.
    #[must_use]
    pub fn method(&self, object: &str, name: &str) -> Option<&MethodDef> {
        let object = self.types.get_key_value(object)?.0;
        let found = self.methods.iter().find(|((of, method), _)| of == object && *method == name)?;
        Some(found.1)
    }

    /// Whether `name` is `base` or descends from it.
    #[must_use]
    pub fn is_a(&self, name: &str, base: &str) -> bool {
        let mut name = name;
        loop {
            if name == base {
                return true;
            }
            match self.types.get(name) {
                Some(definition) => name = definition.base,
                None => return false,
            }
        }
    }
}

fn field(text: &'static str) -> Field {
    let (text, optional) = match text.strip_suffix('?') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (name, ty) = text.split_once(':').unwrap_or((text, "xsd:anyType"));
    Field { name, ty: TypeRef::parse(ty), optional }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_as_the_api_reference_says() {
        let disk = schema().get("VirtualDisk").unwrap();
        let capacity = disk.field("capacityInBytes").unwrap();
        assert_eq!((capacity.ty.name, capacity.optional), ("xsd:long", true));
        let query = schema().method("VirtualMachine", "QueryChangedDiskAreas").unwrap();
        let names: Vec<&str> = query.params.iter().map(|param| param.name).collect();
        assert_eq!(names, ["snapshot", "deviceKey", "startOffset", "changeId"]);
        assert!(schema().is_a("VirtualMachine", "ManagedEntity"));
        assert!(!schema().is_a("Task", "ManagedEntity"));
    }
}
