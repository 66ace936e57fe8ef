//! What scripts look at: backups, virtual machines, histories and the circumstances of the decision. All is read only:
//! there are getters and no setters, and a field that does not exist is an error.

use std::any::TypeId;
use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::Arc;

use rhai::{Dynamic, FLOAT, INT, ImmutableString, Map, Module, Shared};
use tidemark_model::{
    BackupId, BackupType, ByteLen, Candidate, CandidateDisk, History, PolicyContext, Ranks, RetentionPoint,
    UtcMillis,
};

use super::error::{ScriptError, ScriptErrorKind, refuse};
use super::functions::offer;
use super::values::{List, Moment, Record, length, texts};
use crate::calendar::{Zone, age_days, newest_first};
use crate::prune_rules::KeepRule;

/// What one evaluation looks at.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) points: Vec<RetentionPoint>,
    pub(super) zone: Zone,
    /// The places of the points, the newest first.
    order: Vec<usize>,
    by_id: HashMap<BackupId, usize>,
    now: UtcMillis,
    settings: Record,
    vm: Option<Vm>,
}

/// A backup: the point at a place of a run.
#[derive(Debug, Clone)]
pub(super) struct Backup {
    pub(super) run: Arc<Run>,
    pub(super) at: usize,
}

/// All backups of a run.
#[derive(Debug, Clone)]
pub(super) struct Points(pub(super) Arc<Run>);

/// What the counted keep rules answered.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) run: Arc<Run>,
    pub(super) rules: Shared<Vec<Option<KeepRule>>>,
}

/// The circumstances: of a decision about backups, and of one about a VM.
#[derive(Debug, Clone)]
pub(super) struct RetentionContext {
    pub(super) run: Arc<Run>,
    pub(super) prepared: Dynamic,
}

/// See [`RetentionContext`].
#[derive(Debug, Clone)]
pub(super) struct GroupContext(pub(super) Arc<Run>);

/// A virtual machine.
#[derive(Debug, Clone)]
pub(super) struct Vm(pub(super) Arc<Candidate>);

/// A disk of a virtual machine.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<CandidateDisk>);

/// The calendar ranks of a backup.
#[derive(Debug, Clone, Copy)]
struct RankView(Ranks);

/// What was backed up before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Past {
    pub(super) history: History,
    pub(super) now: UtcMillis,
    pub(super) zone: Zone,
}

impl Run {
    pub(super) fn new(
        points: &[RetentionPoint],
        ctx: &PolicyContext,
        settings: Record,
    ) -> Result<Arc<Self>, ScriptError> {
        let zone = Zone::parse(&ctx.time_zone)
            .map_err(|error| ScriptError::new(ScriptErrorKind::Settings, error.to_string()))?;
        Ok(Arc::new(Self {
            order: newest_first(points),
            by_id: points.iter().enumerate().map(|(at, point)| (point.id, at)).collect(),
            points: points.to_vec(),
            zone,
            now: ctx.now,
            settings,
            vm: ctx.vm.clone().map(|vm| Vm(Arc::new(vm))),
        }))
    }

    fn moment(&self, at: UtcMillis) -> Moment {
        Moment { at, zone: self.zone }
    }
}

impl Backup {
    fn point(&self) -> &RetentionPoint {
        &self.run.points[self.at]
    }
}

/// A number of bytes as a script's number.
pub(super) fn bytes(len: ByteLen) -> INT {
    INT::try_from(len.0).unwrap_or(INT::MAX)
}

pub(super) fn register(module: &mut Module) {
    module.set_custom_type::<Backup>("backup");
    module.set_custom_type::<RankView>("ranks");
    module.set_custom_type::<Points>("backups");
    module.set_custom_type::<Kept>("kept backups");
    module.set_custom_type::<RetentionContext>("context");
    module.set_custom_type::<GroupContext>("context");
    module.set_custom_type::<Vm>("vm");
    module.set_custom_type::<Disk>("disk");
    module.set_custom_type::<Past>("history");
    register_backup(module);
    register_points(module);
    register_contexts(module);
    register_vm(module);
    register_past(module);
}

fn register_backup(module: &mut Module) {
    module.set_getter_fn("id", |backup: &mut Backup| Ok(backup.point().id.to_string()));
    module
        .set_getter_fn("created_at", |backup: &mut Backup| Ok(backup.run.moment(backup.point().created_at)));
    module
        .set_getter_fn("age_days", |backup: &mut Backup| -> Result<FLOAT, _> { Ok(backup.point().age_days) });
    module.set_getter_fn("rank", |backup: &mut Backup| Ok(RankView(backup.point().rank)));
    module.set_getter_fn("type", |backup: &mut Backup| {
        Ok(match backup.point().backup_type {
            BackupType::Full => ImmutableString::from("full"),
            BackupType::Incremental => ImmutableString::from("incremental"),
        })
    });
    module.set_getter_fn("verified", |backup: &mut Backup| Ok(backup.point().verified));
    module.set_getter_fn("damaged", |backup: &mut Backup| Ok(backup.point().damaged));
    module.set_getter_fn("pinned", |backup: &mut Backup| Ok(backup.point().pinned));
    module.set_getter_fn("size_bytes", |backup: &mut Backup| Ok(bytes(backup.point().size)));
    type Rank = fn(Ranks) -> u32;
    let ranks: [(&str, Rank); 6] = [
        ("last", |ranks| ranks.last),
        ("hourly", |ranks| ranks.hourly),
        ("daily", |ranks| ranks.daily),
        ("weekly", |ranks| ranks.weekly),
        ("monthly", |ranks| ranks.monthly),
        ("yearly", |ranks| ranks.yearly),
    ];
    for (name, rank) in ranks {
        module.set_getter_fn(name, move |ranks: &mut RankView| Ok(INT::from(rank(ranks.0))));
    }
}

