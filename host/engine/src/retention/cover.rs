//! Which retention policies cover a VM in a repository: those of the enabled flows that protect it there. Where several
//! do, a backup stays as long as any of them keeps it, and the most careful of their limits hold.

use std::collections::HashMap;

use tidemark_catalog::{Flow, Repository, Vm};
use tidemark_model::{ConnectorId, PolicyKind};

use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::flows::{self, FlowDefinition, RetentionLevel, RetentionRule};
use crate::policies::{Decider, settings_json};

/// One flow's retention, ready to be asked.
#[derive(Clone)]
pub(crate) struct CoverRule {
    pub(crate) flow: String,
    pub(crate) decider: Decider,
    pub(crate) settings_json: String,
    pub(crate) time_zone: String,
    pub(crate) level: RetentionLevel,
    pub(crate) grace_ms: i64,
    pub(crate) min_keep: u32,
    pub(crate) max_delete_percent: u8,
}

/// All that cover one VM.
#[derive(Clone, Default)]
pub(crate) struct Cover {
    pub(crate) rules: Vec<CoverRule>,
    /// A flow that protects it here and keeps everything.
    pub(crate) keeper: Option<String>,
    /// The longest of their grace periods.
    pub(crate) grace_ms: i64,
}

impl Cover {
    fn of(rules: Vec<CoverRule>, keeper: Option<String>) -> Self {
        let grace_ms = rules.iter().map(|rule| rule.grace_ms).max().unwrap_or(0);
        Self { rules, keeper, grace_ms }
    }

    /// The most careful of their levels; without any rule nothing goes anyway.
    pub(crate) fn level(&self) -> RetentionLevel {
        self.rules.iter().map(|rule| rule.level).min().unwrap_or(RetentionLevel::Monitor)
    }

    /// The policies, as marks name them.
    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self.rules.iter().map(|rule| rule.decider.policy.to_string()).collect();
        names.join(", ")
    }
}

/// Whom the flows of a repository cover.
pub(crate) struct Covers {
    rules: Vec<(CoverRule, Members)>,
    /// Flows without retention: they keep everything.
    keepers: Vec<(String, Members)>,
}

/// Whether a flow protects each VM that it looked at.
type Members = HashMap<(ConnectorId, String), bool>;

async fn members_of(shared: &Shared, flow: &Flow) -> Result<Members> {
    let members = shared.catalog.flow_members(flow.id).await?;
    Ok(members.into_iter().map(|member| ((member.connector_id, member.vm_key), member.protect)).collect())
}

impl Covers {
    /// Of all enabled flows that keep backups in a repository.
    ///
    /// # Errors
    /// Where a policy cannot be opened: then nobody can say whom it would have kept.
    pub(crate) async fn of(shared: &Shared, repository: &Repository) -> Result<Self> {
        let (mut rules, mut keepers) = (Vec::new(), Vec::new());
        for flow in shared.catalog.list_flows().await? {
            let definition = flows::definition_of(&flow)?;
            if !flow.enabled || !stores_in(shared, &definition, repository).await? {
                continue;
            }
            let members = members_of(shared, &flow).await?;
            match rule_in(shared, &definition, repository).await? {
                Some(rule) => rules.push((open(shared, &flow, &definition, rule).await?, members)),
                None => keepers.push((flow.name, members)),
            }
        }
        Ok(Self { rules, keepers })
    }

    /// And of a flow that runs although it is disabled: it covers the VMs that it has just selected.
    pub(crate) async fn with(
        mut self,
        shared: &Shared,
        flow: &Flow,
        definition: &FlowDefinition,
        repository: &Repository,
    ) -> Result<Self> {
        if !flow.enabled
            && let Some(rule) = rule_in(shared, definition, repository).await?
        {
            let rule = open(shared, flow, definition, rule).await?;
            self.rules.push((rule, members_of(shared, flow).await?));
        }
        Ok(self)
    }

    /// The rules that cover a VM.
    pub(crate) fn of_vm(&self, vm: &Vm) -> Cover {
        let Some(connector) = vm.connector_id else { return Cover::default() };
        let place = (connector, vm.key.clone());
        let covering = self.rules.iter().filter(|(_, members)| members.get(&place) == Some(&true));
        let keeper = self.keepers.iter().find(|(_, members)| members.get(&place) == Some(&true));
        let keeper = keeper.map(|(flow, _)| flow.clone());
        Cover::of(covering.map(|(rule, _)| rule.clone()).collect(), keeper)
    }
}

/// Whether a flow puts backups or copies into a repository. A name that cannot be resolved is an error: nobody could say
/// what the flow would have kept.
async fn stores_in(shared: &Shared, definition: &FlowDefinition, repository: &Repository) -> Result<bool> {
    let copies = definition.copy.as_ref().map(|copy| &copy.repository);
    for place in [Some(&definition.repository), copies].into_iter().flatten() {
        if is_named(shared, repository, place).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// By which rule a flow lets backups in a repository go; none where it lets none go there.
async fn rule_in<'a>(
    shared: &Shared,
    definition: &'a FlowDefinition,
    repository: &Repository,
) -> Result<Option<&'a RetentionRule>> {
    for (place, rule) in definition.retained() {
        if is_named(shared, repository, place).await? {
            return Ok(Some(rule));
        }
    }
    Ok(None)
}

async fn is_named(shared: &Shared, repository: &Repository, name_or_id: &str) -> Result<bool> {
    let found = shared.catalog.repository_by_name_or_id(name_or_id).await?;
    Ok(found.ok_or_else(|| Error::not_found("repository", name_or_id))?.id == repository.id)
}

/// A flow's rule, ready to be asked.
pub(crate) async fn open(
    shared: &Shared,
    flow: &Flow,
    definition: &FlowDefinition,
    rule: &RetentionRule,
) -> Result<CoverRule> {
    let decider = shared.decider(PolicyKind::Retention, &rule.policy).await;
    let decider = decider.map_err(|error: Error| error.context(format!("flow '{}'", flow.name)))?;
    Ok(CoverRule {
        flow: flow.name.clone(),
        decider,
        settings_json: settings_json(&rule.settings),
        time_zone: definition.retention_zone(rule).to_owned(),
        level: rule.level,
        grace_ms: rule.grace_ms()?,
        min_keep: rule.min_keep,
        max_delete_percent: rule.max_delete_percent,
    })
}
