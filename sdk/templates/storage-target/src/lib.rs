//! The storage target `my-plugin`: each object is a file below one folder.
//!
//! Nothing here touches a disk. Each answer is an operation that the host holds against the granted folder and carries
//! out itself: an object grows as `KEY.partial`, and publishing gives it its name durably.

use serde::Deserialize;
use tidemark_plugin::storage_target::{
    ByteRange, FileAction, FileOperation, Object, ObjectPage, Operation, Outcome, PartOutcome, PartRequest,
    Space, StorageTarget, Upload, UploadStyle, Verdict,
};
use tidemark_plugin::{Description, Error, Result, description};

/// What a file under construction ends with; the host accepts no other ending.
const PARTIAL: &str = ".partial";

/// A folder.
#[derive(Debug)]
pub struct Folder {
    folder: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    folder: String,
}

/// One file of the listing that the host hands in.
#[derive(Deserialize)]
struct Listed {
    path: String,
    size: u64,
}

impl Folder {
    fn operation(&self, action: FileAction, path: String) -> FileOperation {
        FileOperation { action, folder: self.folder.clone(), path, to: None }
    }
}

impl StorageTarget for Folder {
    fn describe() -> Description {
        description("my-plugin", env!("CARGO_PKG_VERSION"))
    }

    fn configure(settings: &str) -> Result<Self> {
        let Settings { folder } = serde_json::from_str(settings)
            .map_err(|error| Error::config(format!("the settings: {error}")))?;
        if !folder.starts_with('/') || folder.split('/').any(|part| part == "..") {
            return Err(Error::config(format!("folder '{folder}' is no absolute path")));
        }
        Ok(Self { folder })
    }

    fn watch_space(&mut self) -> Result<Space> {
        Ok(Space { folder: Some(self.folder.clone()) })
    }

    fn begin(&mut self, key: &str, _size_hint: u64, _now_ms: u64) -> Result<Upload> {
        let partial = partial(key)?;
        let create = self.operation(FileAction::Create, partial.clone());
        Ok(Upload { token: partial, style: UploadStyle::Append(create) })
    }

    fn open_multipart(&mut self, _key: &str, _now_ms: u64) -> Result<Operation> {
        Err(no_parts())
    }

    fn opened_multipart(&mut self, _key: &str, _outcome: &Outcome) -> Result<String> {
        Err(no_parts())
    }

    fn parts(&mut self, _: &str, _: &str, _: &[PartRequest], _: u64) -> Result<Vec<Operation>> {
        Err(no_parts())
    }

    fn finish(&mut self, key: &str, _: &str, _: &[PartOutcome], _: u64) -> Result<Vec<Operation>> {
        let to = Some(key.to_owned());
        let publish = FileOperation { to, ..self.operation(FileAction::Publish, partial(key)?) };
        Ok(vec![Operation::File(publish)])
    }

    fn abort(&mut self, key: &str, _token: &str, _now_ms: u64) -> Result<Vec<Operation>> {
        Ok(vec![Operation::File(self.operation(FileAction::Remove, partial(key)?))])
    }

    fn get(&mut self, key: &str, _range: Option<ByteRange>, _now_ms: u64) -> Result<Operation> {
        // The range needs no place in the operation: the host seeks in the file that this names.
        Ok(Operation::File(self.operation(FileAction::Read, checked(key)?)))
    }

    fn remove(&mut self, key: &str, _now_ms: u64) -> Result<Operation> {
        Ok(Operation::File(self.operation(FileAction::Remove, checked(key)?)))
    }

    fn list_op(&mut self, _prefix: &str, cursor: Option<&str>, _now_ms: u64) -> Result<Operation> {
        match cursor {
            None => Ok(Operation::File(self.operation(FileAction::List, String::new()))),
            Some(_) => Err(Error::not_found("the listing of a folder has one page")),
        }
    }

    fn list_parse(&mut self, prefix: &str, outcome: &Outcome) -> Result<ObjectPage> {
        let mut listed: Vec<Listed> = serde_json::from_slice(&outcome.body)
            .map_err(|error| Error::corrupt(format!("the listing of {}: {error}", self.folder)))?;
        listed.retain(|file| file.path.starts_with(prefix));
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        let mut page = ObjectPage { objects: Vec::new(), unfinished: Vec::new(), next: None };
        for Listed { path, size } in listed {
            match path.strip_suffix(PARTIAL) {
                Some(key) => page.unfinished.push(key.to_owned()),
                None => page.objects.push(Object { key: path, size_bytes: size }),
            }
        }
        Ok(page)
    }

    fn classify(&mut self, outcome: &Outcome) -> Verdict {
        match outcome.status {
            0 | 200..=299 => Verdict::Done,
            404 => Verdict::Failed(Error::not_found("the file does not exist")),
            status => Verdict::Failed(Error::unavailable(format!("the operation ended with {status}"))),
        }
    }
}

/// A key that may be a path below the folder.
fn checked(key: &str) -> Result<String> {
    let wrong = |part: &str| part.is_empty() || part == "." || part == "..";
    if key.split('/').any(wrong) || key.ends_with(PARTIAL) {
        return Err(Error::config(format!("'{key}' is no name of a finished object")));
    }
    Ok(key.to_owned())
}

fn partial(key: &str) -> Result<String> {
    Ok(checked(key)? + PARTIAL)
}

fn no_parts() -> Error {
    Error::unsupported("a folder takes no parts: objects are appended to")
}

tidemark_plugin::export_storage_target!(Folder);

#[cfg(test)]
mod tests {
    use tidemark_plugin::ErrorKind;

    use super::*;

    fn folder() -> Folder {
        Folder::configure(r#"{"folder": "/srv/backups"}"#).unwrap()
    }

    fn file(operation: Operation) -> FileOperation {
        match operation {
            Operation::File(file) => file,
            Operation::Http(_) => panic!("a folder needs no network"),
        }
    }

    #[test]
    fn an_object_grows_as_partial_and_is_published_by_its_key() {
        let mut folder = folder();
        let upload = folder.begin("vm/a.qcow2", 10, 0).unwrap();
        let UploadStyle::Append(create) = upload.style else { panic!("a folder is appended to") };
        assert_eq!((create.action, create.path.as_str()), (FileAction::Create, "vm/a.qcow2.partial"));
        let publish = file(folder.finish("vm/a.qcow2", &upload.token, &[], 0).unwrap().remove(0));
        assert_eq!((publish.path, publish.to), (create.path, Some("vm/a.qcow2".to_owned())));
    }

    #[test]
    fn only_an_absolute_folder_and_clean_keys_are_accepted() {
        for folder in ["", "backups", "/srv/../etc"] {
            let settings = serde_json::json!({ "folder": folder }).to_string();
            assert_eq!(Folder::configure(&settings).unwrap_err().kind, ErrorKind::Config, "{folder}");
        }
        for key in ["", "/etc/passwd", "a//b", "../x", "x.partial"] {
            assert!(folder().begin(key, 0, 0).is_err(), "{key}");
        }
    }

    #[test]
    fn a_listing_tells_objects_from_unfinished_uploads() {
        let body = br#"[{"path": "vm/b", "size": 7}, {"path": "vm/c.partial", "size": 1}, {"path": "x", "size": 9}]"#;
        let outcome = Outcome { status: 200, headers: Vec::new(), body: body.to_vec() };
        let page = folder().list_parse("vm/", &outcome).unwrap();
        assert_eq!(page.objects, [Object { key: "vm/b".into(), size_bytes: 7 }]);
        assert_eq!(page.unfinished, ["vm/c"]);
    }
}
