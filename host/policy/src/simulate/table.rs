//! A simulation as text.

use std::fmt::Write as _;

use tidemark_model::{BackupType, UtcMillis};

use super::{LifeLine, Simulation};
use crate::sizes::format_size;

/// So many days are shown one by one; of more, each seventh and the last.
const DAYS_ONE_BY_ONE: usize = 35;

impl Simulation {
    /// The calendar, what is left with its reasons, sums and warnings, as text of at most 100 columns.
    #[must_use]
    pub fn render_table(&self) -> String {
        let mut out = format!(
            "{}\n{}, {} to {}\n\n",
            self.title,
            self.schedule,
            self.day_text(self.start),
            self.day_text(self.end.plus_millis(-1))
        );
        self.write_days(&mut out);
        self.write_kept(&mut out);
        for line in self.summary() {
            let _ = writeln!(out, "{line}");
        }
        for warning in self.warning_lines() {
            let _ = writeln!(out, "warning: {warning}");
        }
        out
    }

    fn write_days(&self, out: &mut String) {
        let _ = writeln!(out, "day          made  gone  exist  oldest       chain       space");
        let last = self.days.len().saturating_sub(1);
        let step = if self.days.len() > DAYS_ONE_BY_ONE { 7 } else { 1 };
        let (mut made, mut dropped) = (0, 0);
        for (number, day) in self.days.iter().enumerate() {
            (made, dropped) = (made + day.made, dropped + day.dropped);
            if (number + 1) % step != 0 && number != last {
                continue;
            }
            let oldest = day.oldest.map_or("-".to_owned(), |at| self.day_text(at));
            let _ = writeln!(
                out,
                "{}  {made:>5} {dropped:>5}  {:>5}  {oldest:<11} {:>6}  {:>10}",
                day.date,
                day.count,
                day.chain_depth,
                format_size(day.bytes)
            );
            (made, dropped) = (0, 0);
        }
        out.push('\n');
    }

    fn write_kept(&self, out: &mut String) {
        let _ = writeln!(out, "left at the end         made as      size        because");
        for life in self.kept() {
            let _ = writeln!(
                out,
                "{:<22}  {:<11}  {:<10}  {}",
                self.time_text(life.made),
                kind_word(life),
                format_size(life.last_size),
                life.reason
            );
        }
        out.push('\n');
    }

    /// The sums, a sentence each.
    pub(super) fn summary(&self) -> Vec<String> {
        let totals = &self.totals;
        let mut lines = vec![
            format!(
                "{} firings: {} fulls, {} incrementals ({} made synthetic fulls), {} put off",
                totals.firings, totals.fulls, totals.incrementals, totals.synthetic_fulls, totals.deferred
            ),
            format!(
                "{} backups went, {} took up what they needed of others; {} are left",
                totals.dropped,
                totals.merges,
                self.kept().count()
            ),
            format!(
                "space: {} at the end, {} at most; {} read from the guest",
                format_size(totals.last),
                format_size(totals.peak),
                format_size(totals.read)
            ),
        ];
        let deepest = self.days.iter().map(|day| day.chain_depth).max().unwrap_or(0);
        lines.push(format!("the longest chain at the end of a day: {deepest}"));
        lines
    }

    pub(super) fn warning_lines(&self) -> Vec<String> {
        let line = |warning: &super::SimulationWarning| {
            let times = if warning.times == 1 { "once" } else { &format!("{} times", warning.times) };
            format!("{times}, first on {}: {}", self.time_text(warning.first), warning.message)
        };
        self.warnings.iter().map(line).collect()
    }

    pub(super) fn day_text(&self, at: UtcMillis) -> String {
        self.zone.local(at).format("%Y-%m-%d").to_string()
    }

    pub(super) fn time_text(&self, at: UtcMillis) -> String {
        self.zone.local(at).format("%Y-%m-%d %a %H:%M").to_string()
    }
}

pub(super) fn kind_word(life: &LifeLine) -> &'static str {
    match (life.backup_type, life.became_full) {
        (BackupType::Full, _) => "full",
        (BackupType::Incremental, true) => "incr → full",
        (BackupType::Incremental, false) => "incr",
    }
}
