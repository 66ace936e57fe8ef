//! The calendar of a time zone: wall-clock times of moments, the periods they fall into, and the ranks of backups among
//! the newest of each period. Pure; it reads no clock and knows the zones' rules from the tables built in.
//!
//! Two facts shape it. A wall-clock time may stand for no moment (the clock went forward) or for two (it went back), so
//! the way from local to universal time always says which it takes. And periods are periods of *wall-clock text*, as
//! Proxmox Backup Server has them: the hour that a clock going back repeats is one hour, not two.

use std::fmt;

use chrono::{
    DateTime, Datelike, Days, MappedLocalTime, NaiveDate, NaiveDateTime, Offset, SecondsFormat,
    TimeZone as _, Timelike, Utc,
};
use chrono_tz::Tz;
use tidemark_model::{Ranks, RetentionPoint, UtcMillis};

/// 0001-01-02 and 9999-12-30: what lies outside is taken for these, so that no sum of a date overflows.
const EARLIEST: i64 = -62_135_510_400_000;
const LATEST: i64 = 253_402_128_000_000;

/// A text that names no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no time zone (an IANA name is expected, for example Europe/Berlin or UTC)")]
pub struct ZoneError(pub String);

/// An IANA time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone(Tz);

/// The periods of which backups are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// An hour of the wall clock: a repeated one is one.
    Hour,
    /// A calendar day.
    Day,
    /// A week of ISO 8601: from Monday, of the year that its Thursday lies in.
    Week,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

/// A period's identity among those of its kind; later periods have larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeriodKey(i64);

impl PeriodKey {
    /// The period that only the backup at this place lies in.
    pub(crate) fn of_its_own(at: usize) -> Self {
        Self(i64::try_from(at).unwrap_or(i64::MAX))
    }
}

impl Period {
    /// All kinds, the shortest first.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The period of this kind that a wall-clock time falls into.
    #[must_use]
    pub fn key(self, local: NaiveDateTime) -> PeriodKey {
        let week = local.iso_week();
        PeriodKey(match self {
            Self::Hour => i64::from(local.num_days_from_ce()) * 24 + i64::from(local.hour()),
            Self::Day => i64::from(local.num_days_from_ce()),
            Self::Week => i64::from(week.year()) * 100 + i64::from(week.week()),
            Self::Month => i64::from(local.year()) * 12 + i64::from(local.month0()),
            Self::Year => i64::from(local.year()),
        })
    }
}

impl Zone {
    /// Universal time.
    pub const UTC: Self = Self(Tz::UTC);

