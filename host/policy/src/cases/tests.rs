//! Cases that pass, cases that differ, and files that are none.

use super::*;

fn retention(body: &str) -> Script {
    Script::compile(PolicyKind::Retention, &format!("fn retain(p, ctx) {{ {body} }}")).unwrap()
}

fn run(script: &Script, toml: &str) -> Vec<CaseResult> {
    run_cases(script, toml).unwrap_or_else(|error| panic!("{error}"))
}

fn differences(script: &Script, case: &str) -> Vec<String> {
    run(script, &format!("[[case]]\nname = \"x\"\n{case}")).remove(0).differences
}

const DAILY: &str = "if p.rank.daily < 2 { \"daily\" }";

#[test]
fn timelines_follow_the_local_calendar() {
    let toml = r#"
kind = "retention"
[[case]]
name = "over the switch"
now = 2026-03-30T12:00:00
time_zone = "Europe/Berlin"
timeline = [
    { every = "1d", from = "2026-03-27T22:00", to = "2026-03-29T22:00" },
    { at = "2026-03-29T03:00", id = "after the gap", type = "full", size = "2GiB" },
]
keep = ["2026-03-29T22:00", 2026-03-28T22:00:00]
drop = ["after the gap", "2026-03-27"]
keep_count = 2
reasons = { "2026-03-28" = "daily" }

[[case]]
name = "hours elapse, a cron text goes by the clock"
now = "2026-10-25T12:00:00+01:00"
time_zone = "Europe/Berlin"
timeline = [
    { every = "1h", from = "2026-10-25T01:30", to = "2026-10-25T03:30" },
    { every = "30 2 * * *", from = "2026-10-23T00:00" },
]
keep_count = 2
drop = ["2026-10-25T02:30:00+01:00", "2026-10-23"]
"#;
    let results = run(&retention(DAILY), toml);
    assert_eq!(results.iter().map(|result| result.line).collect::<Vec<_>>(), [3, 16]);
    for result in results {
        assert!(result.passed(), "{}: {:?}", result.name, result.differences);
    }
}

#[test]
fn differences_are_readable() {
    let case = r#"now = "2026-06-03T12:00"
timeline = [{ every = "1d", from = "2026-06-01T22:00" }, { at = "2026-06-02T10:00", id = "noon", damaged = true }]
"#;
    let script = retention("if p.damaged { \"look at it\" } else if p.rank.last == 0 { \"newest\" }");
    assert_eq!(
        differences(&script, &format!("{case}keep = [\"2026-06-01\"]")),
        [
            "2026-06-01T22:00:00 should be kept but may go",
            "2026-06-02T22:00:00 should go but is kept (newest)",
            "noon should go but is kept (look at it)",
        ]
    );
    assert_eq!(differences(&script, &format!("{case}keep_count = 3")), ["2 backups are kept, 3 should be"]);
    assert_eq!(
        differences(&script, &format!("{case}reasons = {{ noon = \"x\", \"2026-06-01\" = \"y\" }}")).len(),
        2
    );
    assert_eq!(
        differences(&script, &format!("{case}drop = [\"noon\"]")),
        ["noon should go but is kept (look at it)"]
    );
}

#[test]
fn errors_can_be_expected() {
    let case = "now = \"2026-06-03\"\ntimeline = [{ at = \"2026-06-01\" }]\n";
    let script = retention("p.nonsense");
    assert_eq!(differences(&script, &format!("{case}error = \"nonsense\"")), [""; 0]);
    assert!(differences(&script, &format!("{case}error = \"other\""))[0].contains("not with 'other'"));
    assert!(differences(&script, &format!("{case}keep = []"))[0].starts_with("the policy failed: line 1"));
    assert!(
        differences(&retention("()"), &format!("{case}error = \"other\""))[0].contains("should have failed")
    );
}

#[test]
fn floors_are_asked_for() {
    let case =
        "now = \"2026-06-09\"\ntimeline = [{ every = \"1d\", from = \"2026-06-01\", to = \"2026-06-08\" }]\n";
    let script = retention("()");
    assert_eq!(differences(&script, &format!("{case}keep = []")), [""; 0]);
    let floors = "floors = true\nkeep_count = 4\nreasons = { \"2026-06-08\" = \"the newest good backup\" }";
    assert_eq!(differences(&script, &format!("{case}{floors}")), [""; 0]);
}

