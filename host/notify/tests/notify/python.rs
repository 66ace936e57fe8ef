//! Python's standard library as an independent judge, where there is a Python.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// What `script` prints when it is given `input`; nothing where there is no `python3`.
pub(crate) fn python(script: &str, arguments: &[&str], input: &[u8]) -> Option<String> {
    let spawned = Command::new("python3")
        .arg("-c")
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("there is no python3: this is not judged");
        return None;
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}");
    Some(String::from_utf8(output.stdout).unwrap())
}
