//! A storage target that answers each plan with the path that its settings give: `{"folder": "/f", "path":
//! "../{key}"}`, `{key}` standing for the object's key. With `url` it plans requests instead.

wit_bindgen::generate!({ path: "../../../sdk/wit", world: "storage-target" });

use std::cell::RefCell;

use exports::tidemark::plugin::storage::{
    ByteRange, FileAction, FileOperation, Guest, HttpOperation, Object, ObjectPage, Operation, Outcome,
    PartOutcome, PartRequest, Space, Upload, UploadStyle, Verdict,
};
use serde::Deserialize;
use tidemark::plugin::crypto;
use tidemark::plugin::types::{Description, Error, ErrorKind};

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Settings {
    folder: String,
    /// What plans name, `{key}` in it replaced.
    path: String,
    /// What a publication's new name is, likewise.
    to: String,
    /// Where requests go, where it is not empty.
    url: String,
    /// Listed keys.
    keys: Vec<String>,
    /// A secret to sign with.
    secret: String,
}

thread_local! {
    static SETTINGS: RefCell<Settings> = RefCell::new(Settings::default());
}

struct Storage;
export!(Storage);

fn settings() -> Settings {
    SETTINGS.with_borrow(Clone::clone)
}

fn file(action: FileAction, key: &str) -> FileOperation {
    let settings = settings();
    let to = matches!(action, FileAction::Publish).then(|| settings.to.replace("{key}", key));
    FileOperation { action, folder: settings.folder, path: settings.path.replace("{key}", key), to }
}

fn plan(action: FileAction, key: &str) -> Operation {
    let url = settings().url;
    if url.is_empty() {
        return Operation::File(file(action, key));
    }
    Operation::Http(HttpOperation { method: "GET".into(), url, headers: vec![], body: vec![] })
}

fn error(kind: ErrorKind, message: &str) -> Error {
    Error { kind, message: message.into(), retry_after_ms: None, detail: None }
}

impl Guest for Storage {
    fn describe() -> Description {
        Description { name: "hostile-storage".into(), version: "0.1.0".into(), contract: "0.1.0".into() }
    }

    fn configure(json: String) -> Result<(), Error> {
        let parsed = serde_json::from_str(&json).map_err(|e| error(ErrorKind::Config, &e.to_string()))?;
        SETTINGS.with_borrow_mut(|settings| *settings = parsed);
        Ok(())
    }

    fn watch_space() -> Result<Space, Error> {
        Ok(Space { folder: Some(settings().folder) })
    }

    fn begin(key: String, _size_hint: u64, _now_ms: u64) -> Result<Upload, Error> {
        Ok(Upload { token: "token".into(), style: UploadStyle::Append(file(FileAction::Create, &key)) })
    }

    /// Answers with an HMAC where a secret is named.
    fn open_multipart(key: String, _now_ms: u64) -> Result<Operation, Error> {
        let name = settings().secret;
        let key_of = crypto::Key::Secret(crypto::SecretKey { name, prefix: "AWS4".into() });
        let body = crypto::hmac_sha256(&key_of, key.as_bytes())?;
        Ok(Operation::Http(HttpOperation {
            method: "POST".into(),
            url: settings().url,
            headers: vec![],
            body,
        }))
    }

    fn opened_multipart(_key: String, _outcome: Outcome) -> Result<String, Error> {
        Ok("token".into())
    }

    fn parts(_: String, _: String, parts: Vec<PartRequest>, _: u64) -> Result<Vec<Operation>, Error> {
        Ok(parts.iter().skip(1).map(|_| plan(FileAction::Read, "x")).collect())
    }

    fn finish(key: String, _: String, _: Vec<PartOutcome>, _: u64) -> Result<Vec<Operation>, Error> {
        Ok(vec![plan(FileAction::Publish, &key)])
    }

    fn abort(key: String, _: String, _: u64) -> Result<Vec<Operation>, Error> {
        Ok(vec![plan(FileAction::Remove, &key)])
    }

    fn get(key: String, _: Option<ByteRange>, _: u64) -> Result<Operation, Error> {
        Ok(plan(FileAction::Read, &key))
    }

    fn remove(key: String, _: u64) -> Result<Operation, Error> {
        Ok(plan(FileAction::Remove, &key))
    }

    fn list_op(prefix: String, _: Option<String>, _: u64) -> Result<Operation, Error> {
        Ok(plan(FileAction::List, &prefix))
    }

    fn list_parse(_: String, _: Outcome) -> Result<ObjectPage, Error> {
        let objects = settings().keys.into_iter().map(|key| Object { key, size_bytes: 1 }).collect();
        Ok(ObjectPage { objects, unfinished: vec![], next: None })
    }

    fn classify(outcome: Outcome) -> Verdict {
        match outcome.status {
            200 => Verdict::Done,
            503 => Verdict::Retry(1500),
            _ => Verdict::Failed(error(ErrorKind::NotFound, "gone")),
        }
    }
}
