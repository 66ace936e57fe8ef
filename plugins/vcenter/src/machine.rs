//! A virtual machine as its properties describe it: disks, snapshots, and why something cannot be backed up.

use std::collections::BTreeSet;

use tidemark_plugin::connector::{PowerState, VirtualDisk};
use tidemark_plugin::{Error, Result};

use crate::property::{self, Object};
use crate::session::Session;
use crate::xml::{Element, Ref};

/// What is read of every virtual machine.
pub(crate) const PATHS: [&str; 16] = [
    "name",
    "config.template",
    "config.instanceUuid",
    "config.guestFullName",
    "config.changeTrackingEnabled",
    "config.hardware.device",
    "capability.changeTrackingSupported",
    "runtime.powerState",
    "runtime.consolidationNeeded",
    "parent",
    "parentVApp",
    "snapshot",
    "datastore",
    "recentTask",
    "tag",
    "customValue",
];

/// A virtual disk, of a machine as it is now or of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) key: String,
    pub(crate) label: String,
    pub(crate) capacity: u64,
    /// `[datastore] folder/file.vmdk`.
    pub(crate) file: String,
    pub(crate) datastore: Option<Ref>,
    pub(crate) change_id: Option<String>,
    pub(crate) backing: String,
    /// Whether the file holds only differences to another one.
    pub(crate) has_parent: bool,
    mode: String,
    compatibility: String,
    sharing: String,
}

/// A node of the snapshot tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotNode {
    pub(crate) of: Ref,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) quiesced: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) of: Ref,
    pub(crate) name: String,
    pub(crate) guest_os: String,
    pub(crate) power: PowerState,
    pub(crate) parent: Option<Ref>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) snapshots: Vec<SnapshotNode>,
    pub(crate) datastores: Vec<Ref>,
    /// Tasks that are under way or ended some minutes ago.
    pub(crate) recent_tasks: Vec<Ref>,
    pub(crate) tags: Vec<String>,
    /// Custom values by the number of their field.
    pub(crate) custom_values: Vec<(String, String)>,
    pub(crate) tracking: bool,
    pub(crate) tracking_supported: bool,
    pub(crate) consolidation_needed: bool,
    template: bool,
    readable: bool,
}

impl Disk {
    /// The disks among a list of devices, in the list's order.
    pub(crate) fn all(devices: &Element) -> Result<Vec<Self>> {
        devices.children.iter().filter(|device| device.xsi_type == "VirtualDisk").map(Self::parse).collect()
    }

    fn parse(device: &Element) -> Result<Self> {
        let nothing = Element::default();
        let backing = device.child("backing").unwrap_or(&nothing);
        let text = |name: &str| backing.text_of(name).unwrap_or_default().to_owned();
        let key = device.text_of("key").unwrap_or_default();
        if key.parse::<i32>().is_err() {
            return Err(Error::corrupt(format!("a disk has the key '{key}', which is no number")));
        }
        let capacity = match device.number_of("capacityInBytes") {
            Ok(bytes) => bytes,
            // Left out by old hosts.
            Err(_) => device
                .number_of("capacityInKB")?
                .checked_mul(1024)
                .ok_or_else(|| Error::corrupt(format!("the capacity of disk {key} is too large")))?,
        };
        let label = device.child("deviceInfo").and_then(|info| info.text_of("label"));
        Ok(Self {
            key: key.to_owned(),
            label: label.map_or_else(|| format!("Disk {key}"), str::to_owned),
            capacity,
            file: text("fileName"),
            datastore: backing.ref_of("datastore"),
            change_id: backing.text_of("changeId").filter(|id| !id.is_empty()).map(str::to_owned),
            backing: backing.xsi_type.clone(),
            has_parent: backing.child("parent").is_some(),
            mode: text("diskMode"),
            compatibility: text("compatibilityMode"),
            sharing: text("sharing"),
        })
    }

    /// Why snapshots cannot hold this disk, or none.
    pub(crate) fn not_protected(&self) -> Option<String> {
        if self.compatibility == "physicalMode"
            || self.backing == "VirtualDiskPartitionedRawDiskVer2BackingInfo"
        {
            return Some("a raw device in physical compatibility mode takes no part in snapshots".to_owned());
        }
        if self.backing == "VirtualDiskRawDiskVer2BackingInfo" {
            return Some("a raw disk of the host takes no part in snapshots".to_owned());
        }
        if self.mode.starts_with("independent") {
            return Some(format!("an independent disk ({}) takes no part in snapshots", self.mode));
        }
        None
    }

