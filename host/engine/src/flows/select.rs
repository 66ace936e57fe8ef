//! Which VMs a flow protects and which type of backup each gets: what connectors show now, judged by the group policy.
//! VMs that are selected come under protection by that.

use std::collections::{BTreeMap, HashMap};

use tidemark_catalog::{Connector, Flow, FlowMember, Vm};
use tidemark_model::{
    Candidate, ConnectorId, DiskKey, History, PlanDecision, PlanType, PolicyContext, PolicyKind,
    RepositoryId, RequestedType, Selection, UtcMillis,
};

use super::{FlowDefinition, definition_of};
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::inventory;
use crate::policies::{Decider, settings_json};

/// What a flow decides about all VMs it looks at.
#[derive(Default)]
pub(crate) struct Decided {
    pub(crate) members: Vec<FlowMember>,
    pub(crate) selected: Vec<Selected>,
    /// What an administrator must know.
    pub(crate) warnings: Vec<String>,
    /// The group policy that decided.
    pub(crate) policy: Option<serde_json::Value>,
}

/// A VM that a flow protects.
#[derive(Debug, Clone)]
pub(crate) struct Selected {
    pub(crate) connector_id: ConnectorId,
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) inventory_json: String,
    pub(crate) reason: String,
    pub(crate) exclude_disks: Vec<DiskKey>,
    pub(crate) plan: PlanDecision,
}

/// A VM that a connector shows.
#[derive(Clone)]
struct Shown {
    connector_id: ConnectorId,
    connector: String,
    key: String,
    name: String,
    inventory_json: String,
    not_protected: Option<String>,
}

/// What a flow would do now.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Each VM it looks at.
    pub vms: Vec<PreviewVm>,
    /// What an administrator must know.
    pub warnings: Vec<String>,
    /// When it fires next.
    pub next_firings: Vec<UtcMillis>,
}

/// What a flow would do with one VM.
#[derive(Debug, Clone)]
pub struct PreviewVm {
    /// Its name.
    pub name: String,
    /// The hypervisor's key.
    pub key: String,
    /// Whether it is protected.
    pub protect: bool,
    /// Why.
    pub reason: String,
    /// Which type of backup it would get.
    pub plan: Option<PlanDecision>,
}

impl Engine {
    /// What a flow would do now; nothing is recorded.
    ///
    /// # Errors
    /// Not found; whatever the policy answers.
    pub async fn preview_flow(&self, name_or_id: &str) -> Result<Preview> {
        let flow = self.flow(name_or_id).await?;
        let definition = definition_of(&flow)?;
        let decided = decide(&self.shared, &flow, &definition).await?;
        let plans: HashMap<(ConnectorId, &str), &PlanDecision> = decided
            .selected
            .iter()
            .map(|selected| ((selected.connector_id, selected.key.as_str()), &selected.plan))
            .collect();
        let vms = decided
            .members
            .iter()
            .map(|member| PreviewVm {
                name: member.vm_name.clone(),
                key: member.vm_key.clone(),
                protect: member.protect,
                reason: member.reason.clone(),
                plan: plans.get(&(member.connector_id, member.vm_key.as_str())).map(|plan| (*plan).clone()),
            })
            .collect();
        let next_firings = self.next_firings(name_or_id, 5).await?;
        Ok(Preview { vms, warnings: decided.warnings, next_firings })
    }
}

