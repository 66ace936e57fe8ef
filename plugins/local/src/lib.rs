//! The storage target `local`: objects are files below one folder.
//!
//! A key is the file's path relative to the folder. While it is written the file bears [`PARTIAL`]; publishing gives
//! it its name, and the host does that durably and without replacing anything. Nothing here touches a disk: each
//! answer is an operation that the host checks against the granted folder and carries out.

use serde::Deserialize;
use tidemark_plugin::storage_target::{
    ByteRange, FileAction, FileOperation, Object, ObjectPage, Operation, Outcome, PartOutcome, PartRequest,
    Space, StorageTarget, Upload, UploadStyle, Verdict,
};
use tidemark_plugin::{Description, Error, Result, description};

/// The ending of a file under construction; no key may have it.
pub const PARTIAL: &str = ".partial";

/// A folder of the machine.
#[derive(Debug)]
pub struct Local {
    folder: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    path: String,
}

/// One entry of the listing that the host hands in.
#[derive(Deserialize)]
struct Listed {
    path: String,
    size: u64,
}

impl Local {
    fn operation(&self, action: FileAction, path: String) -> FileOperation {
        FileOperation { action, folder: self.folder.clone(), path, to: None }
    }
}

impl StorageTarget for Local {
    fn describe() -> Description {
        description("local", env!("CARGO_PKG_VERSION"))
    }

    fn configure(settings: &str) -> Result<Self> {
        let settings: Settings = serde_json::from_str(settings)
            .map_err(|error| Error::config(format!("the settings: {error}")))?;
        let folder = match settings.path.trim_end_matches('/') {
            "" if settings.path.starts_with('/') => "/",
            trimmed => trimmed,
        };
        if !folder.starts_with('/') || folder.contains('\0') || folder.split('/').any(|part| part == "..") {
            return Err(Error::config(format!("path '{}' is no absolute folder", settings.path)));
        }
        Ok(Self { folder: folder.to_owned() })
    }

    fn watch_space(&mut self) -> Result<Space> {
        Ok(Space { folder: Some(self.folder.clone()) })
    }

    fn begin(&mut self, key: &str, _size_hint: u64, _now_ms: u64) -> Result<Upload> {
        let partial = partial(key)?;
        let style = UploadStyle::Append(self.operation(FileAction::Create, partial.clone()));
        Ok(Upload { token: partial, style })
    }

    fn open_multipart(&mut self, _key: &str, _now_ms: u64) -> Result<Operation> {
        Err(no_parts())
    }

    fn opened_multipart(&mut self, _key: &str, _outcome: &Outcome) -> Result<String> {
        Err(no_parts())
    }

    fn parts(
        &mut self,
        _key: &str,
        _token: &str,
        _parts: &[PartRequest],
        _now_ms: u64,
    ) -> Result<Vec<Operation>> {
        Err(no_parts())
    }

    fn finish(
        &mut self,
        key: &str,
        token: &str,
        parts: &[PartOutcome],
        _now_ms: u64,
    ) -> Result<Vec<Operation>> {
        if !parts.is_empty() {
            return Err(no_parts());
        }
        let partial = begun(key, token)?;
        let publish =
            FileOperation { to: Some(key.to_owned()), ..self.operation(FileAction::Publish, partial) };
        Ok(vec![Operation::File(publish)])
    }

    fn abort(&mut self, key: &str, token: &str, _now_ms: u64) -> Result<Vec<Operation>> {
        let partial = begun(key, token)?;
        Ok(vec![Operation::File(self.operation(FileAction::Remove, partial))])
    }

    fn get(&mut self, key: &str, _range: Option<ByteRange>, _now_ms: u64) -> Result<Operation> {
        // The range needs no place in the operation: the host seeks in the file that this names.
        Ok(Operation::File(self.operation(FileAction::Read, checked(key)?)))
    }

    fn remove(&mut self, key: &str, _now_ms: u64) -> Result<Operation> {
        Ok(Operation::File(self.operation(FileAction::Remove, checked(key)?)))
    }

    fn list_op(&mut self, _prefix: &str, cursor: Option<&str>, _now_ms: u64) -> Result<Operation> {
        if let Some(cursor) = cursor {
            return Err(Error::not_found(format!(
                "the listing of a folder has one page, so no cursor '{cursor}'"
            )));
        }
        Ok(Operation::File(self.operation(FileAction::List, String::new())))
    }

    fn list_parse(&mut self, prefix: &str, outcome: &Outcome) -> Result<ObjectPage> {
        let listed: Vec<Listed> = serde_json::from_slice(&outcome.body)
            .map_err(|error| Error::corrupt(format!("the listing of {}: {error}", self.folder)))?;
        let mut page = ObjectPage { objects: Vec::new(), unfinished: Vec::new(), next: None };
        for Listed { path, size } in listed {
            if !path.starts_with(prefix) {
                continue;
            }
            match path.strip_suffix(PARTIAL) {
                Some(key) => page.unfinished.push(key.to_owned()),
                None => page.objects.push(Object { key: path, size_bytes: size }),
            }
        }
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        page.unfinished.sort();
        Ok(page)
    }

