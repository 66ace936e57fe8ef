//! Which VMs a flow protects and which type of backup each gets: what connectors show now, judged by the group policy.
//! VMs that are selected come under protection by that.

use std::collections::{BTreeMap, HashMap, HashSet};

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
    let mut judging = Judging::open(shared, flow, definition).await?;
    match &definition.select.policy {
        None => judging.take_named().await?,
        Some(policy) => {
            let decider = shared.decider(PolicyKind::Group, policy).await?;
            judging.decided.policy = Some(decider.policy.to_json());
            judging.ask(&decider).await?;
        }
    }
    let mut decided = judging.decided;
    decided.members.sort_by(|a, b| a.vm_name.cmp(&b.vm_name).then_with(|| a.vm_key.cmp(&b.vm_key)));
    Ok(decided)
}

/// One look at all VMs.
struct Judging<'a> {
    shared: &'a Shared,
    flow: &'a Flow,
    definition: &'a FlowDefinition,
    repository: RepositoryId,
    /// VMs that the flow names.
    named: Vec<Shown>,
    decided: Decided,
}

/// How a policy is asked about one VM.
struct Question<'a> {
    decider: &'a Decider,
    candidate: Candidate,
    context: &'a PolicyContext,
}

impl<'a> Judging<'a> {
    async fn open(shared: &'a Shared, flow: &'a Flow, definition: &'a FlowDefinition) -> Result<Self> {
        let repository = shared.catalog.repository_by_name_or_id(&definition.repository).await?;
        let repository = repository.ok_or_else(|| Error::not_found("repository", &definition.repository))?.id;
        let named = named_vms(shared, definition).await?;
        Ok(Self { shared, flow, definition, repository, named, decided: Decided::default() })
    }

    /// A flow without a policy protects the VMs that it names.
    async fn take_named(&mut self) -> Result<()> {
        for vm in std::mem::take(&mut self.named) {
            let reason = "named in the flow".to_owned();
            self.take(None, &vm, Selection { protect: true, reason, exclude_disks: Vec::new() }).await?;
        }
        Ok(())
    }

    /// Asks the policy about each VM that is shown.
    async fn ask(&mut self, decider: &Decider) -> Result<()> {
        let before: HashMap<(ConnectorId, String), FlowMember> = self
            .shared
            .catalog
            .flow_members(self.flow.id)
            .await?
            .into_iter()
            .map(|member| ((member.connector_id, member.vm_key.clone()), member))
            .collect();
        let others = protectors(self.shared, self.flow).await?;
        let context = context(self.shared, self.definition);
        let all = self.all_with_named().await?;
        self.keep_unseen(&all, before.values());
        for shown in all {
            let place = (shown.connector_id, shown.key.clone());
            let protected_by = others.get(&place).cloned().unwrap_or_default();
            let candidate = inventory::candidate_of(&shown.inventory_json, &shown.connector, protected_by);
            let question = Question { decider, candidate, context: &context };
            self.judge(question, &shown, before.get(&place)).await?;
        }
        Ok(())
    }

    /// What connectors show, and the named VMs that none of them shows.
    async fn all_with_named(&mut self) -> Result<Vec<Shown>> {
        let mut all = all_shown(self.shared, self.definition, &mut self.decided.warnings).await?;
        for vm in &self.named {
            if !all.iter().any(|shown| shown.is(vm.connector_id, &vm.key)) {
                let warning = format!("{}: no connector of the flow shows it any more", vm.name);
                self.decided.warnings.push(warning);
                all.push(vm.clone());
            }
        }
        Ok(all)
    }

    /// Not to be seen is no decision: who protected a VM still has a say about its backups.
    fn keep_unseen<'m>(&mut self, all: &[Shown], before: impl Iterator<Item = &'m FlowMember>) {
        let seen: HashSet<_> = all.iter().map(|shown| (shown.connector_id, shown.key.as_str())).collect();
        let unseen = |member: &&FlowMember| !seen.contains(&(member.connector_id, member.vm_key.as_str()));
        for member in before.filter(|member| member.protect).filter(unseen) {
            let reason = "no connector shows it now, so it stays as it was".to_owned();
            self.decided.warnings.push(format!("{}: {reason}", member.vm_name));
            self.decided.members.push(FlowMember { reason, ..member.clone() });
        }
    }

    async fn judge(
        &mut self,
        question: Question<'_>,
        shown: &Shown,
        before: Option<&FlowMember>,
    ) -> Result<()> {
        let by_name = self.named.iter().any(|vm| shown.is(vm.connector_id, &vm.key));
        let judged = judge(&question, shown, by_name, before).await;
        if let Some(warning) = judged.warning {
            tracing::warn!(flow = self.flow.name, vm = shown.name, "{warning}");
            self.decided.warnings.push(format!("{}: {warning}", shown.name));
        }
        if judged.selection.protect {
            return self.take(Some(&question), shown, judged.selection).await;
        }
        let stays = shown.not_protected.is_some() && before.is_some_and(|known| known.protect);
        self.decided.members.push(member(shown, stays, judged.selection.reason));
        Ok(())
    }

    /// Takes a VM in, with its plan.
    async fn take(
        &mut self,
        question: Option<&Question<'_>>,
        shown: &Shown,
        selection: Selection,
    ) -> Result<()> {
        let Selection { protect: _, reason, exclude_disks } = selection;
        let plan = match question {
            None => self.fallback("as the flow says"),
            Some(question) => self.plan(question, shown).await?,
        };
        self.decided.members.push(member(shown, true, reason.clone()));
        self.decided.selected.push(Selected {
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

    async fn plan(&mut self, question: &Question<'_>, shown: &Shown) -> Result<PlanDecision> {
        let history = history(self.shared, shown, self.repository).await?;
        let Question { decider, candidate, context } = question;
        Ok(match decider.plan(candidate, &history, context).await {
            Ok(plan) if plan.kind == PlanType::Incremental => {
                // The flow may want fulls where the policy has nothing special to say.
                PlanDecision { reason: plan.reason, ..self.fallback("") }
            }
            Ok(plan) => plan,
            Err(error) => {
                let why = format!("the policy's plan failed, so the chain decides: {}", error.chain());
                self.decided.warnings.push(format!("{}: {why}", shown.name));
                self.fallback(&why)
            }
        })
    }

    fn fallback(&self, why: &str) -> PlanDecision {
        let kind = match self.definition.backup.requested() {
            Ok(RequestedType::Full) => PlanType::Full,
            _ => PlanType::Incremental,
        };
        PlanDecision { kind, reason: why.to_owned() }
    }
}

impl Shown {
    fn is(&self, connector: ConnectorId, key: &str) -> bool {
        self.connector_id == connector && self.key == key
    }
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
async fn judge(question: &Question<'_>, shown: &Shown, by_name: bool, before: Option<&FlowMember>) -> Judged {
    let says = |protect: bool, reason: String| Selection { protect, reason, exclude_disks: Vec::new() };
    if let Some(why) = &shown.not_protected {
        let selection = says(false, format!("it cannot be protected: {why}"));
        return Judged { selection, warning: None };
    }
    if by_name {
        return Judged { selection: says(true, "named in the flow".to_owned()), warning: None };
    }
    let Question { decider, candidate, context } = question;
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
    let vm = shared.catalog.vm_of_connector(shown.connector_id, &shown.key).await?;
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
