//! Both switches of daylight saving in three zones, and what holds of every schedule.

use proptest::prelude::*;

use super::*;
use crate::fixtures::moment;

/// The runs of `cron` in `zone` between two moments, both in universal time, as their texts to the minute.
fn runs(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let schedule = Schedule::parse(cron, zone).unwrap();
    let (from, to) = (moment(from, Zone::UTC), moment(to, Zone::UTC));
    let runs = schedule.upcoming(from, 1000).into_iter().take_while(|at| *at <= to);
    runs.map(|at| Zone::UTC.text(at)[5..16].to_owned()).collect()
}

#[test]
fn a_fixed_hour_runs_once_a_day_over_both_switches() {
    // (cron, zone, from, to, runs), all in universal time.
    let table: &[(&str, &str, &str, &str, &[&str])] = &[
        // 02:30 does not exist on the 29th: 03:00 instead.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00",
            "2026-03-30T12:00",
            &["03-28T01:30", "03-29T01:00", "03-30T00:30"],
        ),
        // 02:30 comes twice on the 25th: the first.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T00:00",
            "2026-10-26T12:00",
            &["10-24T00:30", "10-25T00:30", "10-26T01:30"],
        ),
        (
            "15 2 * * *",
            "America/New_York",
            "2026-03-07T00:00",
            "2026-03-09T12:00",
            &["03-07T07:15", "03-08T07:00", "03-09T06:15"],
        ),
        (
            "15 1 * * *",
            "America/New_York",
            "2026-10-31T00:00",
            "2026-11-02T12:00",
            &["10-31T05:15", "11-01T05:15", "11-02T06:15"],
        ),
        // 02:00 to 02:30 is left out on 4 October, 01:30 to 02:00 repeated on 5 April.
        (
            "10 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-02T18:00",
            "2026-10-04T18:00",
            &["10-03T15:30", "10-04T15:10"],
        ),
        (
            "40 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-03T18:00",
            "2026-04-05T18:00",
            &["04-04T14:40", "04-05T15:10"],
        ),
        // Several matches inside the gap are one run, and one that ends with it is the same run.
        ("0,20,40 2 * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T12:00", &["03-29T01:00"]),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T12:00", &["03-29T01:00"]),
        // Neither is a repeated hour walked twice by a range.
        (
            "0 1-3 * * *",
            "Europe/Berlin",
            "2026-10-24T22:00",
            "2026-10-25T12:00",
            &["10-24T23:00", "10-25T00:00", "10-25T02:00"],
        ),
    ];
    for (cron, zone, from, to, expected) in table {
        assert_eq!(runs(cron, zone, from, to), *expected, "{cron} in {zone}");
    }
}

#[test]
fn an_hour_by_star_or_step_goes_with_time() {
    let table: &[(&str, &str, &str, &str, &[&str])] = &[
        (
            "0 * * * *",
            "Europe/Berlin",
            "2026-03-28T23:30",
            "2026-03-29T02:30",
            &["03-29T00:00", "03-29T01:00", "03-29T02:00"],
        ),
        (
            "30 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:45",
            "2026-10-25T03:00",
            &["10-25T00:30", "10-25T01:30", "10-25T02:30"],
        ),
        // Nothing runs for the 02:00 that is left out; 04:00 is the next of the even hours.
        (
            "0 */2 * * *",
            "America/New_York",
            "2026-03-08T04:30",
            "2026-03-08T11:00",
            &["03-08T05:00", "03-08T08:00", "03-08T10:00"],
        ),
        (
            "0 */1 * * *",
            "America/New_York",
            "2026-11-01T04:30",
            "2026-11-01T07:30",
            &["11-01T05:00", "11-01T06:00", "11-01T07:00"],
        ),
        (
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2026-10-03T15:10",
            "2026-10-03T15:50",
            &["10-03T15:15", "10-03T15:30", "10-03T15:45"],
        ),
        // 01:30 and 01:45 come twice, 01:15 does not.
        (
            "15,30,45 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:10",
            "2026-04-04T15:20",
            &["04-04T14:15", "04-04T14:30", "04-04T14:45", "04-04T15:00", "04-04T15:15"],
        ),
    ];
    for (cron, zone, from, to, expected) in table {
        assert_eq!(runs(cron, zone, from, to), *expected, "{cron} in {zone}");
    }
}

