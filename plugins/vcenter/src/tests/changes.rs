//! Changed areas: the loop's rules, resets with their codes, and an expired session in the middle.

use tidemark_plugin::connector::{AreaPage, Connector, Since};
use tidemark_plugin::{Error, ErrorKind};

use super::script::{Script, devices, disk, object, page};
use crate::VCenter;

const CAPACITY: u64 = 1 << 20;

fn frozen(change_id: &str) -> String {
    let disk = disk(2000, "[ds] w.vmdk", change_id);
    page(&object("VirtualMachineSnapshot", "snapshot-3", &devices(&disk)), None)
}

/// A script that stands before the first question.
fn ready() -> Script {
    Script::logged_in().answers(
        "RetrievePropertiesEx",
        &["snapshot-3"],
        &frozen("<changeId>52 AA/7</changeId>"),
    )
}

fn areas(start: u64, length: u64, areas: &[(u64, u64)]) -> String {
    let areas: String = areas
        .iter()
        .map(|(start, length)| {
            format!("<changedArea><start>{start}</start><length>{length}</length></changedArea>")
        })
        .collect();
    format!("<returnval><startOffset>{start}</startOffset><length>{length}</length>{areas}</returnval>")
}

fn ask(vcenter: &mut VCenter, since: &Since, start: u64) -> Result<AreaPage, Error> {
    vcenter.changed_areas("vm-1", "snapshot-3", "2000", since, start)
}

fn since(change_id: &str) -> Since {
    Since::ChangeId(change_id.to_owned())
}

fn code(error: &Error) -> String {
    assert_eq!(error.kind, ErrorKind::ChangeTrackingReset, "{}", error.message);
    let detail: serde_json::Value = serde_json::from_str(error.detail.as_deref().unwrap()).unwrap();
    assert_eq!(detail["disk"], "2000");
    detail["code"].as_str().unwrap().to_owned()
}

#[test]
fn pages_lead_to_the_end_over_empty_ones_and_an_expired_session() {
    let query = "QueryChangedDiskAreas";
    let script = ready()
        .answers(
            query,
            &["<deviceKey>2000</deviceKey><startOffset>0</startOffset><changeId>52 aa/3</changeId>"],
            &areas(0, 400_000, &[(0, 65_536), (131_072, 65_536)]),
        )
        .answers(query, &["<startOffset>400000</startOffset>"], &areas(400_000, 100_000, &[]))
        .faults(query, &["<startOffset>500000</startOffset>"], "NotAuthenticated")
        .login("2")
        .answers(
            query,
            &["<startOffset>500000</startOffset>"],
            &areas(500_000, 548_576, &[(983_040, 65_536)]),
        );
    let mut vcenter = script.connect();
    let (mut at, mut found) = (0, Vec::new());
    while at < CAPACITY {
        let page = ask(&mut vcenter, &since("52 aa/3"), at).unwrap();
        assert!(page.complete_to > at);
        found.extend(page.extents.iter().map(|extent| (extent.offset, extent.length)));
        at = page.complete_to;
    }
    assert_eq!(at, CAPACITY);
    assert_eq!(found, [(0, 65_536), (131_072, 65_536), (983_040, 65_536)]);
    script.is_played();
    assert_eq!(ask(&mut vcenter, &since("52 aa/3"), CAPACITY).unwrap_err().kind, ErrorKind::Config);
}

#[test]
fn an_answer_to_another_question_is_corrupt() {
    for wrong in [
        areas(65_536, 100, &[]),
        areas(0, 0, &[]),
        areas(0, u64::MAX, &[(5, u64::MAX)]),
        areas(0, 100, &[(50, 100)]),
        "<returnval><startOffset>0</startOffset><length>-5</length></returnval>".to_owned(),
        String::new(),
    ] {
        let script = ready().answers("QueryChangedDiskAreas", &[], &wrong);
        let error = ask(&mut script.connect(), &Since::Allocated, 0).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{wrong}");
    }
    let script = ready().answers("QueryChangedDiskAreas", &[], &areas(600_000, 448_576, &[(0, 65_536)]));
    let error = ask(&mut script.connect(), &Since::Allocated, 600_000).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

#[test]
fn areas_are_sorted_joined_and_end_with_the_disk() {
    let unsorted = areas(0, CAPACITY, &[(983_040, 131_072), (65_536, 65_536), (0, 65_536), (70_000, 100)]);
    let script = ready().answers("QueryChangedDiskAreas", &["<changeId>*</changeId>"], &unsorted);
    let page = ask(&mut script.connect(), &Since::Allocated, 0).unwrap();
    let found: Vec<_> = page.extents.iter().map(|extent| (extent.offset, extent.length)).collect();
    assert_eq!(found, [(0, 131_072), (983_040, 65_536)]);
    assert_eq!(page.complete_to, CAPACITY);
}

#[test]
fn a_change_id_that_cannot_be_compared_is_refused_without_asking() {
    for (change_id, expected) in
        [("99 bb/3", "change-id-foreign"), ("52 aa/8", "reverted"), ("*", "change-id-foreign")]
    {
        let script = ready();
        let error = ask(&mut script.connect(), &since(change_id), 0).unwrap_err();
        assert_eq!(code(&error), expected, "{change_id}");
        script.is_played();
    }
    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &frozen(""));
    let error = ask(&mut script.connect(), &since("52 aa/3"), 0).unwrap_err();
    assert_eq!(code(&error), "change-tracking-off");
}

#[test]
fn faults_of_the_query_ask_for_a_full() {
    for (fault, expected) in
        [("FileFault", "file-fault"), ("FileNotFound", "file-fault"), ("InvalidArgument", "invalid-argument")]
    {
        let script = ready().faults("QueryChangedDiskAreas", &[], fault);
        let error = ask(&mut script.connect(), &since("52 aa/3"), 0).unwrap_err();
        assert_eq!(code(&error), expected);
        assert!(error.message.contains("Hard disk 1"), "{}", error.message);
    }
    let script = ready().faults("QueryChangedDiskAreas", &[], "ManagedObjectNotFound");
    assert_eq!(ask(&mut script.connect(), &since("52 aa/3"), 0).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn where_allocation_is_unknown_everything_is_read() {
    let script = ready().faults("QueryChangedDiskAreas", &[], "FileFault");
    let page = ask(&mut script.connect(), &Since::Allocated, 65_536).unwrap();
    assert_eq!((page.extents[0].offset, page.extents[0].length), (65_536, CAPACITY - 65_536));
    assert_eq!(page.complete_to, CAPACITY);

    let script = Script::logged_in().answers("RetrievePropertiesEx", &[], &frozen(""));
    let page = ask(&mut script.connect(), &Since::Allocated, 0).unwrap();
    assert_eq!((page.extents.len(), page.extents[0].length), (1, CAPACITY));
    script.is_played();
}

#[test]
fn a_disk_that_the_snapshot_does_not_have_is_not_found() {
    let script = ready();
    let mut vcenter = script.connect();
    let error = vcenter.changed_areas("vm-1", "snapshot-3", "2009", &Since::Allocated, 0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}
