//! What the documentation tells receivers to do works with what is sent.

use serde_json::json;
use tidemark_notify::{HttpSettings, Secret, Webhook};

use crate::http_peer::{Server, answer};
use crate::python::python;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/notifications.md");

/// Prints what `verify` says to the body on standard input, and to changes of it.
const USE: &str = r#"
import sys
header, body = sys.argv[1], sys.stdin.buffer.read()
later, digest = header.replace("t=1", "t=9"), header.split(",")[1]
time.sleep(1.1)
print(verify(b"whsec \xc3\xa9", header, body), verify(b"whsec \xc3\xa9", header + ",v1=00,v2=x", body),
      verify(b"whsec", header, body), verify(b"whsec \xc3\xa9", header, body + b" "),
      verify(b"whsec \xc3\xa9", header, body, 0), verify(b"whsec \xc3\xa9", later, body),
      verify(b"whsec \xc3\xa9", digest, body), verify(b"whsec \xc3\xa9", "", body),
      verify(b"whsec \xc3\xa9", "t=\xb2,v1=\xb2", body))
"#;

#[test]
fn the_documented_receiver_verifies_what_is_sent() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let snippet = document.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    let server = Server::start(vec![answer("200 OK", &[], "")]);
    let settings =
        HttpSettings { secret: Some(Secret::new("whsec é")), ..HttpSettings::new(server.url("/")) };
    let body = json!({"vm": "büro – 失敗", "n": [1.5, null]});
    Webhook::new(settings).unwrap().deliver("id", "flow.failed", &body).unwrap();
    let request = server.only_request();
    let signature = request.header("tidemark-signature").unwrap();
    let Some(said) = python(&format!("{snippet}{USE}"), &[signature], &request.body) else { return };
    assert_eq!(said.trim(), "True True False False False False False False False");
}
