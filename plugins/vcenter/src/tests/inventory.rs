//! Listings: pages, a session that ends between them, folders, and what cannot be backed up.

use tidemark_plugin::ErrorKind;
use tidemark_plugin::connector::{Connector, PowerState};

use super::script::{Script, disk, list_all, machine, object, page, property, typed_disk};

const VIEW: &str = "<returnval type=\"ContainerView\">session[1]view-1</returnval>";

fn vm(id: &str) -> String {
    machine(id, &disk(2000, "[ds] web/web.vmdk", ""), "")
}

#[test]
fn pages_go_on_until_the_token_ends() {
    let script = Script::logged_in()
        .answers("CreateContainerView", &["<container type=\"Folder\">group-d1</container>"], VIEW)
        .answers(
            "RetrievePropertiesEx",
            &["xsi:type=\"TraversalSpec\"", "<maxObjects>2</maxObjects>", "<pathSet>snapshot</pathSet>"],
            &page(&(vm("vm-1") + &vm("vm-2")), Some("t1")),
        )
        .answers("ContinueRetrievePropertiesEx", &["<token>t1</token>"], &page("", Some("t2")))
        .answers("ContinueRetrievePropertiesEx", &["<token>t2</token>"], &page(&vm("vm-3"), None))
        .answers("DestroyView", &[], "");
    assert_eq!(list_all(&mut script.connect(), 2), ["vm-1", "vm-2", "vm-3"]);
    script.is_played();
}

#[test]
fn a_session_that_ends_between_pages_loses_and_doubles_nothing() {
    let script = Script::logged_in()
        .answers("CreateContainerView", &[], VIEW)
        .answers("RetrievePropertiesEx", &[], &page(&(vm("vm-1") + &vm("vm-2")), Some("t1")))
        .faults("ContinueRetrievePropertiesEx", &[], "NotAuthenticated")
        .login("2")
        .faults("ContinueRetrievePropertiesEx", &["<token>t1</token>"], "InvalidArgument")
        .answers("CreateContainerView", &[], VIEW)
        .answers("RetrievePropertiesEx", &[], &page(&(vm("vm-1") + &vm("vm-2")), Some("t9")))
        .answers("ContinueRetrievePropertiesEx", &["<token>t9</token>"], &page(&vm("vm-3"), None))
        .answers("DestroyView", &[], "");
    assert_eq!(list_all(&mut script.connect(), 2), ["vm-1", "vm-2", "vm-3"]);
    script.is_played();
}

