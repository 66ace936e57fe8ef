//! Connectors, repositories and VMs.

use tidemark_catalog::{Catalog, Connector, ErrorKind, Repository, Vm};
use tidemark_model::{ByteLen, ConnectorId, RepositoryId, VmId};

use crate::engines::{Fixture, START, backup, refused};
use crate::on_both_engines;

on_both_engines!(
    connectors_live_their_life,
    repositories_live_their_life,
    what_is_referred_to_stays,
    a_vm_is_known_by_its_key,
    a_name_that_two_vms_bear_needs_the_id,
    an_imported_vm_finds_its_connector,
);

async fn connectors_live_their_life(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let vc = fixture.connector("vc").await;
    fixture.connector("another").await;
    let twin = Connector { id: ConnectorId::random(), ..vc.clone() };
    refused(catalog.add_connector(&twin).await, ErrorKind::Conflict);
    let nameless = Connector { name: String::new(), ..twin.clone() };
    refused(catalog.add_connector(&nameless).await, ErrorKind::Invalid);

    let changed = Connector {
        settings_json: r#"{"host":"vc2"}"#.into(),
        name: "vc-new".into(),
        max_disks: Some(3),
        ..vc.clone()
    };
    catalog.update_connector(&changed).await.unwrap();
    assert_eq!(catalog.connector(vc.id).await.unwrap(), changed);
    assert_eq!(catalog.connector_by_name_or_id("vc-new").await.unwrap(), Some(changed.clone()));
    let upper = vc.id.to_string().to_uppercase();
    assert_eq!(catalog.connector_by_name_or_id(&upper).await.unwrap(), Some(changed.clone()));
    assert_eq!(catalog.connector_by_name_or_id("vc").await.unwrap(), None);
    refused(
        catalog.update_connector(&Connector { name: "another".into(), ..vc.clone() }).await,
        ErrorKind::Conflict,
    );
    refused(catalog.update_connector(&twin).await, ErrorKind::NotFound);
    let names: Vec<String> =
        catalog.list_connectors().await.unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["another", "vc-new"]);

    catalog.remove_connector(vc.id).await.unwrap();
    refused(catalog.remove_connector(vc.id).await, ErrorKind::NotFound);
    refused(catalog.connector(vc.id).await, ErrorKind::NotFound);
}

async fn repositories_live_their_life(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let store = fixture.repository("store").await;
    let twin = Repository { id: RepositoryId::random(), ..store.clone() };
    refused(catalog.add_repository(&twin).await, ErrorKind::Conflict);
    let endless = Repository { bandwidth: Some(ByteLen(u64::MAX)), ..store.clone() };
    refused(catalog.update_repository(&endless).await, ErrorKind::Invalid);
    let changed = Repository {
        secrets_json: r#"{"k":"sealed"}"#.into(),
        max_disks: Some(2),
        bandwidth: Some(ByteLen(100 << 20)),
        ..store.clone()
    };
    catalog.update_repository(&changed).await.unwrap();
    assert_eq!(catalog.repository_by_name_or_id("store").await.unwrap(), Some(changed.clone()));
    // A name may look like another's id: the id wins.
    let confusing = Repository { name: store.id.to_string(), ..twin };
    catalog.add_repository(&confusing).await.unwrap();
    assert_eq!(catalog.repository_by_name_or_id(&confusing.name).await.unwrap(), Some(changed.clone()));
    assert_eq!(catalog.repository(confusing.id).await.unwrap(), confusing);
    assert_eq!(catalog.list_repositories().await.unwrap().len(), 2);
    catalog.remove_repository(store.id).await.unwrap();
    refused(catalog.repository(store.id).await, ErrorKind::NotFound);
}

async fn what_is_referred_to_stays(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    let full = backup(&vm, &store, None, 0);
    catalog.commit_backup(&lease, &full).await.unwrap();
    refused(catalog.remove_connector(vm.connector_id.unwrap()).await, ErrorKind::Conflict);
    refused(catalog.remove_vm(vm.id).await, ErrorKind::Conflict);
    refused(catalog.remove_repository(store.id).await, ErrorKind::Conflict);

    catalog.remove_backup(&lease, full.id, START).await.unwrap();
    catalog.remove_vm(vm.id).await.unwrap();
    catalog.remove_connector(vm.connector_id.unwrap()).await.unwrap();
    // Its objects are not deleted yet: forgetting the repository would leave them behind for ever.
    refused(catalog.remove_repository(store.id).await, ErrorKind::Conflict);
    for doomed in catalog.doomed_objects(store.id).await.unwrap() {
        catalog.forget_doomed(store.id, &doomed.object_key).await.unwrap();
    }
    catalog.remove_repository(store.id).await.unwrap();
}

