//! What a connector exports: the interface that it owes, and those that it may leave out.

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::bindings::about::OptionalIndices;
use crate::bindings::about::exports::tidemark::plugin0_2_0::about::Guest as About;
use crate::bindings::connector::exports::tidemark::plugin::hypervisor::Guest as Hypervisor;
use crate::bindings::connector::{Connector, ConnectorIndices};
use crate::contract::ABOUT;
use crate::state::State;

/// A component that is linked to the world `connector`.
pub(crate) struct LinkedConnector {
    component: InstancePre<State>,
    owed: ConnectorIndices,
    optional: Option<OptionalIndices>,
}

/// The exports of a running connector.
pub(crate) struct Exports {
    owed: Connector,
    about: Option<About>,
}

impl LinkedConnector {
    /// Looks for the exports among those that it has by name. One of another shape than the contract's is an error, also
    /// where it could have been left out.
    pub(crate) fn new(component: InstancePre<State>, exports: &[String]) -> wasmtime::Result<Self> {
        let owed = ConnectorIndices::new(&component)?;
        let has_about = exports.iter().any(|export| ABOUT.is(export));
        let optional = has_about.then(|| OptionalIndices::new(&component)).transpose()?;
        Ok(Self { component, owed, optional })
    }

    pub(crate) async fn instantiate_async(&self, store: &mut Store<State>) -> wasmtime::Result<Exports> {
        let instance: Instance = self.component.instantiate_async(&mut *store).await?;
        let owed = self.owed.load(&mut *store, &instance)?;
        let optional =
            self.optional.as_ref().map(|indices| indices.load(&mut *store, &instance)).transpose()?;
        Ok(Exports { owed, about: optional.map(|optional| optional.tidemark_plugin0_2_0_about().clone()) })
    }
}

impl Exports {
    pub(super) fn tidemark_plugin_hypervisor(&self) -> &Hypervisor {
        self.owed.tidemark_plugin_hypervisor()
    }

    pub(super) fn about(&self) -> Option<About> {
        self.about.clone()
    }
}
