//! Webhooks: what a receiver gets, and what becomes of each way in which it may answer or not.

use std::error::Error as _;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tidemark_notify::{
    Error, ErrorKind, HttpSettings, Pause, RetryPolicy, Secret, Webhook, deliver_with_retries,
    verify_signature,
};

use crate::authority::Authority;
use crate::http_peer::{Server, Turn, answer};

const EVENT: &str = "0190-event";

type Change = fn(&mut HttpSettings);

fn deliver(settings: HttpSettings) -> Result<u16, Error> {
    let body = json!({"flow": "nightly", "outcome": "failed"});
    Webhook::new(settings)?.deliver(EVENT, "flow.failed", &body).map(|delivery| delivery.status)
}

/// One delivery to a server that takes one turn.
fn deliver_to(turn: Turn) -> Result<u16, Error> {
    let server = Server::start(vec![turn]);
    deliver(HttpSettings::new(server.url("/T0/key-of-the-receiver")))
}

fn kind_of(turn: Turn) -> ErrorKind {
    deliver_to(turn).unwrap_err().kind()
}

#[test]
fn a_receiver_gets_what_it_can_verify() {
    let server = Server::start(vec![answer("202 Accepted", &[], "")]);
    let secret = Secret::new("whsec-1");
    let settings = HttpSettings {
        secret: Some(secret.clone()),
        headers: vec![("Authorization".to_owned(), Secret::new("Bearer t0ken"))],
        ..HttpSettings::new(server.url("/in?tenant=1"))
    };
    assert_eq!(deliver(settings).unwrap(), 202);
    let request = server.only_request();
    assert_eq!(request.line, "POST /in?tenant=1 HTTP/1.1");
    assert_eq!(request.body, br#"{"flow":"nightly","outcome":"failed"}"#);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("tidemark-event"), Some("flow.failed"));
    assert_eq!(request.header("tidemark-delivery"), Some(EVENT));
    assert_eq!(request.header("authorization"), Some("Bearer t0ken"));
    assert!(request.header("user-agent").unwrap().starts_with("tidemark/"));
    let signature = request.header("tidemark-signature").unwrap();
    let minute = Duration::from_secs(60);
    verify_signature(&secret, signature, &request.body, SystemTime::now(), minute).unwrap();
    verify_signature(&secret, signature, b"{}", SystemTime::now(), minute).unwrap_err();
}

#[test]
fn without_a_secret_nothing_is_signed() {
    let server = Server::start(vec![answer("200 OK", &[], "ok")]);
    assert_eq!(deliver(HttpSettings::new(server.url("/"))).unwrap(), 200);
    assert_eq!(server.only_request().header("tidemark-signature"), None);
}

#[test]
fn a_receiver_in_trouble_is_tried_again_with_the_same_id() {
    let server = Server::start(vec![
        answer("500 Internal Server Error", &[], "boom"),
        Turn::Reset,
        answer("503 Service Unavailable", &["Retry-After: 7"], ""),
        answer("200 OK", &[], ""),
    ]);
    let settings = HttpSettings { secret: Some(Secret::new("s")), ..HttpSettings::new(server.url("/")) };
    let webhook = Webhook::new(settings).unwrap();
    let policy =
        RetryPolicy { attempts: 5, first: Duration::from_secs(1), factor: 2, most: Duration::from_secs(60) };
    let mut pauses = Vec::new();
    let delivery = deliver_with_retries(
        &policy,
        |pause| {
            pauses.push(pause.as_secs());
            Pause::Over
        },
        |_| webhook.deliver(EVENT, "flow.failed", &json!({})),
    );
    assert_eq!(delivery.unwrap().status, 200);
    assert_eq!(pauses, [1, 2, 7]);
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!(request.header("tidemark-delivery"), Some(EVENT));
    }
}