#[test]
fn all_ways_of_writing_are_understood() {
    let first = |cron: &str| runs(cron, "UTC", "2026-01-01T00:00", "2029-01-01T00:00").remove(0);
    assert_eq!(first("@daily"), "01-02T00:00");
    assert_eq!(first("@hourly"), "01-01T01:00");
    assert_eq!(first("@weekly"), "01-04T00:00");
    assert_eq!(first("0 22 * * MON-FRI"), "01-01T22:00");
    assert_eq!(first("0 22 * FEB sat"), "02-07T22:00");
    assert_eq!(first("30 0 22 * * *"), "01-01T22:00");
    assert_eq!(first("0 0 29 2 *"), "02-29T00:00");
    assert_eq!(first("0 0 L * *"), "01-31T00:00");
    assert_eq!(first("0 0 13 * 5"), "01-02T00:00");
    let words = Schedule::parse("0 22 * * MON-FRI", "Europe/Berlin").unwrap().describe();
    assert!(
        words.contains("22") && words.contains("Monday") && words.ends_with("(Europe/Berlin)"),
        "{words}"
    );
}

#[test]
fn what_is_no_schedule_says_why() {
    let never = |cron: &str| Schedule::parse(cron, "UTC").unwrap_err();
    for cron in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        assert_eq!(never(cron), ScheduleError::Never(cron.to_owned()));
    }
    for cron in
        ["", "soon", "* * * *", "0 0 0 0 0 0 0", "61 * * * *", "0 24 * * *", "@reboot", "0 0 * * MON-XYZ"]
    {
        assert!(matches!(never(cron), ScheduleError::Cron { .. }), "{cron}");
    }
    assert!(matches!(never(&"0,".repeat(500)), ScheduleError::Cron { .. }));
    let zone = Schedule::parse("@daily", "Europe/Berlín").unwrap_err();
    assert!(zone.to_string().contains("Europe/Berlín"), "{zone}");
}

fn zones() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Africa/Casablanca",
    ])
}

/// Around the switches of some years, to the second.
fn moments() -> impl Strategy<Value = UtcMillis> {
    let switches = ["2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00"];
    let more =
        ["2026-10-03T15:30", "2026-04-04T15:00", "2010-11-07T02:31", "2026-02-15T02:00", "2026-03-22T02:00"];
    let all: Vec<UtcMillis> = switches.iter().chain(&more).map(|text| moment(text, Zone::UTC)).collect();
    (prop::sample::select(all), -20_000_000_i64..20_000_000).prop_map(|(at, by)| at.plus_millis(by))
}

fn crons(hour: &'static [&'static str]) -> impl Strategy<Value = String> {
    let minute = prop::sample::select(vec!["0", "30", "*/7", "*", "1,59", "15"]);
    let day = prop::sample::select(vec!["*", "*", "*/2", "L"]);
    (minute, prop::sample::select(hour.to_vec()), day).prop_map(|(m, h, d)| format!("{m} {h} {d} * *"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn runs_are_strictly_later_each(
        cron in crons(&["*", "*/3", "2", "1-3", "0,23", "5-7/2"]), zone in zones(), from in moments(),
    ) {
        let schedule = Schedule::parse(&cron, zone).unwrap();
        let mut last = from;
        for run in schedule.upcoming(from, 20) {
            prop_assert!(run > last);
            prop_assert_eq!(run.0 % 1000, 0);
            last = run;
        }
    }

    /// Every minute of the real time line that shows a match is a run, and no other.
    #[test]
    fn with_time_means_every_moment_that_shows_a_match(
        cron in crons(&["*", "*/3", "*/2"]), zone in zones(), from in moments(),
    ) {
        let schedule = Schedule::parse(&cron, zone).unwrap();
        let zone = schedule.zone();
        let minutes = (1..400).map(|n| UtcMillis((from.0.div_euclid(60_000) + n) * 60_000));
        let shown: Vec<UtcMillis> = minutes
            .filter(|at| schedule.cron.is_time_matching(&zone.local(*at)).unwrap())
            .collect();
        let runs = schedule.upcoming(from, shown.len() + 1);
        prop_assert_eq!(&runs[..shown.len()], &shown[..]);
    }

    /// Each wall-clock match of the following days has exactly one run, and each run belongs to one.
    #[test]
    fn fixed_means_each_wall_clock_match_once(
        cron in crons(&["2", "1-3", "0,23", "1"]), zone in zones(), from in moments(),
    ) {
        let schedule = Schedule::parse(&cron, zone).unwrap();
        let zone = schedule.zone();
        let start = zone.local(from).date().and_hms_opt(0, 0, 0).unwrap();
        let mut expected: Vec<UtcMillis> = (0..3 * 1440)
            .map(|minute| start + chrono::TimeDelta::minutes(minute))
            .filter(|local| schedule.cron.is_time_matching(local).unwrap())
            .map(|local| zone.first_moment(local))
            .filter(|at| *at > from)
            .collect();
        expected.dedup();
        let runs = schedule.upcoming(from, expected.len());
        prop_assert_eq!(runs, expected);
    }
}
