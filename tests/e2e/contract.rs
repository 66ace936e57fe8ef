//! The REST contract around the work: who may do what, how errors look, what repeating a request does.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidemark_tests::rest::{Answer, Rest};
use tidemark_tests::site::{CONNECTOR, REPOSITORY, Site, SiteOptions, VM};

use crate::disks;

#[test]
fn requests_are_authenticated_checked_and_repeatable() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    tokens_and_roles(&site)?;
    problems_are_documents(&site)?;
    a_repeated_request_starts_one_job(&site)?;
    secrets_do_not_come_back(&site)?;
    documents_are_there(&site)?;
    wrong_usage_is_told_from_failed_work(&site)?;
    site.finish(&[])
}

fn tokens_and_roles(site: &Site) -> Result<()> {
    let anonymous = Rest::new(&site.server.url, None);
    ensure!(anonymous.get("/api/v1/health")?.status == 200, "health needs no token");
    for path in ["/api/v1/backups", "/api/v1/openapi.json", "/api/v1/nowhere", "/metrics"] {
        problem(&anonymous.get(path)?, 401).with_context(|| path.to_owned())?;
        problem(&Rest::new(&site.server.url, Some("wrong")).get(path)?, 401)?;
    }
    let made =
        site.rest().post("/api/v1/tokens", &json!({"name": "auditor", "role": "viewer"}))?.expect(201)?;
    let viewer = Rest::new(&site.server.url, made["token"].as_str());
    ensure!(viewer.get("/api/v1/backups")?.status == 200, "a viewer reads");
    let order = json!({"vm_name": VM, "repository_id": REPOSITORY, "backup_type": "full"});
    problem(&viewer.post("/api/v1/backups", &order)?, 403)?;
    problem(&viewer.delete(&format!("/api/v1/connectors/{CONNECTOR}"))?, 403)?;
    ensure!(site.rest().delete("/api/v1/tokens/auditor")?.status < 300, "a token is revoked by name");
    problem(&viewer.get("/api/v1/backups")?, 401)?;
    Ok(())
}

fn problems_are_documents(site: &Site) -> Result<()> {
    let rest = site.rest();
    let unknown = "00000000-0000-4000-8000-000000000000";
    problem(&rest.get(&format!("/api/v1/backups/{unknown}"))?, 404)?;
    problem(&rest.get("/api/v1/nowhere")?, 404)?;
    problem(&rest.get("/api/v1/backups/not-an-id")?, 400)?;
    problem(&rest.get("/api/v1/backups/chain/nobody")?, 404)?;
    problem(
        &rest.send("POST", "/api/v1/backups", &[("content-type", "application/json")], Some(b"{"))?,
        400,
    )?;
    let wrong_type = json!({"vm_name": VM, "repository_id": REPOSITORY, "backup_type": "sideways"});
    problem(&rest.post("/api/v1/backups", &wrong_type)?, 400)?;
    let wrong_vm = json!({"vm_name": "nobody", "repository_id": REPOSITORY, "backup_type": "full"});
    let answer = problem(&rest.post("/api/v1/backups", &wrong_vm)?, 404)?;
    ensure!(answer.contains("nobody"), "the problem names the thing: {answer}");
    problem(&rest.send("PATCH", "/api/v1/backups", &[], None)?, 405)?;
    Ok(())
}

fn a_repeated_request_starts_one_job(site: &Site) -> Result<()> {
    let rest = site.rest();
    let order = json!({"vm_name": VM, "repository_id": REPOSITORY, "backup_type": "full"}).to_string();
    let send = |key: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        rest.send("POST", "/api/v1/backups", &headers, Some(order.as_bytes()))
    };
    let (first, again, other) = (send("night-1")?, send("night-1")?, send("night-2")?);
    let job = first.expect(202)?["job_id"].clone();
    ensure!(
        first.header("location") == format!("/api/v1/jobs/{}", job.as_str().unwrap_or_default()),
        "{first:?}"
    );
    ensure!(again.expect(202)?["job_id"] == job, "the same key answers with the same job");
    let second = other.expect(202)?["job_id"].clone();
    ensure!(second != job, "another key is another job");
    for id in [job, second] {
        let ended = site.ended_job(id.as_str().context("a job_id")?)?;
        ensure!(ended["status"] == "succeeded", "{ended}");
    }
    ensure!(site.backups()?.len() == 2, "two jobs made two backups");
    Ok(())
}

fn secrets_do_not_come_back(site: &Site) -> Result<()> {
    let rest = site.rest();
    let password = &site.simulator.endpoints.password;
    for path in ["/api/v1/connectors", "/api/v1/vmware-credentials", "/api/v1/audit", "/api/v1/jobs"] {
        let answer = rest.get(path)?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        ensure!(!answer.text.contains(password.as_str()), "{path} shows the password");
    }
    for file in tidemark_tests::site::files_below(&site.server.data_folder(), "")? {
        let bytes = std::fs::read(&file)?;
        let found = bytes.windows(password.len()).any(|window| window == password.as_bytes());
        ensure!(!found, "{} holds the password in clear", file.display());
    }
    let log = std::fs::read_to_string(site.server.log())?;
    ensure!(!log.contains(password.as_str()) && !log.contains(&site.server.token), "the log holds a secret");
    Ok(())
}

fn documents_are_there(site: &Site) -> Result<()> {
    let rest = site.rest();
    let openapi = rest.get("/api/v1/openapi.json")?.expect(200)?;
    for path in ["/api/v1/backups", "/api/v1/backups/{id}", "/api/v1/jobs/{id}", "/api/v1/connectors"] {
        ensure!(openapi["paths"][path].is_object(), "the OpenAPI document lacks {path}");
    }
    let metrics = rest.get("/metrics")?;
    ensure!(metrics.status == 200 && metrics.text.contains("# TYPE tidemark_"), "{}", metrics.text);
    let audit = rest.get("/api/v1/audit")?.expect(200)?.to_string();
    for action in ["connector.add", "repository.add", "token.create", "token.revoke"] {
        ensure!(audit.contains(action), "the audit trail lacks {action}: {audit}");
    }
    Ok(())
}

fn wrong_usage_is_told_from_failed_work(site: &Site) -> Result<()> {
    let cli = site.server.cli()?;
    let code = |args: &[&str]| cli.outcome(args).map(|outcome| outcome.code);
    ensure!(code(&["backup", "run"])? == 2, "a missing argument is wrong usage");
    ensure!(code(&["no-such-noun"])? == 2, "an unknown command is wrong usage");
    ensure!(
        code(&["backup", "run", "nobody", "--repository", REPOSITORY])? == 1,
        "an unknown VM is failed work"
    );
    Ok(())
}

/// Checks that an answer is an RFC 9457 problem of this status; answers its detail.
fn problem(answer: &Answer, status: u16) -> Result<String> {
    ensure!(answer.status == status, "expected {status}: {answer:?}");
    let kind = answer.header("content-type");
    ensure!(kind.starts_with("application/problem+json"), "content-type is '{kind}'");
    let document = answer.json()?;
    for member in ["type", "title", "detail"] {
        ensure!(
            document[member].as_str().is_some_and(|text| !text.is_empty()),
            "no '{member}' in {document}"
        );
    }
    ensure!(document["status"] == status, "{document}");
    Ok(document["detail"].as_str().unwrap_or_default().to_owned())
}
