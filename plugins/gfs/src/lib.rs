//! The policy `gfs`: grandfather, father, son, as a component.
//!
//! What stays is decided by the counted keep rules of Proxmox Backup Server (`rules`), in the calendar of the
//! context's time zone (`calendar`); it is the twin of the script `gfs.rhai`, to the word of its reasons. The ranks
//! that each point brings are not looked at: a rule that passes over the periods which earlier rules cover cannot be
//! told from a place in the calendar.
//!
//! It also chooses VMs by a tag and makes a full where the newest one is too old. All of it is a function of the
//! arguments; nothing is kept from one call to the next.

mod calendar;
mod rules;
mod settings;

use tidemark_plugin::policy::{
    BackupPlan, Candidate, Context, History, KeepVerdict, PlanType, Point, Policy, Selection,
};
use tidemark_plugin::{Description, Result, description};

use crate::calendar::Zone;
use crate::rules::{Rule, judge};
use crate::settings::Settings;

/// Grandfather, father, son.
#[derive(Debug)]
pub struct Gfs;

impl Policy for Gfs {
    fn describe() -> Description {
        description("gfs", env!("CARGO_PKG_VERSION"))
    }

    fn retain(points: Vec<Point>, context: Context) -> Result<Vec<KeepVerdict>> {
        let settings = Settings::parse(&context.settings)?;
        let zone = Zone::parse(&context.time_zone)?;
        let keepers = judge(&points, settings.rules, zone);
        let verdict = |(point, rule): (Point, Option<Rule>)| KeepVerdict {
            id: point.id,
            reason: rule.map(|rule| rule.as_str().to_owned()),
        };
        Ok(points.into_iter().zip(keepers).map(verdict).collect())
    }

    fn select(vm: Candidate, context: Context) -> Result<Selection> {
        let Settings { tag, .. } = Settings::parse(&context.settings)?;
        let protect = vm.tags.contains(&tag);
        let reason = if protect { format!("tag {tag}") } else { format!("no tag {tag}") };
        Ok(Selection { protect, reason, exclude_disks: Vec::new() })
    }

    fn plan(_vm: Candidate, history: History, context: Context) -> Result<BackupPlan> {
        let Settings { full_every_days, .. } = Settings::parse(&context.settings)?;
        let zone = Zone::parse(&context.time_zone)?;
        let Some(last_full_ms) = history.last_full_ms else {
            return Ok(BackupPlan { kind: PlanType::Full, reason: "there is none yet".to_owned() });
        };
        let last_full = zone.local(last_full_ms).date();
        // By the calendar: runs never begin at quite the same moment, and by hours every seventh would be every eighth.
        // A full that is dated into the future has a negative age: no reason to read the guest in full again and again.
        let age_days = (zone.local(context.now_ms).date() - last_full).num_days();
        let kind = match age_days >= i64::from(full_every_days) {
            true => PlanType::Full,
            false => PlanType::Incremental,
        };
        Ok(BackupPlan { kind, reason: format!("the last full is of {last_full}") })
    }
}

tidemark_plugin::export_policy!(Gfs);

#[cfg(test)]
mod tests;
