//! Hours of the day in which work may run, for example `22:00-06:00` on weekdays.
//!
//! A window opens on each of its days at the first moment that shows its opening time and closes at the first moment
//! that shows its closing time, on the next day where that is the earlier of the two. So it opens once a day and never
//! reopens when the clock goes back; where a time is left out, the first moment after the gap takes its place.

use chrono::{Datelike as _, Days, NaiveDate, NaiveTime, Weekday};
use tidemark_model::UtcMillis;

use crate::calendar::Zone;
use crate::schedule::ScheduleError;

const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Run windows: the same hours on some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    opens: NaiveTime,
    /// None at the end of the day.
    closes: Option<NaiveTime>,
    /// Whether it opens on a day, from Monday.
    days: [bool; 7],
}

impl Window {
    /// Hours as `22:00-06:00` (`00:00-24:00` is the whole day), and the days on which the window opens as
    /// `mon-fri`, `sat,sun` or `fri-mon`; without days on all of them.
    ///
    /// # Errors
    /// [`ScheduleError::Window`].
    pub fn parse(hours: &str, days: Option<&str>) -> Result<Self, ScheduleError> {
        let refused = |text: &str, reason: String| ScheduleError::Window { text: text.to_owned(), reason };
        let (opens, closes) =
            hours.split_once('-').ok_or_else(|| refused(hours, "22:00-06:00 is expected".to_owned()))?;
        let time = |text: &str| {
            let time = NaiveTime::parse_from_str(text.trim(), "%H:%M");
            time.map_err(|_| refused(hours, format!("'{}' is no time of the day", text.trim())))
        };
        let opens = time(opens)?;
        let closes = if closes.trim() == "24:00" { None } else { Some(time(closes)?) };
        if closes == Some(opens) {
            return Err(refused(hours, "it is empty (a whole day is 00:00-24:00)".to_owned()));
        }
        let days = match days {
            None => [true; 7],
            Some(text) => parse_days(text).map_err(|reason| refused(text, reason))?,
        };
        Ok(Self { opens, closes, days })
    }

    /// Whether it is open at a moment.
    #[must_use]
    pub fn contains(&self, at: UtcMillis, zone: Zone) -> bool {
        self.around(at, zone).iter().any(|&(opens, closes)| opens <= at && at < closes)
    }

    /// When it opens next, later than `after`. None where it never closes.
    #[must_use]
    pub fn opens_after(&self, after: UtcMillis, zone: Zone) -> Option<UtcMillis> {
        self.around(after, zone).iter().map(|window| window.0).find(|opens| *opens > after)
    }

    /// When it closes next, later than `after`: the end of the window that is open then, or of the one that opens
    /// next. None where it never closes.
    #[must_use]
    pub fn closes_after(&self, after: UtcMillis, zone: Zone) -> Option<UtcMillis> {
        let windows = self.around(after, zone);
        let last = windows.last().copied()?;
        windows.iter().map(|window| window.1).find(|closes| *closes > after && *closes != last.1)
    }

    /// The windows from some days before `at` to some weeks after it, in order, those that touch made one. The last may
    /// be cut off.
    fn around(&self, at: UtcMillis, zone: Zone) -> Vec<(UtcMillis, UtcMillis)> {
        let today = zone.local(at).date();
        let first = today.checked_sub_days(Days::new(9)).unwrap_or(today);
        let mut windows: Vec<(UtcMillis, UtcMillis)> = Vec::new();
        for day in first.iter_days().take(27).filter(|day| self.days[day.weekday() as usize]) {
            let (opens, closes) = self.on(day, zone);
            match windows.last_mut() {
                Some(before) if before.1 >= opens => before.1 = before.1.max(closes),
                _ if opens < closes => windows.push((opens, closes)),
                _ => {}
            }
        }
        windows
    }

    fn on(&self, day: NaiveDate, zone: Zone) -> (UtcMillis, UtcMillis) {
        let next = day.checked_add_days(Days::new(1)).unwrap_or(day);
        let closes = match self.closes {
            Some(time) if time > self.opens => day.and_time(time),
            Some(time) => next.and_time(time),
            None => next.into(),
        };
        (zone.first_moment(day.and_time(self.opens)), zone.first_moment(closes))
    }
}