fn register_points(module: &mut Module) {
    offer(module, "len", |points: &mut Points| Ok(length(points.0.points.len())));
    offer(module, "is_empty", |points: &mut Points| Ok(points.0.points.is_empty()));
    module.set_indexer_get_fn(|points: &mut Points, at: INT| {
        let place = usize::try_from(at).ok().and_then(|at| points.0.order.get(at).copied());
        let backup = place.map(|at| Backup { run: Arc::clone(&points.0), at });
        backup.map_or_else(|| refuse(format!("there is no backup number {at}")), Ok)
    });
    module.set_iter(TypeId::of::<Points>(), |points| {
        let run = points.cast::<Points>().0;
        Box::new(
            (0..run.order.len())
                .map(move |n| Dynamic::from(Backup { at: run.order[n], run: Arc::clone(&run) })),
        )
    });
    module.set_indexer_get_fn(|kept: &mut Kept, id: ImmutableString| {
        let place = BackupId::from_str(&id).ok().and_then(|id| kept.run.by_id.get(&id).copied());
        let Some(at) = place else { return refuse(format!("there is no backup with the id '{id}'")) };
        Ok(kept.rules[at].map_or(Dynamic::UNIT, |rule| rule.as_str().into()))
    });
}

fn register_contexts(module: &mut Module) {
    module.set_getter_fn("now", |ctx: &mut RetentionContext| Ok(ctx.run.moment(ctx.run.now)));
    module.set_getter_fn("tz", |ctx: &mut RetentionContext| Ok(ImmutableString::from(ctx.run.zone.name())));
    module.set_getter_fn("cfg", |ctx: &mut RetentionContext| Ok(ctx.run.settings.clone()));
    module.set_getter_fn("vm", |ctx: &mut RetentionContext| {
        Ok(ctx.run.vm.clone().map_or(Dynamic::UNIT, Dynamic::from))
    });
    module.set_getter_fn("prepared", |ctx: &mut RetentionContext| Ok(ctx.prepared.clone()));
    module.set_getter_fn("points", |ctx: &mut RetentionContext| Ok(Points(Arc::clone(&ctx.run))));
    module.set_getter_fn("now", |ctx: &mut GroupContext| Ok(ctx.0.moment(ctx.0.now)));
    module.set_getter_fn("tz", |ctx: &mut GroupContext| Ok(ImmutableString::from(ctx.0.zone.name())));
    module.set_getter_fn("cfg", |ctx: &mut GroupContext| Ok(ctx.0.settings.clone()));
}

fn register_vm(module: &mut Module) {
    type Text = fn(&Candidate) -> &str;
    let fields: [(&str, Text); 6] = [
        ("key", |vm| &vm.key),
        ("name", |vm| &vm.name),
        ("connector", |vm| &vm.connector),
        ("folder", |vm| &vm.folder),
        ("power", |vm| &vm.power),
        ("guest_os", |vm| &vm.guest_os),
    ];
    for (name, text) in fields {
        module.set_getter_fn(name, move |vm: &mut Vm| Ok(ImmutableString::from(text(&vm.0))));
    }
    module.set_getter_fn("tags", |vm: &mut Vm| Ok(texts(&vm.0.tags)));
    module.set_getter_fn("datastores", |vm: &mut Vm| Ok(texts(&vm.0.datastores)));
    module.set_getter_fn("protected_by", |vm: &mut Vm| Ok(texts(&vm.0.protected_by)));
    module.set_getter_fn("disks", |vm: &mut Vm| {
        let disks = vm.0.disks.iter().map(|disk| Dynamic::from(Disk(Arc::new(disk.clone()))));
        Ok(List(Arc::new(disks.collect())))
    });
    module.set_getter_fn("key", |disk: &mut Disk| Ok(disk.0.key.0.clone()));
    module.set_getter_fn("label", |disk: &mut Disk| Ok(disk.0.label.clone()));
    module.set_getter_fn("capacity_bytes", |disk: &mut Disk| Ok(bytes(disk.0.capacity)));
}

fn register_past(module: &mut Module) {
    let moment = |past: &Past, at: Option<UtcMillis>| {
        at.map_or(Dynamic::UNIT, |at| Dynamic::from(Moment { at, zone: past.zone }))
    };
    let days =
        |past: &Past, at: Option<UtcMillis>| at.map_or(Dynamic::UNIT, |at| age_days(at, past.now).into());
    let size = |len: Option<ByteLen>| len.map_or(Dynamic::UNIT, |len| bytes(len).into());
    module.set_getter_fn("chain_length", |past: &mut Past| Ok(INT::from(past.history.chain_length)));
    module.set_getter_fn("last_full", move |past: &mut Past| Ok(moment(past, past.history.last_full)));
    module.set_getter_fn("last_backup", move |past: &mut Past| Ok(moment(past, past.history.last_backup)));
    module.set_getter_fn("days_since_full", move |past: &mut Past| Ok(days(past, past.history.last_full)));
    module
        .set_getter_fn("days_since_backup", move |past: &mut Past| Ok(days(past, past.history.last_backup)));
    module.set_getter_fn("full_bytes", move |past: &mut Past| Ok(size(past.history.full_size)));
    module.set_getter_fn("increments_bytes", |past: &mut Past| Ok(bytes(past.history.increments_size)));
    module.set_getter_fn("changed_bytes", move |past: &mut Past| Ok(size(past.history.changed)));
}

/// Settings as a script sees them.
pub(super) fn settings_record(settings: &serde_json::Map<String, serde_json::Value>) -> Record {
    let fields = settings.iter().map(|(name, value)| (name.as_str().into(), super::values::from_json(value)));
    Record(Arc::new(fields.collect::<Map>()))
}
