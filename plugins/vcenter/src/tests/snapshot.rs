//! Snapshots: the key, quiescing and its fallback, busy machines, removal, consolidation, change tracking.

use tidemark_plugin::ErrorKind;
use tidemark_plugin::connector::Connector;

use super::script::{
    Script, devices, disk, machine, object, page, property, snapshot_tree, task, task_answer, task_error,
};

const OURS: &str = "Taken by Tidemark for a backup, which removes it at its end.\ntidemark-key: k1";
const CHANGE_ID: &str = "<changeId>52 aa/7</changeId>";

fn vm(more: &str) -> String {
    page(&machine("vm-1", &disk(2000, "[ds] web/web.vmdk", ""), more), None)
}

fn frozen(disks: &str) -> String {
    page(&object("VirtualMachineSnapshot", "snapshot-3", &devices(disks)), None)
}

fn with_snapshot() -> String {
    vm(&snapshot_tree(&[("snapshot-3", OURS)]))
}

#[test]
fn a_snapshot_reports_what_the_server_froze() {
    let disks = disk(2000, "[ds] web/web.vmdk", CHANGE_ID)
        + &disk(2001, "[ds] web/b.vmdk", "")
        + &disk(2002, "[ds] web/i.vmdk", "<diskMode>independent_nonpersistent</diskMode>");
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &vm(""))
        .answers(
            "CreateSnapshot_Task",
            &[
                "<name>tidemark-k1</name>",
                "tidemark-key: k1",
                "<memory>false</memory><quiesce>true</quiesce>",
            ],
            task_answer(),
        )
        .answers("RetrievePropertiesEx", &["<type>Task</type>"], &task("queued", ""))
        .answers("RetrievePropertiesEx", &["<type>Task</type>"], &task("running", "<progress>40</progress>"))
        .answers("RetrievePropertiesEx", &["<type>Task</type>"], &task("success", ""))
        .answers("RetrievePropertiesEx", &["VirtualMachine\">vm-1"], &with_snapshot())
        .answers("RetrievePropertiesEx", &["snapshot-3"], &frozen(&disks));
    let snapshot = script.connect().create_snapshot("vm-1", "k1", true).unwrap();
    script.is_played();
    assert_eq!(snapshot.token, "snapshot-3");
    assert!(snapshot.quiesced);
    let disks: Vec<_> =
        snapshot.disks.iter().map(|disk| (disk.key.as_str(), disk.change_id.as_deref())).collect();
    assert_eq!(disks, [("2000", Some("52 aa/7")), ("2001", None)]);
    assert_eq!(snapshot.disks[0].capacity_bytes, 1 << 20);
    assert_eq!(snapshot.warnings.len(), 2, "{:?}", snapshot.warnings);
    assert!(snapshot.warnings[1].contains("Hard disk 3") && snapshot.warnings[1].contains("independent"));
}

#[test]
fn the_same_key_takes_no_second_snapshot() {
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &with_snapshot())
        .answers("RetrievePropertiesEx", &[], &with_snapshot())
        .answers("RetrievePropertiesEx", &["snapshot-3"], &frozen(&disk(2000, "[ds] w.vmdk", CHANGE_ID)));
    assert_eq!(script.connect().create_snapshot("vm-1", "k1", true).unwrap().token, "snapshot-3");
    script.is_played();
}

#[test]
fn a_guest_that_cannot_be_quiesced_gets_a_plain_snapshot_with_a_warning() {
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &vm(""))
        .answers("CreateSnapshot_Task", &["<quiesce>true</quiesce>"], task_answer())
        .answers("RetrievePropertiesEx", &[], &task_error("ApplicationQuiesceFault"))
        .answers("CreateSnapshot_Task", &["<quiesce>false</quiesce>"], task_answer())
        .answers("RetrievePropertiesEx", &[], &task("success", ""))
        .answers("RetrievePropertiesEx", &[], &with_snapshot())
        .answers("RetrievePropertiesEx", &[], &frozen(&disk(2000, "[ds] w.vmdk", CHANGE_ID)));
    let snapshot = script.connect().create_snapshot("vm-1", "k1", true).unwrap();
    assert!(
        snapshot.warnings[0].contains("quiesced") && snapshot.warnings[0].contains("ApplicationQuiesceFault")
    );
    script.is_played();
}

