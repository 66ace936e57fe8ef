//! Login, expiry, versions, dead connections.

use tidemark_plugin::ErrorKind;
use tidemark_plugin::about::About;
use tidemark_plugin::connector::Connector;
use tidemark_plugin::http::{Encoding, Part, Trust};

use super::script::{Script, content};

const TIME: &str = "<returnval>2026-01-01T00:00:00Z</returnval>";

#[test]
fn the_password_is_only_named_and_the_cookie_comes_back() {
    let script = Script::logged_in().answers("CurrentTime", &[], TIME).answers("Logout", &[], "");
    let mut vcenter = script.connect();
    vcenter.keep_alive().unwrap();
    vcenter.close().unwrap();
    script.is_played();
    let tape = script.tape();
    assert!(tape.requests[1].body.contains(&Part::secret("password", Encoding::XmlText)));
    let cookie = tape.requests[2].headers.iter().find(|(name, _)| name == "Cookie").unwrap();
    assert_eq!(cookie.1, "vmware_soap_session=\"s1\"");
    assert!(matches!(tape.requests[0].trust, Trust::Thumbprint(_)));
    assert_eq!(tape.requests[0].url, "https://vc.example:443/sdk");
}

#[test]
fn the_product_is_known_from_the_login() {
    let script = Script::logged_in();
    let product = script.connect().identify().unwrap();
    script.is_played();
    assert_eq!((product.name.as_str(), product.version.as_str()), ("VMware vCenter Server", "8.0.3"));
    assert_eq!((product.build.as_str(), product.instance.as_deref()), ("1", Some("3f1f5d2e-0000")));
}

#[test]
fn an_expired_session_is_renewed_once() {
    let script = Script::logged_in().faults("CurrentTime", &[], "NotAuthenticated").login("2").answers(
        "CurrentTime",
        &[],
        TIME,
    );
    script.connect().keep_alive().unwrap();
    script.is_played();

    let script = Script::logged_in().faults("CurrentTime", &[], "NotAuthenticated").login("2").faults(
        "CurrentTime",
        &[],
        "NotAuthenticated",
    );
    assert_eq!(script.connect().keep_alive().unwrap_err().kind, ErrorKind::Auth);
    script.is_played();
}

#[test]
fn a_wrong_password_and_an_old_server_are_told_apart() {
    let script = Script::default().answers("RetrieveServiceContent", &[], &content("8.0.1.0")).faults(
        "Login",
        &[],
        "InvalidLogin",
    );
    let error = script.connect().check().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Auth);
    assert!(error.message.contains("backup@vsphere.local"), "{}", error.message);

    let script = Script::default().answers("RetrieveServiceContent", &[], &content("6.5"));
    assert_eq!(script.connect().check().unwrap_err().kind, ErrorKind::Unsupported);
    script.is_played();
}

#[test]
fn a_call_that_only_reads_survives_a_dead_connection() {
    let script =
        Script::logged_in().dies("CurrentTime").dies("CurrentTime").answers("CurrentTime", &[], TIME);
    script.connect().keep_alive().unwrap();
    script.is_played();
    assert_eq!(script.tape().slept_ms, 1_500);

    let mut script = Script::logged_in();
    for _ in 0..4 {
        script = script.dies("CurrentTime");
    }
    assert_eq!(script.connect().keep_alive().unwrap_err().kind, ErrorKind::Unavailable);
    script.is_played();
}

#[test]
fn closing_twice_or_unopened_asks_nobody() {
    let script = Script::default();
    script.connect().close().unwrap();
    let script = Script::logged_in().faults("CurrentTime", &[], "SystemError").faults(
        "Logout",
        &[],
        "NotAuthenticated",
    );
    let mut vcenter = script.connect();
    assert!(vcenter.keep_alive().is_err());
    vcenter.close().unwrap();
    vcenter.close().unwrap();
    script.is_played();
}
