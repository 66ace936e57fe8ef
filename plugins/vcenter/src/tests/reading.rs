//! Leases: the three transports, and every reason for which reading over https would read the wrong file.

use tidemark_plugin::ErrorKind;
use tidemark_plugin::connector::{Connector, Transport};

use super::script::{
    SETTINGS, Script, devices, disk, machine, object, page, property, snapshot_tree, typed_disk,
};

const BASE: &str = "[SSD 1] web 01/web 01.vmdk";
const DELTA: &str = "[SSD 1] web 01/web 01-000001.vmdk";

fn with_transport(transport: &str) -> String {
    SETTINGS.replace("\"nbd\"", &format!("\"{transport}\""))
}

fn frozen(disk: &str) -> String {
    page(&object("VirtualMachineSnapshot", "snapshot-3", &devices(disk)), None)
}

fn ready(disk: &str) -> Script {
    Script::logged_in().answers("RetrievePropertiesEx", &[], &frozen(disk))
}

#[test]
fn nbd_names_machine_snapshot_and_disk() {
    let script = ready(&disk(2000, BASE, ""));
    let lease = script.connect().open_disk("vm-10", "snapshot-3", "2000", false).unwrap();
    let Transport::Nbd(source) = lease.transport else { panic!("not nbd") };
    assert_eq!(source.uri, "nbd://10.0.0.9:10809/vm-10/snapshot-3/2000");
}

#[test]
fn vddk_is_a_descriptor_without_the_password() {
    let script = ready(&disk(2000, BASE, ""));
    let mut vcenter = script.connect_with(&with_transport("vddk"));
    let lease = vcenter.open_disk("vm-10", "snapshot-3", "2000", false).unwrap();
    let Transport::Vddk(source) = lease.transport else { panic!("not vddk") };
    assert_eq!((source.file.as_str(), source.snapshot_moref.as_str()), (BASE, "snapshot-3"));
    assert_eq!((source.password_secret.as_str(), source.modes.as_str()), ("password", "nbdssl:nbd"));
    assert!(source.thumbprint.starts_with("00:11:22:33") && source.thumbprint.contains("AA:BB"));
    vcenter.close_disk(&lease.token).unwrap();
}

/// A machine in `Berlin/vm` whose current disk lies in `current`, with these snapshots.
fn web(current: &str, snapshots: &[(&str, &str)]) -> String {
    let parent = "<propSet><name>parent</name><val type=\"Folder\" xsi:type=\"ManagedObjectReference\">group-v3\
                  </val></propSet>";
    page(&machine("vm-10", &disk(2000, current, ""), &(snapshot_tree(snapshots) + parent)), None)
}

fn datastore(kind: &str) -> String {
    let summary = property("summary", "DatastoreSummary", &format!("<name>SSD 1</name><type>{kind}</type>"));
    page(&object("Datastore", "datastore-5", &summary), None)
}

fn ancestor(kind: &str, id: &str, name: &str, parent: &str) -> String {
    page(&object(kind, id, &(property("name", "xsd:string", name) + parent)), None)
}

#[test]
fn https_reads_the_base_while_it_is_the_frozen_disk() {
    let to = |kind: &str, id: &str| {
        format!(
            "<propSet><name>parent</name><val type=\"{kind}\" xsi:type=\"ManagedObjectReference\">{id}</val></propSet>"
        )
    };
    let script = ready(&disk(2000, BASE, ""))
        .answers("RetrievePropertiesEx", &[], &web(DELTA, &[("snapshot-3", "ours")]))
        .answers("RetrievePropertiesEx", &["datastore-5"], &datastore("VMFS"))
        .answers(
            "RetrievePropertiesEx",
            &[],
            &ancestor("Folder", "group-v3", "vm", &to("Datacenter", "datacenter-2")),
        )
        .answers(
            "RetrievePropertiesEx",
            &[],
            &ancestor("Datacenter", "datacenter-2", "Berlin", &to("Folder", "group-d1")),
        )
        .answers("RetrievePropertiesEx", &[], &ancestor("Folder", "group-d1", "Datacenters", ""));
    let mut vcenter = script.connect_with(&with_transport("https"));
    let lease = vcenter.open_disk("vm-10", "snapshot-3", "2000", false).unwrap();
    script.is_played();
    let Transport::HttpRange(source) = lease.transport else { panic!("not https") };
    assert_eq!(
        source.url,
        "https://vc.example:443/folder/web%2001/web%2001-flat.vmdk?dcPath=Berlin&dsName=SSD%201"
    );
    assert_eq!(source.headers, [("Cookie".to_owned(), "vmware_soap_session=\"s1\"".to_owned())]);
    assert!(source.thumbprint.is_some());
}

#[test]
fn https_is_refused_where_it_would_read_another_moment() {
    let ours = ("snapshot-3", "ours");
    let child = disk(2000, DELTA, "<parent xsi:type=\"VirtualDiskFlatVer2BackingInfo\"/>");
    let sparse = typed_disk(2000, "VirtualDiskSeSparseBackingInfo", BASE, "");
    let plain = disk(2000, BASE, "");
    let cases = [
        (&plain, web(DELTA, &[ours, ("snapshot-1", "by hand")]), None, "other snapshots"),
        (&plain, web(DELTA, &[("snapshot-1", "by hand")]), None, "other snapshots"),
        (&child, web(DELTA, &[ours]), None, "differences"),
        (&sparse, web(DELTA, &[ours]), None, "no flat file"),
        (&plain, web(BASE, &[ours]), None, "still writes"),
        (&plain, web(DELTA, &[ours]), Some(datastore("vsan")), "'vsan'"),
    ];
    for (frozen, machine, datastore, words) in cases {
        let mut script = ready(frozen).answers("RetrievePropertiesEx", &[], &machine);
        if let Some(datastore) = datastore {
            script = script.answers("RetrievePropertiesEx", &[], &datastore);
        }
        let mut vcenter = script.connect_with(&with_transport("https"));
        let error = vcenter.open_disk("vm-10", "snapshot-3", "2000", false).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(words), "{}", error.message);
        script.is_played();
    }
}

#[test]
fn disks_outside_snapshots_and_writing_are_refused() {
    let independent = disk(2000, BASE, "<diskMode>independent_persistent</diskMode>");
    let error = ready(&independent).connect().open_disk("vm-10", "snapshot-3", "2000", false).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    let error = Script::default().connect().open_disk("vm-10", "snapshot-3", "2000", true).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    let error = Script::default().connect().open_disk("../x", "snapshot-3", "2000", false).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}
