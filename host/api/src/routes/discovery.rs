//! Discovery in the older shape: look at what a hypervisor has, then put VMs under protection.

use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::connectors::discover_by;
use super::vms::add_vms;
use crate::auth::Actor;
use crate::extract::KeptJson;
use crate::problem::Answer;
use crate::routing::{Routes, admin, operator};
use crate::state::AppState;
use crate::wire::{AddVms, AddedVms, DiscoverVms, Discovery};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .post(
            "/api/v1/discovery/discover-vms",
            operator("discoverVms", "Lists the hypervisor's VMs")
                .body::<DiscoverVms>()
                .answers::<Discovery>(200),
            discover,
        )
        .post(
            "/api/v1/discovery/add-vms",
            admin("addDiscoveredVms", "Puts VMs under protection").body::<AddVms>().answers::<AddedVms>(201),
            add_found,
        )
}

async fn discover(
    State(state): State<AppState>,
    KeptJson(DiscoverVms { connector }, warnings): KeptJson<DiscoverVms>,
) -> Answer<Json<Discovery>> {
    discover_by(&state, &connector, warnings).await
}

async fn add_found(
    State(state): State<AppState>,
    actor: Actor,
    KeptJson(wire, warnings): KeptJson<AddVms>,
) -> Answer<Response> {
    add_vms(&state, &actor, wire, warnings).await
}
