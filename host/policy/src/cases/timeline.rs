//! The backups of a test case: single ones, and rows of them made by a step or a cron text.

use tidemark_model::{BackupType, ByteLen, Ranks, RetentionPoint, UtcMillis};

use super::CasesError;
use super::file::{At, Entry, Reader};
use crate::calendar::{Zone, age_days, rank_points};
use crate::numbered::numbered_id;
use crate::schedule::Schedule;

/// No case may have more backups.
const MOST_POINTS: usize = 100_000;

/// Backups with the names that a case gives some of them.
pub(super) struct Timeline {
    pub(super) points: Vec<RetentionPoint>,
    pub(super) names: Vec<Option<String>>,
    pub(super) zone: Zone,
}

impl Timeline {
    pub(super) fn read(
        reader: &Reader<'_>,
        entries: &[At<Entry>],
        now: UtcMillis,
        zone: Zone,
    ) -> Result<Self, CasesError> {
        let mut timeline = Self { points: Vec::new(), names: Vec::new(), zone };
        for entry in entries {
            let made = moments(reader, entry, now, zone)?;
            if timeline.points.len() + made.len() > MOST_POINTS {
                return Err(reader.wrong(entry, format!("a case may have {MOST_POINTS} backups")));
            }
            for at in made {
                timeline.add(reader, entry, at, now)?;
            }
        }
        rank_points(&mut timeline.points, zone);
        Ok(timeline)
    }

    fn add(
        &mut self,
        reader: &Reader<'_>,
        entry: &At<Entry>,
        at: UtcMillis,
        now: UtcMillis,
    ) -> Result<(), CasesError> {
        let given = entry.get_ref();
        let number = self.points.len();
        let id = numbered_id(number);
        let kind = given.backup_type.as_ref().map(|kind| reader.backup_type(kind)).transpose()?;
        let size = given.size.as_ref().map(|size| reader.size(size)).transpose()?;
        let taken = |name: &&At<String>| self.names.iter().flatten().any(|known| known == name.get_ref());
        if let Some(name) = given.id.as_ref().filter(taken) {
            return Err(reader.wrong(name, format!("there are two backups '{}'", name.get_ref())));
        }
        self.names.push(given.id.as_ref().map(|name| name.get_ref().clone()));
        self.points.push(RetentionPoint {
            id,
            created_at: at,
            age_days: age_days(at, now),
            rank: Ranks::default(),
            backup_type: kind.unwrap_or(BackupType::Incremental),
            verified: given.verified,
            damaged: given.damaged,
            pinned: given.pinned,
            size: size.unwrap_or(ByteLen(1 << 30)),
        });
        Ok(())
    }

    /// What people call the backup at a place: its name, or its local time.
    pub(super) fn label(&self, at: usize) -> String {
        if let Some(name) = &self.names[at] {
            return name.clone();
        }
        let created = self.points[at].created_at;
        let local = self.zone.local(created);
        let repeated = self.zone.moments(local).1.is_some();
        if repeated { self.zone.text(created) } else { local.format("%Y-%m-%dT%H:%M:%S").to_string() }
    }

    /// The backups that a text means: by name, by time, or all of a local day.
    pub(super) fn meant(&self, text: &str) -> Vec<usize> {
        let all = 0..self.points.len();
        if self.names.iter().flatten().any(|name| name == text) {
            return all.filter(|at| self.names[*at].as_deref() == Some(text)).collect();
        }
        if let Ok(day) = text.parse::<chrono::NaiveDate>() {
            return all.filter(|at| self.zone.local(self.points[*at].created_at).date() == day).collect();
        }
        match crate::calendar::parse_moment(text, self.zone) {
            Ok(moment) => all.filter(|at| self.points[*at].created_at == moment).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// The moments that an entry stands for, in their order.
fn moments(
    reader: &Reader<'_>,
    entry: &At<Entry>,
    now: UtcMillis,
    zone: Zone,
) -> Result<Vec<UtcMillis>, CasesError> {
    let given = entry.get_ref();
    match (&given.at, &given.every, &given.from) {
        (Some(at), None, None) if given.to.is_none() => Ok(vec![reader.moment(at, zone)?]),
        (None, Some(every), Some(from)) => {
            if let Some(name) = &given.id {
                return Err(reader.wrong(name, "only a single backup (at) may have an id"));
            }
            let from = reader.moment(from, zone)?;
            let to = given.to.as_ref().map_or(Ok(now), |to| reader.moment(to, zone))?;
            let row = row(every.get_ref(), from, to, zone).map_err(|message| reader.wrong(every, message))?;
            if row.len() > MOST_POINTS {
                return Err(reader.wrong(every, format!("a case may have {MOST_POINTS} backups")));
            }
            Ok(row)
        }
        _ => Err(reader.wrong(entry, "either at, or every with from (and to) is expected")),
    }
}

/// From `from` to `to`, both included where they are met: `30m` and `2h` by elapsed time, `1d` and `1w` by local days,
/// or by a cron text.
fn row(every: &str, from: UtcMillis, to: UtcMillis, zone: Zone) -> Result<Vec<UtcMillis>, String> {
    let every = every.trim();
    if every.contains(' ') || every.starts_with('@') {
        let schedule = Schedule::parse(every, zone.name()).map_err(|error| error.to_string())?;
        let runs = std::iter::successors(schedule.next_after(from.plus_millis(-1)), |last| {
            schedule.next_after(*last)
        });
        return Ok(runs.take_while(|at| *at <= to).take(MOST_POINTS + 1).collect());
    }
    let refused = || format!("'{every}' is no step (30m, 2h, 1d, 1w or a cron text)");
    let unit = every.chars().last().ok_or_else(refused)?;
    let count: u32 = every[..every.len() - unit.len_utf8()].parse().map_err(|_| refused())?;
    let step: Box<dyn Fn(u32) -> UtcMillis> = match (count, unit) {
        (1.., 'm') => Box::new(move |n| from.plus_millis(i64::from(n) * i64::from(count) * 60_000)),
        (1.., 'h') => Box::new(move |n| from.plus_millis(i64::from(n) * i64::from(count) * 3_600_000)),
        (1.., 'd') => Box::new(move |n| zone.plus_days(from, n.saturating_mul(count))),
        (1.., 'w') => Box::new(move |n| zone.plus_days(from, n.saturating_mul(count).saturating_mul(7))),
        _ => return Err(refused()),
    };
    Ok((0..).map(step).take_while(|at| *at <= to).take(MOST_POINTS + 1).collect())
}
