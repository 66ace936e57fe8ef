//! The contract with authors: what goes in, what comes out.

use tidemark_model::{History, KeepVerdict, PlanType, UtcMillis};

use super::super::shapes::Shape;
use super::*;
use crate::script::ScriptErrorKind;

fn keep(reason: &str) -> KeepVerdict {
    KeepVerdict::Keep(reason.to_owned())
}

#[test]
fn a_reason_keeps_and_nothing_lets_go() {
    let script =
        retention("fn retain(p, ctx) { if p.rank.last < ctx.cfg.last { `the last ${ctx.cfg.last}` } }");
    let verdicts = script.retain(&hourly(4), &context(r#"{"last": 2}"#)).unwrap();
    assert_eq!(verdicts, [keep("the last 2"), keep("the last 2"), KeepVerdict::MayGo, KeepVerdict::MayGo]);
    assert_eq!(script.retain(&[], &context("{}")).unwrap(), []);
}

#[test]
fn what_is_prepared_is_there_for_each() {
    let script = retention(
        "fn defaults() { #{ last: 1, hourly: 1, tags: [\"a\"], deep: #{ x: 1, y: 2 } } }
         fn prepare(points, ctx) {
             #{ kept: prune_rules(points, #{ last: ctx.cfg.last, hourly: ctx.cfg.hourly, daily: () }),
                oldest: points[points.len() - 1].id, count: points.len(), deep: [1, [2, 3]] }
         }
         fn retain(p, ctx) {
             if p.id == ctx.prepared.oldest { return `oldest of ${ctx.prepared.count}, ${ctx.cfg.deep.x}${ctx.cfg.deep.y}`; }
             ctx.prepared.kept[p.id]
         }",
    );
    let verdicts = script.retain(&hourly(4), &context(r#"{"hourly": 2, "deep": {"y": 3}}"#)).unwrap();
    assert_eq!(verdicts, [keep("last"), keep("hourly"), keep("hourly"), keep("oldest of 4, 13")]);
    assert_eq!(script.defaults_json(), r#"{"deep":{"x":1,"y":2},"hourly":1,"last":1,"tags":["a"]}"#);
    assert_eq!(script.unknown_settings(r#"{"dialy": 7, "last": 1}"#).unwrap(), ["dialy"]);
}

#[test]
fn every_field_can_be_read_and_none_can_be_changed() {
    let vm = web01();
    for (name, shape) in Shape::Backup.fields().unwrap() {
        let body =
            if *shape == Shape::Value { format!("`${{p.{name}}}`") } else { format!("type_of(p.{name})") };
        let script = retention(&format!("fn retain(p, ctx) {{ {body} }}"));
        assert!(script.retain(&hourly(1), &context("")).is_ok(), "{name}");
        assert_eq!(fails(&format!("p.{name} = 1; \"x\"")).line, Some(2), "{name}");
    }
    let with_vm = PolicyContext { vm: Some(vm.clone()), ..context("") };
    let paths = [
        ("p.rank", Shape::Ranks),
        ("p.created_at", Shape::Moment),
        ("ctx", Shape::RetentionContext),
        ("ctx.now", Shape::Moment),
        ("ctx.vm", Shape::Vm),
        ("ctx.vm.disks[1]", Shape::Disk),
    ];
    for (path, shape) in paths {
        for (name, _) in shape.fields().unwrap() {
            let script = retention(&format!("fn retain(p, ctx) {{ let x = {path}.{name}; type_of(x) }}"));
            assert!(script.retain(&hourly(1), &with_vm).is_ok(), "{path}.{name}");
            let script = retention(&format!("fn retain(p, ctx) {{ {path}.{name} = 1; \"x\" }}"));
            assert!(script.retain(&hourly(1), &with_vm).is_err(), "{path}.{name} was changed");
        }
    }
    let fields = |shape: Shape| shape.fields().unwrap().iter().map(|field| field.0);
    for name in fields(Shape::History) {
        let script = group(&format!(
            "fn select(vm, ctx) {{ #{{ protect: true, reason: \"x\" }} }}
             fn plan(vm, history, ctx) {{ #{{ type: \"full\", reason: type_of(history.{name}) }} }}"
        ));
        assert!(script.plan(&vm, &History::default(), &context("")).is_ok(), "{name}");
    }
    for name in fields(Shape::GroupContext) {
        let script =
            group(&format!("fn select(vm, ctx) {{ #{{ protect: true, reason: type_of(ctx.{name}) }} }}"));
        assert!(script.select(&vm, &context("")).is_ok(), "{name}");
    }
}

#[test]
fn the_fields_say_what_they_should() {
    let script = retention(
        r#"fn retain(p, ctx) {
            let at = p.created_at;
            `${p.id} ${p.age_days} ${p.rank.daily} ${p.type} ${p.verified} ${p.damaged} ${p.pinned} ${p.size_bytes} |
             ${at.year} ${at.month} ${at.day} ${at.hour} ${at.minute} ${at.weekday} ${at.iso_week} ${at.ms} ${at.text} ${at.date} |
             ${ctx.now > at} ${ctx.now - at} ${ctx.tz} ${ctx.vm == ()} ${ctx.points.len()} ${ctx.cfg.nothing == ()}`
        }"#,
    );
    let verdict = script.retain(&hourly(6), &context("{}")).unwrap().swap_remove(5);
    let KeepVerdict::Keep(text) = verdict else { panic!("it went") };
    let words: Vec<&str> = text.split_whitespace().collect();
    let expected = "00000000-0000-4000-8000-000000000005 0.25 4294967295 incremental false false false 1073741824 | \
        2026 6 12 6 0 5 24 1781236800000 2026-06-12T06:00:00+02:00 2026-06-12";
    assert_eq!(words.join(" ")[..expected.len()], *expected);
}

#[test]
fn groups_select_with_a_reason_and_may_leave_disks_out() {
    let script = group(
        r#"fn select(vm, ctx) {
            #{ protect: vm.tags.contains("prod") && like(vm.name, "WEB*") && "fast" in vm.datastores,
               reason: "prod", exclude_disks: ["scratch", "no such disk"] }
        }"#,
    );
    let selection = script.select(&web01(), &context("")).unwrap();
    assert!(selection.protect);
    assert_eq!(selection.exclude_disks, [DiskKey("2001".to_owned())]);
    let plan = script.plan(&web01(), &History::default(), &context("")).unwrap();
    assert_eq!((plan.kind, plan.reason.as_str()), (PlanType::Incremental, "the policy has no plan"));
}

#[test]
fn a_plan_knows_what_was_before() {
    let script = group(
        r#"fn select(vm, ctx) { #{ protect: true, reason: "all" } }
           fn plan(vm, history, ctx) {
               if history.last_full == () { return #{ type: "full", reason: "none yet" }; }
               if history.days_since_full >= 6.5 { return #{ type: "synthetic-full", reason: history.last_full.date }; }
               #{ type: "defer", reason: `${history.chain_length}` }
           }"#,
    );
    let plan = |history: &History| script.plan(&web01(), history, &context("")).unwrap();
    assert_eq!(plan(&History::default()).kind, PlanType::Full);
    let week =
        History { last_full: Some(UtcMillis(context("").now.0 - 7 * 86_400_000)), ..History::default() };
    assert_eq!(plan(&week).reason, "2026-06-05");
    let fresh = History { last_full: Some(context("").now), chain_length: 3, ..History::default() };
    assert_eq!((plan(&fresh).kind, plan(&fresh).reason.as_str()), (PlanType::Defer, "3"));
}

#[test]
fn anything_else_is_no_answer() {
    for body in ["1", "true", "[]", "#{}", "\"\"", "\"  \"", "p", "'c'"] {
        let error = fails(body);
        assert_eq!(error.kind, ScriptErrorKind::Answer, "{body}: {error}");
        assert!(error.message.contains("about backup"), "{error}");
    }
    let select =
        |answer: &str| group(&format!("fn select(vm, ctx) {{ {answer} }}")).select(&web01(), &context(""));
    for answer in [
        "true",
        "#{ protect: true }",
        "#{ protect: 1, reason: \"x\" }",
        "#{ protect: true, reason: \"x\", exclude_disk: [] }",
        "#{ protect: true, reason: \"x\", exclude_disks: \"2000\" }",
        "#{ protect: true, reason: \"x\", exclude_disks: [2000] }",
        "#{ protect: true, reason: \"x\", exclude_disks: [\"system\", \"2001\"] }",
        "()",
    ] {
        assert_eq!(select(answer).unwrap_err().kind, ScriptErrorKind::Answer, "{answer}");
    }
    let plan = |answer: &str| {
        let source = format!("fn select(vm, ctx) {{}} fn plan(vm, history, ctx) {{ {answer} }}");
        group(&source).plan(&web01(), &History::default(), &context(""))
    };
    for answer in
        ["\"full\"", "#{ type: \"huge\", reason: \"x\" }", "#{ type: \"full\" }", "#{ reason: \"x\" }"]
    {
        assert_eq!(plan(answer).unwrap_err().kind, ScriptErrorKind::Answer, "{answer}");
    }
}

#[test]
fn a_missing_setting_is_nothing_and_is_never_compared_in_silence() {
    let error = fails("if p.rank.daily < ctx.cfg.daily { \"daily\" }");
    assert_eq!((error.kind, error.line), (ScriptErrorKind::Runtime, Some(2)));
    assert!(error.message.contains("not given"), "{error}");
    for body in ["p.age_days > \"7\"", "ctx.cfg.x >= 1.5", "p.type < 3", "p.created_at > 5", "p.pinned < 1"] {
        assert_eq!(fails(&format!("if {body} {{ \"x\" }}")).kind, ScriptErrorKind::Runtime, "{body}");
    }
    let script = retention("fn retain(p, ctx) { if p.rank.daily < (ctx.cfg.daily ?? 7) { \"daily\" } }");
    assert_eq!(script.retain(&hourly(1), &context("{}")).unwrap(), [keep("daily")]);
}

#[test]
fn errors_name_line_and_column() {
    let error = fails("  let x = p.agedays;\n x");
    assert_eq!((error.line, error.kind), (Some(2), ScriptErrorKind::Runtime));
    assert!(error.column.is_some() && error.message.contains("agedays"), "{error}");
    let error = fails("\n\nthrow \"no way\"");
    assert_eq!((error.line, error.message.contains("no way")), (Some(4), true), "{error}");
    let error = fails("prune_rules(ctx.points, #{ dayly: 7 })");
    assert!(error.message.contains("dayly") && error.line == Some(2), "{error}");
    let error = fails("prune_rules(ctx.points, #{ daily: -1 })");
    assert!(error.message.contains("daily"), "{error}");
    let error = Script::compile(PolicyKind::Retention, "fn retain(p, ctx) {\n let = 3; }").unwrap_err();
    assert_eq!((error.kind, error.line), (ScriptErrorKind::Compile, Some(2)));
}

#[test]
fn settings_and_zones_that_cannot_be_read_are_errors() {
    let script = retention("fn retain(p, ctx) { \"x\" }");
    for ctx in
        [context("[1]"), context("{"), PolicyContext { time_zone: "Mars/Olympus".to_owned(), ..context("") }]
    {
        assert_eq!(script.retain(&hourly(1), &ctx).unwrap_err().kind, ScriptErrorKind::Settings);
    }
    assert_eq!(script.select(&web01(), &context("")).unwrap_err().kind, ScriptErrorKind::Entry);
}

#[test]
fn lists_have_their_functions() {
    let script = retention(
        r#"fn retain(p, ctx) {
            let found = "";
            for tag in ctx.cfg.tags { found += tag; }
            for backup in ctx.points { if backup.id == p.id { found += "!"; } }
            if overlaps(ctx.cfg.tags, ["b"]) && !overlaps(["x"], ctx.cfg.tags) && like_any("web01", ctx.cfg.names)
                && ctx.cfg.tags[0] == "a" && ctx.cfg.contains("tags") && 2 in ctx.cfg.numbers
                && ctx.cfg.tags.to_array().map(|t| t.to_upper()).some(|t| t == "B") { found }
        }"#,
    );
    let settings = r#"{"tags": ["a", "b"], "names": ["db*", "web*"], "numbers": [1, 2.0]}"#;
    assert_eq!(script.retain(&hourly(1), &context(settings)).unwrap(), [keep("ab!")]);
    assert_eq!(short(hourly(1)[0].id), "000000");
}
