//! The binary as a user runs it: exit codes, what goes to which stream, a server that clients find without a token
//! and that stops when asked.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The command with nothing of the outside world's settings.
fn tidemark(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    for name in ["TIDEMARK_URL", "TIDEMARK_TOKEN", "TIDEMARK_CA", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("XDG_STATE_HOME", home.join("state")).env("NO_COLOR", "1");
    command.stdin(Stdio::null());
    command
}

fn run(home: &Path, args: &[&str]) -> Output {
    tidemark(home).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server that is stopped even where the test fails.
struct Serving {
    child: Child,
    url: String,
    token_file: String,
}

impl Serving {
    fn start(home: &Path) -> Self {
        let mut command = tidemark(home);
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--data-dir"]).arg(home.join("data"));
        command.arg("--plugins").arg(home);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let word = |key: &str| said[key].as_str().unwrap().to_owned();
        Self { url: word("url"), token_file: word("token_file"), child }
    }

    fn stop(mut self) -> Option<i32> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(asked.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // After an orderly stop there is nothing left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn wrong_usage_and_failed_work_are_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let code = |args: &[&str]| run(home.path(), args).status.code();
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["backup", "run"]), Some(2));
    assert_eq!(code(&["no-such-noun"]), Some(2));
    assert_eq!(code(&["serve"]), Some(2));
    assert_eq!(code(&["vm", "list"]), Some(1), "there is no server and no token");
    assert_eq!(code(&["plugin", "inspect", "Cargo.toml"]), Some(1), "no component");
}

#[test]
fn a_server_is_found_answers_and_stops() {
    let home = tempfile::tempdir().unwrap();
    let serving = Serving::start(home.path());
    let url = serving.url.clone();
    assert!(std::fs::read_to_string(&serving.token_file).unwrap().starts_with("tdm_"));

    let made = run(home.path(), &["--url", &url, "token", "create", "ci", "--role", "viewer", "--json"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&made["name"], &made["role"]), (&"ci".into(), &"viewer".into()));

    let listed = run(home.path(), &["--url", &url, "token", "list"]);
    assert!(text(&listed.stdout).lines().any(|line| line.starts_with("ci ") && line.contains("viewer")));
    assert!(listed.stderr.is_empty());

    let secret = made["token"].as_str().unwrap();
    let refused = tidemark(home.path())
        .args(["--url", &url, "token", "revoke", "ci", "--json"])
        .env("TIDEMARK_TOKEN", secret)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let problem: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&problem["status"], &problem["kind"]), (&403.into(), &"forbidden".into()));
    assert!(text(&refused.stderr).contains("admin"), "{}", text(&refused.stderr));

    let second = run(
        home.path(),
        &["serve", "--listen", "127.0.0.1:0", "--data-dir", home.path().join("data").to_str().unwrap()],
    );
    assert_eq!(second.status.code(), Some(1), "a data folder has one server");

    assert_eq!(serving.stop(), Some(0));
    let gone = run(home.path(), &["--url", &url, "vm", "list"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains(&url), "{}", text(&gone.stderr));
}
