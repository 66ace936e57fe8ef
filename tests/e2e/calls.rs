//! What a flow tells the world: hooks that may stop it, and webhooks at its end, signed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::fleet::Fleet;

/// A request that somebody made.
#[derive(Debug)]
struct Call {
    path: String,
    headers: Vec<String>,
    body: String,
}

impl Call {
    fn header(&self, name: &str) -> Option<&str> {
        let wanted = format!("{name}:");
        let line = self.headers.iter().find(|line| line.to_ascii_lowercase().starts_with(&wanted))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }
}

/// A web server that answers each path with the status that its name ends with.
fn listen() -> Result<(String, Receiver<Call>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let Some(call) = read(&stream) else { continue };
            let status = call.path.rsplit('/').next().and_then(|word| word.parse().ok()).unwrap_or(200_u16);
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if sender.send(call).is_err() {
                break;
            }
        }
    });
    Ok((url, receiver))
}

fn read(stream: &std::net::TcpStream) -> Option<Call> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    lines.read_line(&mut first).ok()?;
    let path = first.split_whitespace().nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        headers.push(line.trim().to_owned());
    }
    let mut call = Call { path, headers, body: String::new() };
    let length = call.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    call.body = String::from_utf8_lossy(&body).into_owned();
    Some(call)
}

fn next(calls: &Receiver<Call>) -> Result<Call> {
    calls.recv_timeout(Duration::from_secs(60)).context("a call was expected")
}

#[test]
fn hooks_are_called_around_the_backups_and_ends_are_told_signed() -> Result<()> {
    let fleet = Fleet::start(&[])?;
    let cli = fleet.cli()?;
    cli.run(&["vm", "add", "vcenter-a", "web01"])?;
    let (url, calls) = listen()?;
    let secret = fleet.file("secret", "correct horse\n")?;
    let definition = format!(
        "repository = 'main'\n[select]\nvms = ['web01']\n\
         [[hooks.before]]\nurl = '{url}/before/200'\nsecret = 'hook'\n\
         [[hooks.after]]\nurl = '{url}/after/500'\non_failure = 'continue'\n\
         headers = {{ 'X-Environment' = 'prod' }}\nsecret_headers = {{ 'X-Token' = 'hook' }}\n\
         body = '{{\"said\": \"{{{{flow}}}} is over\"}}'\n\
         [[notify]]\non = ['succeeded']\nwebhook = '{url}/end/204'\nsecret = 'hook'\n"
    );
    let file = fleet.file("told.toml", &definition)?;
    let with = format!("hook=@{secret}");
    let made = cli.run(&["flow", "create", "told", "--file", &file, "--secret", &with])?;
    ensure!(!made.to_string().contains("horse"), "secrets never come back: {made}");
    let run = fleet.run("told")?;
    ensure!(run["status"] == "succeeded", "a hook that may fail is a warning: {run}");
    ensure!(run["report"]["warnings"].to_string().contains("hook after"), "{run}");

    let before = next(&calls)?;
    ensure!(before.path == "/before/200" && before.body.contains("\"flow\":\"told\""), "{before:?}");
    let signature = before.header("tidemark-signature").context("a signature")?;
    ensure!(signature.starts_with("t=") && signature.contains(",v1="), "{signature}");
    let after = next(&calls)?;
    ensure!(after.path == "/after/500" && after.body == r#"{"said": "told is over"}"#, "{after:?}");
    let headers = (after.header("x-environment"), after.header("x-token"));
    ensure!(headers == (Some("prod"), Some("correct horse")), "{after:?}");
    let told = next(&calls)?;
    ensure!(told.header("tidemark-event") == Some("flow.succeeded"), "{told:?}");
    ensure!(told.header("tidemark-signature").is_some(), "{told:?}");
    let body: Value = serde_json::from_str(&told.body)?;
    ensure!(body["status"] == "succeeded" && body["vms"][0]["vm_name"] == "web01", "{body}");

    let refusing = definition.replace("/before/200", "/before/403");
    let file = fleet.file("refusing.toml", &refusing)?;
    cli.run(&["flow", "update", "told", "--file", &file])?;
    let run = fleet.run("told")?;
    ensure!(run["status"] == "failed" && run["vms"].as_array().is_none_or(Vec::is_empty), "{run}");
    ensure!(fleet.backups("web01")?.len() == 1, "no backup was made");
    fleet.finish(&["a hook failed", "job failed"])
}
