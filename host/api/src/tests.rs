//! The router driven in-process over a real engine on a temporary folder: authentication, roles, problem documents,
//! paging, bodies, and what the OpenAPI document promises.

mod server;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_catalog::{Backup, BackupDisk, NewJob, Repository, Role};
use tidemark_engine::{Engine, EngineOptions, Limits, PluginOptions};
use tidemark_model::{
    BackupId, BackupStatus, BackupType, ByteLen, ChangeId, DiskKey, JobKind, RepositoryId, UtcMillis,
};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::guard::MAX_JSON_BYTES;
use crate::state::Timeouts;

struct Host {
    engine: Engine,
    router: Router,
    admin: String,
    _stop: watch::Sender<bool>,
    _dir: TempDir,
}

impl Host {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EngineOptions {
            data_dir: dir.path().to_owned(),
            database_url: None,
            plugins: PluginOptions::default(),
            owner: None,
            limits: Limits { jobs: 1, ..Limits::default() },
            mail: None,
            clock: tidemark_engine::Clock::System,
            abort_at_step: None,
        };
        let engine = Engine::start(options).await.unwrap();
        let admin = std::fs::read_to_string(dir.path().join("admin.token")).unwrap().trim().to_owned();
        let (stop, stopping) = watch::channel(false);
        let timeouts = Timeouts { body: Duration::from_secs(30), answer: Duration::from_secs(60) };
        let router = crate::router(engine.clone(), stopping, timeouts);
        Self { engine, router, admin, _stop: stop, _dir: dir }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        read(self.send(request.body(body).unwrap()).await).await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(&self.admin, Method::GET, path, None).await
    }

    async fn token(&self, role: Role) -> String {
        self.engine.create_token("admin", role.as_str(), role).await.unwrap().1
    }
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let media = response.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
    let bytes = to_bytes(response.into_body(), 16 << 20).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if status.is_client_error() || status.is_server_error() {
        if let Some(kind) = body.get("kind").and_then(Value::as_str) {
            assert_eq!(media.as_deref(), Some("application/problem+json"));
            assert_eq!(body["type"], format!("urn:tidemark:problem:{kind}"));
            assert_eq!(body["status"], status.as_u16());
            assert!(body["title"].is_string() && body["detail"].is_string());
        } else {
            assert_eq!(body["status"], "failing", "an error without a problem document: {body}");
        }
    }
    (status, body)
}

#[tokio::test]
async fn only_health_answers_without_a_token() {
    let host = Host::start().await;
    for path in ["/api/v1/backups", "/api/v1/openapi.json", "/metrics", "/nowhere", "/api/v1/events"] {
        let response = host.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 401, "{path}");
        assert!(response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
        read(response).await;
    }
    let (status, health) =
        read(host.send(Request::get("/api/v1/health").body(Body::empty()).unwrap()).await).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("ok")));
    let (status, _) = host.call("tdm_wrong", Method::GET, "/api/v1/jobs", None).await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn a_role_does_what_it_may_and_no_more() {
    let host = Host::start().await;
    let (viewer, operator) = (host.token(Role::Viewer).await, host.token(Role::Operator).await);
    let id = BackupId::random();
    let verify = format!("/api/v1/backups/{id}/actions/verify");
    let backup = format!("/api/v1/backups/{id}");
    let cases = [
        (&viewer, Method::GET, "/api/v1/jobs", 200),
        (&viewer, Method::POST, verify.as_str(), 403),
        (&viewer, Method::GET, "/api/v1/tokens", 403),
        (&viewer, Method::GET, "/api/v1/audit", 403),
        (&operator, Method::GET, "/api/v1/tokens", 403),
        (&operator, Method::DELETE, backup.as_str(), 403),
        (&host.admin, Method::DELETE, backup.as_str(), 404),
        (&host.admin, Method::GET, "/api/v1/audit", 200),
    ];
    for (token, method, path, expected) in cases {
        let (status, body) = host.call(token, method.clone(), path, None).await;
        assert_eq!(status.as_u16(), expected, "{method} {path}: {body}");
    }
    let (status, _) = host.call(&operator, Method::POST, &verify, None).await;
    assert_ne!(status, 403);
}

