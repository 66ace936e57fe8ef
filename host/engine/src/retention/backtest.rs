//! What another version of a retention policy would have kept and dropped in the catalog as it is, beside the one that
//! decides now: shown before a version is activated. Nothing is changed.

use std::collections::BTreeMap;

use tidemark_catalog::{Repository, Vm};
use tidemark_model::{BackupId, PolicyKind, UtcMillis};
use tidemark_policy::Script;

use super::cover::open;
use super::{Cover, CoverRule, decide};
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::flows;
use crate::policies::{Decider, PolicyRef, compiled};

/// What a version would change.
#[derive(Debug, Clone, Default)]
pub struct Backtest {
    /// Backups that were looked at.
    pub backups: usize,
    /// VMs whose backups would fare differently.
    pub vms: Vec<BacktestVm>,
    /// Why something could not be decided.
    pub alerts: Vec<String>,
    /// The flows that use the policy.
    pub flows: Vec<String>,
}

/// What a version would change for one VM in one repository.
#[derive(Debug, Clone)]
pub struct BacktestVm {
    /// The VM's name.
    pub vm_name: String,
    /// The repository's name.
    pub repository: String,
    /// Backups that the new version lets go and the old one keeps, with the old one's reason.
    pub dropped: Vec<(BackupId, UtcMillis, String)>,
    /// Backups that the new version keeps and the old one lets go, with the new one's reason.
    pub kept: Vec<(BackupId, UtcMillis, String)>,
}

impl Engine {
    /// Plays a retention policy's script, or a stored version of it, against today's catalog.
    ///
    /// # Errors
    /// Not found; invalid where the script does not compile.
    pub async fn backtest(&self, name: &str, version: Option<u32>, source: Option<&str>) -> Result<Backtest> {
        let candidate = self.candidate(name, version, source).await?;
        let mut result = Backtest::default();
        let shared = &self.shared;
        let now = shared.clock.now();
        for flow in self.catalog().list_flows().await? {
            let definition = flows::definition_of(&flow)?;
            let used: Vec<_> =
                definition.retained().into_iter().filter(|(_, rule)| rule.policy == name).collect();
            if used.is_empty() {
                continue;
            }
            result.flows.push(flow.name.clone());
            let members = self.catalog().flow_members(flow.id).await?;
            for (place, rule) in used {
                let old = open(shared, &flow, &definition, rule).await?;
                let new = CoverRule { decider: candidate.clone(), ..old.clone() };
                let repository = self.repository(place).await?;
                for member in members.iter().filter(|member| member.protect) {
                    let vm = self.catalog().vm_of_connector(member.connector_id, &member.vm_key).await?;
                    if let Some(vm) = vm {
                        let both = (alone(&old), alone(&new));
                        result.play(shared, &vm, &repository, &both, now).await?;
                    }
                }
            }
        }
        Ok(result)
    }

    async fn candidate(&self, name: &str, version: Option<u32>, source: Option<&str>) -> Result<Decider> {
        let Some(source) = source else {
            let newest = self.catalog().policy_versions(name).await?;
            let chosen = match version {
                Some(version) => newest.into_iter().find(|stored| stored.version == version),
                None => newest.into_iter().next(),
            };
            let missing = || Error::not_found("policy", &format!("{name}, version {}", version.unwrap_or(0)));
            return compiled(&chosen.ok_or_else(missing)?);
        };
        let script = Script::compile(PolicyKind::Retention, source)
            .map_err(|error| Error::invalid_field("source", error.to_string()))?;
        let digest = blake3::hash(source.as_bytes()).to_hex().to_string();
        let policy = PolicyRef { name: name.to_owned(), version: "candidate".to_owned(), digest };
        Ok(Decider::script(policy, script))
    }
}

impl Backtest {
    /// One VM by both versions.
    async fn play(
        &mut self,
        shared: &Shared,
        vm: &Vm,
        repository: &Repository,
        (old, new): &(Cover, Cover),
        now: UtcMillis,
    ) -> Result<()> {
        let before = decide(shared, vm, repository, old, now).await?;
        let after = decide(shared, vm, repository, new, now).await?;
        self.backups += before.kept.len() + before.dropped.len();
        self.alerts.extend(after.alerts.iter().map(|alert| format!("{}: {alert}", vm.name)));
        let change = difference(&vm.name, &repository.name, &before, &after);
        if !change.dropped.is_empty() || !change.kept.is_empty() {
            self.vms.push(change);
        }
        Ok(())
    }
}

/// As if no other flow had a say.
fn alone(rule: &CoverRule) -> Cover {
    Cover { rules: vec![rule.clone()], ..Cover::default() }
}

fn difference(
    vm_name: &str,
    repository: &str,
    before: &super::VmRetention,
    after: &super::VmRetention,
) -> BacktestVm {
    let reasons = |side: &super::VmRetention| -> BTreeMap<BackupId, (UtcMillis, String)> {
        side.kept.iter().map(|point| (point.id, (point.at, point.reason.clone()))).collect()
    };
    let (old, new) = (reasons(before), reasons(after));
    let only = |one: &BTreeMap<BackupId, (UtcMillis, String)>,
                other: &BTreeMap<BackupId, (UtcMillis, String)>| {
        let mut only: Vec<_> = one
            .iter()
            .filter(|(id, _)| !other.contains_key(*id))
            .map(|(id, (at, reason))| (*id, *at, reason.clone()))
            .collect();
        only.sort_by_key(|(_, at, _)| *at);
        only
    };
    BacktestVm {
        vm_name: vm_name.to_owned(),
        repository: repository.to_owned(),
        dropped: only(&old, &new),
        kept: only(&new, &old),
    }
}
