//! Decides which VMs are protected, which kind of backup is right, what is kept and how backups leave a chain, as pure
//! functions over what is known.
//!
//! Policies are scripts (`script`), tested by cases (`cases`) and played into the future (`simulate`); what they let go is
//! held against `floors`. Under them lie the calendar of a time zone, the counted keep rules and schedules. Nothing here
//! reads a file or a database, nor a clock but to bound the time of a script.
//!
//! The rule above all others: an incremental is only chosen where every disk's changes since the parent can be
//! known, and a full always carries the reason why it is one.

mod calendar;
mod cases;
mod chain;
#[cfg(test)]
mod fixtures;
mod floors;
mod numbered;
mod plan;
mod prune_rules;
mod schedule;
mod script;
mod simulate;
mod sizes;
mod window;

pub use calendar::{Period, PeriodKey, Zone, ZoneError, age_days, newest_first, parse_moment, rank_points};
pub use cases::{CaseResult, CasesError, cases_kind, run_cases};
pub use chain::{ChainLink, ChainPlan, ChainRefusal, Merge, plan_deletion, plan_full};
pub use floors::{Fate, FloorAlert, Floors, Keeper, RetentionOutcome, apply_floors};
pub use plan::{DiskState, ParentState, Plan, confirm, propose};
pub use prune_rules::{KeepRule, KeepRules, prune_rules};
pub use schedule::{Schedule, ScheduleError};
pub use script::{Diagnostic, Script, ScriptError, ScriptErrorKind, Severity, check, likely_kind};
pub use simulate::{
    DayView, LifeLine, PlanFn, RetainFn, Simulation, SimulationError, SimulationInput, SimulationWarning,
    Totals, simulate,
};
pub use sizes::{format_size, parse_size};
pub use window::Window;
