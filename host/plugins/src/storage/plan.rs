//! The checks on what a storage target plans. A path has to be the object's key below one prefix that stays the
//! same for the session (`.partial` may follow it while the object is under construction): so no plan leads outside
//! the granted folder, and no two objects to the same file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::types::{
    FileAction, FileOperation, HttpOperation, MultipartLimits, Object, ObjectPage, Operation, action,
};
use crate::bindings::storage as wit;
use crate::bindings::storage::exports::tidemark::plugin::storage as st;
use crate::error::{Error, ErrorKind};
use crate::guest::Guest;
use tidemark_model::ByteLen;

/// What a file under construction bears (`docs/format.md`).
const PARTIAL: &str = ".partial";
const MAX_PATH_BYTES: usize = 4096;
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// A plan carries no bulk data.
const MAX_BODY_BYTES: usize = 16 << 20;

type StorageGuest = Guest<wit::StorageTarget>;

/// What this session's plans have in common.
#[derive(Debug, Default)]
pub(super) struct Planned {
    /// Where the first plan put its key.
    place: Option<(PathBuf, String)>,
}

impl Planned {
    pub(super) fn operations(
        &mut self,
        guest: &mut StorageGuest,
        call: &'static str,
        key: &str,
        operations: Vec<st::Operation>,
    ) -> Result<Vec<Operation>, Error> {
        let operations = guest.bounded(call, operations)?;
        operations.into_iter().map(|operation| self.operation(guest, call, key, operation)).collect()
    }

    pub(super) fn operation(
        &mut self,
        guest: &mut StorageGuest,
        call: &'static str,
        key: &str,
        operation: st::Operation,
    ) -> Result<Operation, Error> {
        match operation {
            st::Operation::File(operation) => self.file(guest, call, key, operation).map(Operation::File),
            st::Operation::Http(operation) => http(guest, call, operation).map(Operation::Http),
        }
    }

    pub(super) fn file(
        &mut self,
        guest: &mut StorageGuest,
        call: &'static str,
        key: &str,
        operation: st::FileOperation,
    ) -> Result<FileOperation, Error> {
        let st::FileOperation { action: what, folder: granted, path, to } = operation;
        let folder = folder(guest, call, &granted)?;
        let what = action(what);
        if (what == FileAction::Publish) != to.is_some() || what == FileAction::List {
            return Err(guest.nonsense(call, format!("a {what:?} of '{path}' to {to:?}")));
        }
        for path in std::iter::once(&path).chain(&to) {
            let prefix = prefix_of(path, key, what, to.as_deref() == Some(path.as_str()));
            let Some(prefix) = prefix.filter(|_| is_clean(path)) else {
                return Err(guest.nonsense(call, format!("the path '{path}' for the object '{key}'")));
            };
            let (known_folder, known_prefix) =
                self.place.get_or_insert_with(|| (folder.clone(), prefix.to_owned()));
            if (&*known_folder, known_prefix.as_str()) != (&folder, prefix) {
                let message = format!("'{key}' at '{path}' in {}, others elsewhere", folder.display());
                return Err(guest.nonsense(call, message));
            }
        }
        Ok(FileOperation { action: what, folder, path, to })
    }
}

/// What stands before the key in `path`. Only a finished name is the key itself: what is read and what is published
/// never bears `.partial`.
fn prefix_of<'p>(path: &'p str, key: &str, action: FileAction, is_new_name: bool) -> Option<&'p str> {
    let finished = is_new_name || action == FileAction::Read;
    let unfinished = matches!(action, FileAction::Create) || (action == FileAction::Publish && !is_new_name);
    let base = match path.strip_suffix(PARTIAL) {
        Some(base) if !finished => base,
        _ if unfinished => return None,
        _ => path,
    };
    base.strip_suffix(key).filter(|prefix| prefix.is_empty() || prefix.ends_with('/'))
}

/// Relative, `/` between non-empty parts, none of them `.` or `..`, no control characters.
pub(super) fn is_clean(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= MAX_PATH_BYTES
        && !path.chars().any(|c| c.is_control() || c == '\\')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
}

/// A folder that the grants cover.
pub(super) fn folder(guest: &mut StorageGuest, call: &'static str, folder: &str) -> Result<PathBuf, Error> {
    let path = Path::new(folder);
    guest.store.data().rights.check_path(path).map_err(|denied| {
        let message = denied.to_string();
        let _ = guest.store.data().refuse(denied);
        guest.error(ErrorKind::Denied, call, message)
    })?;
    Ok(path.to_owned())
}

