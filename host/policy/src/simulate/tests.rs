//! What is played is what would happen.

use tidemark_model::{KeepVerdict, PolicyKind};

use super::*;
use crate::fixtures::moment;
use crate::script::Script;

const GFS: &str = include_str!("../../../../policies/retention/gfs.rhai");
const FOREVER: &str = include_str!("../../../../policies/groups/forever-incremental.rhai");

fn gib(count: u64) -> ByteLen {
    ByteLen(count << 30)
}

/// Plays `cron` in Berlin from 1 March 2026 with a retention policy and a plan.
fn play(cron: &str, days: u32, retain: &mut RetainFn<'_>, plan: Option<&mut PlanFn<'_>>) -> Simulation {
    play_with(cron, days, retain, plan, |_| {})
}

fn play_with(
    cron: &str,
    days: u32,
    retain: &mut RetainFn<'_>,
    plan: Option<&mut PlanFn<'_>>,
    change: impl FnOnce(&mut SimulationInput<'_>),
) -> Simulation {
    let schedule = Schedule::parse(cron, "Europe/Berlin").unwrap();
    let start = moment("2026-03-01", schedule.zone());
    let mut plan = plan;
    let mut plan_fn = |vm: &Candidate, history: &History, ctx: &PolicyContext| match plan.as_mut() {
        Some(plan) => plan(vm, history, ctx),
        None => Ok(PlanDecision { kind: PlanType::Incremental, reason: "nightly".to_owned() }),
    };
    let mut retain_fn = |points: &[RetentionPoint], ctx: &PolicyContext| retain(points, ctx);
    let mut input = SimulationInput {
        title: "a <policy> & more".to_owned(),
        retain: &mut retain_fn,
        plan: Some(&mut plan_fn),
        schedule,
        start,
        days,
        settings_json: "{}".to_owned(),
        vm: Candidate { name: "web01".to_owned(), ..Candidate::default() },
        full_size: gib(100),
        change_per_day: gib(2),
        max_chain_depth: 1000,
        floors: Floors::new(start),
        existing: Vec::new(),
    };
    change(&mut input);
    simulate(input).unwrap()
}

fn keep_last(
    count: u32,
) -> impl FnMut(&[RetentionPoint], &PolicyContext) -> Result<Vec<KeepVerdict>, String> {
    move |points, _| {
        let verdict = |point: &RetentionPoint| {
            if point.rank.last < count { KeepVerdict::Keep("last".to_owned()) } else { KeepVerdict::MayGo }
        };
        Ok(points.iter().map(verdict).collect())
    }
}

#[test]
fn three_nights_are_kept_and_the_oldest_takes_the_full_up() {
    let played = play("0 22 * * *", 6, &mut keep_last(3), None);
    assert_eq!(played.totals.firings, 6);
    let counts: Vec<usize> = played.days.iter().map(|day| day.count).collect();
    assert_eq!(counts, [1, 2, 3, 3, 3, 3]);
    let bytes: Vec<u64> = played.days.iter().map(|day| day.bytes.0 >> 30).collect();
    // From the fourth night on the oldest is made a full of what it needed.
    assert_eq!(bytes, [100, 102, 104, 104, 104, 104]);
    assert_eq!((played.totals.merges, played.totals.dropped, played.totals.fulls), (3, 3, 1));
    let kept: Vec<_> = played.kept().map(|life| (life.became_full, life.last_size.0 >> 30)).collect();
    assert_eq!(kept, [(true, 100), (false, 2), (false, 2)]);
    assert_eq!(played.lives[0].dropped, Some(played.lives[3].made));
    assert_eq!(played.days[5].chain_depth, 3);
}

#[test]
fn merged_incrementals_hold_less_than_their_sum() {
    // The second and third go at once: the fourth takes both up.
    let mut retain = |points: &[RetentionPoint], _: &PolicyContext| {
        let verdict = |(at, _): (usize, &RetentionPoint)| {
            let goes = points.len() == 4 && (at == 1 || at == 2);
            if goes { KeepVerdict::MayGo } else { KeepVerdict::Keep("x".to_owned()) }
        };
        Ok(points.iter().enumerate().map(verdict).collect())
    };
    let played = play("0 22 * * *", 4, &mut retain, None);
    let kept: Vec<u64> = played.kept().map(|life| (life.last_size.0 * 100) >> 30).collect();
    // (2 + 2) × 0.8 = 3.2, (3.2 + 2) × 0.8 = 4.16 GiB, rounded down each time.
    assert_eq!(kept, [10_000, 415]);
}

#[test]
fn shipped_policies_play_a_year_with_both_switches() {
    let gfs = Script::compile(PolicyKind::Retention, GFS).unwrap();
    let forever = Script::compile(PolicyKind::Group, FOREVER).unwrap();
    let mut plan = |vm: &Candidate, history: &History, ctx: &PolicyContext| {
        forever.plan(vm, history, ctx).map_err(|error| error.to_string())
    };
    let mut retain = |points: &[RetentionPoint], ctx: &PolicyContext| {
        gfs.retain(points, ctx).map_err(|error| error.to_string())
    };
    let played = play("30 2 * * *", 365, &mut retain, Some(&mut plan));
    assert_eq!((played.totals.firings, played.days.len(), played.warnings.len()), (365, 365, 0));
    // 3 last, 7 daily, 4 weekly, and the months before them, as far as they go.
    assert!((24..=26).contains(&played.kept().count()), "{}", played.render_table());
    assert!(played.days.iter().all(|day| day.chain_depth <= 31), "{}", played.render_table());
    assert_eq!(played.totals.fulls, 1);
    let reasons: Vec<&str> = played.kept().map(|life| life.reason.as_str()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "daily").count(), 7);
}