#[tokio::test]
async fn tokens_are_made_shown_once_and_revoked() {
    let host = Host::start().await;
    let body = json!({ "name": "ci", "role": "viewer" });
    let (status, made) = host.call(&host.admin, Method::POST, "/api/v1/tokens", Some(body.clone())).await;
    assert_eq!(status, 201, "{made}");
    let secret = made["token"].as_str().unwrap();
    let (_, listed) = host.get("/api/v1/tokens").await;
    assert!(!listed.to_string().contains(secret));
    assert_eq!(host.call(&host.admin, Method::POST, "/api/v1/tokens", Some(body)).await.0, 409);
    assert_eq!(host.call(secret, Method::GET, "/api/v1/jobs", None).await.0, 200);
    assert_eq!(host.call(&host.admin, Method::DELETE, "/api/v1/tokens/ci", None).await.0, 204);
    assert_eq!(host.call(secret, Method::GET, "/api/v1/jobs", None).await.0, 401);
    assert_eq!(host.call(&host.admin, Method::DELETE, "/api/v1/tokens/admin", None).await.0, 409);
    assert_eq!(host.call(&host.admin, Method::DELETE, "/api/v1/tokens/nobody", None).await.0, 404);
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let host = Host::start().await;
    let post = |body| host.call(&host.admin, Method::POST, "/api/v1/tokens", Some(body));
    let (status, problem) = post(json!({ "name": "x", "role": "king" })).await;
    assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("role")));
    let (status, problem) = post(json!({ "name": "x", "role": "admin", "extra": 1 })).await;
    assert_eq!((status.as_u16(), &problem["kind"]), (400, &json!("invalid")));
    assert_eq!(host.get("/api/v1/nothing").await.0, 404);
    assert_eq!(host.call(&host.admin, Method::PUT, "/api/v1/tokens", None).await.0, 405);
    assert_eq!(host.call(&host.admin, Method::POST, "/api/v1/tokens", None).await.0, 415);
    let (status, problem) = host.get("/api/v1/jobs/not-an-id").await;
    assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("id")));
    let (status, problem) = host.get("/api/v1/jobs?limit=0").await;
    assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("limit")));
    let (status, problem) = host.get("/api/v1/jobs?status=asleep").await;
    assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("status")));
    assert_eq!(host.get("/api/v1/jobs?limit=x").await.0, 400);
    assert_eq!(host.get("/api/v1/jobs?cursor=garbage").await.0, 400);
    let path = format!("/api/v1/backups/{}/actions/dance", BackupId::random());
    assert_eq!(host.call(&host.admin, Method::POST, &path, None).await.0, 404);
}

