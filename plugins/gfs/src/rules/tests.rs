//! Timelines with answers worked out by hand.

use chrono::{NaiveDateTime, TimeZone as _};
use chrono_tz::Tz;
use tidemark_plugin::policy::Ranks;

use super::*;

/// A name, a zone, the rules, and the backups with what keeps each (`-` goes). A `!` pins a backup. Times are UTC where
/// they end in `Z`, else wall-clock times of the zone; a date alone is its midnight.
type Timeline = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const COUNTING: &[Timeline] = &[
    ("nothing at all", "UTC", "daily=1", &[]),
    ("no rule keeps all", "UTC", "", &[("2026-01-02", "no rules"), ("!2020-01-01", "pinned")]),
    (
        "last counts backups, not periods",
        "UTC",
        "last=2",
        &[("2026-01-02T10:02", "last"), ("2026-01-02T10:01", "last"), ("2026-01-02T10:00", "-")],
    ),
    (
        "of two at one moment the smaller id counts as the newer",
        "UTC",
        "last=1",
        &[("2026-01-02T10:00", "last"), ("2026-01-02T10:00", "-")],
    ),
    (
        "hours without a backup do not count",
        "UTC",
        "hourly=2",
        &[
            ("2026-01-02T10:59", "hourly"),
            ("2026-01-02T10:00", "-"),
            ("2025-06-01T03:00", "hourly"),
            ("2025-06-01T02:59", "-"),
        ],
    ),
    (
        "what last kept covers its day, and the day's others go",
        "UTC",
        "last=1 daily=1",
        &[
            ("2026-01-03T22:00", "last"),
            ("2026-01-03T10:00", "-"),
            ("2026-01-02T22:00", "daily"),
            ("2026-01-01T22:00", "-"),
        ],
    ),
    (
        "a rule begins where the one before ended",
        "UTC",
        "daily=2 weekly=2",
        // Wednesday, Tuesday; Monday is of the covered week; Sunday and the Sunday before.
        &[
            ("2026-01-14", "daily"),
            ("2026-01-13", "daily"),
            ("2026-01-12", "-"),
            ("2026-01-11", "weekly"),
            ("2026-01-10", "-"),
            ("2026-01-04", "weekly"),
            ("2025-12-28", "-"),
        ],
    ),
    (
        "all six rules",
        "UTC",
        "last=1 hourly=1 daily=1 weekly=1 monthly=1 yearly=1",
        &[
            ("2026-05-20T12:30", "last"),
            ("2026-05-20T12:00", "-"),
            ("2026-05-20T11:00", "hourly"),
            ("2026-05-20T10:00", "-"),
            ("2026-05-19T12:00", "daily"),
            ("2026-05-18T12:00", "-"),
            ("2026-05-17T12:00", "weekly"),
            ("2026-05-10T12:00", "-"),
            ("2026-04-30T12:00", "monthly"),
            ("2026-03-31T12:00", "-"),
            ("2025-12-31T12:00", "yearly"),
            ("2024-12-31T12:00", "-"),
        ],
    ),
    (
        "pinned ones stay, are not counted and cover nothing",
        "UTC",
        "last=1 daily=1",
        &[
            ("2026-01-04", "last"),
            ("!2026-01-03T22:00", "pinned"),
            ("2026-01-03T10:00", "daily"),
            ("2026-01-02", "-"),
            ("!2025-01-01", "pinned"),
        ],
    ),
    (
        "a counted week takes what the monthly rule would have kept",
        "UTC",
        "weekly=1 monthly=2",
        // Sunday 1 February and Saturday 31 January are one week.
        &[("2026-02-01", "weekly"), ("2026-01-31", "-")],
    ),
    (
        "given in any order, also dated into the future",
        "UTC",
        "daily=2",
        &[("2026-01-01", "-"), ("2036-01-03", "daily"), ("2026-01-02", "daily"), ("2025-12-31", "-")],
    ),
];

const CALENDAR: &[Timeline] = &[
    (
        "the last days of December may be of the next year's first week",
        "UTC",
        "weekly=2",
        // Monday 29 December 2025 to Sunday 4 January 2026 is one week.
        &[
            ("2026-01-04", "weekly"),
            ("2026-01-01", "-"),
            ("2025-12-31", "-"),
            ("2025-12-29", "-"),
            ("2025-12-28", "weekly"),
            ("2025-12-22", "-"),
        ],
    ),
    (
        "the first days of January may be of the last year's week 53",
        "UTC",
        "weekly=3",
        &[("2021-01-04", "weekly"), ("2021-01-03", "weekly"), ("2020-12-28", "-"), ("2020-12-27", "weekly")],
    ),
    (
        "a week that ends in the next year covers that year only",
        "UTC",
        "weekly=1 yearly=2",
        &[("2026-01-02", "weekly"), ("2025-12-30", "-"), ("2025-12-27", "yearly"), ("2024-12-31", "yearly")],
    ),
    (
        "a leap day is a day, and the newest of its month",
        "UTC",
        "daily=1 monthly=2",
        &[
            ("2024-03-01", "daily"),
            ("2024-02-29T23:59", "monthly"),
            ("2024-02-29", "-"),
            ("2024-01-31", "monthly"),
        ],
    ),
    (
        "a day ends at local midnight",
        "Europe/Berlin",
        "daily=2",
        &[("2026-01-01T22:59Z", "daily"), ("2025-12-31T23:00Z", "-"), ("2025-12-31T22:59Z", "daily")],
    ),
    (
        "so does a year, and a week's Monday",
        "Pacific/Kiritimati",
        "weekly=2 yearly=1",
        // Local: Monday 5 January 00:00; Sunday 4 January 23:59; 1 January 00:00 of that week; 31 December 23:59 too.
        &[
            ("2026-01-04T10:00Z", "weekly"),
            ("2026-01-04T09:59Z", "weekly"),
            ("2025-12-31T10:00Z", "-"),
            ("2025-12-31T09:59Z", "-"),
            ("2025-12-28T09:59Z", "yearly"),
        ],
    ),
];

