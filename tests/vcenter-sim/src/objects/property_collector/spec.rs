//! What a client wants to read: `PropertyFilterSpec` as owned data, since filters outlive their request.

use crate::soap::fault::Fault;
use crate::soap::request::Args;
use crate::soap::schema::schema;
use crate::soap::value::MoRef;

/// A filter specification.
#[derive(Debug, Clone)]
pub struct FilterSpec {
    pub(super) properties: Vec<PropertySpec>,
    pub(super) objects: Vec<ObjectSpec>,
    pub(super) report_missing: bool,
}

/// Which properties of which type.
#[derive(Debug, Clone)]
pub(super) struct PropertySpec {
    pub(super) ty: String,
    pub(super) all: bool,
    pub(super) paths: Vec<String>,
}

/// Where to begin.
#[derive(Debug, Clone)]
pub(super) struct ObjectSpec {
    pub(super) object: MoRef,
    pub(super) skip: bool,
    pub(super) selections: Vec<Selection>,
}

/// Where to go on.
#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// As a traversal of that name says.
    Named(String),
    /// Along a property.
    Traversal(Traversal),
}

/// A step from an object to those that a property of it refers to.
#[derive(Debug, Clone)]
pub(super) struct Traversal {
    pub(super) name: Option<String>,
    pub(super) ty: String,
    pub(super) path: String,
    pub(super) skip: bool,
    pub(super) selections: Vec<Selection>,
}

impl FilterSpec {
    /// Reads a specification that was checked against the schema.
    ///
    /// # Errors
    /// `InvalidArgument` for a type without properties, `InvalidProperty` for a path that its type does not have.
    pub fn read(args: Args) -> Result<Self, Fault> {
        let properties = args.all("propSet").map(property_spec).collect::<Result<_, _>>()?;
        let objects = args.all("objectSet").map(object_spec).collect::<Result<_, _>>()?;
        let report_missing = args.boolean("reportMissingObjectsInResults").unwrap_or_default();
        Ok(Self { properties, objects, report_missing })
    }

    /// Whether it reads only what is open to anybody.
    #[must_use]
    pub fn is_for_anybody(&self) -> bool {
        let open = |kind: &str| matches!(kind, "ServiceInstance" | "SessionManager");
        self.objects.iter().all(|spec| open(&spec.object.kind) && spec.selections.is_empty())
    }

    /// The traversal of that name, wherever it stands.
    pub(super) fn named(&self, name: &str) -> Option<&Traversal> {
        self.objects.iter().find_map(|spec| find_named(&spec.selections, name))
    }
}

fn find_named<'a>(selections: &'a [Selection], name: &str) -> Option<&'a Traversal> {
    selections.iter().find_map(|selection| match selection {
        Selection::Traversal(traversal) if traversal.name.as_deref() == Some(name) => Some(traversal),
        Selection::Traversal(traversal) => find_named(&traversal.selections, name),
        Selection::Named(_) => None,
    })
}

fn property_spec(args: Args) -> Result<PropertySpec, Fault> {
    let ty = args.text("type").to_owned();
    let definition = schema().get(&ty);
    let paths = args.texts("pathSet");
    for path in &paths {
        let first = path.split(['.', '[']).next().unwrap_or_default();
        let known = definition.is_none_or(|definition| definition.field(first).is_some());
        if !known {
            return Err(Fault::invalid_property(path));
        }
    }
    Ok(PropertySpec { ty, all: args.boolean("all").unwrap_or_default(), paths })
}

fn object_spec(args: Args) -> Result<ObjectSpec, Fault> {
    Ok(ObjectSpec {
        object: args.reference("obj").ok_or_else(|| Fault::invalid_argument("specSet.objectSet.obj"))?,
        skip: args.boolean("skip").unwrap_or_default(),
        selections: selections(args)?,
    })
}

fn selections(args: Args) -> Result<Vec<Selection>, Fault> {
    args.all("selectSet").map(selection).collect()
}

fn selection(args: Args) -> Result<Selection, Fault> {
    let name = Some(args.text("name").to_owned()).filter(|name| !name.is_empty());
    if args.own_type() != Some("TraversalSpec") {
        return name.map(Selection::Named).ok_or_else(|| Fault::invalid_argument("selectSet.name"));
    }
    let (ty, path) = (args.text("type").to_owned(), args.text("path").to_owned());
    if schema().get(&ty).is_some_and(|definition| definition.field(&path).is_none()) {
        return Err(Fault::invalid_property(&path));
    }
    let skip = args.boolean("skip").unwrap_or_default();
    Ok(Selection::Traversal(Traversal { name, ty, path, skip, selections: selections(args)? }))
}
