//! Nothing that a script does gets out, runs on, or grows beyond its share.

use std::time::{Duration, Instant};

use super::*;
use crate::script::ScriptErrorKind;
use crate::script::sandbox::Budget;

fn refused(body: &str) -> ScriptError {
    Script::compile(PolicyKind::Retention, &format!("fn retain(p, ctx) {{\n{body}\n}}")).unwrap_err()
}

#[test]
fn what_is_outside_cannot_be_named() {
    for body in [
        "sleep(1)",
        "timestamp()",
        "eval(\"1\")",
        "import \"x\" as x;",
        "print(1)",
        "debug(1)",
        "open_file(\"/etc/passwd\")",
        "rand()",
        "exit(1)",
        "parse_json(\"{}\")",
        "get_fn_metadata_list()",
        "\"a\".replace(\"a\", \"b\")",
        "[].pad(1000, 1)",
        "blob(1000)",
        "global::x",
        "std::fs()",
    ] {
        let error = refused(body);
        assert_eq!((error.kind, error.line), (ScriptErrorKind::Compile, Some(2)), "{body}: {error}");
    }
}

/// A symbol that is only disabled can still be reached by a function pointer made of its name.
#[test]
fn no_function_is_called_by_a_made_up_name() {
    for body in [
        "Fn(\"eval\").call(\"1\")",
        "let f = Fn(\"ev\" + \"al\"); f.call(\"1\")",
        "call(Fn(\"eval\"), \"1\")",
        "Fn(\"sleep\").call(9)",
        "Fn(\"timestamp\").call()",
        "Fn(\"print\").call(\"x\")",
        "let f = |x| x; f.curry(1)",
        "curry(|x| x, 1)",
        "[\"1\"].map(Fn(\"eval\"))",
        "[\"1\"].map(eval)",
        "p.eval(\"1\")",
        "is_def_var(\"p\")",
        "is_def_fn(\"eval\", 1)",
    ] {
        assert_eq!(refused(body).kind, ScriptErrorKind::Compile, "{body}");
    }
    // A name instead of a function is no function.
    for body in
        ["[\"1\"].map(\"eval\")", "[\"1 + 1\"].filter(\"eval\")", "[1].map(\"sleep\")", "[1].some(\"print\")"]
    {
        assert_eq!(fails(body).kind, ScriptErrorKind::Runtime, "{body}");
    }
}

#[test]
fn nothing_stands_outside_functions() {
    let compile = |source: &str| Script::compile(PolicyKind::Retention, source);
    let error = compile("let x = 1;\nfn retain(p, ctx) { \"x\" }").unwrap_err();
    assert_eq!((error.kind, error.line), (ScriptErrorKind::Compile, Some(1)));
    assert!(compile("// only words\nfn retain(p, ctx) { \"x\" };").is_ok());
    assert!(compile("fn retain(p, ctx) { \"x\" } loop {}").is_err());
    // What is outside a function is not seen in it, and nothing is captured.
    assert!(compile("fn retain(p, ctx) { x }").is_err());
    assert!(compile("fn retain(p, ctx) { [1].map(|n| p.id) }").is_err());
}

#[test]
fn loops_and_recursion_end() {
    for body in [
        "loop {}",
        "while true { let x = 1; }",
        "let x = 0; do { x += 1; } while x >= 0; \"x\"",
        "for x in 0..9_000_000_000_000 {}",
        "let n = 0; loop { try { throw 1 } catch { n += 1; } }",
    ] {
        assert_eq!(fails(body).kind, ScriptErrorKind::Limit, "{body}");
    }
    let deep = retention("fn again(n) { again(n + 1) } fn retain(p, ctx) { again(0) }");
    assert_eq!(deep.retain(&hourly(2), &context("")).unwrap_err().kind, ScriptErrorKind::Limit);
    let script = retention("fn prepare(points, ctx) { loop {} } fn retain(p, ctx) { \"x\" }");
    assert_eq!(script.retain(&hourly(2), &context("")).unwrap_err().kind, ScriptErrorKind::Limit);
    let defaults =
        Script::compile(PolicyKind::Retention, "fn defaults() { loop {} } fn retain(p, ctx) { \"x\" }");
    assert_eq!(defaults.unwrap_err().kind, ScriptErrorKind::Limit);
}

#[test]
fn memory_ends() {
    for body in [
        "let s = \"x\"; loop { s += s; }",
        "let a = [1]; loop { a.push(a); }",
        "let a = []; loop { a.push(1); }",
        "let a = []; loop { a = [a]; }",
        "let m = #{}; loop { m = #{ m: m, n: m }; }",
        "let s = \"\"; loop { s = `${s}${s}x`; }",
        "let f = |x| x; let a = [f]; loop { a += a; }",
    ] {
        let started = Instant::now();
        let kind = fails(body).kind;
        assert!(matches!(kind, ScriptErrorKind::Limit | ScriptErrorKind::Deadline), "{body}: {kind:?}");
        assert!(started.elapsed() < Duration::from_secs(20), "{body} took {:?}", started.elapsed());
    }
}

#[test]
fn time_ends() {
    let script = retention("fn retain(p, ctx) { for x in 0..1000 { let y = x * x; } \"x\" }");
    let short = Budget { time: Duration::from_millis(1), ..Budget::retention(1) };
    let error = script.retain_within(&hourly(500), &context(""), short, short).unwrap_err();
    assert_eq!(error.kind, ScriptErrorKind::Deadline);
    assert!(error.kind.retry_helps() && !ScriptErrorKind::Limit.retry_helps());
}

/// Sources made to be deep must neither be accepted and overflow later, nor overflow here.
#[test]
fn deep_sources_are_refused_and_long_ones_too() {
    let body = |middle: String| format!("fn retain(p, ctx) {{ {middle} }}");
    for (source, accepted) in [
        (body(format!("{}1{}", "(".repeat(5000), ")".repeat(5000))), false),
        (body(format!("1{}", " + 1".repeat(10_000))), false),
        (body(format!("{}1{}", "[".repeat(5000), "]".repeat(5000))), false),
        (body("if p.pinned { 1 } else ".repeat(2500) + "{ 2 }"), false),
        (body(format!("p{}", ".rank".repeat(8000))), false),
        (body(format!("p{}", "[0]".repeat(8000))), false),
        (body("!".repeat(8000) + "true"), false),
        (body("-".repeat(8000) + "1"), false),
        (body(format!("{}{}", "{".repeat(5000), "}".repeat(5000))), false),
        (body("|x| ".repeat(5000) + "x"), false),
        (body(format!("`{}`", "${1}".repeat(5000))), true),
        (body("let x = 1; ".repeat(5000) + "\"x\""), true),
        (body(format!("/* {} */ \"x\"", "/* ".repeat(5000))), false),
        (body(format!("\"x\" // {}", "x".repeat(70_000))), false),
        (body(format!("switch p.type {{ {} _ => 1 }}", "\"a\" => 1,".repeat(3000))), true),
    ] {
        let compiled = Script::compile(PolicyKind::Retention, &source);
        let _ = super::super::check(PolicyKind::Retention, &source);
        // It is dropped here, on a thread with a small stack.
        match compiled {
            Ok(script) => assert!(accepted, "{}", &script.source()[..60]),
            Err(error) => assert!(!accepted || error.kind == ScriptErrorKind::Compile, "{error}"),
        }
    }
}

#[test]
fn a_script_is_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    let script = retention("fn retain(p, ctx) { if p.rank.last < 2 { \"last\" } }");
    shared(&script);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(script.retain(&hourly(50), &context("")).unwrap().len(), 50));
        }
    });
}
