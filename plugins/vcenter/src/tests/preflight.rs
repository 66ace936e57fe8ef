//! What stands in the way: missing privileges by name, tracking, leftovers.

use tidemark_plugin::connector::{Connector, PreflightReport, Severity};

use super::script::{SETTINGS, Script, disk, machine, page, property, snapshot_tree};

fn privileges(entity: &str, granted: &[(&str, bool)]) -> String {
    let each: String = granted
        .iter()
        .map(|(name, granted)| {
            format!(
                "<privAvailability><privId>{name}</privId><isGranted>{granted}</isGranted></privAvailability>"
            )
        })
        .collect();
    format!("<returnval><entity type=\"VirtualMachine\">{entity}</entity>{each}</returnval>")
}

const ALL: [(&str, bool); 5] = [
    ("VirtualMachine.State.CreateSnapshot", true),
    ("VirtualMachine.State.RemoveSnapshot", true),
    ("VirtualMachine.Config.ChangeTracking", true),
    ("VirtualMachine.Provisioning.DiskRandomRead", true),
    ("VirtualMachine.Provisioning.GetVmFiles", true),
];

fn vm(more: &str) -> String {
    page(&machine("vm-1", &disk(2000, "[ds] web/web.vmdk", ""), more), None)
}

fn codes(report: &PreflightReport, severity: Severity) -> Vec<&str> {
    report.findings.iter().filter(|one| one.severity == severity).map(|one| one.code.as_str()).collect()
}

#[test]
fn missing_privileges_are_blockers_by_name() {
    let mut granted = ALL;
    granted[0].1 = false;
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm("")).answers(
        "HasPrivilegeOnEntities",
        &["<entity type=\"VirtualMachine\">vm-1</entity><sessionId>session-1</sessionId>"],
        &privileges("vm-1", &granted),
    );
    let report = script.connect().preflight("vm-1").unwrap();
    script.is_played();
    assert_eq!(codes(&report, Severity::Blocker), ["missing-privilege"]);
    let finding = report.findings.iter().find(|one| one.code == "missing-privilege").unwrap();
    assert!(
        finding.message.ends_with("lacks on web: VirtualMachine.State.CreateSnapshot"),
        "{}",
        finding.message
    );
    assert!(report.can_enable_change_tracking);
    assert_eq!(codes(&report, Severity::Warning), ["change-tracking-off"]);
}

#[test]
fn privileges_that_the_server_does_not_speak_of_are_missing() {
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm("")).answers(
        "HasPrivilegeOnEntities",
        &[],
        "",
    );
    let report = script.connect().preflight("vm-1").unwrap();
    let finding = report.findings.iter().find(|one| one.code == "missing-privilege").unwrap();
    assert!(finding.message.contains("RemoveSnapshot") && finding.message.contains("DiskRandomRead"));
}

#[test]
fn the_question_for_privileges_names_the_session_it_is_asked_in() {
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &vm(""))
        .faults("HasPrivilegeOnEntities", &["session-1"], "NotAuthenticated")
        .login("2")
        .answers("HasPrivilegeOnEntities", &["session-1"], "")
        .answers("HasPrivilegeOnEntities", &["session-2"], &privileges("vm-1", &ALL));
    let report = script.connect().preflight("vm-1").unwrap();
    script.is_played();
    assert!(codes(&report, Severity::Blocker).is_empty(), "{:?}", report.findings);
}

#[test]
fn snapshots_and_consolidation_are_reported() {
    let more = snapshot_tree(&[("snapshot-1", "by hand"), ("snapshot-2", "x\ntidemark-key: k")])
        + &property("runtime.consolidationNeeded", "xsd:boolean", "true");
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm(&more)).answers(
        "HasPrivilegeOnEntities",
        &[],
        &privileges("vm-1", &ALL),
    );
    let report = script.connect().preflight("vm-1").unwrap();
    assert_eq!(codes(&report, Severity::Info), ["leftover-snapshots", "existing-snapshots"]);
    assert_eq!(codes(&report, Severity::Warning), ["consolidation-needed", "change-tracking-off"]);
    assert!(!report.can_enable_change_tracking);
}

#[test]
fn templates_and_machines_without_a_usable_disk_are_blocked() {
    let independent = disk(2000, "[ds] w.vmdk", "<diskMode>independent_persistent</diskMode>");
    let template = property("config.template", "xsd:boolean", "true");
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &page(&machine("vm-1", &independent, &template), None))
        .answers("HasPrivilegeOnEntities", &[], &privileges("vm-1", &ALL));
    let report = script.connect().preflight("vm-1").unwrap();
    assert_eq!(codes(&report, Severity::Blocker), ["vm-not-protected", "no-disks"]);
    assert!(codes(&report, Severity::Warning).contains(&"disk-not-protected"));
}

#[test]
fn vddk_without_its_thumbprint_is_a_blocker_from_the_first_check_on() {
    let settings = r#"{"host":"h","username":"backup@vsphere.local"}"#;
    let script = Script::logged_in();
    let findings = script.connect_with(settings).check().unwrap();
    assert!(
        findings.iter().any(|one| one.code == "vddk-needs-thumbprint" && one.severity == Severity::Blocker)
    );
    let script = Script::logged_in();
    assert_eq!(script.connect_with(SETTINGS).check().unwrap().len(), 1);
}