#[test]
fn plans_and_the_longest_chain_are_kept_to() {
    let mut plan = |_: &Candidate, history: &History, _: &PolicyContext| {
        let kind = match history.chain_length {
            3 => PlanType::SyntheticFull,
            _ => PlanType::Incremental,
        };
        Ok(PlanDecision { kind, reason: "test".to_owned() })
    };
    let played = play("0 22 * * *", 9, &mut keep_last(100), Some(&mut plan));
    assert_eq!((played.totals.fulls, played.totals.synthetic_fulls), (1, 2));
    let depths: Vec<u32> = played.days.iter().map(|day| day.chain_depth).collect();
    assert_eq!(depths, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
    let limited = play_with("0 22 * * *", 5, &mut keep_last(9), None, |input| input.max_chain_depth = 2);
    assert_eq!(limited.lives[2].plan_reason, "the chain has 2 backups");
    assert_eq!(limited.totals.fulls, 3);
    let mut defer = |_: &Candidate, _: &History, _: &PolicyContext| {
        Ok(PlanDecision { kind: PlanType::Defer, reason: "no".to_owned() })
    };
    let put_off = play("0 22 * * *", 5, &mut keep_last(9), Some(&mut defer));
    assert_eq!((put_off.totals.deferred, put_off.lives.len(), put_off.days[4].count), (4, 1, 1));
}

#[test]
fn failures_and_floors_are_warnings() {
    let mut fails = |_: &[RetentionPoint], _: &PolicyContext| Err("line 3: oh".to_owned());
    let played = play("0 22 * * *", 5, &mut fails, None);
    assert_eq!((played.kept().count(), played.warnings.len(), played.warnings[0].times), (5, 1, 5));
    assert!(played.render_table().contains("5 times, first on 2026-03-01"), "{}", played.render_table());
    // Everything may go at once where much is there: the brake.
    let start = moment("2026-03-01", Zone::parse("Europe/Berlin").unwrap());
    let existing = (1..=20)
        .map(|n| crate::fixtures::point(1000 + n, crate::fixtures::hours_before(start, 24 * n as i64)));
    let braked =
        play_with("0 22 * * *", 3, &mut keep_last(2), None, |input| input.existing = existing.collect());
    assert!(braked.warnings[0].message.contains("wanted to drop 19"), "{:?}", braked.warnings);
    assert_eq!(braked.days.iter().map(|day| day.count).collect::<Vec<_>>(), [11, 6, 4]);
}

#[test]
fn what_cannot_be_played_says_so() {
    let schedule = |cron: &str| Schedule::parse(cron, "UTC").unwrap();
    let mut retain = keep_last(1);
    let mut input = |cron: &str, days: u32| {
        let start = moment("2026-03-01", Zone::UTC);
        simulate(SimulationInput {
            title: String::new(),
            retain: &mut retain,
            plan: None,
            schedule: schedule(cron),
            start,
            days,
            settings_json: String::new(),
            vm: Candidate::default(),
            full_size: gib(1),
            change_per_day: gib(1),
            max_chain_depth: 10,
            floors: Floors::new(start),
            existing: Vec::new(),
        })
        .err()
    };
    assert_eq!(input("0 0 1 1 *", 30), Some(SimulationError::NoFirings(30)));
    assert_eq!(input("* * * * *", 30), Some(SimulationError::TooManyFirings));
}

#[test]
fn pictures_and_pages_are_well_formed_and_escaped() {
    let mut retain = |points: &[RetentionPoint], _: &PolicyContext| {
        let verdict = |point: &RetentionPoint| {
            if point.rank.daily < 3 {
                KeepVerdict::Keep("<b>\"daily\" & co</b>".to_owned())
            } else {
                KeepVerdict::MayGo
            }
        };
        Ok(points.iter().map(verdict).collect())
    };
    let played = play("0 */6 * * *", 60, &mut retain, None);
    let svg = played.render_svg();
    let html = played.render_html();
    assert!(played.lives.len() > 200 && svg.matches("<title>").count() > 200);
    assert_eq!(svg.matches("<rect ").count() - svg.matches("<rect x=").count(), 1);
    for text in [&svg, &html] {
        assert!(!text.contains("<b>") && text.contains("a &lt;policy&gt; &amp; more"));
        assert!(!text.contains("<script") && !text.contains("NaN") && !text.contains("inf"));
    }
    assert!(html.contains("&lt;b&gt;&quot;daily&quot; &amp; co"));
    let table = played.render_table();
    assert!(table.lines().all(|line| line.chars().count() <= 110), "{table}");
}
