//! What the host offers to scripts beside the language: matching of names, the counted keep rules, and comparisons that
//! refuse to guess.

use std::sync::Arc;

use rhai::{
    Array, Dynamic, EvalAltResult, FLOAT, FuncRegistration, INT, ImmutableString, Map, Module, RhaiNativeFunc,
};
use rhai::{Shared, Variant};

use super::error::refuse;
use super::objects::{Kept, Points};
use super::values::{List, Moment, Record, holds};
use crate::prune_rules::{KeepRules, prune_rules};

/// The longest pattern, in characters. It bounds the work of a match to a fixed number of looks at each character.
const LONGEST_PATTERN: usize = 256;

/// Adds a function for all scripts.
pub(super) fn offer<A: 'static, const N: usize, const X: bool, R, F>(
    module: &mut Module,
    name: &str,
    function: F,
) where
    R: Variant + Clone,
    F: RhaiNativeFunc<A, N, X, R, true> + Send + Sync + 'static,
{
    let registration = FuncRegistration::new(name).in_global_namespace();
    registration.with_purity(true).with_volatility(false).set_into_module(module, function);
}

pub(super) fn register(module: &mut Module) {
    offer(module, "like", |text: ImmutableString, pattern: ImmutableString| like_checked(&text, &pattern));
    offer(module, "like_any", |text: ImmutableString, patterns: List| like_any(&text, &patterns.0));
    offer(module, "like_any", |text: ImmutableString, patterns: Array| like_any(&text, &patterns));
    let overlap = |a: &[Dynamic], b: &[Dynamic]| a.iter().any(|item| holds(b, item));
    offer(module, "overlaps", move |a: List, b: List| Ok(overlap(&a.0, &b.0)));
    offer(module, "overlaps", move |a: List, b: Array| Ok(overlap(&a.0, &b)));
    offer(module, "overlaps", move |a: Array, b: List| Ok(overlap(&a, &b.0)));
    offer(module, "overlaps", move |a: Array, b: Array| Ok(overlap(&a, &b)));
    offer(module, "prune_rules", |points: Points, rules: Map| counted(&points, &rules));
    offer(module, "prune_rules", |points: Points, rules: Record| counted(&points, &rules.0));
    register_guards(module);
}

/// Whether `text` matches `pattern`: `*` stands for any characters, `?` for one; capitals do not matter.
///
/// The pieces between the stars are looked for one after the other, each at its first place: no way back, so the work
/// grows with the text only.
pub(super) fn like(text: &str, pattern: &str) -> bool {
    let folded = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (text, pattern) = (folded(text), folded(pattern));
    let mut pieces = pattern.split(|c| *c == '*');
    let fits = |at: &[char], piece: &[char]| at.iter().zip(piece).all(|(c, p)| *p == '?' || c == p);
    let first = pieces.next().unwrap_or_default();
    if text.len() < first.len() || !fits(&text, first) {
        return false;
    }
    let mut rest = &text[first.len()..];
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        match rest.windows(piece.len()).position(|window| fits(window, piece)) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && fits(&rest[rest.len() - last.len()..], last)
}

fn like_checked(text: &str, pattern: &str) -> Result<bool, Box<EvalAltResult>> {
    if pattern.chars().count() > LONGEST_PATTERN {
        return refuse(format!("a pattern may have {LONGEST_PATTERN} characters"));
    }
    Ok(like(text, pattern))
}

fn like_any(text: &str, patterns: &[Dynamic]) -> Result<bool, Box<EvalAltResult>> {
    for pattern in patterns {
        let Ok(pattern) = pattern.as_immutable_string_ref() else {
            return refuse(format!("a pattern is a string, not a {}", pattern.type_name()));
        };
        if like_checked(text, &pattern)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn counted(points: &Points, rules: &Map) -> Result<Kept, Box<EvalAltResult>> {
    let mut numbers = KeepRules::default();
    for (name, value) in rules {
        let Some(number) = numbers.get_mut(name) else {
            return refuse(format!(
                "there is no keep rule '{name}' (known: {})",
                KeepRules::NAMES.join(", ")
            ));
        };
        if value.is_unit() {
            continue;
        }
        let whole = value.as_int().ok().filter(|whole| *whole >= 0);
        let Some(whole) = whole else {
            return refuse(format!("the keep rule '{name}' needs a whole number from 0, not {value}"));
        };
        *number = u32::try_from(whole).unwrap_or(u32::MAX);
    }
    let run = &points.0;
    Ok(Kept { rules: Shared::new(prune_rules(&run.points, numbers, run.zone)), run: Arc::clone(run) })
}

/// The language answers "false" when things of different kinds are compared: a missing setting would silently keep
/// nothing. Here it is an error instead.
fn register_guards(module: &mut Module) {
    fn guard<A: Variant + Clone, B: Variant + Clone>(module: &mut Module) {
        for name in ["<", "<=", ">", ">="] {
            offer(module, name, |a: A, b: B| -> Result<bool, _> {
                let (a, b) = (Dynamic::from(a), Dynamic::from(b));
                let word = |value: &Dynamic| if value.is_unit() { "nothing" } else { type_word(value) };
                let hint =
                    if a.is_unit() || b.is_unit() { " (a setting that is not given is nothing)" } else { "" };
                refuse(format!("{} cannot be compared with {}{hint}", word(&a), word(&b)))
            });
        }
    }
    fn both<A: Variant + Clone, B: Variant + Clone>(module: &mut Module) {
        guard::<A, B>(module);
        guard::<B, A>(module);
    }
    guard::<(), ()>(module);
    both::<INT, ()>(module);
    both::<FLOAT, ()>(module);
    both::<ImmutableString, ()>(module);
    both::<bool, ()>(module);
    both::<Moment, ()>(module);
    both::<INT, ImmutableString>(module);
    both::<FLOAT, ImmutableString>(module);
    both::<INT, bool>(module);
    both::<FLOAT, bool>(module);
    both::<ImmutableString, bool>(module);
    both::<INT, Moment>(module);
    both::<FLOAT, Moment>(module);
    both::<ImmutableString, Moment>(module);
    both::<List, INT>(module);
    both::<Record, INT>(module);
}

fn type_word(value: &Dynamic) -> &'static str {
    if value.is_int() || value.is_float() {
        "a number"
    } else if value.is_string() {
        "a string"
    } else if value.is_bool() {
        "true or false"
    } else if value.is::<Moment>() {
        "a moment"
    } else {
        "a list or record"
    }
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn patterns_match_as_people_expect() {
        for (text, pattern, expected) in [
            ("web01", "web*", true),
            ("WEB01", "web??", true),
            ("web1", "web??", false),
            ("db-prod-01", "*prod*", true),
            ("db-prod-01", "db-*-0?", true),
            ("db-prod-01", "db-*-0", false),
            ("", "*", true),
            ("", "", true),
            ("a", "", false),
            ("abab", "*ab", true),
            ("ab", "ab*ab", false),
            ("aXbYab", "a*b*ab", true),
            ("ÄPFEL", "äpf*", true),
            ("web", "*?*?*?*", true),
            ("we", "*?*?*?*", false),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} like {pattern}");
        }
    }

    #[test]
    fn a_hard_pattern_is_no_work() {
        let text = "a".repeat(50_000);
        assert!(!like(&text, &"a*".repeat(100).replace("a*a", "a*b")));
    }
}