    /// Whether several machines write to it.
    pub(crate) fn is_shared(&self) -> bool {
        self.sharing == "sharingMultiWriter"
    }

    pub(crate) fn to_contract(&self) -> VirtualDisk {
        VirtualDisk {
            key: self.key.clone(),
            label: self.label.clone(),
            capacity_bytes: self.capacity,
            not_protected: self.not_protected(),
        }
    }
}

impl Machine {
    /// The datastores that its disks lie on, as the paths of their files name them.
    pub(crate) fn datastore_names(&self) -> Vec<String> {
        let named = |disk: &Disk| Some(disk.file.strip_prefix('[')?.split_once(']')?.0.to_owned());
        let names: BTreeSet<String> = self.disks.iter().filter_map(named).collect();
        names.into_iter().collect()
    }

    pub(crate) fn parse(object: &Object) -> Result<Self> {
        let devices = object.get("config.hardware.device");
        let mut snapshots = Vec::new();
        if let Some(tree) = object.get("snapshot") {
            collect(tree, "rootSnapshotList", &mut snapshots);
        }
        let texts = |path: &str, name: &str| -> Vec<String> {
            let entries = object.get(path).map(|list| list.children.as_slice()).unwrap_or_default();
            entries.iter().filter_map(|entry| entry.text_of(name).map(str::to_owned)).collect()
        };
        let references = |path: &str| -> Vec<Ref> {
            let entries = object.get(path).map(|list| list.children.as_slice()).unwrap_or_default();
            entries.iter().filter_map(Element::as_ref).collect()
        };
        Ok(Self {
            of: object.of.clone(),
            name: object.text("name").unwrap_or(&object.of.id).to_owned(),
            guest_os: object.text("config.guestFullName").unwrap_or_default().to_owned(),
            power: power(object.text("runtime.powerState").unwrap_or_default()),
            parent: object.get("parent").or_else(|| object.get("parentVApp")).and_then(Element::as_ref),
            disks: devices.map(Disk::all).transpose()?.unwrap_or_default(),
            snapshots,
            datastores: references("datastore"),
            recent_tasks: references("recentTask"),
            tags: texts("tag", "key"),
            custom_values: texts("customValue", "key")
                .into_iter()
                .zip(texts("customValue", "value"))
                .collect(),
            tracking: object.flag("config.changeTrackingEnabled").unwrap_or(false),
            tracking_supported: object.flag("capability.changeTrackingSupported").unwrap_or(true),
            consolidation_needed: object.flag("runtime.consolidationNeeded").unwrap_or(false),
            template: object.flag("config.template").unwrap_or(false),
            readable: devices.is_some(),
        })
    }

    /// Reads one machine by its reference.
    pub(crate) fn read(session: &mut Session, vm: &str) -> Result<Self> {
        let of = Ref::checked("VirtualMachine", vm)?;
        let object = property::of_object(session, &of, &PATHS, &format!("reading VM {vm}"))?;
        Self::parse(&object)
    }

    /// Why the machine as a whole cannot be backed up, or none.
    pub(crate) fn not_protected(&self) -> Option<String> {
        if self.template {
            return Some("a template is not backed up; convert it to a virtual machine first".to_owned());
        }
        if !self.readable {
            return Some(
                "its configuration cannot be read: it is inaccessible, orphaned, or the user may not"
                    .to_owned(),
            );
        }
        let shared = self.disks.iter().find(|disk| disk.is_shared())?;
        Some(format!(
            "{} is shared by several machines (multi-writer), which excludes snapshots",
            shared.label
        ))
    }
}

fn power(text: &str) -> PowerState {
    match text {
        "poweredOn" => PowerState::On,
        "poweredOff" => PowerState::Off,
        "suspended" => PowerState::Suspended,
        _ => PowerState::Unknown,
    }
}

/// Flattens the tree, parents before children. The parser has bounded its depth.
fn collect(node: &Element, list: &str, into: &mut Vec<SnapshotNode>) {
    for entry in node.all(list) {
        if let Some(of) = entry.ref_of("snapshot") {
            into.push(SnapshotNode {
                of,
                name: entry.text_of("name").unwrap_or_default().to_owned(),
                description: entry.text_of("description").unwrap_or_default().to_owned(),
                quiesced: entry.bool_of("quiesced").unwrap_or(false),
            });
        }
        collect(entry, "childSnapshotList", into);
    }
}
