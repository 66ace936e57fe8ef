//! `tidemark policy`: the stored ones over REST; files are checked, tested and played here, without a server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use similar::TextDiff;
use tidemark_api::wire::{
    ActivatePolicy, BacktestPoint, BacktestPolicy, BacktestReport, PolicyList, PolicySort,
    PolicyVersionEntry, PolicyVersions, WritePolicy,
};
use tidemark_model::PolicyKind;
use tidemark_policy::{CaseResult, Diagnostic, Script, Severity};

use super::simulate;
use crate::args::{KindArg, PolicyVerb};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, moment, or_dash};

pub(crate) fn run(verb: PolicyVerb, client: &dyn Fn() -> Result<Client>, output: &Output) -> Result<Ended> {
    match verb {
        PolicyVerb::Check { file, kind } => check(&file, kind, output),
        PolicyVerb::Test { path } => test(&path, output),
        PolicyVerb::Simulate(args) => simulate::run(*args, client, output),
        stored => run_stored(stored, &client()?, output),
    }
}

fn run_stored(verb: PolicyVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        PolicyVerb::List => {
            output.document(client.get("/api/v1/policies")?, |list: PolicyList| table(&list))?;
        }
        PolicyVerb::Put { name, file, kind, no_activate } => {
            return put(client, output, &name, &file, kind, !no_activate);
        }
        PolicyVerb::Show { name, version } => {
            let shown = client.get(&place(&name, version))?;
            output.document(shown, |stored: PolicyVersionEntry| stored.source)?;
        }
        PolicyVerb::Versions { name } => {
            let all = client.get(&format!("/api/v1/policies/{}/versions", escape(&name)))?;
            output.document(all, |all: PolicyVersions| versions(&all))?;
        }
        PolicyVerb::Diff { name, from, to } => diff(client, output, &name, from, to)?,
        PolicyVerb::Activate { name, version } => {
            let path = format!("/api/v1/policies/{}/actions/activate", escape(&name));
            let active = client.post(&path, &ActivatePolicy { version })?;
            output.document(active, decides)?;
        }
        PolicyVerb::Rollback { name } => {
            let active = client.act(&format!("/api/v1/policies/{}/actions/rollback", escape(&name)))?;
            output.document(active, decides)?;
        }
        PolicyVerb::Remove { name } => {
            client.delete(&format!("/api/v1/policies/{}", escape(&name)))?;
            output.done(&format!("policy '{name}' is forgotten"))?;
        }
        PolicyVerb::Backtest { name, file, version } => {
            let source = file.as_deref().map(read).transpose()?;
            return backtest(client, output, &name, &BacktestPolicy { version, source });
        }
        PolicyVerb::Check { .. } | PolicyVerb::Test { .. } | PolicyVerb::Simulate(_) => {}
    }
    Ok(Ended::Done)
}

fn place(name: &str, version: Option<u32>) -> String {
    let version = version.map(|version| format!("?version={version}")).unwrap_or_default();
    format!("/api/v1/policies/{}{version}", escape(name))
}

pub(super) fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

fn table(list: &PolicyList) -> String {
    let mut table = Table::new(&["NAME", "KIND", "DECIDES", "NEWEST", "ADDED"]);
    for policy in &list.policies {
        table.row([
            policy.name.clone(),
            word(policy.kind).to_owned(),
            or_dash(policy.active_version.map(|version| version.to_string())),
            policy.newest_version.to_string(),
            moment(&policy.created_at),
        ]);
    }
    table.render("no policies; `tidemark policy put NAME FILE --kind …` stores one")
}

fn versions(all: &PolicyVersions) -> String {
    let mut table = Table::new(&["VERSION", "DECIDES", "PUT", "BY", "DIGEST"]);
    for stored in &all.versions {
        let digest: String = stored.digest.chars().take(16).collect();
        let decides = if stored.active { "yes" } else { "" };
        table.row([
            stored.version.to_string(),
            decides.to_owned(),
            moment(&stored.created_at),
            stored.created_by.clone(),
            digest,
        ]);
    }
    table.render("no versions")
}

