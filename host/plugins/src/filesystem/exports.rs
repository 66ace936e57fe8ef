//! What a file-system reader exports: the interface that it owes, and those that it may leave out.

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::bindings::attributes::OptionalIndices as AttributesIndices;
use crate::bindings::attributes::exports::tidemark::plugin0_3_0::attributes::Guest as Attributes;
use crate::bindings::filesystem::exports::tidemark::plugin::filesystem::Guest as Filesystem;
use crate::bindings::filesystem::{GuestFilesystem, GuestFilesystemIndices};
use crate::bindings::placement::OptionalIndices as PlacementIndices;
use crate::bindings::placement::exports::tidemark::plugin0_3_0::placement::Guest as Placement;
use crate::contract::{ATTRIBUTES, PLACEMENT};
use crate::state::State;

/// A component that is linked to the world `guest-filesystem`.
pub(crate) struct LinkedFilesystem {
    component: InstancePre<State>,
    owed: GuestFilesystemIndices,
    attributes: Option<AttributesIndices>,
    placement: Option<PlacementIndices>,
}

/// The exports of a running reader.
pub(crate) struct Exports {
    owed: GuestFilesystem,
    attributes: Option<Attributes>,
    placement: Option<Placement>,
}

impl LinkedFilesystem {
    /// Looks for the exports among those that it has by name. One of another shape than the contract's is an error, also
    /// where it could have been left out.
    pub(crate) fn new(component: InstancePre<State>, exports: &[String]) -> wasmtime::Result<Self> {
        let owed = GuestFilesystemIndices::new(&component)?;
        let has = |interface: crate::contract::Interface| exports.iter().any(|export| interface.is(export));
        let attributes = has(ATTRIBUTES).then(|| AttributesIndices::new(&component)).transpose()?;
        let placement = has(PLACEMENT).then(|| PlacementIndices::new(&component)).transpose()?;
        Ok(Self { component, owed, attributes, placement })
    }

    pub(crate) async fn instantiate_async(&self, store: &mut Store<State>) -> wasmtime::Result<Exports> {
        let instance: Instance = self.component.instantiate_async(&mut *store).await?;
        let owed = self.owed.load(&mut *store, &instance)?;
        let mut exports = Exports { owed, attributes: None, placement: None };
        if let Some(indices) = &self.attributes {
            let optional = indices.load(&mut *store, &instance)?;
            exports.attributes = Some(optional.tidemark_plugin0_3_0_attributes().clone());
        }
        if let Some(indices) = &self.placement {
            let optional = indices.load(&mut *store, &instance)?;
            exports.placement = Some(optional.tidemark_plugin0_3_0_placement().clone());
        }
        Ok(exports)
    }
}

impl Exports {
    pub(super) fn tidemark_plugin_filesystem(&self) -> &Filesystem {
        self.owed.tidemark_plugin_filesystem()
    }

    pub(super) fn attributes(&self) -> Option<Attributes> {
        self.attributes.clone()
    }

    pub(super) fn placement(&self) -> Option<Placement> {
        self.placement.clone()
    }
}
