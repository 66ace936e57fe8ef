//! Every property of every object against the schema: known fields, and nothing required is missing.

use std::path::Path;

use clap::Parser;
use tempfile::TempDir;

use super::inventory::{datastore_browser, exists, fixed, property};
use crate::options::Options;
use crate::soap::schema::schema;
use crate::soap::value::{MoRef, Value};
use crate::soap::write::write_any;
use crate::state::Vcenter;
use crate::state::machine::NewSnapshot;

fn vcenter(folder: &Path) -> Vcenter {
    let disk = folder.join("disk.raw");
    std::fs::write(&disk, vec![1; 4096]).unwrap();
    let vm = |name: &str| format!("{name}={0},{0},{0}", disk.display());
    let (web, old) = (vm("web"), vm("old"));
    let arguments = ["vcenter-sim", "--vm", &web, "--vm", &old, "--vm-option", "old:template"];
    let more = ["--vm-option", "web:rdm=1", "--vm-option", "web:independent=2"];
    let options = Options::parse_from(arguments.iter().chain(&more));
    let mut vcenter = options.vcenter(&folder.join("state")).unwrap();
    for number in 1..3 {
        let reference = snapshot(number);
        let (name, description) = (format!("s{number}"), String::new());
        vcenter.vms[0].change_tracking = true;
        vcenter.vms[0].create_snapshot(NewSnapshot { reference, name, description, quiesce: false });
    }
    vcenter
}

fn snapshot(number: u32) -> MoRef {
    MoRef::new("VirtualMachineSnapshot", format!("snapshot-{number}"))
}

fn complete(value: &Value, at: &str, missing: &mut Vec<String>) {
    match value {
        Value::Obj(object) => {
            for field in &schema().get(object.ty).unwrap().fields {
                match object.get(field.name) {
                    Some(inner) => complete(inner, &format!("{at}.{}", field.name), missing),
                    None if !field.optional => missing.push(format!("{at}.{} of {}", field.name, object.ty)),
                    None => {}
                }
            }
        }
        Value::List(items) => items.iter().for_each(|item| complete(item, at, missing)),
        Value::Typed(_, inner) => complete(inner, at, missing),
        _ => {}
    }
}

#[test]
fn no_answer_lacks_a_required_field() {
    let folder = TempDir::new().unwrap();
    let vcenter = vcenter(folder.path());
    let mut objects: Vec<MoRef> = ["ServiceInstance", "group-d1", "datacenter-2", "group-v3", "domain-s7"]
        .into_iter()
        .chain(["resgroup-8", "host-9", "datastore-12", "network-13", "TaskManager", "ViewManager"])
        .map(fixed)
        .collect();
    objects.extend(vcenter.vms.iter().map(|vm| vm.reference.clone()));
    objects.extend([snapshot(1), snapshot(2), datastore_browser()]);
    let mut missing = Vec::new();
    for object in objects {
        assert!(exists(&vcenter, &object), "{object:?}");
        for field in &schema().get(&object.kind).unwrap().fields {
            let Some(value) = property(&vcenter, None, &object, field.name) else { continue };
            complete(&value, &format!("{}.{}", object.kind, field.name), &mut missing);
            let mut out = String::new();
            write_any(&mut out, "val", field.ty, &value);
            roxmltree::Document::parse(&out.replace("xsi:type", "xsi-type")).unwrap();
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn files_follow_the_snapshots() {
    let folder = TempDir::new().unwrap();
    let mut vcenter = vcenter(folder.path());
    let vm = &mut vcenter.vms[0];
    let files = |vm: &crate::state::machine::Vm| {
        let frozen: Vec<String> = vm.snapshots.iter().map(|one| one.disks[0].file.clone()).collect();
        (frozen, vm.disks[0].file.clone())
    };
    let names = |frozen: &[&str], live: &str| {
        (frozen.iter().map(|name| format!("web/{name}.vmdk")).collect::<Vec<_>>(), format!("web/{live}.vmdk"))
    };
    assert_eq!(files(vm), names(&["web", "web-000001"], "web-000002"));
    vm.remove_snapshot(&snapshot(1), false, true);
    assert_eq!(files(vm), names(&["web"], "web-000002"));
    vm.remove_snapshot(&snapshot(2), false, false);
    assert_eq!(files(vm), names(&[], "web-000002"));
    assert!(vm.consolidation_needed);
    vm.consolidate();
    assert_eq!(files(vm), names(&[], "web"));
    let untouched: Vec<&str> = vm.disks[1..].iter().map(|disk| disk.file.as_str()).collect();
    assert_eq!(untouched, ["web/web_1.vmdk", "web/web_2.vmdk"]);
}
