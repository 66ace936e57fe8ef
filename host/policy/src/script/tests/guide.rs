//! The guide tells of every field and every function, and of no other.

use super::super::sandbox::{Budget, ON_OFFER};
use super::super::shapes::Shape;

const GUIDE: &str = include_str!("../../../../../docs/policies.md");

/// The names in the first column of the tables of a section.
fn named(section: &str) -> Vec<&'static str> {
    let from = GUIDE.split_once(&format!("\n## {section}\n")).unwrap().1;
    let text = from.split("\n## ").next().unwrap();
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| line.split('|').nth(1));
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|name| name.split('(').next().unwrap())
        .collect()
}

#[test]
fn it_names_all_fields() {
    let named = named("The objects and their fields");
    let shapes = [
        Shape::Backup,
        Shape::Ranks,
        Shape::RetentionContext,
        Shape::GroupContext,
        Shape::Vm,
        Shape::History,
        Shape::Moment,
    ];
    let fields: Vec<&str> = shapes.iter().flat_map(|s| s.fields().unwrap()).map(|field| field.0).collect();
    for field in &fields {
        assert!(named.contains(field), "{field} is not in the guide");
    }
    for name in named {
        assert!(fields.contains(&name), "the guide names a field {name}");
    }
    for (field, _) in Shape::Disk.fields().unwrap() {
        assert!(GUIDE.contains(&format!("`{field}`")), "{field} is not in the guide");
    }
}

#[test]
fn it_names_all_functions() {
    let named = named("Functions");
    for function in ON_OFFER.iter() {
        assert!(named.contains(function), "{function} is not in the guide");
    }
    for name in named {
        assert!(ON_OFFER.contains(&name), "the guide names a function {name}");
    }
}

#[test]
fn its_numbers_are_ours() {
    let (one, all) = (Budget::retention(0), Budget::preparation(1000));
    assert_eq!((one.operations, one.items, one.time.as_secs()), (50_000, 10_000, 5));
    assert_eq!((all.operations, all.items, all.time.as_micros()), (600_000, 14_000, 5_200_000));
    assert_eq!((Budget::DECISION.operations, Budget::DECISION.time.as_secs()), (100_000, 2));
}
