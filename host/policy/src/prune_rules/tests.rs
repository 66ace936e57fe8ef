//! Timelines with answers worked out by hand, and what raising a number does.

use proptest::prelude::*;
use tidemark_model::{RetentionPoint, UtcMillis};

use super::*;
use crate::fixtures::{hours_before, moment, point};

/// A name, a zone, the rules, and the backups with what keeps each (`-` goes). A `!` pins a backup. Times are UTC where
/// they end in `Z`, else wall-clock times of the zone.
type Timeline = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const PLAIN: &[Timeline] = &[
    ("nothing at all", "UTC", "daily=1", &[]),
    ("no rule keeps all", "UTC", "", &[("2026-01-02", "no rules"), ("2020-01-01", "no rules")]),
    ("a rule of 0 is none", "UTC", "daily=0", &[("2026-01-02", "no rules"), ("2020-01-01", "no rules")]),
    ("last one", "UTC", "last=1", &[("2026-01-02", "last"), ("2026-01-01", "-")]),
    (
        "last counts backups, not periods",
        "UTC",
        "last=2",
        &[("2026-01-02T10:02", "last"), ("2026-01-02T10:01", "last"), ("2026-01-02T10:00", "-")],
    ),
    ("more than there are", "UTC", "last=9", &[("2026-01-02", "last"), ("2026-01-01", "last")]),
    (
        "two at one moment are two; the smaller id counts as the newer",
        "UTC",
        "last=1",
        &[("2026-01-02T10:00", "last"), ("2026-01-02T10:00", "-")],
    ),
    (
        "several in one hour: the newest",
        "UTC",
        "hourly=2",
        &[
            ("2026-01-02T10:59", "hourly"),
            ("2026-01-02T10:30", "-"),
            ("2026-01-02T10:00", "-"),
            ("2026-01-02T09:59", "hourly"),
            ("2026-01-02T08:59", "-"),
        ],
    ),
    (
        "hours without a backup do not count",
        "UTC",
        "hourly=2",
        &[("2026-01-02T10:00", "hourly"), ("2025-06-01T03:00", "hourly"), ("2025-06-01T02:00", "-")],
    ),
    (
        "the newest of each day",
        "UTC",
        "daily=2",
        &[
            ("2026-01-03T22:00", "daily"),
            ("2026-01-03T10:00", "-"),
            ("2026-01-02T22:00", "daily"),
            ("2026-01-02T10:00", "-"),
            ("2026-01-01T22:00", "-"),
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
        "months after days",
        "UTC",
        "daily=1 monthly=2",
        &[
            ("2026-03-15", "daily"),
            ("2026-03-01", "-"),
            ("2026-02-28", "monthly"),
            ("2026-02-27", "-"),
            ("2026-01-31", "monthly"),
            ("2025-12-31", "-"),
        ],
    ),
    (
        "years after months",
        "UTC",
        "monthly=1 yearly=2",
        &[
            ("2026-03-15", "monthly"),
            ("2026-02-15", "-"),
            ("2025-12-31", "yearly"),
            ("2025-01-01", "-"),
            ("2024-06-01", "yearly"),
            ("2023-06-01", "-"),
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
        "pinned ones stay and are not counted",
        "UTC",
        "daily=1",
        &[
            ("!2026-01-03T22:00", "pinned"),
            ("2026-01-03T10:00", "daily"),
            ("2026-01-02", "-"),
            ("!2025-01-01", "pinned"),
        ],
    ),
    (
        "a pinned one does not cover its day for the rule that follows",
        "UTC",
        "last=1 daily=1",
        &[
            ("2026-01-04", "last"),
            ("!2026-01-03T22:00", "pinned"),
            ("2026-01-03T10:00", "daily"),
            ("2026-01-02", "-"),
        ],
    ),
    (
        "a whole day of pinned ones does not count as a day",
        "UTC",
        "daily=2",
        &[("2026-01-04", "daily"), ("!2026-01-03", "pinned"), ("2026-01-02", "daily"), ("2026-01-01", "-")],
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
        "years are calendar years, whatever the week says",
        "UTC",
        "yearly=2",
        &[("2026-01-01", "yearly"), ("2025-12-31", "yearly"), ("2025-12-29", "-")],
    ),
    (
        "a week that ends in the next year covers that year only",
        "UTC",
        "weekly=1 yearly=2",
        &[("2026-01-02", "weekly"), ("2025-12-30", "-"), ("2025-12-27", "yearly"), ("2024-12-31", "yearly")],
    ),
    (
        "a leap day is a day",
        "UTC",
        "daily=3",
        &[("2024-03-01", "daily"), ("2024-02-29", "daily"), ("2024-02-28", "daily"), ("2024-02-27", "-")],
    ),
    (
        "and the newest of its month",
        "UTC",
        "monthly=2 yearly=2",
        &[
            ("2024-03-31", "monthly"),
            ("2024-02-29T23:59", "monthly"),
            ("2024-02-29T00:00", "-"),
            ("2023-12-31", "yearly"),
            ("2023-02-28", "-"),
            ("2022-02-28", "yearly"),
        ],
    ),
    (
        "a day ends at local midnight",
        "Europe/Berlin",
        "daily=2",
        &[("2026-01-01T22:59Z", "daily"), ("2025-12-31T23:00Z", "-"), ("2025-12-31T22:59Z", "daily")],
    ),
    (
        "so does a year",
        "Pacific/Kiritimati",
        "yearly=2",
        &[("2025-12-31T10:00Z", "yearly"), ("2025-12-31T09:59Z", "yearly"), ("2025-06-01T00:00Z", "-")],
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
        "New York, an hour left out",
        "America/New_York",
        "hourly=2",
        &[("2026-03-08T07:10Z", "hourly"), ("2026-03-08T06:50Z", "hourly"), ("2026-03-08T06:10Z", "-")],
    ),
    (
        "New York, an hour repeated",
        "America/New_York",
        "hourly=2",
        &[
            ("2026-11-01T06:50Z", "hourly"),
            ("2026-11-01T05:50Z", "-"),
            ("2026-11-01T04:50Z", "hourly"),
            ("2026-11-01T03:50Z", "-"),
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
            ("2026-04-04T14:30Z", "-"),
            ("2026-04-04T14:00Z", "-"),
            ("2026-04-04T13:59Z", "hourly"),
        ],
    ),
    (
        "given in any order, also where a clock was wrong",
        "UTC",
        "daily=2",
        &[("2026-01-01", "-"), ("2026-01-03", "daily"), ("2026-01-02", "daily"), ("2025-12-31", "-")],
    ),
    (
        "dated into the future: the rules do not mind",
        "UTC",
        "daily=1 yearly=1",
        &[("2036-01-01", "daily"), ("2026-01-02", "yearly"), ("2026-01-01", "-")],
    ),
    (
        "a clock years behind for a while",
        "UTC",
        "last=2 monthly=1",
        &[("2026-01-03", "last"), ("1970-01-01", "-"), ("2026-01-02", "last"), ("2025-12-01", "monthly")],
    ),
];

fn rules(text: &str) -> KeepRules {
    let mut rules = KeepRules::default();
    for (name, number) in text.split_whitespace().map(|rule| rule.split_once('=').unwrap()) {
        *rules.get_mut(name).unwrap() = number.parse().unwrap();
    }
    rules
}

#[test]
fn the_timelines_come_out_as_worked_out_by_hand() {
    let tables = [PLAIN, CALENDAR, CLOCKS].concat();
    assert!(tables.len() >= 30, "{}", tables.len());
    for (name, zone, rule_text, backups) in tables {
        let zone = Zone::parse(zone).unwrap();
        let points: Vec<RetentionPoint> =
            backups.iter().enumerate().map(|(n, b)| parse(n, b.0, zone)).collect();
        let kept = prune_rules(&points, rules(rule_text), zone);
        let words: Vec<&str> = kept.iter().map(|rule| rule.map_or("-", KeepRule::as_str)).collect();
        let expected: Vec<&str> = backups.iter().map(|backup| backup.1).collect();
        assert_eq!(words, expected, "{name}");
    }
}

fn parse(number: usize, text: &str, zone: Zone) -> RetentionPoint {
    let (pinned, time) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let time = time.strip_suffix('Z').map_or(time.to_owned(), |minute| format!("{minute}:00Z"));
    RetentionPoint { pinned, ..point(number, moment(&time, zone)) }
}

/// The smallest case in which a higher number keeps fewer: Sunday 1 February and Saturday 31 January are one week.
#[test]
fn a_counted_week_may_take_what_the_monthly_rule_had_kept() {
    let points: Vec<_> =
        ["2026-02-01", "2026-01-31"].iter().enumerate().map(|(n, text)| parse(n, text, Zone::UTC)).collect();
    let kept = |text| prune_rules(&points, rules(text), Zone::UTC);
    assert_eq!(kept("monthly=2"), [Some(KeepRule::Monthly), Some(KeepRule::Monthly)]);
    assert_eq!(kept("weekly=1 monthly=2"), [Some(KeepRule::Weekly), None]);
}

fn history() -> impl Strategy<Value = Vec<RetentionPoint>> {
    let end = moment("2026-07-01", Zone::UTC);
    let one = (prop_oneof![0_i64..100, 0_i64..3000, 0_i64..30_000], prop::bool::weighted(0.1));
    prop::collection::vec(one, 0..60).prop_map(move |all| {
        let made = all.into_iter().enumerate();
        made.map(|(n, (hours, pinned))| RetentionPoint { pinned, ..point(n, hours_before(end, hours)) })
            .collect()
    })
}

fn numbers() -> impl Strategy<Value = [u32; 6]> {
    prop::array::uniform6(prop_oneof![Just(0_u32), 0_u32..8])
}

fn from_numbers(numbers: [u32; 6]) -> KeepRules {
    let [last, hourly, daily, weekly, monthly, yearly] = numbers;
    KeepRules { last, hourly, daily, weekly, monthly, yearly }
}

fn zones() -> impl Strategy<Value = Zone> {
    let names = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns"];
    prop::sample::select(names.map(|name| Zone::parse(name).unwrap()).to_vec())
}

/// Whether `raised` keeps all that `before` keeps.
fn only_adds(points: &[RetentionPoint], before: [u32; 6], raised: [u32; 6], zone: Zone) -> bool {
    let kept = |numbers| prune_rules(points, from_numbers(numbers), zone);
    kept(before).iter().zip(kept(raised)).all(|(old, new)| old.is_none() || new.is_some())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn where_periods_nest_a_higher_number_only_adds(
        points in history(), mut before in numbers(), at in 0_usize..6, by in 1_u32..5, weeks in any::<bool>(),
        zone in zones(),
    ) {
        if weeks { (before[4], before[5]) = (0, 0) } else { before[3] = 0 }
        let mut raised = before;
        raised[at] += by;
        let nests = raised[3] == 0 || (raised[4] == 0 && raised[5] == 0);
        prop_assume!(nests && before != [0; 6]);
        prop_assert!(only_adds(&points, before, raised, zone), "{:?} -> {:?}", before, raised);
    }

    #[test]
    fn raising_the_last_rule_in_force_only_adds(
        points in history(), before in numbers(), by in 1_u32..5, zone in zones(),
    ) {
        let Some(at) = before.iter().rposition(|number| *number > 0) else { return Ok(()) };
        let mut raised = before;
        raised[at] += by;
        prop_assert!(only_adds(&points, before, raised, zone));
        let mut adding_a_coarser_one = before;
        adding_a_coarser_one[5] += by;
        prop_assert!(only_adds(&points, before, adding_a_coarser_one, zone));
    }

    /// Whatever is raised, what its rule and those before it keep stays.
    #[test]
    fn a_raised_rule_takes_nothing_from_itself_and_those_before(
        points in history(), before in numbers(), at in 0_usize..6, zone in zones(),
    ) {
        let (mut cut, mut raised) = (before, before);
        raised[at] += 1;
        let kept = prune_rules(&points, from_numbers(raised), zone);
        cut[at + 1..].fill(0);
        prop_assume!(cut != [0; 6]);
        for (point, rule) in prune_rules(&points, from_numbers(cut), zone).iter().enumerate() {
            prop_assert!(rule.is_none() || kept[point].is_some());
        }
    }

    #[test]
    fn the_order_of_the_points_does_not_matter(points in history(), numbers in numbers(), zone in zones()) {
        let rules = from_numbers(numbers);
        let mut turned = points.clone();
        turned.reverse();
        let mut answers = prune_rules(&turned, rules, zone);
        answers.reverse();
        prop_assert_eq!(answers, prune_rules(&points, rules, zone));
    }

    /// The rules on what they kept change nothing more.
    #[test]
    fn a_second_run_at_once_removes_nothing_where_periods_nest(
        points in history(), mut numbers in numbers(), zone in zones(),
    ) {
        numbers[3] = 0;
        let rules = from_numbers(numbers);
        let verdicts = prune_rules(&points, rules, zone);
        let left: Vec<_> = points.iter().zip(&verdicts).filter(|(_, rule)| rule.is_some()).map(|(p, _)| p.clone()).collect();
        prop_assert!(prune_rules(&left, rules, zone).iter().all(Option::is_some));
    }
}

/// Millions of points would be too much for a table; ten thousand must be nothing.
#[test]
fn a_long_history_is_quick() {
    let end = UtcMillis(1_800_000_000_000);
    let points: Vec<_> = (0..10_000).map(|n| point(n, hours_before(end, n as i64))).collect();
    let kept =
        prune_rules(&points, from_numbers([3, 24, 7, 5, 12, 10]), Zone::parse("Europe/Berlin").unwrap());
    assert!(kept.iter().flatten().count() > 40);
}