    /// A zone by its name, for example `Europe/Berlin`.
    ///
    /// # Errors
    /// [`ZoneError`] for a name that is not in the tables.
    pub fn parse(name: &str) -> Result<Self, ZoneError> {
        name.parse().map(Self).map_err(|_| ZoneError(name.to_owned()))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    fn at(self, moment: UtcMillis) -> DateTime<Tz> {
        let utc = DateTime::<Utc>::from_timestamp_millis(moment.0.clamp(EARLIEST, LATEST));
        utc.unwrap_or_default().with_timezone(&self.0)
    }

    /// What the wall clock shows at a moment.
    #[must_use]
    pub fn local(&self, moment: UtcMillis) -> NaiveDateTime {
        self.at(moment).naive_local()
    }

    /// The moment as RFC 3339 text with the zone's offset, to the second.
    #[must_use]
    pub fn text(&self, moment: UtcMillis) -> String {
        self.at(moment).to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// How far the wall clock is ahead of universal time.
    #[must_use]
    pub fn offset_seconds(&self, moment: UtcMillis) -> i32 {
        self.at(moment).offset().fix().local_minus_utc()
    }

    /// The moments at which the wall clock shows `local`: none, one or two, the earlier first.
    #[must_use]
    pub fn moments(&self, local: NaiveDateTime) -> (Option<UtcMillis>, Option<UtcMillis>) {
        let millis = |at: DateTime<Tz>| UtcMillis(at.timestamp_millis());
        match self.0.from_local_datetime(&local) {
            MappedLocalTime::None => (None, None),
            MappedLocalTime::Single(at) => (Some(millis(at)), None),
            MappedLocalTime::Ambiguous(a, b) => (Some(millis(a.min(b))), Some(millis(a.max(b)))),
        }
    }

    /// The first moment at which the wall clock shows `local`, or the first after the gap that swallows it.
    #[must_use]
    pub fn first_moment(&self, local: NaiveDateTime) -> UtcMillis {
        if let (Some(first), _) = self.moments(local) {
            return first;
        }
        // No zone is a day and two hours off, so the end of the gap lies between these.
        let universal = local.and_utc().timestamp();
        let reach = 26 * 3600;
        let found = first_second(universal - reach, universal + reach, |second| {
            self.local(UtcMillis(second * 1000)) >= local
        });
        UtcMillis(found * 1000)
    }

    /// The first moment of a calendar day.
    #[must_use]
    pub fn day_start(&self, day: NaiveDate) -> UtcMillis {
        self.first_moment(day.into())
    }

    /// The same wall-clock time so many calendar days later (see [`Zone::first_moment`] where there is none or two).
    #[must_use]
    pub fn plus_days(&self, moment: UtcMillis, days: u32) -> UtcMillis {
        let local = self.local(moment);
        self.first_moment(local.checked_add_days(Days::new(u64::from(days))).unwrap_or(local))
    }

    /// The end of the repeated stretch of wall-clock time whose first pass holds `moment`; none elsewhere. It is the
    /// moment at which the clock goes back.
    pub(crate) fn clock_goes_back(&self, moment: UtcMillis) -> Option<UtcMillis> {
        let (Some(first), Some(second)) = self.moments(self.local(moment)) else { return None };
        if moment != first {
            return None;
        }
        let before = self.offset_seconds(first);
        let changed = |at: i64| self.offset_seconds(UtcMillis(at * 1000)) != before;
        Some(UtcMillis(first_second(first.0.div_euclid(1000), second.0.div_euclid(1000), changed) * 1000))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first second of `(from, to]` for which `holds`, where it holds from some second on.
fn first_second(from: i64, to: i64, holds: impl Fn(i64) -> bool) -> i64 {
    let (mut not_yet, mut holding) = (from, to);
    while holding - not_yet > 1 {
        let middle = not_yet + (holding - not_yet) / 2;
        if holds(middle) {
            holding = middle;
        } else {
            not_yet = middle;
        }
    }
    holding
}

/// The places of `points` from the newest to the oldest; of two at one moment the one with the smaller id comes first.
#[must_use]
pub fn newest_first(points: &[RetentionPoint]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_unstable_by_key(|&at| (std::cmp::Reverse(points[at].created_at), points[at].id));
    order
}

/// Fills in the calendar ranks of all points. Their order does not matter.
pub fn rank_points(points: &mut [RetentionPoint], zone: Zone) {
    let order = newest_first(points);
    let mut seen: [std::collections::HashSet<PeriodKey>; 5] = Default::default();
    for (last, &at) in order.iter().enumerate() {
        let local = zone.local(points[at].created_at);
        let mut ranks = [Ranks::NONE; 5];
        for ((rank, period), seen) in ranks.iter_mut().zip(Period::ALL).zip(&mut seen) {
            let next = seen.len();
            if seen.insert(period.key(local)) {
                *rank = number(next);
            }
        }
        let [hourly, daily, weekly, monthly, yearly] = ranks;
        points[at].rank = Ranks { last: number(last), hourly, daily, weekly, monthly, yearly };
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(Ranks::NONE)
}

/// How old something made at `created_at` is at `now`, in days of 24 hours.
#[must_use]
pub fn age_days(created_at: UtcMillis, now: UtcMillis) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds stay exact for 285,000 years")]
    let millis = now.0.saturating_sub(created_at.0) as f64;
    millis / 86_400_000.0
}

/// A moment from RFC 3339 text with an offset, or from local text (`2026-03-29T12:00:00`, seconds may be left out, a
/// date alone is its midnight) in `zone`. Where the wall clock shows a local time twice, the first is meant.
///
/// # Errors
/// The text itself, where it is neither.
pub fn parse_moment(text: &str, zone: Zone) -> Result<UtcMillis, String> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(UtcMillis(at.timestamp_millis()));
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(NaiveDateTime::from));
    let local = local.ok_or_else(|| format!("'{text}' is no time (2026-03-29T12:00:00 is expected)"))?;
    let moment = zone.first_moment(local);
    if zone.local(moment) != local {
        return Err(format!("'{text}' does not exist in {zone}: the clock goes forward over it"));
    }
    Ok(moment)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use tidemark_model::{BackupId, BackupType, ByteLen};

    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::parse(name).unwrap()
    }

    fn at(text: &str) -> UtcMillis {
        parse_moment(text, Zone::UTC).unwrap()
    }

    fn point(number: u32, created: &str) -> RetentionPoint {
        RetentionPoint {
            id: BackupId::from_str(&format!("00000000-0000-4000-8000-{number:012}")).unwrap(),
            created_at: at(created),
            age_days: 0.0,
            rank: Ranks::default(),
            backup_type: BackupType::Incremental,
            verified: false,
            damaged: false,
            pinned: false,
            size: ByteLen(1),
        }
    }

    #[test]
    fn a_wall_clock_time_in_a_gap_is_the_first_moment_after_it() {
        for (name, local, expected) in [
            ("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:00:00Z"),
            ("America/New_York", "2026-03-08T02:00", "2026-03-08T07:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-03T15:30:00Z"),
            // A whole day was left out.
            ("Pacific/Apia", "2011-12-30T12:00", "2011-12-30T10:00:00Z"),
        ] {
            let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%dT%H:%M").unwrap();
            assert_eq!(zone(name).first_moment(local), at(expected), "{name}");
            assert!(parse_moment(&local.to_string(), zone(name)).unwrap_err().contains("forward"));
        }
    }

    #[test]
    fn the_moment_the_clock_goes_back_is_known_in_its_first_pass_only() {
        let berlin = zone("Europe/Berlin");
        let back = at("2026-10-25T01:00:00Z");
        assert_eq!(berlin.clock_goes_back(at("2026-10-25T00:10:00Z")), Some(back));
        assert_eq!(berlin.clock_goes_back(at("2026-10-25T01:10:00Z")), None);
        let howe = zone("Australia/Lord_Howe");
        assert_eq!(howe.clock_goes_back(at("2026-04-04T14:40:00Z")), Some(at("2026-04-04T15:00:00Z")));
        assert_eq!(howe.clock_goes_back(at("2026-04-04T14:20:00Z")), None);
    }

    #[test]
    fn ranks_count_the_newest_of_each_period() {
        let mut points = [
            point(1, "2025-12-28T22:00:00Z"),
            point(2, "2025-12-29T22:00:00Z"),
            point(3, "2026-01-01T10:10:00Z"),
            point(4, "2026-01-01T10:50:00Z"),
        ];
        rank_points(&mut points, Zone::UTC);
        let none = Ranks::NONE;
        let ranks = |last, hourly, daily, weekly, monthly, yearly| Ranks {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        };
        assert_eq!(points[3].rank, ranks(0, 0, 0, 0, 0, 0));
        assert_eq!(points[2].rank, ranks(1, none, none, none, none, none));
        // Monday 29 December belongs to the first week of 2026.
        assert_eq!(points[1].rank, ranks(2, 1, 1, none, 1, 1));
        assert_eq!(points[0].rank, ranks(3, 2, 2, 1, none, none));
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        for moment in [i64::MIN, i64::MAX, 0] {
            let local = zone("Pacific/Kiritimati").local(UtcMillis(moment));
            assert!((1..=9999).contains(&local.year()), "{local}");
        }
        assert!((age_days(UtcMillis(0), UtcMillis(43_200_000)) - 0.5).abs() < 1e-9);
        assert!(age_days(UtcMillis(i64::MIN), UtcMillis(i64::MAX)) > 0.0);
    }

    #[test]
    fn local_days_are_not_24_hours() {
        let berlin = zone("Europe/Berlin");
        let noon = at("2026-03-28T11:00:00Z");
        assert_eq!(berlin.plus_days(noon, 1), at("2026-03-29T10:00:00Z"));
        assert_eq!(berlin.text(berlin.plus_days(noon, 1)), "2026-03-29T12:00:00+02:00");
        assert_eq!(
            berlin.day_start(NaiveDate::from_ymd_opt(2026, 3, 30).unwrap()),
            at("2026-03-29T22:00:00Z")
        );
    }
}
