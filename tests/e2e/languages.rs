//! Plugins that are not written in Rust: begun, tried out in the sandbox, installed, and at work beside those that are.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidemark_tests::binaries::checkout;

use crate::fleet::{DAY, Fleet};
use crate::kit::Author;

/// What the set-up left of each language's tools, and where a plugin looks for it.
const NODE: (&str, &str) = (".node/node_modules", "node_modules");
const PYTHON: (&str, &str) = (".venv", ".venv");
/// Set, plugins in JavaScript are not tested.
const WITHOUT_NODE: &str = "TIDEMARK_TESTS_WITHOUT_NODE";
/// The compiler that has to be in there.
const NODE_COMPILER: &str = ".node/node_modules/@bytecodealliance/componentize-js";

/// A new plugin in a language, with the tools that the set-up fetched in place of its own.
fn begins(author: &Author, language: &str, kind: &str, name: &str) -> Result<()> {
    author.begins_in(language, kind, name)?;
    let tools = match language {
        "js" => Some(NODE),
        "python" => Some(PYTHON),
        _ => None,
    };
    if let Some((from, to)) = tools {
        symlink(checkout().join(from), author.path(name).join(to))?;
        // Fetched as the template wants them, which a build looks for.
        let (wanted, stamp) = match language {
            "js" => ("package.json", "node_modules/componentize-js.installed"),
            _ => ("requirements.txt", ".venv/componentize-py.installed"),
        };
        std::fs::copy(author.path(name).join(wanted), author.path(name).join(stamp))?;
    }
    Ok(())
}

/// Tries a plugin out, and makes its component; answers with the component's file.
fn makes(author: &Author, name: &str) -> Result<String> {
    let checked = author.run(&["plugin", "check", name])?;
    ensure!(checked["component"].is_null(), "{checked}");
    let file = author.path(&format!("{name}.wasm")).display().to_string();
    let tried = author.run(&["plugin", "test", name, "--out", &file])?;
    ensure!(tried["failed"] == 0 && tried["checks"].as_array().is_some_and(|all| all.len() > 6), "{tried}");
    author.run(&["plugin", "check", &file])?;
    Ok(file)
}

fn installs(fleet: &Fleet, file: &str, name: &str) -> Result<()> {
    fleet.cli()?.run(&["plugin", "install", file])?;
    fleet.cli()?.run(&["plugin", "activate", name, "0.1.0"])?;
    Ok(())
}

#[test]
fn policies_in_other_languages_decide_as_the_one_in_rust_does() -> Result<()> {
    let author = Author::new()?;
    let mut languages = vec![("rust", "kit-in-rust"), ("python", "kit-in-python")];
    // To be left out on purpose only, where npm reaches no registry.
    if std::env::var_os(WITHOUT_NODE).is_none() {
        ensure!(checkout().join(NODE_COMPILER).is_dir(), "run scripts/setup test, or set {WITHOUT_NODE}");
        languages.push(("js", "kit-in-js"));
    }
    let mut fleet = Fleet::start(&[])?;
    for (language, name) in &languages {
        begins(&author, language, "policy", name)?;
        let file = makes(&author, name)?;
        let imports = author.run(&["plugin", "inspect", &file])?["imports"].to_string();
        ensure!(!imports.contains("wasi:"), "{language} wants more than its world: {imports}");
        installs(&fleet, &file, name)?;
    }
    fleet.cli()?.run(&["vm", "add", "vcenter-a", "web01"])?;
    let definition = |name: &str| {
        format!(
            "repository = 'main'\n[select]\nvms = ['web01']\n[retention]\npolicy = 'plugin:{name}'\nlevel = 'monitor'\n\
             settings = {{ newest = 1, days = 1.6 }}\ntime_zone = 'Europe/Berlin'\nmax_delete_percent = 100\n"
        )
    };
    fleet.flow("daily", &definition("kit-in-rust"))?;
    for _ in 0..6 {
        fleet.run("daily")?;
        fleet.pass(DAY / 2)?;
    }
    let mut decided: Vec<Value> = Vec::new();
    for (_, name) in &languages {
        let file = fleet.file("daily.toml", &definition(name))?;
        fleet.cli()?.run(&["flow", "update", "daily", "--file", &file])?;
        let outcome = fleet.cli()?.outcome(&["prune", "run", "--repository", "main", "--dry-run"])?;
        decided.push(outcome.json()?["result"]["decisions"].clone());
    }
    let [in_rust, others @ ..] = decided.as_slice() else { anyhow::bail!("nothing was decided") };
    let count = |what: &str| in_rust[0][what].as_array().map_or(0, Vec::len);
    ensure!(count("may_go") > 1, "{in_rust}");
    for ((language, _), other) in languages.iter().skip(1).zip(others) {
        ensure!(other == in_rust, "{language}: {other}\nRust: {in_rust}");
    }
    fleet.finish(&[])
}

