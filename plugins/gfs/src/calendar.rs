//! The calendar of a time zone: what its wall clock shows at a moment, and the periods that this falls into.
//!
//! Periods are periods of *wall-clock text*, as Proxmox Backup Server has them: the hour that a clock going back repeats
//! is one hour, and the one that a clock going forward leaves out is none. The zones' rules come from the tables built
//! in; the host's calendar reads the same ones, so both name the same periods.

use chrono::{DateTime, Datelike, NaiveDateTime, Timelike};
use chrono_tz::Tz;
use tidemark_plugin::{Error, Result};

/// 0001-01-02 and 9999-12-30: what lies outside is taken for these, so that no offset leads out of the calendar.
const EARLIEST_MS: i64 = -62_135_510_400_000;
const LATEST_MS: i64 = 253_402_128_000_000;

/// An IANA time zone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Zone(Tz);

/// The periods of a moment. Two moments are of one period exactly where the numbers of its kind are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Periods {
    pub(crate) hour: i64,
    pub(crate) day: i64,
    /// Of ISO 8601: from Monday, of the year that its Thursday lies in.
    pub(crate) week: i64,
    pub(crate) month: i64,
    pub(crate) year: i64,
}

impl Zone {
    /// A zone by its name, for example `Europe/Berlin`.
    ///
    /// # Errors
    /// Of the kind config, for a name that is not in the tables.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let known: std::result::Result<Tz, _> = name.parse();
        known.map(Self).map_err(|_| {
            Error::config(format!("time-zone '{name}' is no IANA name (for example Europe/Berlin or UTC)"))
        })
    }

    /// What the wall clock shows at a moment, in milliseconds since 1970.
    pub(crate) fn local(self, moment_ms: i64) -> NaiveDateTime {
        let universal = DateTime::from_timestamp_millis(moment_ms.clamp(EARLIEST_MS, LATEST_MS));
        universal.unwrap_or_default().with_timezone(&self.0).naive_local()
    }
}

impl Periods {
    /// The periods that a wall-clock time falls into.
    pub(crate) fn of(local: NaiveDateTime) -> Self {
        let day = i64::from(local.num_days_from_ce());
        let week = local.iso_week();
        let year = i64::from(local.year());
        Self {
            hour: day * 24 + i64::from(local.hour()),
            day,
            week: i64::from(week.year()) * 100 + i64::from(week.week()),
            month: year * 12 + i64::from(local.month0()),
            year,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_zone_is_refused() {
        for name in ["", "Mars/Olympus", "europe/berlin", "+02:00"] {
            let error = Zone::parse(name).unwrap_err();
            assert_eq!(error.kind, tidemark_plugin::ErrorKind::Config);
            assert!(error.message.contains(&format!("time-zone '{name}'")), "{}", error.message);
        }
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        for name in ["Pacific/Kiritimati", "Etc/GMT+12", "UTC"] {
            for moment in [i64::MIN, i64::MAX, 0] {
                let local = Zone::parse(name).unwrap().local(moment);
                assert!((1..=9999).contains(&local.year()), "{local}");
            }
        }
    }
}
