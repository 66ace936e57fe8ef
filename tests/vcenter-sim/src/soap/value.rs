//! Values on their way to the wire. Their types come from the schema where they are written; only what sits in an
//! `anyType` position carries its own.

use time::OffsetDateTime;

use super::schema::TypeRef;

/// A reference to a managed object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoRef {
    /// Its managed type, for example `VirtualMachine`.
    pub kind: String,
    /// Its id, for example `vm-10`.
    pub id: String,
}

impl MoRef {
    /// A reference from its two parts.
    #[must_use]
    pub fn new(kind: &str, id: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), id: id.into() }
    }
}

/// A value of any type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// Any whole number; the declared type decides its width.
    Num(i64),
    /// A string or an enumeration's word.
    Text(String),
    /// A moment.
    Time(OffsetDateTime),
    /// A reference.
    Ref(MoRef),
    /// A data object.
    Obj(Obj),
    /// An array.
    List(Vec<Value>),
    /// A value that brings its type into an `anyType` position.
    Typed(TypeRef, Box<Value>),
}

/// A data object: its type and the fields that are set, in any order.
#[derive(Debug, Clone, PartialEq)]
pub struct Obj {
    /// Its wire type.
    pub ty: &'static str,
    /// What is set.
    pub fields: Vec<(&'static str, Value)>,
}

impl Obj {
    /// An object without fields.
    #[must_use]
    pub fn new(ty: &'static str) -> Self {
        Self { ty, fields: Vec::new() }
    }

    /// Sets one field.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Sets one field when there is a value.
    #[must_use]
    pub fn set_some(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// Sets several fields to the same value.
    #[must_use]
    pub fn set_all(self, names: &[&'static str], value: &Value) -> Self {
        names.iter().fold(self, |object, name| object.set(name, value.clone()))
    }

    /// The value of a field that is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Num(i64::from(value))
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Num(i64::from(value))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Num(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        // The wire's largest number is a signed long; nothing here comes near it.
        Self::Num(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<OffsetDateTime> for Value {
    fn from(value: OffsetDateTime) -> Self {
        Self::Time(value)
    }
}

impl From<MoRef> for Value {
    fn from(value: MoRef) -> Self {
        Self::Ref(value)
    }
}

impl From<Obj> for Value {
    fn from(value: Obj) -> Self {
        Self::Obj(value)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}