fn parse_days(text: &str) -> Result<[bool; 7], String> {
    let day = |name: &str| {
        let name = name.trim();
        let three = name.get(..3).unwrap_or(name).to_ascii_lowercase();
        let known = name.parse::<Weekday>().is_ok();
        let at = DAY_NAMES.iter().position(|day| known && *day == three);
        at.ok_or_else(|| format!("'{name}' is no day of the week (mon, tue, wed, thu, fri, sat, sun)"))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (mut at, to) = (day(from)?, day(to)?);
        days[at] = true;
        while at != to {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::moment;

    fn berlin() -> Zone {
        Zone::parse("Europe/Berlin").unwrap()
    }

    fn at(text: &str) -> UtcMillis {
        moment(text, berlin())
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_opens_on() {
        let window = Window::parse("22:00-06:00", Some("mon-fri")).unwrap();
        // 12 June 2026 is a Friday.
        for (text, open) in [
            ("2026-06-12T21:59", false),
            ("2026-06-12T22:00", true),
            ("2026-06-13T05:59", true),
            ("2026-06-13T06:00", false),
            ("2026-06-13T23:00", false),
            ("2026-06-15T03:00", false),
            ("2026-06-15T22:00", true),
        ] {
            assert_eq!(window.contains(at(text), berlin()), open, "{text}");
        }
        let next = |text| window.opens_after(at(text), berlin());
        assert_eq!(next("2026-06-12T21:00"), Some(at("2026-06-12T22:00")));
        assert_eq!(next("2026-06-12T22:00"), Some(at("2026-06-15T22:00")));
        let end = |text| window.closes_after(at(text), berlin());
        assert_eq!(end("2026-06-12T23:00"), Some(at("2026-06-13T06:00")));
        assert_eq!(end("2026-06-13T06:00"), Some(at("2026-06-16T06:00")));
    }

    #[test]
    fn whole_days_touch() {
        let working = Window::parse("00:00-24:00", Some("mon-fri")).unwrap();
        assert_eq!(working.closes_after(at("2026-06-10T12:00"), berlin()), Some(at("2026-06-13T00:00")));
        assert_eq!(working.opens_after(at("2026-06-10T12:00"), berlin()), Some(at("2026-06-15T00:00")));
        let always = Window::parse("00:00-24:00", None).unwrap();
        assert!(always.contains(at("2026-03-29T03:00"), berlin()));
        assert_eq!(always.closes_after(at("2026-06-10T12:00"), berlin()), None);
        assert_eq!(always.opens_after(at("2026-06-10T12:00"), berlin()), None);
    }

    #[test]
    fn the_switches_neither_reopen_nor_lose_it() {
        let night = Window::parse("22:00-02:30", None).unwrap();
        let closes = night.closes_after(at("2026-10-24T23:00"), berlin());
        assert_eq!(closes, Some(moment("2026-10-25T00:30:00Z", Zone::UTC)));
        assert!(!night.contains(moment("2026-10-25T01:15:00Z", Zone::UTC), berlin()));
        let closes = night.closes_after(at("2026-03-28T23:00"), berlin());
        assert_eq!(closes, Some(at("2026-03-29T03:00")));
        let early = Window::parse("02:30-06:00", None).unwrap();
        assert_eq!(early.opens_after(at("2026-03-29T01:00"), berlin()), Some(at("2026-03-29T03:00")));
        // Open through the whole repeated hour.
        assert!(early.contains(moment("2026-10-25T01:10:00Z", Zone::UTC), berlin()));
        // It lies wholly in the gap: closed that day.
        let short = Window::parse("02:10-02:50", None).unwrap();
        assert_eq!(short.opens_after(at("2026-03-28T12:00"), berlin()), Some(at("2026-03-30T02:10")));
    }

    #[test]
    fn days_are_lists_and_ranges() {
        let on = |text| Window::parse("08:00-09:00", Some(text)).map(|window| window.days);
        assert_eq!(on("sat,sun"), Ok([false, false, false, false, false, true, true]));
        assert_eq!(on("Fri-mon"), Ok([true, false, false, false, true, true, true]));
        assert_eq!(on("monday, wed"), Ok([true, false, true, false, false, false, false]));
        for (hours, days) in [("8-9", None), ("22:00", None), ("08:00-08:00", None), ("25:00-26:00", None)] {
            assert!(Window::parse(hours, days).is_err(), "{hours}");
        }
        let error = on("mon-xyz").unwrap_err();
        assert!(error.to_string().contains("'xyz'"), "{error}");
    }
}