#[test]
fn settings_and_the_vm_reach_the_policy() {
    let script = retention(
        "if ctx.vm.tags.contains(ctx.cfg.tag) && ctx.cfg.deep.list[1] == 2 && ctx.vm.disks[0].capacity_bytes > 9 { \"y\" }",
    );
    let case = r#"now = "2026-06-03"
settings = { tag = "gold", deep = { list = [1, 2] } }
vm = { name = "web01", tags = ["gold"], disks = [{ key = "2000", capacity = "10GiB" }] }
timeline = [{ at = "2026-06-01" }]
keep_count = 1"#;
    assert_eq!(differences(&script, case), [""; 0]);
}

#[test]
fn groups_have_cases_too() {
    let source = r#"fn select(vm, ctx) { #{ protect: vm.tags.contains("prod"), reason: "tag", exclude_disks: ["tmp"] } }
        fn plan(vm, history, ctx) {
            if history.chain_length > 3 && history.changed_bytes > 1 { #{ type: "full", reason: history.last_full.date } }
            else { #{ type: "incremental", reason: "nightly" } } }"#;
    let script = Script::compile(PolicyKind::Group, source).unwrap();
    let case = r#"now = "2026-06-03T22:00"
vm = { name = "web01", tags = ["prod"], disks = [{ key = "2000", label = "sys" }, { key = "2001", label = "tmp" }] }
history = { chain_length = 4, last_full = "2026-05-30T22:00", changed = "2MiB" }
"#;
    let good = r#"expect = { protect = true, reason = "tag", exclude_disks = ["2001"], plan = "full", plan_reason = "2026-05-30" }"#;
    assert_eq!(differences(&script, &format!("{case}{good}")), [""; 0]);
    let bad = r#"expect = { protect = false, reason = "x", exclude_disks = [], plan = "defer", plan_reason = "y" }"#;
    assert_eq!(differences(&script, &format!("{case}{bad}")).len(), 5);
}

#[test]
fn a_file_that_cannot_be_run_says_where() {
    let script = retention(DAILY);
    for (toml, line, what) in [
        ("", None, "no [[case]]"),
        ("kind = \"group\"\n[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nkeep = []", Some(1), "group"),
        ("[[case]]\nname = \"x\"\nkeep = []", Some(1), "now"),
        ("[[case]]\nname = \"x\"\nnow = \"2026-01-01\"", Some(1), "expects nothing"),
        ("[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nkep = []", Some(4), "kep"),
        ("[[case]]\nname = \"x\"\nnow = \"soon\"\nkeep = []", Some(3), "soon"),
        ("[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\ntime_zone = \"Mars\"\nkeep = []", Some(4), "Mars"),
        ("[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nkeep = [\n\"a\"]", Some(5), "'a'"),
        (
            "[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nkeep = []\ntimeline = [\n{ every = \"5x\", from = \"2026-01-01\" }]",
            Some(6),
            "5x",
        ),
        (
            "[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nkeep = []\ntimeline = [\n{ every = \"1m\", from = \"2016-01-01\" }]",
            Some(6),
            "100000",
        ),
        (
            "[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nkeep = []\ntimeline = [{ id = \"a\" }]",
            Some(5),
            "either at",
        ),
        (
            "[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nkeep = []\ntimeline = [{ at = \"2026-01-01\", siez = 3 }]",
            Some(5),
            "siez",
        ),
        (
            "[[case]]\nname = \"x\"\nnow = \"2026-03-29T02:30\"\ntime_zone = \"Europe/Berlin\"\nkeep = []",
            Some(3),
            "does not exist",
        ),
        ("[[case]]\nname = \"x\"\nnow = \"2026-01-01\"\nexpect = { protect = true }", Some(1), "expect"),
    ] {
        let error = run_cases(&script, toml).expect_err(toml);
        assert_eq!(error.line, line, "{toml}: {error}");
        assert!(error.message.contains(what), "{toml}: {error}");
    }
}
