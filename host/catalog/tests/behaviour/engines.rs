//! A fresh catalog on one of the engines, with what most behaviours need in it.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tidemark_catalog::{
    Backup, BackupDisk, Catalog, Connector, ErrorKind, Job, Lease, NewJob, RangeDigests, Repository, Result,
    Vm, WorkKind,
};
use tidemark_model::{
    BackupId, BackupStatus, BackupType, ByteLen, ChangeId, ConnectorId, DiskKey, JobKind, RepositoryId,
    UtcMillis,
};

/// When every test begins.
pub(crate) const START: UtcMillis = UtcMillis(1_700_000_000_000);

pub(crate) struct Fixture {
    pub(crate) catalog: Catalog,
    pub(crate) url: String,
    /// Of the SQLite file; removed when the test ends.
    folder: Option<TempDir>,
}

impl Fixture {
    pub(crate) async fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/catalog.db", folder.path().display());
        let catalog = Catalog::open(&url).await.unwrap();
        Self { catalog, url, folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        let url = fresh_database().await;
        let catalog = Catalog::open(&url).await.unwrap();
        Self { catalog, url, folder: None }
    }

    /// Where another catalog of the same engine may be opened.
    pub(crate) async fn fresh_url(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        match &self.folder {
            None => fresh_database().await,
            Some(folder) => {
                let number = COUNT.fetch_add(1, Ordering::Relaxed);
                format!("sqlite://{}/fresh-{number}.db", folder.path().display())
            }
        }
    }

    /// Runs SQL past the catalog, as a fault or as a second opinion; the error's text where it is refused.
    pub(crate) async fn raw(&self, sql: &str) -> std::result::Result<u64, String> {
        let sql = AssertSqlSafe(sql.to_owned());
        if self.url.starts_with("sqlite") {
            let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
            let done = sqlx::query(sql).execute(&mut connection).await;
            done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            let done = sqlx::query(sql).execute(&mut connection).await;
            done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
        }
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        if self.url.starts_with("sqlite") {
            let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
        }
    }

    pub(crate) async fn connector(&self, name: &str) -> Connector {
        let connector = Connector {
            id: ConnectorId::random(),
            name: name.to_owned(),
            plugin: "vcenter".to_owned(),
            settings_json: r#"{"host":"vc"}"#.to_owned(),
            secrets_json: "{}".to_owned(),
            max_disks: None,
            created_at: START,
        };
        self.catalog.add_connector(&connector).await.unwrap();
        connector
    }

    pub(crate) async fn repository(&self, name: &str) -> Repository {
        let repository = Repository {
            id: RepositoryId::random(),
            name: name.to_owned(),
            plugin: "local".to_owned(),
            settings_json: r#"{"path":"/backup"}"#.to_owned(),
            secrets_json: "{}".to_owned(),
            max_disks: None,
            bandwidth: None,
            created_at: START,
        };
        self.catalog.add_repository(&repository).await.unwrap();
        repository
    }

    /// A VM and a repository for it.
    pub(crate) async fn protected_vm(&self) -> (Vm, Repository) {
        let connector = self.connector("vc").await;
        let vm = self.catalog.upsert_vm(connector.id, "vm-7", "web01", "{}", START).await.unwrap();
        (vm, self.repository("store").await)
    }

    pub(crate) async fn submit(&self, exclusive: Option<&str>) -> Job {
        self.catalog.submit_job(&new_job(exclusive, None), START).await.unwrap()
    }

    /// The lease of a job that runs from now on.
    pub(crate) async fn lease(&self) -> Lease {
        let job = self.submit(None).await;
        let (claimed, lease) =
            self.catalog.claim_job(WorkKind::Work, "host-a", 10_000, START).await.unwrap().unwrap();
        assert_eq!(claimed.id, job.id);
        lease
    }
}

async fn fresh_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let database = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&crate::postgres::url("postgres")).await.unwrap();
    let create = format!("CREATE DATABASE {database}");
    sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    crate::postgres::url(&database)
}

pub(crate) fn new_job(exclusive: Option<&str>, idempotency: Option<&str>) -> NewJob {
    NewJob {
        kind: JobKind::Backup,
        payload_json: r#"{"vm":"web01"}"#.to_owned(),
        exclusive_key: exclusive.map(str::to_owned),
        priority: 0,
        idempotency_key: idempotency.map(str::to_owned),
    }
}

/// A backup of two disks, `minutes` after the start; a full where it has no parent.
pub(crate) fn backup(vm: &Vm, repository: &Repository, parent: Option<&Backup>, minutes: i64) -> Backup {
    let id = BackupId::random();
    let at = START.plus_millis(minutes * 60_000);
    Backup {
        id,
        vm_id: vm.id,
        vm_name: vm.name.clone(),
        repository_id: repository.id,
        backup_type: if parent.is_some() { BackupType::Incremental } else { BackupType::Full },
        parent_id: parent.map(|parent| parent.id),
        status: BackupStatus::Completed,
        reason_code: "first-backup".to_owned(),
        reason: "first backup of this VM in the repository".to_owned(),
        started_at: at,
        snapshot_at: at.plus_millis(1_000),
        completed_at: at.plus_millis(9_000),
        manifest_key: format!("web01/{id}.json"),
        pinned: false,
        plugins_json: r#"{"vcenter":"0.1.0"}"#.to_owned(),
        warnings_json: "[]".to_owned(),
        job_id: None,
        verified_at: None,
        verified_level: None,
        consolidated_at: None,
        copy_of: None,
        staged_manifest_key: None,
        disks: (0..2).map(|index| disk(id, index)).collect(),
    }
}

fn disk(id: BackupId, index: u32) -> BackupDisk {
    BackupDisk {
        disk_index: index,
        disk_key: DiskKey(format!("200{index}")),
        label: format!("Hard disk {}", index + 1),
        capacity: ByteLen(1 << 40),
        change_id: (index == 0).then(|| ChangeId("52 6f/7".to_owned())),
        object_key: format!("web01/disk-{index}/{id}.qcow2"),
        stored: ByteLen(1 << 20),
        read: ByteLen(3 << 20),
        skipped: ByteLen(5 << 20),
        moved_ms: 1234,
        digest: "ab".repeat(32),
        staged_key: None,
        ranges: Some(RangeDigests {
            object_key: format!("web01/disk-{index}/{id}.digests"),
            stored: ByteLen(96),
            digest: "cd".repeat(32),
        }),
    }
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    let error = result.expect_err("it must be refused");
    assert_eq!(error.kind(), kind, "{error} ({:?})", std::error::Error::source(&error));
}