    fn classify(&mut self, outcome: &Outcome) -> Verdict {
        // A file operation has no status of its own: the host reports 200 or nothing, and its errors by itself.
        match outcome.status {
            0 | 200..=299 => Verdict::Done,
            404 => Verdict::Failed(Error::not_found("the file does not exist")),
            status => Verdict::Failed(Error::unavailable(format!("the file operation ended with {status}"))),
        }
    }
}

/// A key that may be a path below the folder.
fn checked(key: &str) -> Result<String> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(['\0', '\\']);
    if key.split('/').any(bad_part) {
        return Err(Error::config(format!("'{key}' is no relative path below the folder")));
    }
    if key.ends_with(PARTIAL) {
        return Err(Error::config(format!("'{key}' has the ending of a file under construction")));
    }
    Ok(key.to_owned())
}

fn partial(key: &str) -> Result<String> {
    Ok(checked(key)? + PARTIAL)
}

/// The unfinished file of `key`, provided that `token` was given for it.
fn begun(key: &str, token: &str) -> Result<String> {
    let partial = partial(key)?;
    if token != partial {
        return Err(Error::config(format!("'{token}' is no upload of '{key}'")));
    }
    Ok(partial)
}

fn no_parts() -> Error {
    Error::unsupported("a folder takes no parts: objects are appended to")
}

tidemark_plugin::export_storage_target!(Local);

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_plugin::ErrorKind;

    fn local() -> Local {
        Local::configure(r#"{"path":"/srv/backups/"}"#).unwrap()
    }

    fn file(operation: Operation) -> FileOperation {
        match operation {
            Operation::File(file) => file,
            Operation::Http(_) => panic!("a folder needs no network"),
        }
    }

    #[test]
    fn only_an_absolute_folder_is_accepted() {
        for path in ["", "backups", "./x", "/srv/../etc"] {
            let settings = serde_json::json!({ "path": path }).to_string();
            assert_eq!(Local::configure(&settings).unwrap_err().kind, ErrorKind::Config, "{path}");
        }
        assert_eq!(local().watch_space().unwrap().folder.as_deref(), Some("/srv/backups"));
        assert_eq!(Local::configure(r#"{"path":"/"}"#).unwrap().folder, "/");
    }

    #[test]
    fn an_object_grows_as_partial_and_is_published_by_its_key() {
        let mut local = local();
        let upload = local.begin("vm/disk-0/a.qcow2", 10, 0).unwrap();
        let UploadStyle::Append(create) = upload.style else { panic!("a folder is appended to") };
        assert_eq!((create.action, create.path.as_str()), (FileAction::Create, "vm/disk-0/a.qcow2.partial"));
        assert_eq!(create.folder, "/srv/backups");

        let mut operations = local.finish("vm/disk-0/a.qcow2", &upload.token, &[], 0).unwrap();
        let publish = file(operations.remove(0));
        assert_eq!(publish.action, FileAction::Publish);
        assert_eq!(publish.path, "vm/disk-0/a.qcow2.partial");
        assert_eq!(publish.to.as_deref(), Some("vm/disk-0/a.qcow2"));

        let mut operations = local.abort("vm/disk-0/a.qcow2", &upload.token, 0).unwrap();
        let remove = file(operations.remove(0));
        assert_eq!((remove.action, remove.path.as_str()), (FileAction::Remove, "vm/disk-0/a.qcow2.partial"));
    }

    #[test]
    fn a_token_of_another_object_is_refused() {
        let mut local = local();
        let upload = local.begin("a", 0, 0).unwrap();
        assert!(local.finish("b", &upload.token, &[], 0).is_err());
        assert!(local.abort("b", &upload.token, 0).is_err());
    }

    #[test]
    fn no_key_leaves_the_folder_or_looks_unfinished() {
        let mut local = local();
        for key in ["", "/etc/passwd", "a//b", "../x", "a/../../x", "a/.", "a\\b", "x.partial"] {
            assert!(local.get(key, None, 0).is_err(), "{key}");
            assert!(local.begin(key, 0, 0).is_err(), "{key}");
            assert!(local.remove(key, 0).is_err(), "{key}");
        }
    }

    #[test]
    fn a_listing_tells_objects_from_unfinished_uploads() {
        let body = br#"[{"path":"vm/b.qcow2","size":7},{"path":"vm/a.json","size":3},
                        {"path":"vm/c.qcow2.partial","size":1},{"path":"other/d","size":9}]"#;
        let outcome = Outcome { status: 200, headers: Vec::new(), body: body.to_vec() };
        let page = local().list_parse("vm/", &outcome).unwrap();
        let keys: Vec<_> =
            page.objects.iter().map(|object| (object.key.as_str(), object.size_bytes)).collect();
        assert_eq!(keys, [("vm/a.json", 3), ("vm/b.qcow2", 7)]);
        assert_eq!(page.unfinished, ["vm/c.qcow2"]);
        assert_eq!(page.next, None);

        let outcome = Outcome { status: 200, headers: Vec::new(), body: b"nonsense".to_vec() };
        assert_eq!(local().list_parse("", &outcome).unwrap_err().kind, ErrorKind::Corrupt);
    }
}
