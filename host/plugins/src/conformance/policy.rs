//! The duties of a policy: it judges what it is shown and nothing else, always the same, in whatever order it is shown.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_model::{ByteLen, Candidate, CandidateDisk, DiskKey, History, PolicyContext, RetentionPoint};

use super::{Report, Trial, ensure, words};
use crate::policy::Policy;
use crate::runtime::{Plugin, Runtime};

const DAY_MS: i64 = 86_400_000;

/// The verdicts by the backup's id.
type Verdicts = BTreeMap<String, Option<String>>;

pub(super) async fn run(
    runtime: &Runtime,
    plugin: &Plugin,
    trial: &Trial,
    report: &mut Report,
) -> Option<()> {
    let session = trial.session(plugin);
    let context = PolicyContext {
        now: trial.now,
        time_zone: "Europe/Berlin".to_owned(),
        settings_json: session.settings_json.clone(),
        vm: Some(vm()),
    };
    let open = async || runtime.policy(plugin, session.clone()).await.map_err(|error| words(&error));
    let mut policy = report.settle("it starts", open().await)?;
    let points = &trial.timeline;
    let count = points.len();
    let first = report.settle(
        &format!("retain judges {count} backups, by their own ids and each once"),
        judged(&mut policy, points, &context).await,
    )?;
    report.settle(
        "retain decides the same in a fresh instance",
        async { same(&first, &judged(&mut open().await?, points, &context).await?) }.await,
    );
    report.settle(
        "retain does not depend on the backups' order",
        async {
            for points in reordered(points) {
                same(&first, &judged(&mut policy, &points, &context).await?)?;
            }
            Ok::<_, String>(())
        }
        .await,
    );
    report.settle(
        "retain of no backups is no verdict",
        async {
            let verdicts = judged(&mut policy, &[], &context).await?;
            ensure(verdicts.is_empty(), || format!("{} verdicts", verdicts.len()))
        }
        .await,
    );
    let context = PolicyContext { vm: None, ..context };
    report.settle("select answers, and the same again", select(&mut policy, &context).await);
    report.settle(
        "plan answers for a VM without backups and for a long chain",
        plan(&mut policy, &context).await,
    );
    Some(())
}

async fn judged(
    policy: &mut Policy,
    points: &[RetentionPoint],
    context: &PolicyContext,
) -> Result<Verdicts, String> {
    let said = policy.verdicts(points, context).await.map_err(|error| words(&error))?;
    let known: BTreeSet<String> = points.iter().map(|point| point.id.to_string()).collect();
    let mut verdicts = Verdicts::new();
    for (id, reason) in said {
        ensure(known.contains(&id), || format!("a verdict on '{id}', which it was not asked about"))?;
        ensure(!verdicts.contains_key(&id), || format!("two verdicts on {id}"))?;
        verdicts.insert(id, reason);
    }
    Ok(verdicts)
}

fn same(first: &Verdicts, second: &Verdicts) -> Result<(), String> {
    let differing = first.iter().find(|(id, reason)| second.get(*id) != Some(*reason));
    if let Some((id, reason)) = differing {
        let then = second.get(id).map_or("nothing".to_owned(), |reason| format!("{reason:?}"));
        return Err(format!("{id}: {reason:?} at first, {then} then"));
    }
    ensure(first.len() == second.len(), || format!("{} verdicts, then {}", first.len(), second.len()))
}

/// Backwards, and sorted by the ids, which are random.
fn reordered(points: &[RetentionPoint]) -> [Vec<RetentionPoint>; 2] {
    let mut shuffled = points.to_vec();
    shuffled.sort_by_key(|point| point.id);
    [points.iter().rev().cloned().collect(), shuffled]
}

async fn select(policy: &mut Policy, context: &PolicyContext) -> Result<(), String> {
    for vm in [Candidate::default(), vm()] {
        let first = policy.select(&vm, context).await.map_err(|error| words(&error))?;
        let again = policy.select(&vm, context).await.map_err(|error| words(&error))?;
        ensure(first == again, || format!("VM '{}': {first:?}, then {again:?}", vm.name))?;
        ensure(!first.reason.is_empty(), || format!("VM '{}' without a reason", vm.name))?;
    }
    Ok(())
}

async fn plan(policy: &mut Policy, context: &PolicyContext) -> Result<(), String> {
    let long = History {
        chain_length: 400,
        last_full: Some(context.now.plus_millis(-400 * DAY_MS)),
        last_backup: Some(context.now.plus_millis(-DAY_MS)),
        full_size: Some(ByteLen(1 << 34)),
        increments_size: ByteLen(1 << 36),
        changed: Some(ByteLen(1 << 28)),
    };
    for history in [History::default(), long] {
        let first = policy.plan(&vm(), &history, context).await.map_err(|error| words(&error))?;
        let again = policy.plan(&vm(), &history, context).await.map_err(|error| words(&error))?;
        ensure(first == again, || format!("{first:?}, then {again:?}"))?;
        ensure(!first.reason.is_empty(), || format!("{:?} without a reason", first.kind))?;
    }
    Ok(())
}

/// An everyday VM. Its texts are not all plain letters.
fn vm() -> Candidate {
    Candidate {
        key: "vm-42".to_owned(),
        name: "größe \"7\"".to_owned(),
        connector: "lab".to_owned(),
        folder: "/lab/web".to_owned(),
        power: "on".to_owned(),
        guest_os: "Debian GNU/Linux 13 (64-bit)".to_owned(),
        tags: vec!["backup".to_owned(), "prod".to_owned()],
        datastores: vec!["fast".to_owned()],
        protected_by: Vec::new(),
        disks: vec![CandidateDisk {
            key: DiskKey("2000".to_owned()),
            label: "Hard disk 1".to_owned(),
            capacity: ByteLen(1 << 35),
        }],
    }
}