#[test]
fn an_unknown_cursor_is_refused() {
    let script = Script::default();
    assert_eq!(script.connect().list_vms(Some("page-7"), 10).unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn what_cannot_be_backed_up_is_said_by_name() {
    let disks = [
        disk(2000, "[ds] web/web.vmdk", "<diskMode>persistent</diskMode>"),
        disk(2001, "[ds] web/i.vmdk", "<diskMode>independent_persistent</diskMode>"),
        typed_disk(
            2002,
            "VirtualDiskRawDiskMappingVer1BackingInfo",
            "[ds] web/r.vmdk",
            "<compatibilityMode>physicalMode</compatibilityMode>",
        ),
        typed_disk(
            2003,
            "VirtualDiskRawDiskMappingVer1BackingInfo",
            "[ds] web/v.vmdk",
            "<compatibilityMode>virtualMode</compatibilityMode><diskMode>persistent</diskMode>",
        ),
    ];
    let template = property("config.template", "xsd:boolean", "true");
    let template = machine("vm-2", &disk(2000, "[ds] t/t.vmdk", ""), &template);
    let orphan = object("VirtualMachine", "vm-3", &property("name", "xsd:string", "gone"));
    let objects = machine("vm-1", &disks.concat(), "") + &template + &orphan;
    let script = Script::logged_in()
        .answers("CreateContainerView", &[], VIEW)
        .answers("RetrievePropertiesEx", &[], &page(&objects, None))
        .answers("DestroyView", &[], "");
    let page = script.connect().list_vms(None, 10).unwrap();
    let reasons: Vec<Option<&str>> =
        page.vms[0].disks.iter().map(|disk| disk.not_protected.as_deref()).collect();
    assert_eq!(reasons[0], None);
    assert!(reasons[1].unwrap().contains("independent_persistent"));
    assert!(reasons[2].unwrap().contains("physical"));
    assert_eq!(reasons[3], None, "a raw device in virtual mode takes part in snapshots");
    assert_eq!(page.vms[0].disks[1].label, "Hard disk 2");
    assert_eq!(page.vms[0].not_protected, None);
    assert_eq!(page.vms[0].power, PowerState::On);
    assert!(page.vms[1].not_protected.as_deref().unwrap().contains("template"));
    assert!(page.vms[2].not_protected.as_deref().unwrap().contains("configuration"));
    script.is_played();
}

#[test]
fn folders_are_read_level_by_level_and_kept() {
    let parent = |kind: &str, id: &str| {
        format!(
            "<propSet><name>parent</name><val xsi:type=\"ManagedObjectReference\" type=\"{kind}\">{id}</val></propSet>"
        )
    };
    let folder = |kind: &str, id: &str, name: &str, above: Option<(&str, &str)>| {
        let above = above.map(|(kind, id)| parent(kind, id)).unwrap_or_default();
        page(&object(kind, id, &(property("name", "xsd:string", name) + &above)), None)
    };
    let vm = |id| machine(id, &disk(2000, "[ds] w.vmdk", ""), &parent("Folder", "group-v9"));
    let script = Script::logged_in()
        .answers("CreateContainerView", &[], VIEW)
        .answers("RetrievePropertiesEx", &[], &page(&vm("vm-1"), Some("t")))
        .answers(
            "RetrievePropertiesEx",
            &["group-v9"],
            &folder("Folder", "group-v9", "prod", Some(("Folder", "group-v3"))),
        )
        .answers(
            "RetrievePropertiesEx",
            &["group-v3"],
            &folder("Folder", "group-v3", "vm", Some(("Datacenter", "dc-2"))),
        )
        .answers(
            "RetrievePropertiesEx",
            &["dc-2"],
            &folder("Datacenter", "dc-2", "Berlin", Some(("Folder", "group-d1"))),
        )
        .answers("RetrievePropertiesEx", &["group-d1"], &folder("Folder", "group-d1", "Datacenters", None))
        .answers("ContinueRetrievePropertiesEx", &[], &page(&vm("vm-2"), None))
        .answers("DestroyView", &[], "");
    let mut vcenter = script.connect();
    let first = vcenter.list_vms(None, 1).unwrap();
    assert_eq!(first.vms[0].folder, "Berlin/vm/prod");
    let second = vcenter.list_vms(first.next.as_deref(), 1).unwrap();
    assert_eq!(second.vms[0].folder, "Berlin/vm/prod");
    script.is_played();
}

#[test]
fn a_datacenter_that_is_named_bounds_the_listing() {
    let settings = r#"{"host":"h","username":"backup@vsphere.local","datacenter":"Berlin"}"#;
    let script = Script::logged_in()
        .answers(
            "FindByInventoryPath",
            &["Berlin"],
            "<returnval type=\"Datacenter\">datacenter-2</returnval>",
        )
        .answers("CreateContainerView", &["<container type=\"Datacenter\">datacenter-2</container>"], VIEW)
        .answers("RetrievePropertiesEx", &[], "")
        .answers("DestroyView", &[], "");
    assert!(script.connect_with(settings).list_vms(None, 10).unwrap().vms.is_empty());
    script.is_played();

    let script = Script::logged_in().answers("FindByInventoryPath", &[], "");
    assert_eq!(script.connect_with(settings).list_vms(None, 1).unwrap_err().kind, ErrorKind::NotFound);
}
