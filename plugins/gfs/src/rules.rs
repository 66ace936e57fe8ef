//! The counted keep rules (Proxmox Backup documentation, "Pruning").
//!
//! The rules run in the order last, hourly, daily, weekly, monthly, yearly, each over all backups from the newest to the
//! oldest. A rule passes over what an earlier rule has marked, kept or removed, and over every period in which an
//! earlier rule kept a backup. Of each further period it keeps the newest and marks the rest as removed, until it has
//! counted its number of periods. What no rule marks goes. Pinned backups ("protected" there) stay and are never
//! counted. Without any rule everything stays. Whether a backup is damaged plays no part.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use tidemark_plugin::policy::Point;

use crate::calendar::{Periods, Zone};

/// How many periods each rule counts; 0 is no such rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Numbers {
    pub(crate) last: u32,
    pub(crate) hourly: u32,
    pub(crate) daily: u32,
    pub(crate) weekly: u32,
    pub(crate) monthly: u32,
    pub(crate) yearly: u32,
}

/// What keeps a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Pinned,
    NoRules,
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Keep(Rule),
    Remove,
}

/// A backup while it is judged.
struct Judged {
    /// Its place among the points as they were given.
    place: usize,
    periods: Periods,
    mark: Option<Mark>,
}

/// The period of a backup, as a number that the others of its period have too.
type PeriodOf = fn(&Judged) -> i64;

impl Rule {
    /// The word that scripts and reports use.
    pub(crate) fn as_str(self) -> &'static str {
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

impl Numbers {
    fn in_order(self) -> [(Rule, u32, PeriodOf); 6] {
        let Self { last, hourly, daily, weekly, monthly, yearly } = self;
        [
            // Each backup is a period of its own.
            (Rule::Last, last, |backup| i64::try_from(backup.place).unwrap_or(i64::MAX)),
            (Rule::Hourly, hourly, |backup| backup.periods.hour),
            (Rule::Daily, daily, |backup| backup.periods.day),
            (Rule::Weekly, weekly, |backup| backup.periods.week),
            (Rule::Monthly, monthly, |backup| backup.periods.month),
            (Rule::Yearly, yearly, |backup| backup.periods.year),
        ]
    }
}

impl Judged {
    /// A pinned backup stays beside the rules: it does not make its period a covered one.
    fn covers_its_period(&self) -> bool {
        matches!(self.mark, Some(Mark::Keep(rule)) if rule != Rule::Pinned)
    }
}

/// What keeps each of `points`, in their order; none where it may go. The order of the points does not matter: of two at
/// one moment the one with the smaller id counts as the newer, as in the host.
pub(crate) fn judge(points: &[Point], numbers: Numbers, zone: Zone) -> Vec<Option<Rule>> {
    let rest = (numbers == Numbers::default()).then_some(Mark::Keep(Rule::NoRules));
    let mut order: Vec<(usize, &Point)> = points.iter().enumerate().collect();
    order.sort_by_key(|(_, point)| (Reverse(point.created_ms), &point.id));
    let judged = |(place, point): (usize, &Point)| Judged {
        place,
        periods: Periods::of(zone.local(point.created_ms)),
        mark: point.pinned.then_some(Mark::Keep(Rule::Pinned)).or(rest),
    };
    let mut backups: Vec<Judged> = order.into_iter().map(judged).collect();
    for (rule, number, period) in numbers.in_order() {
        if number > 0 {
            apply(&mut backups, rule, usize::try_from(number).unwrap_or(usize::MAX), period);
        }
    }
    backups.sort_by_key(|backup| backup.place);
    let kept = |backup: Judged| match backup.mark {
        Some(Mark::Keep(rule)) => Some(rule),
        Some(Mark::Remove) | None => None,
    };
    backups.into_iter().map(kept).collect()
}

/// One rule over all backups, the newest first.
fn apply(backups: &mut [Judged], rule: Rule, number: usize, period: PeriodOf) {
    let covered: BTreeSet<i64> =
        backups.iter().filter(|backup| backup.covers_its_period()).map(period).collect();
    let mut counted = BTreeSet::new();
    for backup in backups.iter_mut().filter(|backup| backup.mark.is_none()) {
        let key = period(backup);
        if covered.contains(&key) {
            continue;
        }
        if counted.contains(&key) {
            backup.mark = Some(Mark::Remove);
            continue;
        }
        if counted.len() == number {
            break;
        }
        counted.insert(key);
        backup.mark = Some(Mark::Keep(rule));
    }
}

#[cfg(test)]
mod tests;
