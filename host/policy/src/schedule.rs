//! When something runs: a cron text read in a time zone, correct over both switches of daylight saving.
//!
//! The text is evaluated on plain wall-clock time and mapped to moments here, because there are two right answers:
//!
//! | hour field | means | gap | repeated hour |
//! |---|---|---|---|
//! | fixed (`0 2 * * *`, `0 1-5 * * *`) | at these wall-clock times, each once a day | runs at the first moment after the gap | runs in the first pass |
//! | with `*` or `/` (`0 * * * *`, `0 */2 * * *`) | as time goes by | nothing runs in it | runs in both passes |
//!
//! Where both a day of the month and a day of the week are given, either is enough, as in Vixie cron.

use std::fmt;

use chrono::{NaiveDate, NaiveDateTime, Timelike as _};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use tidemark_model::UtcMillis;

use crate::calendar::{Zone, ZoneError};

/// Longer texts are refused unread.
const LONGEST_TEXT: usize = 200;

/// Why a text is no schedule or no run window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The cron text cannot be read.
    #[error("'{text}' is no schedule: {reason}")]
    Cron {
        /// The text, cut short where it is long.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It can be read, but no day matches it, as for 30 February.
    #[error("the schedule '{0}' would never run")]
    Never(String),
    /// The time zone is not known.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// The run window cannot be read.
    #[error("'{text}' is no run window: {reason}")]
    Window {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A cron text in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    text: String,
    zone: Zone,
    /// Whether the hour field names hours, so that each wall-clock match counts once.
    fixed: bool,
}

impl Schedule {
    /// Reads five fields (minute, hour, day of month, month, day of week), or six with seconds in front. Names of
    /// months and days and `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly` are understood.
    ///
    /// # Errors
    /// A [`ScheduleError`]; also for a schedule that would never run.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, ScheduleError> {
        let zone = Zone::parse(time_zone)?;
        let text = cron.trim();
        let shown: String = text.chars().take(LONGEST_TEXT).collect();
        let refused = |reason: String| ScheduleError::Cron { text: shown.clone(), reason };
        if text.len() > LONGEST_TEXT {
            return Err(refused(format!("it is longer than {LONGEST_TEXT} bytes")));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| refused(error.to_string()))?;
        // The crate resolves the @names in the text that it keeps.
        let fields: Vec<&str> = cron.pattern.as_str().split_whitespace().collect();
        let hour = match fields.len() {
            5 => fields[1],
            6 => fields[2],
            other => return Err(refused(format!("5 or 6 fields are expected, not {other}"))),
        };
        let fixed = !hour.contains(['*', '/', '?']);
        let schedule = Self { text: text.to_owned(), zone, fixed, cron };
        if schedule.next_local(some_monday(), true).is_none() {
            return Err(ScheduleError::Never(shown));
        }
        Ok(schedule)
    }

    /// The zone that it is read in.
    #[must_use]
    pub fn zone(&self) -> Zone {
        self.zone
    }

    /// The text that it was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first run later than `after`; none beyond the calendar's end.
    #[must_use]
    pub fn next_after(&self, after: UtcMillis) -> Option<UtcMillis> {
        if self.fixed { self.next_fixed(after) } else { self.next_elapsed(after) }
    }

    /// The next `count` runs later than `after`, in their order.
    #[must_use]
    pub fn upcoming(&self, after: UtcMillis, count: usize) -> Vec<UtcMillis> {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last)).take(count).collect()
    }

    /// The schedule in words.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} ({})", self.cron.describe().trim_end_matches('.'), self.zone)
    }

    /// The first wall-clock match after `from`, or at it.
    fn next_local(&self, from: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        self.cron.find_next_occurrence(&from, inclusive).ok()
    }

    /// Later matches never map to earlier moments, and those up to the one shown at `after` map to none later than it.
    fn next_fixed(&self, after: UtcMillis) -> Option<UtcMillis> {
        let mut local = self.next_local(whole_second(self.zone.local(after)), false)?;
        loop {
            let moment = self.zone.first_moment(local);
            // Not so in the second pass of a repeated hour, and for further matches inside one gap.
            if moment > after {
                return Some(moment);
            }
            local = self.next_local(local, false)?;
        }
    }

    fn next_elapsed(&self, after: UtcMillis) -> Option<UtcMillis> {
        let shown = whole_second(self.zone.local(after));
        let ahead = self.first_elapsed(shown, false, after);
        // In the first pass of a repeated hour, times up to the one shown come once more before what lies ahead.
        let Some(back) = self.zone.clock_goes_back(whole_millis(after)) else { return ahead };
        let again = self.first_elapsed(self.zone.local(back), true, UtcMillis(back.0 - 1));
        [ahead, again].into_iter().flatten().filter(|moment| *moment > after).min()
    }

    /// The first moment later than `after` whose wall-clock time is a match from `from` on.
    fn first_elapsed(&self, from: NaiveDateTime, inclusive: bool, after: UtcMillis) -> Option<UtcMillis> {
        let mut local = self.next_local(from, inclusive)?;
        loop {
            let (first, second) = self.zone.moments(local);
            if let Some(moment) = first.filter(|at| *at > after).or(second.filter(|at| *at > after)) {
                return Some(moment);
            }
            local = self.next_local(local, false)?;
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

/// Where the search for any match at all begins: the calendar repeats itself every 400 years.
fn some_monday() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2001, 1, 1).unwrap_or_default().into()
}

fn whole_second(local: NaiveDateTime) -> NaiveDateTime {
    local.with_nanosecond(0).unwrap_or(local)
}

fn whole_millis(moment: UtcMillis) -> UtcMillis {
    UtcMillis(moment.0.div_euclid(1000) * 1000)
}

#[cfg(test)]
mod tests;
