//! What the libraries below log, at every level there is: no secret.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};
use serde_json::json;
use tidemark_notify::{HttpSettings, Secret, Webhook};

use crate::http_peer::{Server, answer};

/// Keeps every line; other tests' lines are among them.
struct Kept(Mutex<String>);

static KEPT: Kept = Kept(Mutex::new(String::new()));

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut kept = self.0.lock().unwrap();
        kept.push_str(&format!("{} {} {}\n", record.level(), record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[test]
fn no_log_shows_a_secret() {
    log::set_logger(&KEPT).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let server = Server::start(vec![answer("302 Found", &["Location: /log-location"], "log-body")]);
    let settings = HttpSettings {
        secret: Some(Secret::new("log-key")),
        headers: vec![("X-Api-Key".to_owned(), Secret::new("log-header"))],
        ..HttpSettings::new(server.url("/log-path?log-query"))
    };
    Webhook::new(settings).unwrap().deliver("id", "kind", &json!("log-event")).unwrap_err();
    let kept = KEPT.0.lock().unwrap();
    assert!(kept.contains("DEBUG ureq"), "nothing was logged");
    for secret in ["log-key", "log-header", "log-path", "log-query", "log-event", "log-body", "log-location"]
    {
        let shown: Vec<_> = kept.lines().filter(|line| line.contains(secret)).collect();
        assert!(shown.is_empty(), "{secret}: {shown:?}");
    }
}
