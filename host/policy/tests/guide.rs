//! The author's guide: every script in it is without a finding, and passes the cases printed beside it.

use std::collections::BTreeMap;

use tidemark_model::PolicyKind;
use tidemark_policy::{Script, cases_kind, check, run_cases};

const GUIDE: &str = include_str!("../../../docs/policies.md");

/// A fenced block: the name in the comment before it, the language, the text and its line.
struct Block {
    name: Option<String>,
    language: String,
    text: String,
    line: usize,
}

fn blocks() -> Vec<Block> {
    let (mut blocks, mut open): (Vec<Block>, Option<Block>) = (Vec::new(), None);
    let mut name = None;
    for (number, line) in GUIDE.lines().enumerate() {
        match (open.take(), line.strip_prefix("```")) {
            (Some(block), Some(_)) => blocks.push(block),
            (Some(block), None) => open = Some(Block { text: block.text + line + "\n", ..block }),
            (None, Some(language)) => {
                let language = language.to_owned();
                open = Some(Block { name: name.take(), language, text: String::new(), line: number + 1 });
            }
            (None, None) => {
                let marked = line.strip_prefix("<!-- example: ").and_then(|rest| rest.strip_suffix(" -->"));
                name = marked.map(str::to_owned);
            }
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

#[test]
fn every_example_of_the_guide_works() {
    let (mut scripts, mut cases) = (BTreeMap::new(), BTreeMap::new());
    for block in blocks().into_iter().filter(|block| ["rhai", "toml"].contains(&block.language.as_str())) {
        let name = block.name.unwrap_or_else(|| panic!("the block on line {} has no name", block.line));
        let known = match name.strip_suffix(".test.toml") {
            Some(base) => cases.insert(base.to_owned(), block.text),
            None => scripts.insert(name.strip_suffix(".rhai").unwrap().to_owned(), block.text),
        };
        assert!(known.is_none(), "there are two blocks {name}");
    }
    assert!(scripts.len() >= 6 && scripts.keys().eq(cases.keys()), "a script or its cases are missing");
    for (name, source) in scripts {
        let kind = cases_kind(&cases[&name]).unwrap().unwrap_or(PolicyKind::Retention);
        let found: Vec<String> = check(kind, &source).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{name}: {}", found.join("\n"));
        let script = Script::compile(kind, &source).unwrap();
        let results = run_cases(&script, &cases[&name]).unwrap_or_else(|error| panic!("{name}: {error}"));
        for result in results {
            assert!(result.passed(), "{name}: {}: {:#?}", result.name, result.differences);
        }
    }
}

#[test]
fn its_contents_lead_somewhere() {
    let anchor = |title: &str| {
        let kept = title.trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || *c == ' ').collect::<String>().replace(' ', "-")
    };
    let titles: Vec<String> = GUIDE
        .lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect();
    for link in GUIDE.split("](#").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(titles.iter().any(|title| title == target), "#{target} leads nowhere");
    }
}