#[test]
fn another_task_is_waited_for_but_not_for_ever() {
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &vm(""))
        .faults("CreateSnapshot_Task", &[], "TaskInProgress")
        .answers("CreateSnapshot_Task", &[], task_answer())
        .answers("RetrievePropertiesEx", &[], &task_error("TaskInProgress"))
        .answers("CreateSnapshot_Task", &[], task_answer())
        .answers("RetrievePropertiesEx", &[], &task("success", ""))
        .answers("RetrievePropertiesEx", &[], &with_snapshot())
        .answers("RetrievePropertiesEx", &[], &frozen(&disk(2000, "[ds] w.vmdk", CHANGE_ID)));
    script.connect().create_snapshot("vm-1", "k1", false).unwrap();
    script.is_played();

    let mut script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm(""));
    for _ in 0..10 {
        script = script.faults("CreateSnapshot_Task", &[], "TaskInProgress");
    }
    let error = script.connect().create_snapshot("vm-1", "k1", false).unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms), (ErrorKind::Unavailable, Some(1_000)));
    script.is_played();
}

#[test]
fn a_task_that_outlasts_the_call_is_waited_for_by_the_next_one() {
    let mut script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm("")).answers(
        "CreateSnapshot_Task",
        &[],
        task_answer(),
    );
    // 100, 200, … 1600 milliseconds and then two seconds a look: 45 seconds are spent after 26 of them.
    for _ in 0..26 {
        script = script.answers("RetrievePropertiesEx", &[], &task("running", ""));
    }
    let mut vcenter = script.connect();
    let error = vcenter.create_snapshot("vm-1", "k1", false).unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms), (ErrorKind::Unavailable, Some(1_000)));
    script.is_played();

    let recent = "<propSet><name>recentTask</name><val xsi:type=\"ArrayOfManagedObjectReference\">\
                  <ManagedObjectReference type=\"Task\">task-9</ManagedObjectReference></val></propSet>";
    let running = task("running", "<descriptionId>VirtualMachine.createSnapshot</descriptionId>");
    let _script = script
        .answers("RetrievePropertiesEx", &[], &vm(recent))
        .answers("RetrievePropertiesEx", &["<type>Task</type>"], &running)
        .answers("RetrievePropertiesEx", &["<type>Task</type>"], &task("success", ""))
        .answers("RetrievePropertiesEx", &[], &with_snapshot())
        .answers("RetrievePropertiesEx", &[], &with_snapshot())
        .answers("RetrievePropertiesEx", &[], &frozen(&disk(2000, "[ds] w.vmdk", CHANGE_ID)));
    assert_eq!(vcenter.create_snapshot("vm-1", "k1", false).unwrap().token, "snapshot-3");
}

#[test]
fn a_task_that_fails_says_why() {
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &vm(""))
        .answers("CreateSnapshot_Task", &[], task_answer())
        .answers("RetrievePropertiesEx", &[], &task_error("NoDiskSpace"));
    let error = script.connect().create_snapshot("vm-1", "k1", true).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(
        error.message.contains("web") && error.message.contains("NoDiskSpace happened"),
        "{}",
        error.message
    );
}

#[test]
fn a_snapshot_call_is_never_sent_twice_over_a_dead_connection() {
    let script =
        Script::logged_in().answers("RetrievePropertiesEx", &[], &vm("")).dies("CreateSnapshot_Task");
    assert_eq!(
        script.connect().create_snapshot("vm-1", "k1", true).unwrap_err().kind,
        ErrorKind::Unavailable
    );
    script.is_played();
}