fn http(
    guest: &mut StorageGuest,
    call: &'static str,
    operation: st::HttpOperation,
) -> Result<HttpOperation, Error> {
    let st::HttpOperation { method, url, headers, body } = operation;
    let uri = url.parse::<hyper::Uri>().ok();
    let plain = uri.as_ref().is_some_and(|uri| uri.scheme_str() == Some("http"));
    let authority = uri
        .as_ref()
        .filter(|uri| plain || uri.scheme_str() == Some("https"))
        .and_then(|uri| uri.authority())
        .filter(|authority| !authority.as_str().contains('@'));
    let Some(authority) = authority.filter(|_| body.len() <= MAX_BODY_BYTES && headers.len() <= 100) else {
        return Err(guest.nonsense(call, format!("a request to '{url}' that cannot be sent")));
    };
    let port = authority.port_u16().unwrap_or(if plain { 80 } else { 443 });
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    guest.store.data().rights.check_http(&host, port, plain).map_err(|denied| {
        let message = denied.to_string();
        let _ = guest.store.data().refuse(denied);
        guest.error(ErrorKind::Denied, call, message)
    })?;
    Ok(HttpOperation { method, url, headers, body })
}

pub(super) fn list_operation(guest: &mut StorageGuest, operation: st::Operation) -> Result<Operation, Error> {
    const CALL: &str = "list-op";
    match operation {
        st::Operation::Http(operation) => http(guest, CALL, operation).map(Operation::Http),
        st::Operation::File(operation) => {
            let st::FileOperation { action: what, folder: granted, path, to } = operation;
            let folder = folder(guest, CALL, &granted)?;
            if action(what) != FileAction::List || to.is_some() || !(path.is_empty() || is_clean(&path)) {
                return Err(guest.nonsense(CALL, format!("a {:?} of '{path}'", action(what))));
            }
            Ok(Operation::File(FileOperation { action: FileAction::List, folder, path, to }))
        }
    }
}

pub(super) fn page(
    guest: &mut StorageGuest,
    prefix: &str,
    page: st::ObjectPage,
) -> Result<ObjectPage, Error> {
    const CALL: &str = "list-parse";
    let st::ObjectPage { objects, unfinished, next } = page;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for st::Object { key, size_bytes } in guest.bounded(CALL, objects)? {
        // Anybody may put a file with an odd name into a folder: it is no object of ours.
        if !is_clean(&key) {
            continue;
        }
        if !key.starts_with(prefix) || !seen.insert(key.clone()) {
            return Err(guest.nonsense(CALL, format!("'{key}' is not below '{prefix}' or comes twice")));
        }
        found.push(Object { key, size: ByteLen(size_bytes) });
    }
    let unfinished = guest.bounded(CALL, unfinished)?;
    if next.as_ref().is_some_and(|next| next.len() > MAX_TOKEN_BYTES) {
        return Err(guest.nonsense(CALL, "a cursor that is too long"));
    }
    Ok(ObjectPage { objects: found, unfinished, next })
}

pub(super) fn multipart(
    guest: &mut StorageGuest,
    limits: st::MultipartLimits,
) -> Result<MultipartLimits, Error> {
    let st::MultipartLimits { min_part, max_part, max_parts, unordered } = limits;
    if max_parts == 0 || max_part == 0 || min_part > max_part {
        let message = format!("parts of {min_part} to {max_part} bytes, at most {max_parts}");
        return Err(guest.nonsense("begin", message));
    }
    Ok(MultipartLimits { min_part: ByteLen(min_part), max_part: ByteLen(max_part), max_parts, unordered })
}

pub(super) fn check_token(guest: &mut StorageGuest, call: &'static str, token: &str) -> Result<(), Error> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(guest.nonsense(call, format!("a token of {} bytes", token.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_key() {
        let key = "vm/disk-0/a.qcow2";
        let create = |path| prefix_of(path, key, FileAction::Create, false);
        assert_eq!(create("vm/disk-0/a.qcow2.partial"), Some(""));
        assert_eq!(create("below/vm/disk-0/a.qcow2.partial"), Some("below/"));
        assert_eq!(create("vm/disk-0/a.qcow2"), None, "unfinished objects bear .partial");
        assert_eq!(create("xvm/disk-0/a.qcow2.partial"), None);
        assert_eq!(create("vm/disk-0/b.qcow2.partial"), None);
        assert_eq!(prefix_of(key, key, FileAction::Publish, true), Some(""));
        assert_eq!(prefix_of("vm/disk-0/a.qcow2.partial", key, FileAction::Publish, true), None);
        assert_eq!(prefix_of("vm/disk-0/a.qcow2.partial", key, FileAction::Publish, false), Some(""));
        assert_eq!(prefix_of("vm/disk-0/a.qcow2.partial", key, FileAction::Read, false), None);
        assert_eq!(prefix_of(key, key, FileAction::Remove, false), Some(""));
        assert_eq!(prefix_of("vm/disk-0/a.qcow2.partial", key, FileAction::Remove, false), Some(""));
    }

    #[test]
    fn only_clean_paths_pass() {
        for wrong in ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\0b", "a\nb", "a\\b"] {
            assert!(!is_clean(wrong), "{wrong:?}");
        }
        assert!(is_clean("a/b.c/d"));
    }
}