fn word(kind: PolicySort) -> &'static str {
    match kind {
        PolicySort::Retention => "retention",
        PolicySort::Group => "group",
    }
}

fn decides(active: PolicyVersionEntry) -> String {
    format!("version {} of policy '{}' decides from now on", active.version, active.name)
}

/// A new version of a policy that decides already is first played against today's catalog.
fn put(
    client: &Client,
    output: &Output,
    name: &str,
    file: &Path,
    kind: KindArg,
    activate: bool,
) -> Result<Ended> {
    let source = read(file)?;
    let list: PolicyList = serde_json::from_value(client.get("/api/v1/policies")?)?;
    let known = list.policies.iter().any(|policy| policy.name == name && policy.active_version.is_some());
    if known && activate && kind == KindArg::Retention && !output.is_json() {
        let wanted = BacktestPolicy { version: None, source: Some(source.clone()) };
        let path = format!("/api/v1/policies/{}/actions/backtest", escape(name));
        let played: BacktestReport = serde_json::from_value(client.post(&path, &wanted)?)?;
        output.note(backtested(&played).trim_end());
    }
    let kind = match kind {
        KindArg::Retention => PolicySort::Retention,
        KindArg::Group => PolicySort::Group,
    };
    let wire = WritePolicy { name: name.to_owned(), kind, source, activate: Some(activate) };
    let put = client.post("/api/v1/policies", &wire)?;
    let stored: PolicyVersionEntry = serde_json::from_value(put.clone())?;
    for finding in &stored.findings {
        output.warning(&finding.text);
    }
    output.document(put, |stored: PolicyVersionEntry| {
        let decides = if stored.active { " and decides from now on" } else { "; another version decides" };
        format!("policy '{}' is stored as version {}{decides}", stored.name, stored.version)
    })?;
    Ok(Ended::Done)
}

fn diff(client: &Client, output: &Output, name: &str, from: Option<u32>, to: Option<u32>) -> Result<()> {
    let all = client.get(&format!("/api/v1/policies/{}/versions", escape(name)))?;
    let all: PolicyVersions = serde_json::from_value(all)?;
    let find = |version: Option<u32>, otherwise: Option<&PolicyVersionEntry>| match version {
        Some(version) => all
            .versions
            .iter()
            .find(|stored| stored.version == version)
            .cloned()
            .with_context(|| format!("policy '{name}' has no version {version}")),
        None => otherwise.cloned().with_context(|| format!("policy '{name}' has no active version")),
    };
    let old = find(from, all.versions.iter().find(|stored| stored.active))?;
    let new = find(to, all.versions.first())?;
    let changes = TextDiff::from_lines(&old.source, &new.source)
        .unified_diff()
        .header(&format!("{name} version {}", old.version), &format!("{name} version {}", new.version))
        .to_string();
    let document = json!({ "from": old.version, "to": new.version, "diff": changes });
    output.document(document, |_: Value| {
        if changes.is_empty() { "the two versions are the same".to_owned() } else { changes.clone() }
    })
}

fn backtest(client: &Client, output: &Output, name: &str, wanted: &BacktestPolicy) -> Result<Ended> {
    let played = client.post(&format!("/api/v1/policies/{}/actions/backtest", escape(name)), wanted)?;
    let report: BacktestReport = serde_json::from_value(played.clone())?;
    output.document(played, |report: BacktestReport| backtested(&report))?;
    Ok(if report.alerts.is_empty() { Ended::Done } else { Ended::Warnings })
}

