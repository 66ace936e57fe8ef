//! A folder that planned file operations are carried out in, as plainly as can be: what is tried out is the plan.
//! Durability and races are the engine's business, which has its own tests.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::storage::{ByteRange, FileAction, FileOperation, Outcome};

fn place(operation: &FileOperation) -> PathBuf {
    operation.folder.join(&operation.path)
}

fn failed(operation: &FileOperation, error: &std::io::Error) -> String {
    format!("{:?} of '{}': {error}", operation.action, operation.path)
}

/// Makes the file of a `create` with this content.
pub(super) fn create(operation: &FileOperation, content: &[u8]) -> Result<(), String> {
    let path = place(operation);
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(&operation.folder))?;
        OpenOptions::new().write(true).create_new(true).open(&path)?.write_all(content)
    };
    write().map_err(|error| failed(operation, &error))
}

/// A `publish` or a `remove`.
pub(super) fn carry_out(operation: &FileOperation) -> Result<(), String> {
    let path = place(operation);
    let done = match (operation.action, &operation.to) {
        (FileAction::Publish, Some(to)) => {
            // A link fails where the name is taken; a rename would replace what is there.
            let to = operation.folder.join(to);
            fs::hard_link(&path, to).and_then(|()| fs::remove_file(&path))
        }
        (FileAction::Remove, _) => match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            ended => ended,
        },
        (action, _) => return Err(format!("{action:?} of '{}' is out of place here", operation.path)),
    };
    done.map_err(|error| failed(operation, &error))
}

/// The bytes of a range that a `read` names.
pub(super) fn read(operation: &FileOperation, range: ByteRange) -> Result<Vec<u8>, String> {
    if operation.action != FileAction::Read {
        return Err(format!("{:?} of '{}' is no read", operation.action, operation.path));
    }
    let fetch = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(place(operation))?;
        file.seek(SeekFrom::Start(range.offset.0))?;
        let mut bytes = Vec::new();
        file.take(range.length.0).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    fetch().map_err(|error| failed(operation, &error))
}

/// What the host hands in after a `list`.
pub(super) fn list(operation: &FileOperation) -> Result<Outcome, String> {
    let mut found = Vec::new();
    walk(&operation.folder, &place(operation), &mut found).map_err(|error| failed(operation, &error))?;
    let entries: Vec<_> = found.iter().map(|(path, size)| json!({ "path": path, "size": size })).collect();
    Ok(Outcome { status: 200, headers: Vec::new(), body: json!(entries).to_string().into_bytes() })
}

fn walk(folder: &Path, at: &Path, found: &mut Vec<(String, u64)>) -> std::io::Result<()> {
    let entries = match fs::read_dir(at) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let (path, about) = {
            let entry = entry?;
            (entry.path(), entry.metadata()?)
        };
        if about.is_dir() {
            walk(folder, &path, found)?;
        } else if let Some(relative) = path.strip_prefix(folder).ok().and_then(Path::to_str) {
            found.push((relative.to_owned(), about.len()));
        }
    }
    Ok(())
}