const CLOCKS: &[Timeline] = &[
    (
        "Berlin, an hour left out: 01 is followed by 03",
        "Europe/Berlin",
        "hourly=3",
        &[
            ("2026-03-29T01:30Z", "hourly"),
            ("2026-03-29T01:00Z", "-"),
            ("2026-03-29T00:59Z", "hourly"),
            ("2026-03-28T23:30Z", "hourly"),
        ],
    ),
    (
        "Berlin, an hour repeated: it is one hour",
        "Europe/Berlin",
        "hourly=2",
        &[
            ("2026-10-25T02:00Z", "hourly"),
            ("2026-10-25T01:30Z", "hourly"),
            ("2026-10-25T00:30Z", "-"),
            ("2026-10-24T23:30Z", "-"),
        ],
    ),
    (
        "Berlin, the day of 25 hours is one day",
        "Europe/Berlin",
        "daily=2",
        &[
            ("2026-10-25T22:59Z", "daily"),
            ("2026-10-24T22:00Z", "-"),
            ("2026-10-24T21:59Z", "daily"),
            ("2026-10-24T00:00Z", "-"),
        ],
    ),
    (
        "New York, the day of 23 hours",
        "America/New_York",
        "daily=2",
        &[
            ("2026-03-09T03:59Z", "daily"),
            ("2026-03-08T05:00Z", "-"),
            ("2026-03-08T04:59Z", "daily"),
            ("2026-03-07T05:00Z", "-"),
        ],
    ),
    (
        "Lord Howe, half an hour left out: the hour 02 has its second half only",
        "Australia/Lord_Howe",
        "hourly=3",
        &[
            ("2026-10-03T16:00Z", "hourly"),
            ("2026-10-03T15:45Z", "hourly"),
            ("2026-10-03T15:30Z", "-"),
            ("2026-10-03T15:29Z", "hourly"),
        ],
    ),
    (
        "Lord Howe, half an hour repeated: the hour 01 lasts 90 minutes",
        "Australia/Lord_Howe",
        "hourly=2",
        &[
            ("2026-04-04T15:29Z", "hourly"),
            ("2026-04-04T15:00Z", "-"),
            ("2026-04-04T14:00Z", "-"),
            ("2026-04-04T13:59Z", "hourly"),
        ],
    ),
];

#[test]
fn the_timelines_come_out_as_worked_out_by_hand() {
    for (name, zone, rules, backups) in [COUNTING, CALENDAR, CLOCKS].concat() {
        let points: Vec<Point> =
            backups.iter().enumerate().map(|(number, (text, _))| parse(number, text, zone)).collect();
        let kept = judge(&points, numbers(rules), Zone::parse(zone).unwrap());
        let words: Vec<&str> = kept.iter().map(|rule| rule.map_or("-", Rule::as_str)).collect();
        let expected: Vec<&str> = backups.iter().map(|(_, word)| *word).collect();
        assert_eq!(words, expected, "{name}");
    }
}

/// The host bounds what a decision may compute; ten thousand backups must be nothing.
#[test]
fn a_long_history_is_counted_whole() {
    let hourly = |number: usize| {
        let created_ms = 1_800_000_000_000 - i64::try_from(number).unwrap() * 3_600_000;
        point(number, created_ms, false)
    };
    let points: Vec<Point> = (0..10_000).map(hourly).collect();
    let numbers = numbers("last=3 hourly=24 daily=7 weekly=5 monthly=6");
    let kept = judge(&points, numbers, Zone::parse("Europe/Berlin").unwrap());
    assert_eq!(kept.iter().flatten().count(), 3 + 24 + 7 + 5 + 6);
}

fn numbers(text: &str) -> Numbers {
    let mut numbers = Numbers::default();
    for (name, number) in text.split_whitespace().map(|rule| rule.split_once('=').unwrap()) {
        let rule = match name {
            "last" => &mut numbers.last,
            "hourly" => &mut numbers.hourly,
            "daily" => &mut numbers.daily,
            "weekly" => &mut numbers.weekly,
            "monthly" => &mut numbers.monthly,
            "yearly" => &mut numbers.yearly,
            _ => panic!("no rule {name}"),
        };
        *rule = number.parse().unwrap();
    }
    numbers
}

fn parse(number: usize, text: &str, zone: &str) -> Point {
    let (pinned, time) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let (zone, time) = time.strip_suffix('Z').map_or((zone, time), |rest| ("UTC", rest));
    let time = if time.contains('T') { time.to_owned() } else { format!("{time}T00:00") };
    let local = NaiveDateTime::parse_from_str(&time, "%Y-%m-%dT%H:%M").unwrap();
    let moment = zone.parse::<Tz>().unwrap().from_local_datetime(&local).single().unwrap();
    point(number, moment.timestamp_millis(), pinned)
}

/// No rank is given: none may be looked at.
fn point(number: usize, created_ms: i64, pinned: bool) -> Point {
    Point {
        id: format!("00000000-0000-4000-8000-{number:012}"),
        created_ms,
        age_days: 0.0,
        rank: Ranks { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 },
        backup_type: "incremental".to_owned(),
        verified: false,
        damaged: false,
        pinned,
        size_bytes: 1,
    }
}