fn backtested(report: &BacktestReport) -> String {
    let mut table = Table::new(&["VM", "REPOSITORY", "CHANGE", "BACKUP OF", "BACKUP", "REASON TO STAY"]);
    for vm in &report.vms {
        let mut add = |change: &str, points: &[BacktestPoint]| {
            for point in points {
                table.row([
                    vm.vm_name.clone(),
                    vm.repository.clone(),
                    change.to_owned(),
                    moment(&point.snapshot_at),
                    point.backup_id.clone(),
                    point.reason.clone(),
                ]);
            }
        };
        add("would go", &vm.dropped);
        add("would stay", &vm.kept);
    }
    let mut text = table.render("nothing would change\n");
    text.push_str(&format!(
        "\n{} backups looked at, of the VMs of {}\n",
        report.backups,
        if report.flows.is_empty() { "no flow".to_owned() } else { report.flows.join(", ") }
    ));
    for alert in &report.alerts {
        text.push_str(&format!("alert: {alert}\n"));
    }
    text
}

fn check(file: &Path, kind: Option<KindArg>, output: &Output) -> Result<Ended> {
    let source = read(file)?;
    let kind = kind.map_or_else(|| tidemark_policy::likely_kind(&source), kind_of);
    let found = tidemark_policy::check(kind, &source);
    let failed = found.iter().any(|finding| finding.severity == Severity::Error);
    let document = json!({
        "file": file.display().to_string(),
        "kind": kind.as_str(),
        "findings": found.iter().map(finding_json).collect::<Vec<_>>(),
        "ok": !failed,
    });
    output.document(document, |_: Value| {
        let mut text: String =
            found.iter().map(|finding| format!("{}: {finding}\n", file.display())).collect();
        if found.is_empty() {
            text = format!("{}: a sound {} policy", file.display(), kind.as_str());
        }
        text
    })?;
    let warned = found.iter().any(|finding| finding.severity == Severity::Warning);
    Ok(if failed {
        Ended::Failed
    } else if warned {
        Ended::Warnings
    } else {
        Ended::Done
    })
}

pub(super) fn kind_of(arg: KindArg) -> PolicyKind {
    match arg {
        KindArg::Retention => PolicyKind::Retention,
        KindArg::Group => PolicyKind::Group,
    }
}

fn finding_json(finding: &Diagnostic) -> Value {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Hint => "hint",
    };
    json!({ "severity": severity, "line": finding.line, "column": finding.column, "message": finding.message })
}

/// All scripts with cases under a path.
fn scripts(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rhai") {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        bail!("there is no script (*.rhai) in {}", path.display());
    }
    Ok(found)
}

fn test(path: &Path, output: &Output) -> Result<Ended> {
    let (mut failed, mut passed, mut lines, mut documents) = (0, 0, String::new(), Vec::new());
    for script in scripts(path)? {
        let results = test_one(&script)?;
        for result in &results {
            let verdict = if result.passed() { "ok" } else { "FAILED" };
            lines.push_str(&format!("{}: {} ... {verdict}\n", script.display(), result.name));
            for difference in &result.differences {
                lines.push_str(&format!("    {difference}\n"));
            }
            documents.push(json!({
                "script": script.display().to_string(),
                "case": result.name,
                "line": result.line,
                "passed": result.passed(),
                "differences": result.differences,
            }));
        }
        passed += results.iter().filter(|result| result.passed()).count();
        failed += results.iter().filter(|result| !result.passed()).count();
    }
    let document = json!({ "passed": passed, "failed": failed, "cases": documents });
    output.document(document, |_: Value| format!("{lines}\n{passed} passed, {failed} failed"))?;
    Ok(if failed > 0 { Ended::Failed } else { Ended::Done })
}

fn test_one(file: &Path) -> Result<Vec<CaseResult>> {
    let source = read(file)?;
    let cases = file.with_extension("test.toml");
    let text = std::fs::read_to_string(&cases).with_context(|| {
        format!("{} has no test cases: write them in {}", file.display(), cases.display())
    })?;
    let kind = tidemark_policy::cases_kind(&text).with_context(|| cases.display().to_string())?;
    let kind = kind.unwrap_or_else(|| tidemark_policy::likely_kind(&source));
    let script = Script::compile(kind, &source).with_context(|| file.display().to_string())?;
    tidemark_policy::run_cases(&script, &text).with_context(|| cases.display().to_string())
}
