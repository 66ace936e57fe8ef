//! Runs `tidemark`'s client commands and keeps what they print apart: the JSON document on standard output, the
//! messages on standard error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a command ended with.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// 0 done, 1 the work failed, 2 wrong usage, 3 done with warnings; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The document that `--json` promises.
    ///
    /// # Errors
    /// Where standard output is no single JSON document.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| {
            format!("`{}` printed no JSON document: '{}' {}", self.command, self.stdout, self.stderr)
        })
    }

    /// The document of a command that must end with `code`.
    ///
    /// # Errors
    /// Where it ended otherwise.
    pub fn expect(&self, code: i32) -> Result<Value> {
        ensure!(
            self.code == code,
            "`{}` ended with {} instead of {code}\nstdout: {}\nstderr: {}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        if self.stdout.trim().is_empty() { Ok(Value::Null) } else { self.json() }
    }
}

/// The command line against one server.
#[derive(Debug, Clone)]
pub struct Cli {
    binary: PathBuf,
    url: String,
    token: String,
}

impl Cli {
    /// A command line for the server at `url`.
    #[must_use]
    pub fn new(binary: &Path, url: &str, token: &str) -> Self {
        Self { binary: binary.to_path_buf(), url: url.to_owned(), token: token.to_owned() }
    }

    /// Runs a command with `--json` and answers however it ends.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn outcome<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Outcome> {
        let mut command = Command::new(&self.binary);
        command.args(args).arg("--json").stdin(Stdio::null());
        // By the environment and not by an argument: arguments are visible to every user of the machine.
        command.env("TIDEMARK_URL", &self.url).env("TIDEMARK_TOKEN", &self.token).env("NO_COLOR", "1");
        let output = command.output().with_context(|| format!("cannot start {}", self.binary.display()))?;
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        Ok(Outcome {
            command: format!("tidemark {}", words.join(" ")),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// Where it does not.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Value> {
        self.outcome(args)?.expect(0)
    }
}
