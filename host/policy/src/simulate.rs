//! Plays a schedule and policies over the coming days: what exists when, why, and how much space it takes.
//!
//! ```text
//!   firing ─▶ plan ─▶ a backup of a predicted size ─▶ retention ─▶ floors ─▶ what goes is merged into what needs it
//! ```
//! Nothing here is real but the policies, the calendar, the floors and the planner of chains: those are the ones that the
//! engine uses. Sizes are predictions: an incremental holds the change per day for the time since the backup before, at
//! most a full; two merged ones hold four fifths of their sum, at least the larger and at most a full, because part of what
//! changes changes again.

mod html;
mod stock;
mod svg;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tidemark_model::{
    BackupId, BackupType, ByteLen, Candidate, History, KeepVerdict, PlanDecision, PlanType, PolicyContext,
    RetentionPoint, UtcMillis,
};

use crate::calendar::Zone;
use crate::floors::{Fate, Floors, Keeper, apply_floors};
use crate::schedule::Schedule;
use stock::Stock;

/// No simulation plays more firings.
const MOST_FIRINGS: usize = 20_000;

/// A retention policy of any make: a script, a component, a rule of a test. An error is its words.
pub type RetainFn<'a> = dyn FnMut(&[RetentionPoint], &PolicyContext) -> Result<Vec<KeepVerdict>, String> + 'a;

/// A group policy's plan of any make.
pub type PlanFn<'a> = dyn FnMut(&Candidate, &History, &PolicyContext) -> Result<PlanDecision, String> + 'a;

/// What is played.
pub struct SimulationInput<'a> {
    /// What it is called in reports, for example the name of the policy.
    pub title: String,
    /// The retention policy, for example `&mut |points, ctx| script.retain(points, ctx).map_err(|e| e.to_string())`.
    pub retain: &'a mut RetainFn<'a>,
    /// The plan; none makes incrementals.
    pub plan: Option<&'a mut PlanFn<'a>>,
    /// When backups are made, and the time zone of everything.
    pub schedule: Schedule,
    /// Where it begins.
    pub start: UtcMillis,
    /// How many local days it plays.
    pub days: u32,
    /// The policies' settings, a JSON object.
    pub settings_json: String,
    /// The VM that is backed up.
    pub vm: Candidate,
    /// What a full stores.
    pub full_size: ByteLen,
    /// What changes in 24 hours.
    pub change_per_day: ByteLen,
    /// How many backups a chain may have; a full follows then. At least 1.
    pub max_chain_depth: u32,
    /// The floors; the moments in them are set by the simulation.
    pub floors: Floors,
    /// What there is at the beginning; each incremental needs the backup before it.
    pub existing: Vec<RetentionPoint>,
}

/// Why nothing can be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// The schedule does not fire in that time.
    #[error("the schedule does not run once in these {0} days")]
    NoFirings(u32),
    /// It would take too long.
    #[error("the schedule runs more than {MOST_FIRINGS} times in these days; choose fewer days")]
    TooManyFirings,
}

/// One backup, from the day it was made to the day it went.
#[derive(Debug, Clone, PartialEq)]
pub struct LifeLine {
    /// Its identity.
    pub id: BackupId,
    /// When it was made.
    pub made: UtcMillis,
    /// When it went; none where it is still there at the end.
    pub dropped: Option<UtcMillis>,
    /// What it was made as.
    pub backup_type: BackupType,
    /// Whether a merge made it a full later.
    pub became_full: bool,
    /// Why it was made as that.
    pub plan_reason: String,
    /// What it stored at first.
    pub made_size: ByteLen,
    /// What it stored at last, with what it took up.
    pub last_size: ByteLen,
    /// Who kept it last.
    pub keeper: Keeper,
    /// Why it was kept last.
    pub reason: String,
}

/// What there is at the end of a local day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayView {
    /// The day, `2026-06-12`.
    pub date: String,
    /// Backups made on it.
    pub made: u32,
    /// Backups dropped on it.
    pub dropped: u32,
    /// Backups that exist.
    pub count: usize,
    /// The oldest of them.
    pub oldest: Option<UtcMillis>,
    /// The newest of them.
    pub newest: Option<UtcMillis>,
    /// Backups in the newest one's chain.
    pub chain_depth: u32,
    /// What all store.
    pub bytes: ByteLen,
}