/// Judges all VMs that the flow looks at.
pub(crate) async fn decide(shared: &Shared, flow: &Flow, definition: &FlowDefinition) -> Result<Decided> {
    let mut decided = Decided::default();
    let repository = shared.catalog.repository_by_name_or_id(&definition.repository).await?;
    let repository = repository.ok_or_else(|| Error::not_found("repository", &definition.repository))?.id;
    let named = named_vms(shared, definition).await?;
    let Some(policy) = &definition.select.policy else {
        for vm in named {
            let reason = "named in the flow".to_owned();
            decided.take(shared, repository, definition, None, &vm, reason, Vec::new()).await?;
        }
        return Ok(decided);
    };
    let decider = shared.decider(PolicyKind::Group, policy).await?;
    decided.policy = Some(decider.policy.to_json());
    let before: HashMap<(ConnectorId, String), FlowMember> = shared
        .catalog
        .flow_members(flow.id)
        .await?
        .into_iter()
        .map(|member| ((member.connector_id, member.vm_key.clone()), member))
        .collect();
    let others = protectors(shared, flow).await?;
    let context = context(shared, definition);
    let mut all = all_shown(shared, definition, &mut decided.warnings).await?;
    for vm in &named {
        if !all.iter().any(|shown| shown.connector_id == vm.connector_id && shown.key == vm.key) {
            decided.warnings.push(format!("{}: no connector of the flow shows it any more", vm.name));
            all.push(vm.clone());
        }
    }
    for member in before.values().filter(|member| member.protect) {
        let here = |shown: &Shown| shown.connector_id == member.connector_id && shown.key == member.vm_key;
        if !all.iter().any(here) {
            // Not to be seen is no decision: who protected it still has a say about its backups.
            let reason = "no connector shows it now, so it stays as it was".to_owned();
            decided.warnings.push(format!("{}: {reason}", member.vm_name));
            decided.members.push(FlowMember { reason, ..member.clone() });
        }
    }
    for shown in all {
        let place = (shown.connector_id, shown.key.clone());
        let protected_by = others.get(&place).cloned().unwrap_or_default();
        let candidate = inventory::candidate_of(&shown.inventory_json, &shown.connector, protected_by);
        let by_name = named.iter().any(|vm| vm.connector_id == shown.connector_id && vm.key == shown.key);
        let judged = judge(&decider, &candidate, &context, &shown, by_name, before.get(&place)).await;
        if let Some(warning) = judged.warning {
            tracing::warn!(flow = flow.name, vm = shown.name, "{warning}");
            decided.warnings.push(format!("{}: {warning}", shown.name));
        }
        let Selection { protect, reason, exclude_disks } = judged.selection;
        if protect {
            let asked = Some((&decider, &candidate, &context));
            decided.take(shared, repository, definition, asked, &shown, reason, exclude_disks).await?;
        } else {
            let stays =
                shown.not_protected.is_some() && before.get(&place).is_some_and(|known| known.protect);
            decided.members.push(member(&shown, stays, reason));
        }
    }
    decided.members.sort_by(|a, b| a.vm_name.cmp(&b.vm_name).then_with(|| a.vm_key.cmp(&b.vm_key)));
    Ok(decided)
}

fn context(shared: &Shared, definition: &FlowDefinition) -> PolicyContext {
    PolicyContext {
        now: shared.clock.now(),
        time_zone: definition.time_zone().to_owned(),
        settings_json: settings_json(&definition.select.settings),
        vm: None,
    }
}

struct Judged {
    selection: Selection,
    warning: Option<String>,
}

/// One VM. A policy that fails changes nothing: a VM that the flow protected stays protected.
async fn judge(
    decider: &Decider,
    candidate: &Candidate,
    context: &PolicyContext,
    shown: &Shown,
    by_name: bool,
    before: Option<&FlowMember>,
) -> Judged {
    let says = |protect: bool, reason: String| Selection { protect, reason, exclude_disks: Vec::new() };
    if let Some(why) = &shown.not_protected {
        let selection = says(false, format!("it cannot be protected: {why}"));
        return Judged { selection, warning: None };
    }
    if by_name {
        return Judged { selection: says(true, "named in the flow".to_owned()), warning: None };
    }
    match decider.select(candidate, context).await {
        Ok(selection) => {
            let known =
                |disk: &DiskKey| candidate.disks.iter().any(|own| own.key == *disk || own.label == disk.0);
            let unknown: Vec<_> = selection.exclude_disks.iter().filter(|disk| !known(disk)).collect();
            let warning = (!unknown.is_empty())
                .then(|| format!("the policy leaves out disks that it does not have: {unknown:?}"));
            Judged { selection, warning }
        }
        Err(error) => {
            let protect = before.is_some_and(|member| member.protect);
            let reason = format!("the policy failed, so it stays as it was: {}", error.chain());
            Judged { selection: says(protect, reason.clone()), warning: Some(reason) }
        }
    }
}

impl Decided {
    /// Takes a VM in, with its plan.
    #[expect(clippy::too_many_arguments, reason = "one VM's whole context, used once")]
    async fn take(
        &mut self,
        shared: &Shared,
        repository: RepositoryId,
        definition: &FlowDefinition,
        asked: Option<(&Decider, &Candidate, &PolicyContext)>,
        shown: &Shown,
        reason: String,
        exclude_disks: Vec<DiskKey>,
    ) -> Result<()> {
        let fallback = |why: &str| PlanDecision {
            kind: match definition.backup.requested() {
                Ok(RequestedType::Full) => PlanType::Full,
                _ => PlanType::Incremental,
            },
            reason: why.to_owned(),
        };
        let plan = match asked {
            None => fallback("as the flow says"),
            Some((decider, candidate, context)) => {
                let history = history(shared, shown, repository).await?;
                match decider.plan(candidate, &history, context).await {
                    Ok(plan) if plan.kind == PlanType::Incremental => {
                        // The flow may want fulls where the policy has nothing special to say.
                        let kind = fallback("").kind;
                        PlanDecision { kind, reason: plan.reason }
                    }
                    Ok(plan) => plan,
                    Err(error) => {
                        let why =
                            format!("the policy's plan failed, so the chain decides: {}", error.chain());
                        self.warnings.push(format!("{}: {why}", shown.name));
                        fallback(&why)
                    }
                }
            }
        };
        self.members.push(member(shown, true, reason.clone()));
        self.selected.push(Selected {
            connector_id: shown.connector_id,
            key: shown.key.clone(),
            name: shown.name.clone(),
            inventory_json: shown.inventory_json.clone(),
            reason,
            exclude_disks,
            plan,
        });
        Ok(())
    }
}

