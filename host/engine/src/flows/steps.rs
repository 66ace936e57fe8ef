//! What a run does around its backups: hooks, verification, copies, retention, and telling how it ended. Jobs that it
//! queues have keys made of the run's id, so that a run which goes on elsewhere finds them again.

use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::{Flow, FlowRunVm, Job, RunStatus, RunVmState};
use tidemark_model::VerifyLevel;
use tidemark_notify::{Address, RetryPolicy, Secret};

use super::calls::{HookRule, NotifyRule, OnFailure};
use super::run::{Run, actor};
use super::wait;
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::requests::Asked;
use crate::retention::{self, Covers};
use crate::store::blocking;

/// What a hook answered.
pub(super) struct HookTold {
    pub(super) on_failure: OnFailure,
    pub(super) failed: bool,
    /// For people, without the path of its address, which may be a secret.
    pub(super) words: String,
}

impl HookTold {
    pub(super) fn to_json(&self) -> Value {
        let aborts = self.failed && self.on_failure == OnFailure::Abort;
        json!({ "failed": self.failed, "aborts": aborts, "message": self.words })
    }
}

/// Calls hooks one after the other, up to the first failure that ends the run.
pub(super) async fn call_hooks(run: &mut Run<'_>, when: &str, hooks: &[HookRule]) -> Vec<HookTold> {
    let mut told = Vec::new();
    for hook in hooks {
        let context = json!({
            "flow": run.flow.name,
            "run_id": run.id().to_string(),
            "when": when,
            "report": run.told(),
        });
        let shared = &run.job.shared;
        let answer = call_hook(shared, &run.flow, hook, context).await;
        let (failed, words) = match answer {
            Ok(words) => (false, words),
            Err(error) => (true, error.chain()),
        };
        if failed {
            tracing::warn!(flow = run.flow.name, when, "a hook failed: {words}");
            run.warnings.push(format!("hook {when} the backups: {words}"));
        }
        let ends = failed && hook.on_failure == OnFailure::Abort;
        told.push(HookTold { on_failure: hook.on_failure, failed, words });
        if ends {
            break;
        }
    }
    told
}

async fn call_hook(shared: &Shared, flow: &Flow, hook: &HookRule, context: Value) -> Result<String> {
    let hook = hook.open(|name| shared.flow_secret(flow, name).map(Secret::new))?;
    blocking("calling a hook", move || {
        let answer = hook.call(&context).map_err(outbound)?;
        Ok(format!("{} answered {}", hook.origin(), answer.status))
    })
    .await
}

fn outbound(error: tidemark_notify::Error) -> Error {
    Error::wrap(crate::ErrorKind::Unavailable, "calling out", error)
}

/// The VMs of the run that have a new backup.
async fn fresh(run: &Run<'_>) -> Result<Vec<FlowRunVm>> {
    let vms = run.job.shared.catalog.run_vms(run.id()).await?;
    Ok(vms.into_iter().filter(|vm| vm.state == RunVmState::Succeeded && vm.backup_id.is_some()).collect())
}

/// Waits for the jobs of a step; answers with what failed.
async fn all(run: &Run<'_>, jobs: Vec<(String, Job)>) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for (what, job) in jobs {
        let ended = wait::for_job(run.job, job.id).await?;
        if let Err((_, why)) = wait::verdict(&ended) {
            failed.push(format!("{what}: {why}"));
        }
    }
    Ok(failed)
}

/// Verifies each new backup.
pub(super) async fn verify(run: &mut Run<'_>) -> Result<()> {
    let Some(rule) = &run.definition.verify else { return Ok(()) };
    let level: VerifyLevel = rule.level()?;
    run.job.phase("verifying");
    let mut jobs = Vec::new();
    for vm in fresh(run).await? {
        let Some(id) = vm.backup_id else { continue };
        let actor = actor(&run.flow);
        let asked = run.asked(&actor, format!("flow/{}/{}/verify", run.id(), vm.vm_id));
        let job = run.job.shared.submit_verify(asked, id, level).await?;
        jobs.push((format!("verification of {}", vm.vm_name), job));
    }
    let count = jobs.len();
    let failed = all(run, jobs).await?;
    run.note_failures(&failed);
    run.record("verify", json!({ "level": level.as_str(), "backups": count, "failed": failed })).await
}

/// Copies each VM's backups to the second repository.
pub(super) async fn copy(run: &mut Run<'_>) -> Result<()> {
    let Some(rule) = run.definition.copy.clone() else { return Ok(()) };
    run.job.phase("copying");
    let mut jobs = Vec::new();
    for vm in fresh(run).await? {
        let actor = actor(&run.flow);
        let asked = run.asked(&actor, format!("flow/{}/{}/copy", run.id(), vm.vm_id));
        let from = &run.definition.repository;
        let queued = run.job.shared.submit_copies(asked, vm.vm_id, from, &rule.repository).await?;
        jobs.extend(queued.into_iter().map(|job| (format!("copy of {}", vm.vm_name), job)));
    }
    let count = jobs.len();
    let failed = all(run, jobs).await?;
    run.note_failures(&failed);
    run.record("copy", json!({ "repository": rule.repository, "vms": count, "failed": failed })).await
}

