//! The counted keep rules, as Proxmox Backup Server counts them (Proxmox Backup documentation, "Pruning").
//!
//! The rules run in the order last, hourly, daily, weekly, monthly, yearly, each over all backups from the newest to the
//! oldest. A rule passes over what an earlier rule has already marked, kept or removed, and over every period in which an
//! earlier rule kept a backup. Of each further period it keeps the newest and marks the rest as removed, until it has
//! counted its number of periods. What no rule marks goes. Pinned backups ("protected" there) always stay and are never
//! counted. Without any rule everything stays. Whether a backup is damaged plays no part here, nor does it there.
//!
//! # What raising a number does
//!
//! - Raising the last rule in force only adds to what is kept.
//! - Where the periods in force nest (hours in days, days in weeks *or* days in months and years, hence whenever either
//!   weekly is 0 or both monthly and yearly are), raising any number only adds: what the raised rule takes is what the
//!   next one would have kept first, which then reaches one period further.
//! - Where weekly is in force together with monthly or yearly it may take away, even in number. A week that spans the
//!   first of a month, once it is counted, marks all but its newest backup as removed, also the last of the month before,
//!   which the monthly rule would have kept. The tests hold the smallest case. This is the price of counting exactly as
//!   the original does; [`crate::apply_floors`] bounds what it can cost.
//! - From no rule at all to one rule is from everything to what that rule keeps.

use std::collections::HashSet;

use tidemark_model::RetentionPoint;

use crate::calendar::{Period, PeriodKey, Zone, newest_first};

/// How many periods each rule counts; 0 is no such rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepRules {
    /// Backups, the newest first.
    pub last: u32,
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks of ISO 8601.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
}

/// What keeps a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeepRule {
    /// It is pinned.
    Pinned,
    /// There is no rule, so nothing goes.
    NoRules,
    /// One of the newest.
    Last,
    /// The newest of an hour.
    Hourly,
    /// Of a day.
    Daily,
    /// Of a week.
    Weekly,
    /// Of a month.
    Monthly,
    /// Of a year.
    Yearly,
}

impl KeepRule {
    /// The word that scripts and reports use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::NoRules => "no rules",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

impl KeepRules {
    /// The names of the rules, in the order in which they run.
    pub const NAMES: [&'static str; 6] = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];

    /// The rules by their names.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut u32> {
        match name {
            "last" => Some(&mut self.last),
            "hourly" => Some(&mut self.hourly),
            "daily" => Some(&mut self.daily),
            "weekly" => Some(&mut self.weekly),
            "monthly" => Some(&mut self.monthly),
            "yearly" => Some(&mut self.yearly),
            _ => None,
        }
    }

    fn in_order(self) -> [(KeepRule, Option<Period>, u32); 6] {
        let Self { last, hourly, daily, weekly, monthly, yearly } = self;
        [
            (KeepRule::Last, None, last),
            (KeepRule::Hourly, Some(Period::Hour), hourly),
            (KeepRule::Daily, Some(Period::Day), daily),
            (KeepRule::Weekly, Some(Period::Week), weekly),
            (KeepRule::Monthly, Some(Period::Month), monthly),
            (KeepRule::Yearly, Some(Period::Year), yearly),
        ]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Keep(KeepRule),
    Remove,
}

/// What keeps each of `points`, in their order; none where it may go. The order of the points does not matter.
#[must_use]
pub fn prune_rules(points: &[RetentionPoint], rules: KeepRules, zone: Zone) -> Vec<Option<KeepRule>> {
    let rest = if rules == KeepRules::default() { Some(Mark::Keep(KeepRule::NoRules)) } else { None };
    let pinned = |point: &RetentionPoint| point.pinned.then_some(Mark::Keep(KeepRule::Pinned));
    let mut marks: Vec<Option<Mark>> = points.iter().map(|point| pinned(point).or(rest)).collect();
    let order = newest_first(points);
    for (rule, period, number) in rules.in_order() {
        if number > 0 {
            let name = |at: usize| match period {
                Some(period) => period.key(zone.local(points[at].created_at)),
                None => PeriodKey::of_its_own(at),
            };
            mark_rule(&mut marks, &order, rule, number as usize, name);
        }
    }
    let kept = |mark: Option<Mark>| match mark {
        Some(Mark::Keep(rule)) => Some(rule),
        Some(Mark::Remove) | None => None,
    };
    marks.into_iter().map(kept).collect()
}

/// One rule over all backups, the newest first. `period` tells the period of the backup at a place.
fn mark_rule(
    marks: &mut [Option<Mark>],
    order: &[usize],
    rule: KeepRule,
    number: usize,
    period: impl Fn(usize) -> PeriodKey,
) {
    // A pinned backup stays beside the rules: it does not make its period a covered one.
    let counted = |mark: Option<Mark>| matches!(mark, Some(Mark::Keep(rule)) if rule != KeepRule::Pinned);
    let covered: HashSet<PeriodKey> =
        order.iter().filter(|&&at| counted(marks[at])).map(|&at| period(at)).collect();
    let mut taken = HashSet::with_capacity(number.min(order.len()));
    for &at in order {
        if marks[at].is_some() {
            continue;
        }
        let key = period(at);
        if covered.contains(&key) {
            continue;
        }
        if taken.contains(&key) {
            marks[at] = Some(Mark::Remove);
            continue;
        }
        if taken.len() == number {
            break;
        }
        taken.insert(key);
        marks[at] = Some(Mark::Keep(rule));
    }
}

#[cfg(test)]
mod tests;