fn member(shown: &Shown, protect: bool, reason: String) -> FlowMember {
    FlowMember {
        connector_id: shown.connector_id,
        vm_key: shown.key.clone(),
        vm_name: shown.name.clone(),
        protect,
        reason,
    }
}

/// The VMs that a flow names. One that was removed since is an error: the flow must be mended.
async fn named_vms(shared: &Shared, definition: &FlowDefinition) -> Result<Vec<Shown>> {
    let mut named = Vec::new();
    for name in &definition.select.vms {
        let vm = shared.catalog.vm_by_name_or_id(name).await?;
        let vm = vm.ok_or_else(|| Error::not_found("VM", name))?;
        let connector_id =
            vm.connector_id.ok_or_else(|| Error::invalid(format!("VM '{name}' belongs to no connector")))?;
        let connector = shared.catalog.connector(connector_id).await?.name;
        named.push(shown_of(&vm, connector_id, connector));
    }
    Ok(named)
}

fn shown_of(vm: &Vm, connector_id: ConnectorId, connector: String) -> Shown {
    Shown {
        connector_id,
        connector,
        key: vm.key.clone(),
        name: vm.name.clone(),
        inventory_json: vm.inventory_json.clone(),
        not_protected: None,
    }
}

/// All that the flow's connectors show. One that cannot be reached is told, and what is under protection there stands in.
async fn all_shown(
    shared: &Shared,
    definition: &FlowDefinition,
    warnings: &mut Vec<String>,
) -> Result<Vec<Shown>> {
    let wanted = &definition.select.connectors;
    let mut shown = Vec::new();
    for connector in shared.catalog.list_connectors().await? {
        let id = connector.id.to_string();
        if !wanted.is_empty() && !wanted.iter().any(|name| *name == connector.name || *name == id) {
            continue;
        }
        match live(shared, &connector).await {
            Ok(found) => shown.extend(found),
            Err(error) => {
                let name = &connector.name;
                warnings.push(format!("connector '{name}' cannot be asked: {}", error.chain()));
                let known = shared.catalog.list_vms().await?;
                let known = known.iter().filter(|vm| vm.connector_id == Some(connector.id));
                shown.extend(known.map(|vm| shown_of(vm, connector.id, name.clone())));
            }
        }
    }
    Ok(shown)
}

async fn live(shared: &Shared, connector: &Connector) -> Result<Vec<Shown>> {
    let found = shared.look_around(connector).await?;
    let shown = found.iter().map(|vm| Shown {
        connector_id: connector.id,
        connector: connector.name.clone(),
        key: vm.key.clone(),
        name: vm.name.clone(),
        inventory_json: inventory::to_json(vm),
        not_protected: vm.not_protected.clone(),
    });
    Ok(shown.collect())
}

/// The other enabled flows that protect each VM.
async fn protectors(shared: &Shared, own: &Flow) -> Result<BTreeMap<(ConnectorId, String), Vec<String>>> {
    let mut protectors: BTreeMap<(ConnectorId, String), Vec<String>> = BTreeMap::new();
    for flow in shared.catalog.list_flows().await? {
        if flow.id == own.id || !flow.enabled {
            continue;
        }
        for member in shared.catalog.flow_members(flow.id).await? {
            if member.protect {
                let place = (member.connector_id, member.vm_key);
                protectors.entry(place).or_default().push(flow.name.clone());
            }
        }
    }
    Ok(protectors)
}

/// The VM's newest chain in the repository.
async fn history(shared: &Shared, shown: &Shown, repository: RepositoryId) -> Result<History> {
    let known = shared.catalog.list_vms().await?;
    let vm = known.iter().find(|vm| vm.connector_id == Some(shown.connector_id) && vm.key == shown.key);
    let Some(vm) = vm else { return Ok(History::default()) };
    let Some(newest) = shared.catalog.latest_backup(vm.id, repository).await? else {
        return Ok(History::default());
    };
    let chain = shared.catalog.ancestry(newest.id).await?;
    let stored =
        |backup: &tidemark_catalog::Backup| backup.disks.iter().map(|disk| disk.stored.0).sum::<u64>();
    let read = newest.disks.iter().map(|disk| disk.read.0).sum();
    let increments = chain.iter().skip(1).map(stored).sum();
    Ok(History {
        chain_length: u32::try_from(chain.len()).unwrap_or(u32::MAX),
        last_full: chain.first().map(|full| full.snapshot_at),
        last_backup: Some(newest.snapshot_at),
        full_size: chain.first().map(|full| tidemark_model::ByteLen(stored(full))),
        increments_size: tidemark_model::ByteLen(increments),
        changed: newest.parent_id.map(|_| tidemark_model::ByteLen(read)),
    })
}
