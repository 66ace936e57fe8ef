//! `Datastore` and its browser: one VMFS volume that holds all disks.

use tidemark_model::ByteLen;

use super::inventory::{datastore_browser, fixed};
use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::schema::TypeRef;
use crate::soap::value::{MoRef, Obj, Value};
use crate::state::Vcenter;
use crate::state::machine::Vm;

const CAPACITY: u64 = 16 << 40;
const URL: &str = "ds:///vmfs/volumes/5f3e2a10-1b2c3d4e-0000-000000000012/";

pub(super) fn property(vcenter: &Vcenter, of: &MoRef, name: &str) -> Option<Value> {
    if of.kind == "HostDatastoreBrowser" {
        return (name == "datastore").then(|| vec![fixed("datastore-12")].into());
    }
    let datastore = &vcenter.settings.datastore;
    match name {
        "info" => Some(info(vcenter, datastore).into()),
        "summary" => Some(
            Obj::new("DatastoreSummary")
                .set("datastore", of.clone())
                .set("name", datastore.as_str())
                .set("url", URL)
                .set("capacity", CAPACITY)
                .set("freeSpace", free(vcenter).0)
                .set_all(&["accessible", "multipleHostAccess"], &true.into())
                .set("type", "VMFS")
                .set("maintenanceMode", "normal")
                .into(),
        ),
        "vm" => Some(vcenter.vms.iter().map(|vm| vm.reference.clone()).collect::<Vec<_>>().into()),
        "browser" => Some(datastore_browser().into()),
        "capability" => Some(
            Obj::new("DatastoreCapability")
                .set_all(
                    &[
                        "directoryHierarchySupported",
                        "rawDiskMappingsSupported",
                        "perFileThinProvisioningSupported",
                    ],
                    &true.into(),
                )
                .set_all(&["storageIORMSupported", "nativeSnapshotSupported"], &false.into())
                .into(),
        ),
        "host" => {
            let mount = Obj::new("HostMountInfo")
                .set("path", "/vmfs/volumes/datastore1")
                .set("accessMode", "readWrite");
            Some(
                vec![Obj::new("DatastoreHostMount").set("key", fixed("host-9")).set("mountInfo", mount)]
                    .into(),
            )
        }
        _ => None,
    }
}

fn free(vcenter: &Vcenter) -> ByteLen {
    let disks = vcenter.vms.iter().flat_map(|vm| &vm.disks);
    ByteLen(CAPACITY.saturating_sub(disks.map(|disk| disk.disk.allocated_bytes()).sum()))
}

fn info(vcenter: &Vcenter, name: &str) -> Obj {
    let volume = Obj::new("HostVmfsVolume")
        .set("type", "VMFS")
        .set("name", name)
        .set("capacity", CAPACITY)
        .set_all(&["blockSizeMb", "majorVersion"], &1.into())
        .set("maxBlocks", 1 << 24)
        .set("version", "6.82")
        .set("uuid", "5f3e2a10-1b2c3d4e-0000-000000000012")
        .set("extent", vec![Obj::new("HostScsiDiskPartition").set("diskName", "naa.0").set("partition", 1)])
        .set("vmfsUpgradable", false);
    Obj::new("VmfsDatastoreInfo")
        .set("name", name)
        .set("url", URL)
        .set("freeSpace", free(vcenter).0)
        .set_all(
            &["maxFileSize", "maxMemoryFileSize", "maxPhysicalRDMFileSize", "maxVirtualRDMFileSize"],
            &(62_i64 << 40).into(),
        )
        .set("vmfs", volume)
}

pub(super) fn call(mut call: Call) -> Result<Reply, Fault> {
    let path = call.args.text("datastorePath").trim().to_owned();
    let effect = Box::new(move |vcenter: &mut Vcenter| search(vcenter, &path).map(Some));
    Ok(call.start("HostDatastoreBrowser.search", effect))
}

/// Lists a VM's folder.
fn search(vcenter: &Vcenter, path: &str) -> Result<Value, Fault> {
    let prefix = format!("[{}]", vcenter.settings.datastore);
    let folder = path.strip_prefix(&prefix).ok_or_else(|| Fault::invalid_argument("datastorePath"))?;
    let folder = folder.trim().trim_end_matches('/');
    let vm = vcenter.vm_named(folder).ok_or_else(|| Fault::file_not_found(path))?;
    let results = Obj::new("HostDatastoreBrowserSearchResults")
        .set("datastore", fixed("datastore-12"))
        .set("folderPath", format!("{prefix} {folder}/"))
        .set("file", files(vm));
    let ty = TypeRef::parse("HostDatastoreBrowserSearchResults");
    Ok(Value::Typed(ty, Box::new(results.into())))
}

fn files(vm: &Vm) -> Vec<Obj> {
    let mut names = vec![format!("{0}/{0}.vmx", vm.name)];
    names.extend(vm.snapshots.iter().flat_map(|snapshot| &snapshot.disks).map(|disk| disk.file.clone()));
    names.extend(vm.disks.iter().map(|disk| disk.file.clone()));
    names.sort();
    names.dedup();
    let within = |name: &String| name.split_once('/').map_or(name.clone(), |(_, file)| file.to_owned());
    let object = |name| Obj::new(if str::ends_with(name, ".vmdk") { "VmDiskFileInfo" } else { "FileInfo" });
    names.iter().map(|name| object(name).set("path", within(name))).collect()
}
