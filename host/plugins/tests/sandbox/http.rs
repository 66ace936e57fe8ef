//! The guests' HTTP: grants, pinning, redirects, sizes, time, secrets, connection reuse.

use serde_json::{Value, json};
use tidemark_plugins::{ErrorKind, Limits};

use crate::guests::Lab;
use crate::http_server::Server;

/// Sends one request (or `times`) and answers with what the guest saw.
async fn fetch(lab: &Lab, settings: Value, grants: &[&str]) -> Result<String, tidemark_plugins::Error> {
    let mut settings = settings;
    settings["behave"] = json!("http");
    settings["in"] = json!("check");
    let mut connector = lab.open(settings, grants).await?;
    let answer = connector.check().await.map(|findings| findings[0].message.clone());
    // A refusal or a failure of the other side is the guest's to live with.
    connector.keep_alive().await.unwrap();
    answer
}

#[tokio::test]
async fn a_host_that_was_not_granted_is_denied_and_audited() {
    let server = Server::start().await;
    let lab = Lab::connectors(Limits::default()).await;
    let settings = json!({ "url": server.url("/"), "thumbprint": server.sha256 });
    for grants in [&[][..], &["http:other.example"], &["nbd"], &["http:localhost:1"]] {
        let error = fetch(&lab, settings.clone(), grants).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Denied, "{error}");
        assert_eq!((error.plugin(), error.version()), ("hostile", "0.1.0"));
        assert!(error.message().contains("tidemark plugin grant"), "{error}");
    }
    let events = lab.audit.events();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0].target, format!("localhost:{}", server.port));
    assert_eq!((events[0].plugin.as_str(), events[0].label.as_str()), ("hostile", "job-1"));
    assert_eq!(server.connections(), 0, "nothing was even connected to");
    assert_eq!(fetch(&lab, settings, &["http"]).await.unwrap(), "200 <>");
}

#[tokio::test]
async fn addresses_that_are_never_reached() {
    let lab = Lab::connectors(Limits::default()).await;
    for url in [
        "https://169.254.169.254/",
        "https://[fe80::1]/",
        "https://0.0.0.0/",
        "https://[::ffff:169.254.169.254]/",
    ] {
        let error = fetch(&lab, json!({ "url": url }), &["http"]).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Denied, "{url}: {error}");
        assert!(error.message().contains("no plugin may reach"), "{error}");
    }
    for wrong in ["ftp://localhost/", "https://user@localhost/", "/relative", "https://"] {
        let error = fetch(&lab, json!({ "url": wrong }), &["http"]).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Config, "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_certificate_is_pinned_or_checked() {
    let server = Server::start().await;
    let lab = Lab::connectors(Limits::default()).await;
    let with_colons: Vec<String> = server
        .sha1
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).into())
        .collect();
    let good = [
        json!({ "thumbprint": server.sha256 }),
        json!({ "thumbprint": with_colons.join(":") }),
        json!({ "authorities": server.pem }),
    ];
    for mut settings in good {
        settings["url"] = json!(server.url("/"));
        assert_eq!(fetch(&lab, settings.clone(), &["http"]).await.unwrap(), "200 <>", "{settings}");
    }
    let other = Server::start().await;
    let bad = [
        json!({ "thumbprint": other.sha256 }),
        json!({ "thumbprint": other.sha1 }),
        json!({ "thumbprint": "abc" }),
        json!({ "authorities": other.pem }),
        json!({ "authorities": "no pem" }),
        json!({}),
    ];
    for mut settings in bad {
        settings["url"] = json!(server.url("/"));
        let error = fetch(&lab, settings.clone(), &["http"]).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Config, "{settings}: {error}");
    }
    let settings = json!({ "url": server.url("/"), "thumbprint": other.sha256 });
    let error = fetch(&lab, settings, &["http"]).await.unwrap_err();
    assert!(error.message().contains(&server.sha256), "it says which certificate was found: {error}");
}

#[tokio::test]
async fn redirects_are_answers_and_sizes_and_time_are_bounded() {
    let server = Server::start().await;
    let lab = Lab::connectors(Limits { response_bytes: 1 << 20, ..Limits::default() }).await;
    let to = |path: &str| json!({ "url": server.url(path), "thumbprint": server.sha256 });
    assert_eq!(fetch(&lab, to("/redirect"), &["http"]).await.unwrap(), "302 ");
    assert_eq!(fetch(&lab, to("/big"), &["http"]).await.unwrap_err().kind(), &ErrorKind::Limit);
    let error = fetch(&lab, to("/slow"), &["http"]).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Server::start().await;
    let lab = Lab::connectors(Limits::default()).await;
    let settings = json!({ "url": server.url("/"), "thumbprint": server.sha256, "times": 20 });
    fetch(&lab, settings, &["http"]).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn secrets_are_filled_in_and_stay_out_of_urls() {
    let server = Server::start().await;
    let lab = Lab::connectors(Limits::default()).await;
    for (encoding, expected) in [
        ("raw", "200 <p<&>\"w é>"),
        ("xml-text", "200 <p&lt;&amp;&gt;&quot;w é>"),
        ("json-string", "200 <p<&>\\\"w é>"),
        ("percent", "200 <p%3C%26%3E%22w%20%C3%A9>"),
        ("base64", "200 <cDwmPiJ3IMOp>"),
    ] {
        let settings = json!({
            "url": server.url("/"), "thumbprint": server.sha256, "secret": "password", "encoding": encoding,
        });
        assert_eq!(fetch(&lab, settings, &["http"]).await.unwrap(), expected);
    }
    let url = server.url("/?q=p%3C%26%3E%22w%20%C3%A9");
    let settings = json!({ "url": url, "thumbprint": server.sha256 });
    assert_eq!(fetch(&lab, settings, &["http"]).await.unwrap_err().kind(), &ErrorKind::Denied);
    assert_eq!(lab.audit.events()[0].capability, "secret");
    let settings = json!({ "url": server.url("/"), "thumbprint": server.sha256, "secret": "unknown" });
    assert_eq!(fetch(&lab, settings, &["http"]).await.unwrap_err().kind(), &ErrorKind::Config);
}