async fn a_vm_is_known_by_its_key(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let connector = fixture.connector("vc").await.id;
    let vm = catalog.upsert_vm(connector, "vm-7", "web01", "{}", START).await.unwrap();
    let later = START.plus_millis(5);
    let renamed = catalog.upsert_vm(connector, "vm-7", "web02", r#"{"a":1}"#, later).await.unwrap();
    assert_eq!(renamed, Vm { name: "web02".into(), inventory_json: r#"{"a":1}"#.into(), ..vm.clone() });
    catalog.update_vm_inventory(vm.id, "web03", "{}").await.unwrap();
    assert_eq!(catalog.vm(vm.id).await.unwrap().name, "web03");
    assert_eq!(catalog.list_vms().await.unwrap().len(), 1);

    refused(catalog.upsert_vm(ConnectorId::random(), "vm-8", "x", "{}", START).await, ErrorKind::Conflict);
    refused(catalog.upsert_vm(connector, "", "x", "{}", START).await, ErrorKind::Invalid);
    refused(catalog.update_vm_inventory(VmId::random(), "x", "{}").await, ErrorKind::NotFound);
    refused(catalog.vm(VmId::random()).await, ErrorKind::NotFound);
    catalog.remove_vm(vm.id).await.unwrap();
    refused(catalog.remove_vm(vm.id).await, ErrorKind::NotFound);
}

async fn a_name_that_two_vms_bear_needs_the_id(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let connector = fixture.connector("vc").await.id;
    let one = catalog.upsert_vm(connector, "vm-1", "web01", "{}", START).await.unwrap();
    assert_eq!(catalog.vm_by_name_or_id("web01").await.unwrap(), Some(one.clone()));
    catalog.upsert_vm(connector, "vm-2", "web01", "{}", START).await.unwrap();
    refused(catalog.vm_by_name_or_id("web01").await, ErrorKind::Conflict);
    assert_eq!(catalog.vm_by_name_or_id(&one.id.to_string()).await.unwrap(), Some(one.clone()));
    assert_eq!(catalog.vm_by_name_or_id("web").await.unwrap(), None);
    // A VM that is named like another's id does not hide it.
    catalog.upsert_vm(connector, "vm-3", &one.id.to_string(), "{}", START).await.unwrap();
    assert_eq!(catalog.vm_by_name_or_id(&one.id.to_string()).await.unwrap(), Some(one));
}

async fn an_imported_vm_finds_its_connector(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let vm = Vm {
        id: VmId::random(),
        connector_id: None,
        key: "vm-7".into(),
        name: "web01".into(),
        inventory_json: "{}".into(),
        created_at: START,
    };
    assert!(catalog.import_vm(&vm).await.unwrap());
    assert!(!catalog.import_vm(&Vm { name: "other".into(), ..vm.clone() }).await.unwrap());
    assert_eq!(catalog.vm(vm.id).await.unwrap(), vm);

    let connector = fixture.connector("vc").await.id;
    catalog.attach_vm(vm.id, connector).await.unwrap();
    let seen = catalog.upsert_vm(connector, "vm-7", "web01", "{}", START).await.unwrap();
    assert_eq!(seen.id, vm.id);
    refused(catalog.attach_vm(vm.id, connector).await, ErrorKind::Conflict);
    refused(catalog.attach_vm(VmId::random(), connector).await, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_url_of_no_engine_is_refused() {
    refused(Catalog::open("mysql://root:secret@db/x").await, ErrorKind::Invalid);
    let message = Catalog::open("mysql://root:secret@db/x").await.unwrap_err().to_string();
    assert!(!message.contains("secret"), "{message}");
    refused(Catalog::open("sqlite::memory:").await, ErrorKind::Invalid);
    refused(Catalog::open("sqlite:///no/such/folder/catalog.db").await, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_file_that_is_no_catalog_is_corrupt() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("catalog.db");
    std::fs::write(&file, "certainly no database, and long enough to be taken for one ".repeat(99)).unwrap();
    refused(Catalog::open(&format!("sqlite://{}", file.display())).await, ErrorKind::Corrupt);
}

#[tokio::test]
async fn nobody_else_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::sqlite().await;
    fixture.connector("vc").await;
    let path = fixture.url.strip_prefix("sqlite://").unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = std::fs::metadata(format!("{path}{suffix}")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "catalog.db{suffix}");
    }
}