#[test]
fn a_storage_target_in_python_keeps_backups_that_come_back() -> Result<()> {
    let author = Author::new()?;
    let fleet = Fleet::start(&[])?;
    begins(&author, "python", "storage-target", "kit-shelf")?;
    installs(&fleet, &makes(&author, "kit-shelf")?, "kit-shelf")?;
    let folder = fleet.folder.path().join("shelf");
    std::fs::create_dir_all(&folder)?;
    let cli = fleet.cli()?;
    cli.run(&["plugin", "grant", "kit-shelf", &format!("path:{}", folder.display())])?;
    let setting = format!("folder={}", folder.display());
    cli.run(&["repository", "add", "shelf", "--plugin", "kit-shelf", "--set", &setting])?;
    cli.run(&["vm", "add", "vcenter-a", "web01"])?;
    fleet.flow("daily", "repository = 'shelf'\n[select]\nvms = ['web01']\n")?;
    fleet.run("daily")?;
    fleet.write(0, 1 << 20, b"after the full")?;
    fleet.run("daily")?;
    let backups = fleet.backups("web01")?;
    ensure!(backups.len() == 2, "{backups:?}");
    let newest = backups.first().context("a backup")?;
    ensure!(newest["backup_type"] == "incremental", "{newest}");
    fleet.restores_to(newest, &fleet.disks[0])?;
    ensure!(holds_an_image(&folder)?, "nothing lies in {}", folder.display());
    // What a restart finds on disk is the component, and the code that was made of it.
    fleet.finish(&[])
}

/// What a policy in Python says in the place of its answer where its runtime was given anything.
const PROBE: &str = r#"

def granted():
    import time

    print("looking around")
    import os
    import sys

    for path in ["/etc/passwd", "/", "."]:
        for look in [open, os.listdir]:
            try:
                look(path)
                return path
            except OSError:
                pass
    if sys.argv[1:] or "PATH" in os.environ or "HOME" in os.environ:
        return "the host's arguments or environment"
    return "the time" if time.time() > 1 or time.monotonic() > 1 else None
"#;

#[test]
fn a_runtime_that_asks_for_wasi_is_given_one_that_grants_nothing() -> Result<()> {
    let author = Author::new()?;
    begins(&author, "python", "policy", "kit-wasi")?;
    let contract = "contract = \"0.3.0\"\n";
    author.edit("kit-wasi/plugin.toml", contract, &format!("{contract}runtime = \"wasi-0.2\"\n"))?;
    let place = author.path("kit-wasi/plugin.py");
    std::fs::write(&place, std::fs::read_to_string(&place)? + PROBE)?;
    let describe = "        return Description(NAME, VERSION, CONTRACT)";
    author.edit(
        "kit-wasi/plugin.py",
        describe,
        &format!("        found = granted()\n        assert found is None, found\n{describe}"),
    )?;
    let file = makes(&author, "kit-wasi")?;
    let imports = author.run(&["plugin", "inspect", &file])?["imports"].to_string();
    ensure!(imports.contains("wasi:clocks/") && imports.contains("wasi:filesystem/"), "{imports}");
    // Without the word in its manifest nothing of it is imported, and what calls it stops.
    author.edit("kit-wasi/plugin.toml", "runtime = \"wasi-0.2\"\n", "")?;
    author.run(&["plugin", "build", "kit-wasi", "--out", &file])?;
    let imports = author.run(&["plugin", "inspect", &file])?["imports"].to_string();
    ensure!(!imports.contains("wasi:"), "{imports}");
    let tried = author.outcome(&["plugin", "test", "kit-wasi"])?.expect(1)?;
    let described = |check: &&Value| check["name"] == "describe agrees with the manifest";
    let described = tried["checks"].as_array().and_then(|checks| checks.iter().find(described));
    ensure!(described.is_some_and(|check| check["ok"] == false), "{tried}");
    Ok(())
}

fn holds_an_image(folder: &Path) -> Result<bool> {
    Ok(!tidemark_tests::site::files_below(folder, ".qcow2")?.is_empty())
}

#[test]
fn what_has_no_template_is_said_with_what_has() -> Result<()> {
    let author = Author::new()?;
    for (language, kind, kinds) in [
        ("js", "connector", "only of: policy"),
        ("python", "connector", "only of: storage-target and policy"),
    ] {
        let refused = author.outcome(&["plugin", "new", "mine", "--kind", kind, "--lang", language])?;
        ensure!(refused.code == 1 && refused.stderr.contains(kinds), "{refused:?}");
        ensure!(!author.path("mine").exists(), "nothing is begun");
    }
    // A folder that shows no language is no plugin's.
    std::fs::create_dir(author.path("empty"))?;
    let manifest = "name = 'mine'\nversion = '0.1.0'\nkind = 'policy'\ncontract = '0.3.0'\n";
    std::fs::write(author.path("empty/plugin.toml"), manifest)?;
    let refused = author.outcome(&["plugin", "build", "empty"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("package.json"), "{refused:?}");
    Ok(())
}
