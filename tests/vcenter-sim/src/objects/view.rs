//! `ViewManager` and `ContainerView`: lists of what hangs below a container, always up to date.

use super::inventory::{children, exists};
use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::schema::schema;
use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;

/// A view of one session.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// The key of the session that owns it.
    pub session: String,
    container: MoRef,
    types: Vec<String>,
    recursive: bool,
}

impl ContainerView {
    /// The objects in view.
    #[must_use]
    pub fn objects(&self, vcenter: &Vcenter) -> Vec<MoRef> {
        let mut found = Vec::new();
        let mut open = children(vcenter, &self.container);
        open.reverse();
        while let Some(object) = open.pop() {
            if self.recursive {
                open.extend(children(vcenter, &object).into_iter().rev());
            }
            if self.types.is_empty() || self.types.iter().any(|ty| schema().is_a(&object.kind, ty)) {
                found.push(object);
            }
        }
        found
    }
}

pub(super) fn call(call: Call) -> Result<Reply, Fault> {
    let session = call.session_key()?;
    match call.method {
        "CreateContainerView" => {
            let container = call.args.reference("container").unwrap_or_else(|| call.this.clone());
            if !exists(call.vcenter, &container) {
                return Err(Fault::not_found(&container));
            }
            if !schema().is_a(&container.kind, "ManagedEntity") {
                return Err(Fault::invalid_argument("container"));
            }
            let types = call.args.texts("type");
            let recursive = call.args.boolean("recursive").unwrap_or_default();
            let id = format!("session[{session}]view-{}", call.vcenter.take_id());
            let view = ContainerView { session, container, types, recursive };
            call.vcenter.views.insert(id.clone(), view);
            Ok(Reply::Value(MoRef::new("ContainerView", id).into()))
        }
        "DestroyView" => match call.vcenter.views.remove(&call.this.id) {
            Some(_) => Ok(Reply::Void),
            None => Err(Fault::not_found(call.this)),
        },
        method => Err(Fault::method_not_found(call.this, method)),
    }
}

pub(super) fn property(vcenter: &Vcenter, session: Option<&str>, of: &MoRef, name: &str) -> Option<Value> {
    if of.kind == "ViewManager" {
        let own = vcenter.views.iter().filter(|(_, view)| Some(view.session.as_str()) == session);
        return (name == "viewList")
            .then(|| own.map(|(id, _)| MoRef::new("ContainerView", id.as_str())).collect::<Vec<_>>().into());
    }
    let view = vcenter.views.get(&of.id)?;
    match name {
        "view" => Some(view.objects(vcenter).into()),
        "container" => Some(view.container.clone().into()),
        "type" => Some(view.types.clone().into()),
        "recursive" => Some(view.recursive.into()),
        _ => None,
    }
}
