//! Hooks: methods, bodies of one's own and the statuses that are an agreement.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidemark_notify::{
    Error, ErrorKind, HookAnswer, HookSettings, HttpHook, HttpSettings, Method, Secret, verify_signature,
};

use crate::http_peer::{Server, Turn, answer};

type Change = fn(&mut HookSettings);

fn context() -> Value {
    json!({"vm": {"name": "web \"1\""}, "disks": [1, 2]})
}

fn call(server: &Server, change: impl FnOnce(&mut HookSettings)) -> Result<HookAnswer, Error> {
    let mut settings = HookSettings::new(HttpSettings::new(server.url("/hook")));
    settings.http.secret = Some(Secret::new("s"));
    change(&mut settings);
    HttpHook::new(settings)?.call(&context())
}

#[test]
fn the_context_is_sent_and_signed() {
    for (method, line) in [
        (Method::Post, "POST /hook HTTP/1.1"),
        (Method::Put, "PUT /hook HTTP/1.1"),
        (Method::Get, "GET /hook HTTP/1.1"),
    ] {
        let server = Server::start(vec![answer("200 OK", &[], "{\"go\":true}")]);
        let answer = call(&server, |settings| settings.method = method).unwrap();
        assert_eq!(answer, HookAnswer { status: 200, body: "{\"go\":true}".to_owned(), truncated: false });
        let request = server.only_request();
        assert_eq!(request.line, line);
        if method == Method::Get {
            assert_eq!((request.body.len(), request.header("content-type")), (0, None));
        } else {
            assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), context());
            assert_eq!(request.header("content-type"), Some("application/json"));
        }
        let signature = request.header("tidemark-signature").unwrap();
        let minute = Duration::from_secs(60);
        verify_signature(&Secret::new("s"), signature, &request.body, SystemTime::now(), minute).unwrap();
    }
}

#[test]
fn a_body_of_ones_own_is_filled_from_the_context() {
    let server = Server::start(vec![answer("200 OK", &[], ""); 2]);
    call(&server, |settings| {
        settings.body = Some("{\"text\":\"backup of {{vm.name}}\",\"n\":{{json disks}}}".to_owned());
    })
    .unwrap();
    call(&server, |settings| {
        settings.body = Some("{{vm.name}}".to_owned());
        settings.http.headers = vec![("Content-Type".to_owned(), Secret::new("text/plain"))];
    })
    .unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].body, br#"{"text":"backup of web \"1\"","n":[1,2]}"#);
    assert_eq!(requests[1].body, b"web \"1\"");
    assert_eq!(requests[1].header("content-type"), Some("text/plain"));
}

#[test]
fn only_an_expected_status_is_an_agreement() {
    let server = Server::start(vec![
        answer("404 Not Found", &[], "nothing to do"),
        answer("302 Found", &["Location: http://127.0.0.1:1/"], ""),
        answer("200 OK", &[], "done"),
        answer("503 Service Unavailable", &["Retry-After: 3"], "busy"),
    ]);
    assert_eq!(call(&server, |settings| settings.expect = 200..=404).unwrap().status, 404);
    assert_eq!(call(&server, |settings| settings.expect = 302..=302).unwrap().status, 302);
    let error = call(&server, |settings| settings.expect = 204..=204).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().ends_with("HTTP 200 (done)"), "{error}");
    let error = call(&server, |_| {}).unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(Duration::from_secs(3))));
}

#[test]
fn an_answer_is_kept_as_far_as_it_came() {
    let flood = Turn::Flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nConnection: close\r\n\r\n");
    let broken = Turn::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc\xff".to_vec());
    let server = Server::start(vec![flood, broken]);
    let answer = call(&server, |_| {}).unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (4096, true));
    let answer = call(&server, |_| {}).unwrap();
    assert_eq!((answer.body.as_str(), answer.truncated), ("abc\u{fffd}", true));
}

#[test]
fn a_hook_that_cannot_be_is_refused() {
    let server = Server::start(vec![]);
    let cases: [(Change, &str); 5] = [
        (|s| s.expect = 100..=199, "200 to 599"),
        (
            |s| {
                s.method = Method::Get;
                s.body = Some("x".to_owned());
            },
            "no body",
        ),
        (|s| s.body = Some("{{vm".to_owned()), "without its"),
        (|s| s.body = Some("\"{{vm.nam}}\"".to_owned()), "'vm.nam'"),
        (
            |s| {
                s.body = Some("name={{vm.name}}".to_owned());
                s.http.headers =
                    vec![("content-type".to_owned(), Secret::new("application/x-www-form-urlencoded"))];
            },
            "Content-Type",
        ),
    ];
    for (change, words) in cases {
        let error = call(&server, change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
    }
}
