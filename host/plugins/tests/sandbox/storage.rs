//! Storage targets whose plans lead where they must not.

use serde_json::{Value, json};
use tidemark_model::ByteLen;
use tidemark_plugins::{
    ErrorKind, Limits, Operation, Outcome, PartRequest, StorageTarget, UploadStyle, Verdict,
};

use crate::guests::{Audit, runtime, session, storage_bytes};

async fn open(settings: Value, grants: &[&str], audit: &Audit) -> StorageTarget {
    let runtime = runtime(Limits::default());
    let plugin = runtime.load(storage_bytes()).await.unwrap();
    runtime.storage_target(&plugin, session(&settings, grants, audit)).await.unwrap()
}

#[tokio::test]
async fn plans_stay_in_the_folder_and_with_their_key() {
    let audit = Audit::default();
    for path in [
        "../{key}.partial",
        "/etc/{key}.partial",
        "a/../../{key}.partial",
        "{key}",
        "other.partial",
        "x{key}.partial",
        "",
        "{key}.partial/..",
        "./{key}.partial",
        "a//{key}.partial",
    ] {
        let mut target = open(json!({ "folder": "/srv/b", "path": path }), &["path:/srv/b"], &audit).await;
        let error = target.begin("vm/d.qcow2", ByteLen(1)).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Invalid, "{path}: {error}");
        assert_eq!((error.plugin(), error.version()), ("hostile-storage", "0.1.0"));
    }
    let settings = json!({ "folder": "/srv/b", "path": "p/{key}.partial", "to": "p/{key}" });
    let mut target = open(settings, &["path:/srv"], &audit).await;
    let upload = target.begin("vm/d.qcow2", ByteLen(1)).await.unwrap();
    let UploadStyle::Append(create) = upload.style else { panic!("a folder is appended to") };
    assert_eq!((create.path.as_str(), create.to), ("p/vm/d.qcow2.partial", None));
    let finish = target.finish("vm/d.qcow2", &upload.token, &[]).await.unwrap();
    let [Operation::File(publish)] = finish.as_slice() else { panic!("one operation") };
    assert_eq!(publish.to.as_deref(), Some("p/vm/d.qcow2"));
    let error = target.get("vm/d.qcow2", None).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Invalid, "an unfinished file is not read: {error}");
}

#[tokio::test]
async fn a_publication_never_leaves_its_name() {
    let audit = Audit::default();
    for to in ["../{key}", "{key}.partial", "other", "q/{key}"] {
        let settings = json!({ "folder": "/srv/b", "path": "{key}.partial", "to": to });
        let mut target = open(settings, &["path:/srv/b"], &audit).await;
        let error = target.finish("a/b", "token", &[]).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Invalid, "{to}: {error}");
    }
}

#[tokio::test]
async fn a_folder_or_host_that_was_not_granted_is_denied() {
    let audit = Audit::default();
    let mut target =
        open(json!({ "folder": "/srv/b", "path": "{key}.partial" }), &["path:/srv/c"], &audit).await;
    assert_eq!(target.watch_space().await.unwrap_err().kind(), &ErrorKind::Denied);
    assert_eq!(target.begin("a", ByteLen(1)).await.unwrap_err().kind(), &ErrorKind::Denied);
    let settings = json!({ "host": "s3.example", "url": "https://evil.example/x" });
    let mut target = open(settings, &["http"], &audit).await;
    assert_eq!(target.get("a", None).await.unwrap_err().kind(), &ErrorKind::Denied);
    let capabilities: Vec<_> = audit.events().into_iter().map(|event| event.capability).collect();
    assert_eq!(capabilities, ["path", "path", "http"]);
}

#[tokio::test]
async fn requests_are_planned_and_signed_without_the_secret() {
    let audit = Audit::default();
    let settings = json!({ "host": "s3.example", "url": "https://s3.example/x", "secret": "password" });
    let mut target = open(settings, &["http:s3.example"], &audit).await;
    let Operation::Http(open_upload) = target.open_multipart("a/b").await.unwrap() else {
        panic!("a request")
    };
    // HMAC-SHA256 of `a/b` by `AWS4p<&>"w é`, computed with Python's hmac.
    let expected = "414a4c19d3ab5e4c6ef4d063e3a5b1d12f43cb4c64a3a318decac3bf22c20f0c";
    assert_eq!(hex::encode(&open_upload.body), expected);
    let parts = [1, 2].map(|number| PartRequest { number, length: ByteLen(1), sha256: None });
    let error = target.parts("a/b", "token", &parts).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Invalid, "one operation for two parts: {error}");
}

#[tokio::test]
async fn listings_are_checked() {
    let audit = Audit::default();
    let open_with = async |keys: &[&str]| {
        open(json!({ "folder": "/srv/b", "keys": keys }), &["path:/srv/b"], &audit).await
    };
    let outcome = Outcome::default();
    let mut target = open_with(&["vm/a", "vm/b", "../x", "/y"]).await;
    let page = target.list_parse("vm/", &outcome).await.unwrap();
    assert_eq!(page.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["vm/a", "vm/b"]);
    for keys in [["vm/a", "vm/a"], ["vm/a", "other/b"]] {
        let error = open_with(&keys).await.list_parse("vm/", &outcome).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Invalid, "{error}");
    }
    let mut target = open_with(&[]).await;
    let status = |status| Outcome { status, ..Outcome::default() };
    assert!(matches!(target.classify(&status(200)).await.unwrap(), Verdict::Done));
    assert!(
        matches!(target.classify(&status(503)).await.unwrap(), Verdict::Retry(after) if after.as_millis() == 1500)
    );
    let Verdict::Failed(error) = target.classify(&status(404)).await.unwrap() else { panic!("it failed") };
    assert_eq!(error.kind(), &ErrorKind::NotFound);
}
