//! The guides' commands work as printed: each block of `docs/*.md` after the comment `<!-- run -->` (or `<!-- run: 3 -->`
//! where its commands end with another code) runs line by line in one shell, in a folder that has the guide's files.
//!
//! What the commands print is not compared: ids and times differ, and the guides shorten it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tidemark_tests::binaries::{checkout, tidemark};

use crate::fleet::Fleet;
use crate::kit::surroundings;

/// What a comment says of the block after it.
enum Mark {
    /// Its commands are run, and end with this code.
    Run(i32),
    /// It is a file of this name.
    File(String),
}

/// A command and where it stands.
#[derive(Debug, PartialEq, Eq)]
struct Printed {
    line: usize,
    text: String,
    code: i32,
}

/// What is in a guide.
#[derive(Default)]
struct Guide {
    files: Vec<(String, String)>,
    commands: Vec<Printed>,
}

impl Guide {
    fn read(text: &str) -> Result<Self> {
        let mut guide = Self::default();
        let mut mark = None;
        let mut lines = (1..).zip(text.lines());
        while let Some((number, line)) = lines.next() {
            let Some(language) = line.strip_prefix("```") else {
                mark = marked(line)?;
                continue;
            };
            let mut block = Vec::new();
            loop {
                let (at, line) =
                    lines.next().with_context(|| format!("the block on line {number} has no end"))?;
                if line.starts_with("```") {
                    break;
                }
                block.push((at, line));
            }
            match mark.take() {
                None => {}
                Some(Mark::Run(code)) => guide.take_commands(language, &block, code)?,
                Some(Mark::File(name)) => {
                    ensure!(
                        guide.files.iter().all(|(known, _)| *known != name),
                        "there are two files {name}"
                    );
                    guide.files.push((name, block.iter().map(|(_, line)| format!("{line}\n")).collect()));
                }
            }
        }
        Ok(guide)
    }

    /// Of `console` the lines behind `$ `, of `sh` all; a line that ends with a backslash goes on.
    fn take_commands(&mut self, language: &str, block: &[(usize, &str)], code: i32) -> Result<()> {
        let mut goes_on = false;
        for &(line, text) in block {
            let begins = match language {
                "console" => text.strip_prefix("$ "),
                "sh" => Some(text).filter(|text| !text.is_empty()),
                other => bail!("line {line}: a block of '{other}' cannot be run"),
            };
            if goes_on && let Some(last) = self.commands.last_mut() {
                last.text = format!("{}\n{text}", last.text);
            } else if let Some(text) = begins {
                self.commands.push(Printed { line, text: text.to_owned(), code });
            } else {
                continue;
            }
            goes_on = text.ends_with('\\');
        }
        Ok(())
    }

    /// All commands, each followed by a look at its exit code.
    fn script(&self, name: &str) -> String {
        let mut script = String::new();
        for Printed { line, text, code } in &self.commands {
            script.push_str(&format!(
                "{text}\ncode=$?\n[ $code -eq {code} ] || {{ echo \"{name}:{line} ended with $code, not {code}\" >&2; exit 1; }}\n"
            ));
        }
        script
    }
}

fn marked(line: &str) -> Result<Option<Mark>> {
    let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) else {
        return Ok(None);
    };
    Ok(match comment.split_once(": ") {
        None if comment == "run" => Some(Mark::Run(0)),
        Some(("run", code)) => Some(Mark::Run(code.parse().with_context(|| line.to_owned())?)),
        Some(("file" | "example", name)) => Some(Mark::File(name.to_owned())),
        _ => None,
    })
}

/// Runs a guide's commands against a fleet of its own.
fn works_as_printed(name: &str) -> Result<()> {
    let guide = Guide::read(&fs::read_to_string(checkout().join(name))?).context(name.to_owned())?;
    ensure!(guide.commands.len() >= 5, "{name} has only {} commands that are run", guide.commands.len());
    let fleet = Fleet::start(&[])?;
    let folder = fleet.folder.path().join("guide");
    fs::create_dir(&folder)?;
    for (file, text) in &guide.files {
        ensure!(Path::new(file).components().count() == 1, "{file} is more than a name");
        fs::write(folder.join(file), text)?;
    }
    // The guides speak of the scripts that ship with the product as readers of the repository find them.
    std::os::unix::fs::symlink(checkout().join("policies"), folder.join("policies"))?;
    let binary = tidemark()?;
    let mut path = binary.parent().context("a folder of programs")?.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    // A group of its own: what a guide starts in the background ends with it, also where a command fails.
    shell.args(["-c", &guide.script(name)]).process_group(0);
    let shell = surroundings(&mut shell)
        .current_dir(&folder)
        .env("PATH", path)
        .env("TIDEMARK_URL", &fleet.server.url)
        .env("TIDEMARK_TOKEN", &fleet.server.token)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let group = Pid::from_child(&shell);
    let output = shell.wait_with_output()?;
    // Where nothing is left of the group there is nothing to end.
    let _ = kill_process_group(group, Signal::TERM);
    ensure!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    fleet.finish(&[])
}

#[test]
fn the_guide_to_policies_works_as_printed() -> Result<()> {
    works_as_printed("docs/policies.md")
}

#[test]
fn the_guide_to_flows_works_as_printed() -> Result<()> {
    works_as_printed("docs/flows.md")
}

#[test]
fn the_guide_to_plugins_works_as_printed() -> Result<()> {
    works_as_printed("docs/plugins.md")
}

#[test]
fn blocks_are_read_as_they_are_marked() -> Result<()> {
    let text = "<!-- file: a.toml -->\n```toml\nx = 1\n```\n\n<!-- run: 3 -->\n```console\n$ one \\\n  two\nanswer\n$ three\n```\n\
                ```sh\nnot marked\n```\n<!-- run -->\n```sh\nfour\n```\n";
    let guide = Guide::read(text)?;
    assert_eq!(guide.files, [("a.toml".to_owned(), "x = 1\n".to_owned())]);
    let told: Vec<_> = guide.commands.iter().map(|one| (one.line, one.text.as_str(), one.code)).collect();
    assert_eq!(told, [(8, "one \\\n  two", 3), (11, "three", 3), (18, "four", 0)]);
    assert!(Guide::read("```sh\nopen").is_err());
    Ok(())
}