#[test]
fn removal_consolidates_where_it_is_still_needed() {
    let needed = property("runtime.consolidationNeeded", "xsd:boolean", "true");
    let script = Script::logged_in()
        .answers("RetrievePropertiesEx", &[], &with_snapshot())
        .answers(
            "RemoveSnapshot_Task",
            &["snapshot-3", "<removeChildren>false</removeChildren><consolidate>true</consolidate>"],
            task_answer(),
        )
        .answers("RetrievePropertiesEx", &[], &task("success", ""))
        .answers("RetrievePropertiesEx", &[], &page(&object("VirtualMachine", "vm-1", &needed), None))
        .answers("ConsolidateVMDisks_Task", &["vm-1"], task_answer())
        .answers("RetrievePropertiesEx", &[], &task("success", ""));
    script.connect().remove_snapshot("vm-1", "snapshot-3").unwrap();
    script.is_played();
}

#[test]
fn what_is_gone_is_removed_and_what_is_not_ours_stays() {
    let idle = page(&object("VirtualMachine", "vm-1", ""), None);
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm("")).answers(
        "RetrievePropertiesEx",
        &[],
        &idle,
    );
    script.connect().remove_snapshot("vm-1", "snapshot-3").unwrap();
    script.is_played();

    let script = Script::logged_in().faults("RetrievePropertiesEx", &[], "ManagedObjectNotFound");
    script.connect().remove_snapshot("vm-1", "snapshot-3").unwrap();

    let foreign = vm(&snapshot_tree(&[("snapshot-3", "before the update")]));
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &foreign);
    let error = script.connect().remove_snapshot("vm-1", "snapshot-3").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    script.is_played();
}

#[test]
fn own_snapshots_are_known_by_their_marker() {
    let tree = snapshot_tree(&[("snapshot-1", "by hand"), ("snapshot-3", OURS)]);
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm(&tree));
    let own = script.connect().list_own_snapshots("vm-1").unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].token.as_str(), own[0].idempotency_key.as_str()), ("snapshot-3", "k1"));
}

#[test]
fn change_tracking_is_not_turned_on_over_snapshots() {
    let tree = snapshot_tree(&[("snapshot-1", "by hand")]);
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &vm(&tree));
    let error = script.connect().enable_change_tracking("vm-1").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("n-snapshot-1"), "{}", error.message);
    script.is_played();
}

#[test]
fn change_tracking_is_turned_on_stunned_and_verified() {
    let on = property("config.changeTrackingEnabled", "xsd:boolean", "true");
    let stun = snapshot_tree(&[("snapshot-3", "x\ntidemark-key: enable-change-tracking")]);
    let tracked = page(&machine("vm-1", &disk(2000, "[ds] w.vmdk", CHANGE_ID), &on), None);
    let play = |last: &str| {
        Script::logged_in()
            .answers("RetrievePropertiesEx", &[], &vm(""))
            .answers(
                "ReconfigVM_Task",
                &["<changeTrackingEnabled>true</changeTrackingEnabled>"],
                task_answer(),
            )
            .answers("RetrievePropertiesEx", &[], &task("success", ""))
            .answers("RetrievePropertiesEx", &[], &vm(&on))
            .answers("CreateSnapshot_Task", &["<quiesce>false</quiesce>"], task_answer())
            .answers("RetrievePropertiesEx", &[], &task("success", ""))
            .answers("RetrievePropertiesEx", &[], &vm(&(on.clone() + &stun)))
            .answers("RetrievePropertiesEx", &[], &frozen(&disk(2000, "[ds] w.vmdk", CHANGE_ID)))
            .answers("RetrievePropertiesEx", &[], &vm(&(on.clone() + &stun)))
            .answers("RemoveSnapshot_Task", &[], task_answer())
            .answers("RetrievePropertiesEx", &[], &task("success", ""))
            .answers("RetrievePropertiesEx", &[], &page(&object("VirtualMachine", "vm-1", ""), None))
            .answers("RetrievePropertiesEx", &[], last)
    };
    let script = play(&tracked);
    script.connect().enable_change_tracking("vm-1").unwrap();
    script.is_played();

    let script = play(&vm(""));
    assert_eq!(script.connect().enable_change_tracking("vm-1").unwrap_err().kind, ErrorKind::Unavailable);

    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &tracked);
    script.connect().enable_change_tracking("vm-1").unwrap();
    script.is_played();
}