#[test]
fn a_refusal_is_final_and_told_in_the_receivers_words() {
    let error = deliver_to(answer("422 Unprocessable Content", &[], "no such\r\n team")).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Rejected, false));
    let text = error.to_string();
    assert!(
        text.starts_with("POST to http://127.0.0.1:") && text.ends_with(": HTTP 422 (no such team)"),
        "{text}"
    );
    assert_eq!(kind_of(answer("401 Unauthorized", &[], "")), ErrorKind::Refused);
    assert_eq!(kind_of(answer("404 Not Found", &[], "")), ErrorKind::Rejected);
    assert_eq!(kind_of(answer("408 Request Timeout", &[], "")), ErrorKind::Timeout);
    assert_eq!(kind_of(answer("425 Too Early", &[], "")), ErrorKind::Throttled);
    let throttled = deliver_to(answer("429 Too Many Requests", &["Retry-After: 99999"], "")).unwrap_err();
    assert_eq!(throttled.kind(), ErrorKind::Throttled);
    assert_eq!(throttled.retry_after(), Some(Duration::from_secs(3600)));
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(vec![]);
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let location = format!("Location: {}", elsewhere.url("/"));
        let error = deliver_to(answer(status, &[&location], "")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{status}");
        assert!(error.to_string().contains("give the address that it redirects to"), "{error}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn no_error_shows_a_secret() {
    let echo = "you said Bearer t0ken-of-ours and whsec-1 to /T0/key-of-the-receiver?a=b, or t0ken-of-ours";
    let server = Server::start(vec![answer("400 Bad Request", &[], echo)]);
    let settings = HttpSettings {
        secret: Some(Secret::new("whsec-1")),
        headers: vec![("Authorization".to_owned(), Secret::new("Bearer t0ken-of-ours"))],
        ..HttpSettings::new(server.url("/T0/key-of-the-receiver?a=b"))
    };
    let shown = format!("{settings:?} {:?}", Webhook::new(settings.clone()).unwrap());
    let error = deliver(settings).unwrap_err();
    assert!(error.to_string().ends_with("(you said … and … to …, or …)"), "{error}");
    for text in [shown, format!("{error:?}")] {
        for secret in ["t0ken", "whsec-1", "key-of-the-receiver"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn an_answer_without_an_end_is_cut_off() {
    let started = Instant::now();
    let error = deliver_to(Turn::Flood("HTTP/1.1 400 Bad Request\r\nContent-Length: 99999999999\r\n\r\n"));
    let text = error.unwrap_err().to_string();
    assert!(text.len() < 500 && text.contains("HTTP 400 (xxx"), "{text}");
    assert_eq!(
        deliver_to(Turn::Flood("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")).unwrap(),
        200
    );
    assert_eq!(kind_of(Turn::Flood("HTTP/1.1 200 OK\r\nX-Long: ")), ErrorKind::Protocol);
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
}

#[test]
fn a_wrong_length_does_not_change_what_the_status_said() {
    let short =
        |status: &str| Turn::Say(format!("HTTP/1.1 {status}\r\nContent-Length: 100\r\n\r\nshort").into());
    assert_eq!(deliver_to(short("200 OK")).unwrap(), 200);
    let error = deliver_to(short("500 Internal Server Error")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().ends_with("HTTP 500 (short)"), "{error}");
}

#[test]
fn silence_ends_with_the_timeout() {
    let slow = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    for turn in [Turn::Silence, Turn::Drip(slow, Duration::from_millis(60))] {
        let server = Server::start(vec![turn]);
        let settings =
            HttpSettings { timeout: Duration::from_millis(500), ..HttpSettings::new(server.url("/")) };
        let started = Instant::now();
        let error = deliver(settings).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true), "{error:?}");
        assert!(error.to_string().ends_with("no answer within 0.5 s"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[test]
fn a_slow_answer_within_the_timeout_is_one() {
    let slow = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    assert_eq!(deliver_to(Turn::Drip(slow, Duration::from_millis(10))).unwrap(), 204);
}

#[test]
fn nobody_there_is_worth_a_retry_and_nonsense_is_not() {
    assert_eq!(kind_of(Turn::Reset), ErrorKind::Unreachable);
    assert_eq!(kind_of(Turn::Say(Vec::new())), ErrorKind::Unreachable);
    assert_eq!(kind_of(Turn::Say(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec())), ErrorKind::Protocol);
    let gone = Server::start(vec![]).url("/");
    assert_eq!(deliver(HttpSettings::new(gone)).unwrap_err().kind(), ErrorKind::Unreachable);
    let unknown = HttpSettings::new("http://receiver.invalid/");
    assert!(deliver(unknown).unwrap_err().is_retryable());
}

#[test]
fn tls_believes_a_given_authority_and_nobody_else() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let try_with = |name: &str, authorities: Option<&str>| {
        let server = Server::with_tls(vec![answer("200 OK", &[], "")], Some(authority.server(name)));
        deliver(HttpSettings {
            authorities: authorities.map(str::to_owned),
            ..HttpSettings::new(format!("https://localhost:{}/", server.port))
        })
    };
    assert_eq!(try_with("localhost", Some(&authority.pem)).unwrap(), 200);
    for (name, authorities) in [
        ("localhost", None),
        ("localhost", Some(&*stranger.pem)),
        ("elsewhere.example", Some(&*authority.pem)),
    ] {
        let error = try_with(name, authorities).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Tls, false), "{error:?}");
        assert!(error.source().unwrap().to_string().contains("certificate"), "{error:?}");
    }
}

/// Run twice: the second time as a process of its own, whose environment names a proxy.
#[test]
fn a_proxy_of_the_environment_counts_where_it_is_asked_for() {
    const TARGET: &str = "TIDEMARK_NOTIFY_TEST_TARGET";
    if let Ok(target) = std::env::var(TARGET) {
        let settings = HttpSettings::new(target);
        assert_eq!(deliver(settings.clone()).unwrap(), 204);
        // The proxy, which lets nobody through, answers itself.
        deliver(HttpSettings { environment_proxy: true, ..settings }).unwrap_err();
        return;
    }
    let proxy = Server::start(vec![answer("403 Forbidden", &[], "")]);
    let target = Server::start(vec![answer("204 No Content", &[], "")]);
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    for name in ["NO_PROXY", "ALL_PROXY", "HTTPS_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = command
        .args(["--exact", "webhook::a_proxy_of_the_environment_counts_where_it_is_asked_for"])
        .env(TARGET, target.url("/"))
        .env("HTTP_PROXY", proxy.url(""))
        .env("http_proxy", proxy.url(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!((target.requests().len(), proxy.requests().len()), (1, 1));
}

#[test]
fn settings_that_cannot_be_are_refused_before_anything_is_sent() {
    let with = |change: Change| {
        let mut settings = HttpSettings::new("https://receiver.example/s3cret");
        change(&mut settings);
        Webhook::new(settings).map(drop)
    };
    with(|_| {}).unwrap();
    let cases: [(Change, &str); 10] = [
        (|s| s.url = "https://user:s3cret@receiver.example/".to_owned(), "Authorization"),
        (|s| s.url = "ftp://receiver.example/".to_owned(), "neither http nor https"),
        (|s| s.timeout = Duration::ZERO, "timeout"),
        (|s| s.timeout = Duration::MAX, "timeout"),
        (|s| s.secret = Some(Secret::new("")), "empty"),
        (|s| s.authorities = Some("s3cret".to_owned()), "PEM"),
        (|s| s.headers = vec![("X Y".to_owned(), Secret::new("s3cret"))], "no name of a header"),
        (|s| s.headers = vec![("X".to_owned(), Secret::new("s3cret\r\nY: z"))], "one line"),
        (|s| s.headers = vec![("Host".to_owned(), Secret::new("s3cret"))], "leave it out"),
        (|s| s.headers = vec![("Tidemark-Event".to_owned(), Secret::new("s3cret"))], "leave it out"),
    ];
    for (change, words) in cases {
        let error = with(change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn names_and_bodies_are_bounded() {
    let webhook = Webhook::new(HttpSettings::new("http://127.0.0.1:1/")).unwrap();
    let long = "x".repeat(201);
    for (id, kind) in [("", "k"), ("id", " "), ("id\r\nX: y", "k"), ("id", "ä"), (&*long, "k")] {
        assert_eq!(webhook.deliver(id, kind, &json!({})).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let large = webhook.deliver("id", "k", &json!("x".repeat(1 << 20))).unwrap_err();
    assert_eq!(large.kind(), ErrorKind::Invalid);
}
