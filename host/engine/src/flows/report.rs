//! What an administrator asks of all flows together: which VMs nobody protects.

use tidemark_catalog::SeenVm;
use tidemark_model::UtcMillis;

use crate::engine::Engine;
use crate::error::Result;
use crate::inventory;

/// A VM that no enabled flow protects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnprotectedVm {
    /// Its name.
    pub name: String,
    /// The hypervisor's key.
    pub key: String,
    /// The connector that shows it.
    pub connector: String,
    /// Where it lies in the inventory.
    pub folder: String,
    /// When it was last seen.
    pub seen_at: UtcMillis,
    /// What each enabled flow that looked at it said.
    pub reasons: Vec<String>,
}

impl Engine {
    /// All VMs that connectors were seen to have and that no enabled flow protects. Connectors are asked first where
    /// `refresh`.
    ///
    /// # Errors
    /// Only those of the catalog: a connector that cannot be asked is shown as it was last seen.
    pub async fn unprotected_vms(&self, refresh: bool) -> Result<Vec<UnprotectedVm>> {
        let connectors = self.catalog().list_connectors().await?;
        if refresh {
            for connector in &connectors {
                if let Err(error) = self.shared.look_around(connector).await {
                    tracing::info!(connector = connector.name, error = %error.chain(), "it cannot be asked");
                }
            }
        }
        let mut said = Vec::new();
        for flow in self.catalog().list_flows().await?.iter().filter(|flow| flow.enabled) {
            said.push((flow.name.clone(), self.catalog().flow_members(flow.id).await?));
        }
        let unprotected = self.catalog().unprotected_vms().await?;
        let describe = |seen: SeenVm| {
            let SeenVm { connector_id, vm_key, name, inventory_json, seen_at } = seen;
            let connector = connectors.iter().find(|connector| connector.id == connector_id);
            let connector = connector.map(|connector| connector.name.clone()).unwrap_or_default();
            let folder = inventory::candidate_of(&inventory_json, "", Vec::new()).folder;
            let reasons = said.iter().filter_map(|(flow, members)| {
                let member = members
                    .iter()
                    .find(|member| member.connector_id == connector_id && member.vm_key == vm_key)?;
                Some(format!("{flow}: {}", member.reason))
            });
            let reasons = reasons.collect();
            UnprotectedVm { name, key: vm_key, connector, folder, seen_at, reasons }
        };
        Ok(unprotected.into_iter().map(describe).collect())
    }
}
