//! Each floor by itself, and what holds whatever a policy says.

use proptest::prelude::*;

use super::*;
use crate::calendar::{Zone, age_days};
use crate::fixtures::{hours_before, moment, point};
use crate::prune_rules::{KeepRules, prune_rules};

fn now() -> UtcMillis {
    moment("2026-06-12T12:00", Zone::UTC)
}

/// One backup a day before now, the newest first.
fn daily(count: i64) -> Vec<RetentionPoint> {
    (0..count).map(|n| point(usize::try_from(n).unwrap(), hours_before(now(), 1 + 24 * n))).collect()
}

fn keepers(points: &[RetentionPoint], verdicts: &[KeepVerdict], floors: &Floors) -> Vec<Option<Keeper>> {
    let kept = |fate: &Fate| match fate {
        Fate::Kept { by, .. } => Some(*by),
        Fate::Dropped => None,
    };
    apply_floors(points, verdicts, floors).fates.iter().map(kept).collect()
}

fn all_may_go(points: &[RetentionPoint]) -> Vec<KeepVerdict> {
    vec![KeepVerdict::MayGo; points.len()]
}

#[test]
fn a_policy_that_lets_all_go_still_keeps_the_newest_good_and_the_pinned() {
    let mut points = daily(5);
    points[0].damaged = true;
    points[4].pinned = true;
    let floors = Floors { max_delete_percent: 100, ..Floors::new(now()) };
    let good = Some(Keeper::NewestGood);
    assert_eq!(
        keepers(&points, &all_may_go(&points), &floors),
        [None, good, None, None, Some(Keeper::Pinned)]
    );
    let more = Floors { min_keep: 2, ..floors };
    let least = Some(Keeper::Minimum);
    assert_eq!(
        keepers(&points, &all_may_go(&points), &more),
        [None, good, least, None, Some(Keeper::Pinned)]
    );
    let none = Floors { min_keep: 0, ..more };
    assert_eq!(keepers(&points, &all_may_go(&points), &none)[1], good);
}

#[test]
fn the_policys_reasons_stay_and_what_it_leaves_out_is_kept() {
    let points = daily(3);
    let outcome = apply_floors(&points, &[KeepVerdict::Keep("daily".to_owned())], &Floors::new(now()));
    assert_eq!(outcome.fates[0], Fate::Kept { by: Keeper::Policy, reason: "daily".to_owned() });
    assert_eq!((outcome.dropped(), outcome.alerts), (0, vec![]));
    assert_eq!(apply_floors(&[], &[], &Floors::new(now())).fates, []);
}

#[test]
fn the_brake_lets_the_oldest_go_first() {
    let points = daily(10);
    let outcome = apply_floors(&points, &all_may_go(&points), &Floors::new(now()));
    assert_eq!(outcome.alerts, [FloorAlert::Brake { wanted: 9, allowed: 5 }]);
    let dropped: Vec<usize> = (0..10).filter(|at| outcome.fates[*at] == Fate::Dropped).collect();
    assert_eq!(dropped, [5, 6, 7, 8, 9]);
    let allowed =
        |percent, points| Floors { max_delete_percent: percent, ..Floors::new(now()) }.allowed(points);
    assert_eq!(
        [allowed(50, 3), allowed(50, 1), allowed(0, 9), allowed(10, 19), allowed(200, 4)],
        [1, 1, 1, 1, 4]
    );
}

#[test]
fn a_clock_that_went_back_drops_nothing() {
    let mut points = daily(6);
    points[3].created_at = now().plus_millis(6 * 60_000);
    let outcome = apply_floors(&points, &all_may_go(&points), &Floors::new(now()));
    assert_eq!(outcome.dropped(), 0);
    let text = outcome.alerts[0].to_string();
    assert!(matches!(outcome.alerts[..], [FloorAlert::ClockBack { ahead_ms: 360_000, .. }]), "{text}");
    // Within the tolerance only the point itself is kept.
    points[3].created_at = now().plus_millis(4 * 60_000);
    points[2].created_at = now().plus_millis(5 * 60_000);
    points[2].damaged = true;
    let kept = keepers(&points, &all_may_go(&points), &Floors::new(now()));
    assert_eq!(kept, [Some(Keeper::Brake), None, Some(Keeper::Future), Some(Keeper::NewestGood), None, None]);
}

#[test]
fn a_clock_that_jumped_ahead_drops_nothing_once() {
    let points = daily(6);
    let later = now().plus_millis(8 * DAY_MS);
    let at = |last_run| Floors { last_run, ..Floors::new(later) };
    let jumped = apply_floors(&points, &all_may_go(&points), &at(Some(now())));
    assert_eq!((jumped.dropped(), jumped.alerts), (0, vec![FloorAlert::ClockJump { days: 8 }]));
    // The next run, or one without a run before, goes on.
    assert_eq!(apply_floors(&points, &all_may_go(&points), &at(Some(later.plus_millis(-1)))).dropped(), 3);
    assert_eq!(apply_floors(&points, &all_may_go(&points), &at(None)).dropped(), 3);
    let soon = Floors { last_run: Some(now()), ..Floors::new(now().plus_millis(6 * DAY_MS)) };
    assert_eq!(apply_floors(&points, &all_may_go(&points), &soon).dropped(), 3);
}

