//! Virtual machines: as a hypervisor lists them, and as they are protected.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_catalog::Vm;
use tidemark_engine::{Finding, Product, Severity, TestedConnector, VirtualDisk, VirtualMachine};

use super::{json_value, rfc3339};
use crate::extract::KeptBody;

/// A virtual machine under protection.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct VmEntry {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The connector it was found by; none for one known only from an imported repository.
    pub connector_id: Option<String>,
    /// The hypervisor's own key.
    pub key: String,
    /// As last seen.
    pub inventory: Value,
    /// When it was added.
    pub created_at: String,
}

/// One page of protected VMs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct VmList {
    /// By name.
    pub vms: Vec<VmEntry>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl From<&Vm> for VmEntry {
    fn from(vm: &Vm) -> Self {
        let Vm { id, connector_id, key, name, inventory_json, created_at } = vm;
        Self {
            id: id.to_string(),
            name: name.clone(),
            connector_id: connector_id.map(|id| id.to_string()),
            key: key.clone(),
            inventory: json_value(inventory_json),
            created_at: rfc3339(*created_at),
        }
    }
}

/// A virtual machine as the hypervisor lists it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DiscoveredVm {
    /// The hypervisor's own key.
    pub key: String,
    /// Its name.
    pub name: String,
    /// `on`, `off`, `suspended` or `unknown`.
    pub power_state: String,
    /// What the hypervisor says of the guest's system.
    pub guest_os: String,
    /// Where it is in the inventory.
    pub folder: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The datastores that its disks lie on.
    pub datastores: Vec<String>,
    /// Its disks.
    pub disks: Vec<DiscoveredDisk>,
    /// Whether changed block tracking is on.
    pub change_tracking: bool,
    /// Why it cannot be backed up.
    pub not_protected: Option<String>,
}

/// A disk as the hypervisor lists it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DiscoveredDisk {
    /// The hypervisor's own key.
    pub key: String,
    /// What an administrator calls it.
    pub label: String,
    /// Its size.
    pub capacity_bytes: u64,
    /// Why it cannot be backed up.
    pub not_protected: Option<String>,
}

/// What a hypervisor has.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Discovery {
    /// The connector's name.
    pub connector: String,
    /// Its virtual machines.
    pub vms: Vec<DiscoveredVm>,
    /// How many there are.
    pub total: usize,
    /// What of the request was passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl From<VirtualMachine> for DiscoveredVm {
    fn from(vm: VirtualMachine) -> Self {
        let VirtualMachine {
            key,
            name,
            power,
            guest_os,
            folder,
            tags,
            datastores,
            disks,
            change_tracking,
            not_protected,
        } = vm;
        Self {
            key,
            name,
            power_state: power.as_str().to_owned(),
            guest_os,
            folder,
            tags,
            datastores,
            disks: disks.into_iter().map(DiscoveredDisk::from).collect(),
            change_tracking,
            not_protected,
        }
    }
}

impl From<VirtualDisk> for DiscoveredDisk {
    fn from(disk: VirtualDisk) -> Self {
        let VirtualDisk { key, label, capacity, not_protected } = disk;
        Self { key: key.0, label, capacity_bytes: capacity.0, not_protected }
    }
}

/// Asks a hypervisor what it has.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiscoverVms {
    /// The connector's name or id.
    #[serde(alias = "connector_id", alias = "credential_id", alias = "vmware_credential_id")]
    pub connector: String,
}

impl KeptBody for DiscoverVms {
    const MEMBERS: &'static [&'static str] =
        &["connector", "connector_id", "credential_id", "vmware_credential_id"];
}

/// Puts virtual machines under protection.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddVms {
    /// The connector's name or id.
    #[serde(alias = "connector_id", alias = "credential_id", alias = "vmware_credential_id")]
    pub connector: String,
    /// Names or hypervisor keys.
    #[serde(alias = "vms", alias = "names")]
    pub vm_names: Vec<String>,
}

impl KeptBody for AddVms {
    const MEMBERS: &'static [&'static str] =
        &["connector", "connector_id", "credential_id", "vmware_credential_id", "vm_names", "vms", "names"];
}

/// What was put under protection.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AddedVms {
    /// The virtual machines.
    pub vms: Vec<VmEntry>,
    /// How many there are.
    pub added: usize,
    /// What of the request was passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Something that a connector's test found.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FindingEntry {
    /// `info`, `warning` or `blocker`.
    pub severity: String,
    /// Stable, for example `missing-privilege`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Whether a connector can be used.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TestReport {
    /// No finding stands in the way of backups.
    pub success: bool,
    /// `ok`, `warnings` or `blocked`.
    pub status: String,
    /// For people.
    pub message: String,
    /// What the connection leads to; none where the plugin does not say.
    #[serde(default)]
    pub product: Option<ProductEntry>,
    /// What was found.
    pub findings: Vec<FindingEntry>,
}

/// What a connector talks to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProductEntry {
    /// What its maker calls it, for example `VMware vCenter Server`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The maker's build; empty where there is none.
    pub build: String,
    /// What tells this installation from all others, for vSphere the instance UUID; none where there is no such thing.
    pub instance: Option<String>,
}

impl From<Product> for ProductEntry {
    fn from(product: Product) -> Self {
        let Product { name, version, build, instance } = product;
        Self { name, version, build, instance }
    }
}

impl From<Finding> for FindingEntry {
    fn from(finding: Finding) -> Self {
        let Finding { severity, code, message } = finding;
        let severity = match severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Blocker => "blocker",
        };
        Self { severity: severity.to_owned(), code, message }
    }
}

impl TestReport {
    /// Sums the findings up.
    #[must_use]
    pub fn new(tested: TestedConnector) -> Self {
        let TestedConnector { product, findings } = tested;
        let findings: Vec<FindingEntry> = findings.into_iter().map(FindingEntry::from).collect();
        let count = |severity: &str| findings.iter().filter(|finding| finding.severity == severity).count();
        let (blockers, warnings) = (count("blocker"), count("warning"));
        let (status, message) = match (blockers, warnings) {
            (0, 0) => ("ok", "the connection works".to_owned()),
            (0, warnings) => ("warnings", format!("the connection works, with {warnings} warning(s)")),
            (blockers, _) => ("blocked", format!("{blockers} finding(s) stand in the way of backups")),
        };
        let product = product.map(ProductEntry::from);
        Self { success: blockers == 0, status: status.to_owned(), message, product, findings }
    }
}