/// Sums over the whole time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Firings.
    pub firings: u32,
    /// Fulls that read the guest.
    pub fulls: u32,
    /// Incrementals, those that became a synthetic full among them.
    pub incrementals: u32,
    /// Incrementals that were made a full at once.
    pub synthetic_fulls: u32,
    /// Firings that made none.
    pub deferred: u32,
    /// Backups that went.
    pub dropped: u32,
    /// Backups that took up others.
    pub merges: u32,
    /// What was read from the guest.
    pub read: ByteLen,
    /// The most space at any time.
    pub peak: ByteLen,
    /// The space at the end.
    pub last: ByteLen,
}

/// Something that an administrator should know, with how often it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulationWarning {
    /// When it happened first.
    pub first: UtcMillis,
    /// How often.
    pub times: u32,
    /// What, in the words of the first time.
    pub message: String,
}

/// What was played.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// What it is called.
    pub title: String,
    /// The schedule in words.
    pub schedule: String,
    /// The time zone of all that is shown.
    pub zone: Zone,
    /// Where it begins.
    pub start: UtcMillis,
    /// Where it ends.
    pub end: UtcMillis,
    /// Each day.
    pub days: Vec<DayView>,
    /// Each backup, in the order in which they were made.
    pub lives: Vec<LifeLine>,
    /// The space after each firing.
    pub space: Vec<(UtcMillis, ByteLen)>,
    /// Sums.
    pub totals: Totals,
    /// What an administrator should know.
    pub warnings: Vec<SimulationWarning>,
}

impl Simulation {
    /// The backups that are left at the end.
    pub fn kept(&self) -> impl Iterator<Item = &LifeLine> {
        self.lives.iter().filter(|life| life.dropped.is_none())
    }
}

/// Plays it.
///
/// # Errors
/// A [`SimulationError`]. A policy that fails is a warning: everything stays then.
pub fn simulate(input: SimulationInput<'_>) -> Result<Simulation, SimulationError> {
    let zone = input.schedule.zone();
    let end = zone.plus_days(input.start, input.days);
    let first = input.schedule.next_after(input.start.plus_millis(-1));
    let runs = std::iter::successors(first, |last| input.schedule.next_after(*last));
    let firings: Vec<UtcMillis> = runs.take_while(|at| *at < end).take(MOST_FIRINGS + 1).collect();
    if firings.is_empty() {
        return Err(SimulationError::NoFirings(input.days));
    }
    if firings.len() > MOST_FIRINGS {
        return Err(SimulationError::TooManyFirings);
    }
    let mut player = Player::new(input, zone);
    for at in firings {
        player.fire(at);
    }
    Ok(player.finish(end))
}

struct Player<'a> {
    input: SimulationInput<'a>,
    zone: Zone,
    stock: Stock,
    days: Vec<DayView>,
    space: Vec<(UtcMillis, ByteLen)>,
    totals: Totals,
    warnings: BTreeMap<&'static str, SimulationWarning>,
    last_run: Option<UtcMillis>,
}

impl<'a> Player<'a> {
    fn new(mut input: SimulationInput<'a>, zone: Zone) -> Self {
        let stock = Stock::new(std::mem::take(&mut input.existing), input.full_size);
        let (days, space, warnings) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { input, zone, stock, days, space, totals: Totals::default(), warnings, last_run: None }
    }

    fn fire(&mut self, at: UtcMillis) {
        self.days_until(at);
        self.totals.firings += 1;
        let made = self.back_up(at);
        let dropped = if made { self.prune(at) } else { 0 };
        self.last_run = Some(at);
        self.totals.dropped += dropped;
        let bytes = self.stock.bytes();
        self.totals.peak = self.totals.peak.max(bytes);
        self.space.push((at, bytes));
        if let Some(day) = self.days.last_mut() {
            day.made += u32::from(made);
            day.dropped += dropped;
        }
        self.look_again();
    }

    fn context(&self, now: UtcMillis, vm: Option<Candidate>) -> PolicyContext {
        let time_zone = self.zone.name().to_owned();
        PolicyContext { now, time_zone, settings_json: self.input.settings_json.clone(), vm }
    }

    /// Whether a backup was made.
    fn back_up(&mut self, at: UtcMillis) -> bool {
        let PlanDecision { kind, reason } = self.decide(at);
        let incremental = self.stock.predicted(at, self.input.change_per_day);
        match kind {
            PlanType::Defer => {
                self.totals.deferred += 1;
                return false;
            }
            PlanType::Full => {
                self.totals.fulls += 1;
                self.totals.read.0 += self.input.full_size.0;
                self.stock.add(at, BackupType::Full, self.input.full_size, reason);
            }
            PlanType::Incremental | PlanType::SyntheticFull => {
                self.totals.incrementals += 1;
                self.totals.read.0 += incremental.0;
                let id = self.stock.add(at, BackupType::Incremental, incremental, reason);
                if kind == PlanType::SyntheticFull && self.stock.make_full(id) {
                    self.totals.synthetic_fulls += 1;
                    self.totals.merges += 1;
                }
            }
        }
        true
    }

