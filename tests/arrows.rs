//! The arrows between the workspace's crates, held against `cargo metadata`: what a crate may use is written
//! here with its reason, and a dependency that is not written here fails.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What one crate may use of the workspace, and why no more.
struct Rule {
    name: &'static str,
    may_use: &'static [&'static str],
    why_no_more: &'static str,
}

const MODEL: &str = "tidemark-model";

const RULES: &[Rule] = &[
    Rule {
        name: MODEL,
        may_use: &[],
        why_no_more: "the vocabulary knows nobody, so that everybody may speak it",
    },
    Rule {
        name: "tidemark-nbd",
        may_use: &[MODEL],
        why_no_more: "a protocol; it meets images only in the engine",
    },
    Rule {
        name: "tidemark-qcow2",
        may_use: &[MODEL],
        why_no_more: "a format; it meets sources only in the engine",
    },
    Rule {
        name: "tidemark-vmdk",
        may_use: &[MODEL],
        why_no_more: "a format; that a disk comes out of QCOW2 images is known to the engine alone",
    },
    Rule { name: "tidemark-catalog", may_use: &[MODEL], why_no_more: "SQL lives here and nothing else does" },
    Rule {
        name: "tidemark-plugins",
        may_use: &[MODEL],
        why_no_more: "the sandbox must not reach the catalog or bytes",
    },
    Rule {
        name: "tidemark-policy",
        may_use: &[MODEL],
        why_no_more: "decisions are made from values, not from state",
    },
    Rule {
        name: "tidemark-notify",
        may_use: &[MODEL],
        why_no_more: "it carries words out of the house; what happened, and who is told, the engine knows",
    },
    Rule {
        name: "tidemark-engine",
        may_use: &[
            MODEL,
            "tidemark-nbd",
            "tidemark-qcow2",
            "tidemark-vmdk",
            "tidemark-catalog",
            "tidemark-plugins",
            "tidemark-policy",
            "tidemark-notify",
        ],
        why_no_more: "jobs do not know who asked for them: no HTTP, no command line",
    },
    Rule {
        name: "tidemark-api",
        may_use: &[MODEL, "tidemark-catalog", "tidemark-engine"],
        why_no_more: "handlers validate, convert and call; bytes and sandboxes are the engine's",
    },
    Rule {
        name: "tidemark",
        // The plugin and policy commands that work on a file need no server, hence no engine either.
        may_use: &[MODEL, "tidemark-api", "tidemark-engine", "tidemark-plugins", "tidemark-policy"],
        why_no_more: "the binary wires the parts up; its client commands speak REST only",
    },
    Rule {
        name: "vcenter-sim",
        may_use: &[MODEL, "tidemark-nbd"],
        why_no_more: "a simulator that shares code with its client would share its mistakes; NBD is judged by qemu",
    },
    Rule {
        name: "tidemark-bench",
        may_use: &[MODEL, "tidemark-engine", "tidemark-tests"],
        why_no_more: "what is timed is a backup's own move, through the door that the engine opens for it",
    },
    Rule {
        name: "tidemark-tests",
        may_use: &[],
        why_no_more: "end-to-end tests use what users use: the command line, REST and files",
    },
];

#[test]
fn crates_use_only_what_lies_below_them() -> Result<()> {
    let graph = workspace_graph()?;
    let mut offences = Vec::new();
    for rule in RULES {
        let Some(used) = graph.get(rule.name) else {
            offences.push(format!("{} has a rule but is no crate of the workspace", rule.name));
            continue;
        };
        for name in used.iter().filter(|name| !rule.may_use.contains(&name.as_str())) {
            offences.push(format!("{} uses {name}, but {}", rule.name, rule.why_no_more));
        }
    }
    ensure!(offences.is_empty(), "{}", offences.join("\n"));
    Ok(())
}

#[test]
fn every_crate_has_its_rule() -> Result<()> {
    let ruled: BTreeSet<_> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
    let present: BTreeSet<_> = workspace_graph()?.into_keys().collect();
    assert_eq!(present, ruled);
    Ok(())
}

/// Every member of the workspace with the members it depends on, of any kind (tests' dependencies too: a cycle
/// through them is as binding).
fn workspace_graph() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"])
        .arg(tidemark_tests::binaries::checkout().join("Cargo.toml"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let members = packages.iter().map(name_of).collect::<Result<BTreeSet<_>>>()?;
    let mut graph = BTreeMap::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().context("no dependencies")?;
        let mut used = dependencies.iter().map(name_of).collect::<Result<BTreeSet<_>>>()?;
        used.retain(|name| members.contains(name));
        graph.insert(name_of(package)?, used);
    }
    Ok(graph)
}

fn name_of(package: &Value) -> Result<String> {
    package["name"].as_str().map(str::to_owned).context("a package without a name")
}