#[tokio::test]
async fn bodies_are_limited_by_their_route() {
    let host = Host::start().await;
    let upload = |path: &str, media: &str, length: usize| {
        Request::post(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", host.admin))
            .header(header::CONTENT_TYPE, media)
            .body(Body::from(vec![b' '; length]))
            .unwrap()
    };
    let json = "application/json";
    let (status, _) = read(host.send(upload("/api/v1/tokens", json, MAX_JSON_BYTES + 1)).await).await;
    assert_eq!(status, 413);
    let large = MAX_JSON_BYTES + 1;
    let (status, _) = read(host.send(upload("/api/v1/plugins", json, large)).await).await;
    assert_eq!(status, 415);
    let (status, _) = read(host.send(upload("/api/v1/plugins", "application/wasm", large)).await).await;
    assert!(status.is_client_error() && status != 413 && status != 415, "{status}");
}

#[tokio::test]
async fn an_idempotency_key_is_checked() {
    let host = Host::start().await;
    let request = Request::post("/api/v1/backups")
        .header(header::AUTHORIZATION, format!("Bearer {}", host.admin))
        .header(header::CONTENT_TYPE, "application/json")
        .header("idempotency-key", "x".repeat(201))
        .body(Body::from(r#"{"vm_name":"a","repository_id":"b"}"#))
        .unwrap();
    let (status, problem) = read(host.send(request).await).await;
    assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("Idempotency-Key")));
}

#[tokio::test]
async fn jobs_come_in_pages_newest_first() {
    let host = Host::start().await;
    let mut submitted = Vec::new();
    for _ in 0..5 {
        let new = NewJob {
            priority: 0,
            kind: JobKind::Verify,
            payload_json: "{}".to_owned(),
            exclusive_key: None,
            idempotency_key: None,
        };
        let job = host.engine.catalog().submit_job(&new, UtcMillis::now()).await.unwrap();
        submitted.insert(0, job.id.to_string());
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/jobs?limit=2&kind=verify".to_owned();
    loop {
        let (status, page) = host.get(&path).await;
        assert_eq!(status, 200);
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 2);
        seen.extend(jobs.iter().map(|job| job["job_id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => path = format!("/api/v1/jobs?limit=2&kind=verify&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, submitted);
}

#[tokio::test]
async fn the_document_has_every_route_and_only_sound_references() {
    let host = Host::start().await;
    let (status, document) = host.get("/api/v1/openapi.json").await;
    assert_eq!(status, 200);
    for path in [
        "/api/v1/backups",
        "/api/v1/backups/chain/{vm_name}",
        "/api/v1/backups/changeid",
        "/api/v1/vmware-credentials/{id}/test",
        "/api/v1/discovery/discover-vms",
        "/api/v1/discovery/add-vms",
        "/api/v1/plugins/{name}/actions/activate",
        "/api/v1/health",
        "/metrics",
    ] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let ids: Vec<&Value> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values().map(|operation| &operation["operationId"]))
        .collect();
    let unique: std::collections::HashSet<_> = ids.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(ids.len(), unique.len());
    let limit = document["paths"]["/api/v1/jobs"]["get"]["parameters"].as_array().unwrap();
    assert!(limit.iter().any(|parameter| parameter["name"] == "limit" && parameter["in"] == "query"));
}

fn collect_references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "$ref" => found.push(text),
                    _ => collect_references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

/// What an import of a repository leaves in the catalog: a VM, a full and an incremental with two disks.
async fn imported(engine: &Engine) -> (String, Vec<BackupId>) {
    let catalog = engine.catalog();
    let repository = Repository {
        id: RepositoryId::random(),
        name: "main".to_owned(),
        plugin: "local".to_owned(),
        settings_json: r#"{"path":"/backup"}"#.to_owned(),
        secrets_json: r#"{"key":"5ea1ed"}"#.to_owned(),
        max_disks: None,
        bandwidth: None,
        created_at: UtcMillis(0),
    };
    catalog.add_repository(&repository).await.unwrap();
    let vm = tidemark_catalog::Vm {
        id: tidemark_model::VmId::random(),
        connector_id: None,
        key: "vm-1".to_owned(),
        name: "web 01".to_owned(),
        inventory_json: "{}".to_owned(),
        created_at: UtcMillis(0),
    };
    catalog.import_vm(&vm).await.unwrap();
    let mut made = Vec::new();
    for (at, backup_type) in [(1_000, BackupType::Full), (61_000, BackupType::Incremental)] {
        let id = BackupId::random();
        let disk = |disk_index: u32| BackupDisk {
            disk_index,
            disk_key: DiskKey(format!("{}", 2000 + disk_index)),
            label: format!("Hard disk {}", disk_index + 1),
            capacity: ByteLen(100),
            change_id: Some(ChangeId(format!("u/{at}-{disk_index}"))),
            object_key: format!("web-01/disk-{disk_index}/{id}.qcow2"),
            stored: ByteLen(10),
            read: ByteLen(20),
            skipped: ByteLen(80),
            moved_ms: 5,
            digest: "00".repeat(32),
            staged_key: None,
            ranges: None,
        };
        let backup = Backup {
            id,
            vm_id: vm.id,
            vm_name: vm.name.clone(),
            repository_id: repository.id,
            backup_type,
            parent_id: made.last().copied(),
            status: BackupStatus::Completed,
            reason_code: "first-backup".to_owned(),
            reason: "first".to_owned(),
            started_at: UtcMillis(at),
            snapshot_at: UtcMillis(at + 500),
            completed_at: UtcMillis(at + 2_500),
            manifest_key: format!("web-01/{id}.json"),
            pinned: false,
            plugins_json: "{}".to_owned(),
            warnings_json: r#"["a disk is not protected"]"#.to_owned(),
            job_id: None,
            verified_at: None,
            verified_level: None,
            consolidated_at: None,
            copy_of: None,
            staged_manifest_key: None,
            disks: vec![disk(0), disk(1)],
        };
        catalog.import_backup(&backup).await.unwrap();
        made.push(id);
    }
    (vm.id.to_string(), made)
}

#[tokio::test]
async fn backups_have_the_kept_contracts_shape() {
    let host = Host::start().await;
    let (vm_id, made) = imported(&host.engine).await;
    let (status, list) = host.get("/api/v1/backups?vm_name=web%2001").await;
    assert_eq!(status, 200);
    let entries = list["backups"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "one entry a backup, never one a disk");
    assert_eq!(entries[0]["backup_id"], made[1].to_string(), "newest first");
    assert_eq!(entries[0]["backup_type"], "incremental");
    assert_eq!(entries[0]["disks_count"], 2);
    assert_eq!(entries[0]["read_bytes"], 40);
    assert_eq!(entries[1]["created_at"], "1970-01-01T00:00:01.500Z");

    let (status, shown) = host.get(&format!("/api/v1/backups/{}", made[0])).await;
    assert_eq!(status, 200);
    assert_eq!(shown["vm_name"], "web 01");
    assert_eq!(shown["status"], "completed");
    assert_eq!(shown["duration_ms"], 2_500);
    assert_eq!(shown["warnings"], json!(["a disk is not protected"]));
    assert_eq!(shown["disks"][1]["disk_index"], 1);
    assert_eq!(shown["disks"][1]["path"], format!("/backup/web-01/disk-1/{}.qcow2", made[0]));
    for field in ["capacity_bytes", "change_id", "read_bytes", "stored_bytes", "skipped_bytes", "moved_ms"] {
        assert!(!shown["disks"][0][field].is_null(), "{field}");
    }

    let (_, chain) = host.get(&format!("/api/v1/backups/chain/{vm_id}")).await;
    let order: Vec<_> = chain["backups"].as_array().unwrap().iter().map(|b| b["backup_id"].clone()).collect();
    assert_eq!(order, [json!(made[0].to_string()), json!(made[1].to_string())]);
    assert_eq!(chain["full_backup_id"], made[0].to_string());

    let (_, answer) = host.get("/api/v1/backups/changeid?vm_name=web%2001&disk_id=2001").await;
    assert_eq!(answer["change_id"], "u/61000-1");
    assert_eq!(host.get("/api/v1/backups/changeid?vm_name=web%2001&disk_id=9").await.0, 404);
    assert_eq!(host.get("/api/v1/backups/changeid").await.0, 400);
    assert_eq!(host.get("/api/v1/backups?vm_name=unknown").await.0, 404);
    assert_eq!(host.get(&format!("/api/v1/backups/{}", BackupId::random())).await.0, 404);
}

#[tokio::test]
async fn a_connections_secrets_never_come_back() {
    let host = Host::start().await;
    imported(&host.engine).await;
    let (status, list) = host.get("/api/v1/repositories").await;
    assert_eq!(status, 200);
    assert_eq!(list["repositories"][0]["secret_names"], json!(["key"]));
    let (_, shown) = host.get("/api/v1/repositories/main").await;
    assert_eq!(shown["settings"]["path"], "/backup");
    assert!(!list.to_string().contains("5ea1ed") && !shown.to_string().contains("5ea1ed"));
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let host = Host::start().await;
    imported(&host.engine).await;
    host.get(&format!("/api/v1/backups/{}", BackupId::random())).await;
    let request = Request::get("/metrics").header(header::AUTHORIZATION, format!("Bearer {}", host.admin));
    let response = host.send(request.body(Body::empty()).unwrap()).await;
    let text = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
    let counted = r#"tidemark_http_requests_total{method="GET",route="/api/v1/backups/{id}",status="404"} 1"#;
    assert!(text.contains(counted), "{text}");
    assert!(text.contains(r#"tidemark_configured{noun="repositories"} 1"#), "{text}");
    assert!(text.contains("tidemark_last_backup_timestamp_seconds{vm=\"web 01\""), "{text}");
}
