//! What is found before a script runs.

use super::super::{Severity, check};
use super::*;

/// The findings as `line:column: severity: message`.
fn findings(kind: PolicyKind, source: &str) -> Vec<String> {
    check(kind, source).iter().map(ToString::to_string).collect()
}

fn in_retain(body: &str) -> Vec<String> {
    findings(PolicyKind::Retention, &format!("fn retain(p, ctx) {{\n{body}\n}}"))
}

#[test]
fn a_good_script_has_none() {
    let good = r#"
        fn defaults() { #{ daily: 7 } }
        fn prepare(points, ctx) { let first = points[0]; for b in points { if b.damaged { return b.rank.daily; } } first.id }
        fn young(backup, days) { backup.age_days < days && backup.created_at.year > 2000 }
        fn retain(p, ctx) {
            let rank = p.rank;
            if young(p, 3) || ctx.vm.tags.contains("x") && ctx.vm.disks[0].label == "y" { return "young"; }
            if rank.daily < ctx.cfg.daily { `daily ${ctx.prepared.anything[p.id]}` }
        }"#;
    assert_eq!(findings(PolicyKind::Retention, good), [""; 0]);
    let group = r#"
        fn select(machine, c) { #{ protect: machine.power == "on", reason: c.now.date } }
        fn plan(machine, past, c) { if past.chain_length > 3 { #{ type: "full", reason: past.last_full.text } } }"#;
    assert_eq!(findings(PolicyKind::Group, group), [""; 0]);
}

#[test]
fn unknown_fields_are_found_by_place() {
    for (body, place, field) in [
        ("if p.agedays > 3 { \"x\" }", "2:6", "agedays"),
        ("p.rank.dayly", "2:8", "dayly"),
        ("let r = p.rank;\nr.dayly", "3:3", "dayly"),
        ("ctx.nov", "2:5", "nov"),
        ("ctx.now.years", "2:9", "years"),
        ("ctx.vm.tag", "2:8", "tag"),
        ("ctx.vm.disks[0].size", "2:17", "size"),
        ("for b in ctx.points { if b.siz > 1 { return \"x\"; } }", "2:28", "siz"),
        ("ctx.prepared[p.idd]", "2:16", "idd"),
        ("`${p.foo}`", "2:6", "foo"),
        ("let x = #{ a: [p.foo] };", "2:18", "foo"),
        ("ctx.points.count", "2:12", "count"),
        ("ctx.points[0].nam", "2:15", "nam"),
    ] {
        let found = in_retain(body);
        assert_eq!(found.len(), 1, "{body}: {found:?}");
        assert!(found[0].starts_with(&format!("{place}: error:")), "{body}: {found:?}");
        assert!(found[0].contains(&format!("'{field}'")), "{body}: {found:?}");
    }
}

#[test]
fn shapes_follow_calls_and_parameters_have_any_name() {
    let source = "fn old(b) {\n b.agedays > 3 }\nfn deeper(b) { old(b) }\nfn retain(backup, circumstances) {\n if deeper(backup) { circumstances.xyz } }";
    let found = findings(PolicyKind::Retention, source);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("2:4: error:") && found[1].starts_with("5:36: error:"), "{found:?}");
    // What may be two things is neither.
    let source = "fn f(x) { x.foo }\nfn retain(p, ctx) { f(p); f(ctx); let y = p; y = 3; y.foo }";
    assert_eq!(findings(PolicyKind::Retention, source), [""; 0]);
}

#[test]
fn group_scripts_have_objects_of_their_own() {
    let source = "fn select(vm, ctx) { #{ protect: vm.tagz, reason: ctx.prepared } }\nfn plan(vm, history, ctx) { history.chain }";
    let found = findings(PolicyKind::Group, source);
    let fields = ["'tagz'", "'prepared'", "'chain'"];
    assert!(found.len() == 3 && found.iter().zip(fields).all(|(f, field)| f.contains(field)), "{found:?}");
}

#[test]
fn changes_are_found() {
    for body in ["p.age_days = 3;", "ctx.cfg.daily = 3;", "p.rank.daily += 1;", "ctx.vm.tags[0] = \"x\";"] {
        let found = in_retain(body);
        assert!(
            found.iter().any(|f| f.starts_with("2:") && f.contains("cannot be changed")),
            "{body}: {found:?}"
        );
    }
}

#[test]
fn entries_and_calls_are_checked() {
    let found = findings(PolicyKind::Retention, "// nothing");
    assert!(found.len() == 1 && found[0].contains("fn retain(p, ctx)"), "{found:?}");
    let found = findings(PolicyKind::Retention, "\n  fn retain(p) { \"x\" }");
    assert!(found[0].starts_with("2:3: error: retain takes 2 parameters, not 1"), "{found:?}");
    let found = findings(PolicyKind::Group, "fn retain(p, ctx) { \"x\" }");
    assert_eq!(found.len(), 2, "{found:?}");
    let found = in_retain("dayly(p);\nfoo(1).bar()");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("2:1: error: there is no function 'dayly'"), "{found:?}");
    let found = findings(
        PolicyKind::Retention,
        "fn retain(p, ctx) { \"x\" }\nfn left(x) { x }\nfn select(vm, ctx) { }",
    );
    assert!(found.len() == 2 && found[0].starts_with("2:1: hint: left is never called"), "{found:?}");
    assert!(found[1].contains("of group policies"), "{found:?}");
}

#[test]
fn settings_without_a_default_are_warned_of() {
    let source =
        "fn defaults() { #{ daily: 7 } }\nfn retain(p, ctx) { if p.rank.daily < ctx.cfg.dayly { \"x\" } }";
    let found = check(PolicyKind::Retention, source);
    assert_eq!((found.len(), found[0].severity, found[0].line), (1, Severity::Warning, Some(2)), "{found:?}");
    let found = findings(PolicyKind::Retention, "fn retain(p, ctx) { \"x\" }\nfn defaults() { 3 }");
    assert!(found.len() == 1 && found[0].starts_with("2:1: error:"), "{found:?}");
    let found = findings(PolicyKind::Retention, "fn retain(p, ctx) { \"x\" }\nfn defaults() { throw 1 }");
    assert!(found.len() == 1 && found[0].starts_with("2:"), "{found:?}");
}