fn history() -> impl Strategy<Value = Vec<(RetentionPoint, KeepVerdict)>> {
    let one =
        (-200_i64..3000, prop::bool::weighted(0.1), prop::bool::weighted(0.2), prop::bool::weighted(0.3));
    prop::collection::vec(one, 0..40).prop_map(|all| {
        let made = all.into_iter().enumerate().map(|(number, (hours, pinned, damaged, keep))| {
            let verdict = if keep { KeepVerdict::Keep("because".to_owned()) } else { KeepVerdict::MayGo };
            (RetentionPoint { pinned, damaged, ..point(number, hours_before(now(), hours)) }, verdict)
        });
        made.collect()
    })
}

fn floors() -> impl Strategy<Value = Floors> {
    let last_run = prop_oneof![Just(None), (0_i64..1000).prop_map(|hours| Some(hours_before(now(), hours)))];
    // A right clock, one a day off, one a year off, both ways.
    let wrong = prop::sample::select(vec![0, -1, 1, -365, 365]);
    (0_u32..5, 0_u8..=110, 0_u32..30, last_run, wrong).prop_map(
        |(min_keep, max_delete_percent, max_clock_jump_days, last_run, days)| Floors {
            min_keep,
            max_delete_percent,
            max_clock_jump_days,
            now: now().plus_millis(days * DAY_MS),
            last_run,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_holds_whatever_a_policy_says(history in history(), floors in floors()) {
        let (points, verdicts): (Vec<_>, Vec<_>) = history.into_iter().unzip();
        let outcome = apply_floors(&points, &verdicts, &floors);
        prop_assert!(outcome.dropped() <= floors.allowed(points.len()));
        let gone = |at: usize| outcome.fates[at] == Fate::Dropped;
        for (at, point) in points.iter().enumerate() {
            prop_assert!(!(gone(at) && (point.pinned || point.created_at > floors.now)));
            prop_assert!(!gone(at) || verdicts[at] == KeepVerdict::MayGo);
        }
        let good: Vec<usize> = newest_first(&points).into_iter().filter(|at| !points[*at].damaged).collect();
        let least = usize::try_from(floors.min_keep.max(1)).unwrap();
        prop_assert!(good.iter().take(least).all(|at| !gone(*at)));
        // What goes is older than what the brake kept.
        let braked = |fate: &Fate| matches!(fate, Fate::Kept { by: Keeper::Brake, .. });
        let oldest_braked = (0..points.len()).filter(|at| braked(&outcome.fates[*at])).map(|at| points[at].created_at).min();
        let newest_gone = (0..points.len()).filter(|at| gone(*at)).map(|at| points[at].created_at).max();
        if let (Some(kept), Some(gone)) = (oldest_braked, newest_gone) {
            prop_assert!(gone <= kept);
        }
    }

    #[test]
    fn neither_order_nor_repetition_changes_a_fate(
        history in history(), floors in floors(), seed in any::<u64>(),
    ) {
        let mut shuffled = history.clone();
        shuffled.sort_by_key(|(point, _)| (point.size.0 ^ seed).wrapping_mul(u64::from(point.id.to_string().as_bytes()[35])) % 97);
        let fates = |history: &[(RetentionPoint, KeepVerdict)]| {
            let (points, verdicts): (Vec<_>, Vec<_>) = history.iter().cloned().unzip();
            let outcome = apply_floors(&points, &verdicts, &floors);
            points.iter().map(|point| point.id).zip(outcome.fates).collect::<std::collections::BTreeMap<_, _>>()
        };
        let first = fates(&history);
        prop_assert_eq!(&first, &fates(&shuffled));
        let again: Vec<_> = history.iter().map(|(point, _)| {
            let verdict = match &first[&point.id] {
                Fate::Kept { reason, .. } => KeepVerdict::Keep(reason.clone()),
                Fate::Dropped => KeepVerdict::MayGo,
            };
            (point.clone(), verdict)
        }).collect();
        let gone = |fates: &std::collections::BTreeMap<_, Fate>| {
            fates.iter().filter(|(_, fate)| **fate == Fate::Dropped).map(|(id, _)| *id).collect::<Vec<BackupId>>()
        };
        prop_assert_eq!(gone(&first), gone(&fates(&again)));
    }

    /// By age or by counting, with a clock that is off by anything.
    #[test]
    fn a_wrong_clock_drops_no_more_than_the_brake_allows(
        history in history(), hours in -20_000_i64..20_000, numbers in prop::array::uniform3(0_u32..9), days in 1_u32..60,
    ) {
        let points: Vec<_> = history.into_iter().map(|(point, _)| point).collect();
        let wrong = Floors { last_run: Some(now()), ..Floors::new(now().plus_millis(hours * 3_600_000)) };
        let by_age: Vec<_> = points.iter().map(|point| {
            let young = age_days(point.created_at, wrong.now) < f64::from(days);
            if young { KeepVerdict::Keep("young".to_owned()) } else { KeepVerdict::MayGo }
        }).collect();
        let [daily, weekly, monthly] = numbers;
        let rules = KeepRules { daily, weekly, monthly, ..KeepRules::default() };
        let counted: Vec<_> = prune_rules(&points, rules, Zone::UTC).iter().map(|rule| {
            rule.map_or(KeepVerdict::MayGo, |rule| KeepVerdict::Keep(rule.as_str().to_owned()))
        }).collect();
        for verdicts in [by_age, counted] {
            let outcome = apply_floors(&points, &verdicts, &wrong);
            prop_assert!(outcome.dropped() <= wrong.allowed(points.len()));
        }
    }
}