    /// What the plan says, corrected as the engine corrects it: no incremental without a backup before it, or in a chain
    /// that is as long as it may be.
    fn decide(&mut self, at: UtcMillis) -> PlanDecision {
        let history = self.stock.history();
        let full = |reason: String| PlanDecision { kind: PlanType::Full, reason };
        if self.stock.is_empty() {
            return full("the first backup".to_owned());
        }
        let context = self.context(at, None);
        let asked = self.input.plan.as_mut().map(|plan| plan(&self.input.vm, &history, &context));
        let decision = match asked {
            Some(Ok(decision)) => decision,
            Some(Err(message)) => {
                self.warn("plan", at, format!("the plan failed, an incremental was made: {message}"));
                PlanDecision { kind: PlanType::Incremental, reason: "the plan failed".to_owned() }
            }
            None => PlanDecision { kind: PlanType::Incremental, reason: "no plan".to_owned() },
        };
        let longest = self.input.max_chain_depth.max(1);
        if decision.kind == PlanType::Incremental && history.chain_length >= longest {
            return full(format!("the chain has {} backups", history.chain_length));
        }
        decision
    }

    /// Retention with its floors; how many went.
    fn prune(&mut self, at: UtcMillis) -> u32 {
        let points = self.stock.points(at, self.zone);
        let context = self.context(at, Some(self.input.vm.clone()));
        let verdicts = match (self.input.retain)(&points, &context) {
            Ok(verdicts) => verdicts,
            Err(message) => {
                self.warn("retention", at, format!("the policy failed, everything stayed: {message}"));
                return 0;
            }
        };
        let floors = Floors { now: at, last_run: self.last_run, ..self.input.floors.clone() };
        let outcome = apply_floors(&points, &verdicts, &floors);
        for alert in &outcome.alerts {
            let kind = match alert {
                crate::floors::FloorAlert::Brake { .. } => "brake",
                crate::floors::FloorAlert::ClockBack { .. } => "clock back",
                crate::floors::FloorAlert::ClockJump { .. } => "clock jump",
            };
            self.warn(kind, at, alert.to_string());
        }
        let mut going = Vec::new();
        for (point, fate) in points.iter().zip(outcome.fates) {
            match fate {
                Fate::Kept { by, reason } => self.stock.kept(point.id, by, reason),
                Fate::Dropped => going.push(point.id),
            }
        }
        match self.stock.drop(&going, at) {
            Ok(merges) => {
                self.totals.merges += merges;
                u32::try_from(going.len()).unwrap_or(u32::MAX)
            }
            Err(refusal) => {
                self.warn("chain", at, format!("nothing went: {refusal}"));
                0
            }
        }
    }

    fn warn(&mut self, kind: &'static str, first: UtcMillis, message: String) {
        self.warnings.entry(kind).or_insert(SimulationWarning { first, times: 0, message }).times += 1;
    }

    /// Opens the days up to that of `at`: those without a firing look like the day before.
    fn days_until(&mut self, at: UtcMillis) {
        let today = self.zone.local(at).date();
        let mut day = match self.days.last().and_then(|day| day.date.parse::<chrono::NaiveDate>().ok()) {
            Some(last) if last >= today => return,
            Some(last) => last.succ_opt().unwrap_or(today),
            None => self.zone.local(self.input.start).date(),
        };
        while day <= today {
            let view = DayView { date: day.to_string(), made: 0, dropped: 0, ..self.stock.day_view() };
            self.days.push(view);
            day = day.succ_opt().unwrap_or(chrono::NaiveDate::MAX);
        }
    }

    /// The open day as it is now.
    fn look_again(&mut self) {
        let now = self.stock.day_view();
        if let Some(day) = self.days.last_mut() {
            *day =
                DayView { date: std::mem::take(&mut day.date), made: day.made, dropped: day.dropped, ..now };
        }
    }

    fn finish(mut self, end: UtcMillis) -> Simulation {
        self.days_until(end.plus_millis(-1));
        self.totals.last = self.stock.bytes();
        Simulation {
            title: self.input.title,
            schedule: self.input.schedule.describe(),
            zone: self.zone,
            start: self.input.start,
            end,
            days: self.days,
            lives: self.stock.into_lives(),
            space: self.space,
            totals: self.totals,
            warnings: self.warnings.into_values().collect(),
        }
    }
}