/// Lets the policy decide about the backups of the run's VMs, here and in the repository of copies.
pub(super) async fn retention(run: &mut Run<'_>) -> Result<()> {
    let retained = run.definition.retained();
    let places: Vec<String> = retained.iter().map(|(place, _)| (*place).to_owned()).collect();
    if places.is_empty() {
        return Ok(());
    }
    run.job.phase("retention");
    let (mut decisions, mut jobs) = (Vec::new(), Vec::new());
    for place in places {
        let shared = Arc::clone(&run.job.shared);
        let repository = shared.catalog.repository_by_name_or_id(&place).await?;
        let repository = repository.ok_or_else(|| Error::not_found("repository", &place))?;
        let covers = Covers::of(&shared, &repository)
            .await?
            .with(&shared, &run.flow, &run.definition, &repository)
            .await?;
        for vm in shared.catalog.run_vms(run.id()).await? {
            run.job.check_cancelled()?;
            let vm = shared.catalog.vm(vm.vm_id).await?;
            let cover = covers.of_vm(&vm);
            let actor = actor(&run.flow);
            let asked = run.asked(&actor, format!("retention/{}", run.id()));
            let (decided, deletion) = retention::enforce(&shared, asked, &vm, &repository, &cover).await?;
            run.warnings.extend(decided.alerts.iter().map(|alert| format!("{}: {alert}", decided.vm_name)));
            run.fell_short |= decided.failed;
            let mut told = decided.to_json();
            told["repository"] = json!(repository.name);
            decisions.push(told);
            jobs.extend(deletion.map(|job| (format!("deletion for {}", vm.name), job)));
        }
    }
    let failed = all(run, jobs).await?;
    run.note_failures(&failed);
    run.record("retention", json!({ "decisions": decisions, "failed": failed })).await
}

impl Run<'_> {
    /// A job of this run; a run that goes on elsewhere finds it by its key.
    fn asked<'a>(&self, actor: &'a str, key: String) -> Asked<'a> {
        Asked { actor, priority: self.definition.backup.priority, idempotency_key: Some(key) }
    }

    fn note_failures(&mut self, failed: &[String]) {
        self.fell_short |= !failed.is_empty();
        self.warnings.extend_from_slice(failed);
    }
}

/// Tells everybody who wants to know of such an end. A message that does not arrive is a warning.
pub(super) async fn notify(run: &mut Run<'_>, status: RunStatus, summary: &Value) {
    let rules = run.definition.notify.clone();
    for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.wants(status.as_str())) {
        if let Err(error) = tell(run, rule, number, status, summary).await {
            tracing::warn!(flow = run.flow.name, error = %error.chain(), "a notification did not arrive");
            run.warnings.push(format!("a notification did not arrive: {}", error.chain()));
        }
    }
}

async fn tell(
    run: &Run<'_>,
    rule: &NotifyRule,
    number: usize,
    status: RunStatus,
    summary: &Value,
) -> Result<()> {
    let shared = &run.job.shared;
    if let Some(webhook) = rule.open(|name| shared.flow_secret(&run.flow, name).map(Secret::new))? {
        // The same for each try, and for a run that goes on elsewhere: a receiver can drop repeats.
        let delivery = format!("{}-{number}", run.id());
        let (kind, body) = (format!("flow.{}", status.as_str()), summary.clone());
        blocking("delivering a webhook", move || {
            let policy = RetryPolicy::default();
            tidemark_notify::deliver_with_retries(&policy, sleep, |_| {
                webhook.deliver(&delivery, &kind, &body)
            })
            .map(drop)
            .map_err(outbound)
        })
        .await?;
    }
    send_mail(run, rule, status, summary).await
}

async fn send_mail(run: &Run<'_>, rule: &NotifyRule, status: RunStatus, summary: &Value) -> Result<()> {
    if rule.mail.is_empty() {
        return Ok(());
    }
    let mailer = run.job.shared.mail.clone();
    let mailer =
        mailer.ok_or_else(|| Error::invalid("this server has no [smtp] section in its configuration"))?;
    let to: std::result::Result<Vec<Address>, _> = rule.mail.iter().map(|text| text.parse()).collect();
    let to = to.map_err(|e| Error::invalid(format!("notify.mail: {e}")))?;
    let subject = format!("Tidemark: flow {} {}", run.flow.name, status.as_str());
    let text = mail_text(summary);
    let sent = blocking("sending mail", move || {
        let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
        let send = |_| mailer.send(&to, &subject, &text);
        tidemark_notify::deliver_with_retries(&policy, sleep, send).map_err(outbound)
    });
    match sent.await?.refused.as_slice() {
        [] => Ok(()),
        refused => {
            let words: Vec<String> = refused.iter().map(ToString::to_string).collect();
            let message = format!("not all got the mail: {}", words.join("; "));
            Err(Error::new(crate::ErrorKind::Unavailable, message))
        }
    }
}

fn sleep(pause: std::time::Duration) -> tidemark_notify::Pause {
    std::thread::sleep(pause);
    tidemark_notify::Pause::Over
}

/// A summary as people read it.
fn mail_text(summary: &Value) -> String {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let count = |name: &str| summary[name].as_u64().unwrap_or(0);
    let mut lines = vec![
        format!("Flow {}: {}", text(summary, "flow"), text(summary, "status")),
        format!("{} succeeded, {} failed, {} skipped", count("succeeded"), count("failed"), count("skipped")),
        format!("run {}", text(summary, "run_id")),
        String::new(),
    ];
    for vm in summary["vms"].as_array().into_iter().flatten() {
        let why = vm["error"].as_str().or(vm["reason"].as_str()).unwrap_or_default();
        lines.push(format!("{}: {} ({why})", text(vm, "vm_name"), text(vm, "state")));
    }
    for warning in summary["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("warning: {warning}"));
    }
    lines.join("\n")
}
