//! A storage target, typed: it plans, the host carries out. Every planned file operation is held against the
//! granted folders and the object's key, every planned request against the granted hosts.

mod plan;
mod types;

use tidemark_model::{ByteLen, UtcMillis};

use crate::bindings::storage as wit;
use crate::bindings::storage::exports::tidemark::plugin::storage as st;
use crate::error::{Error, ErrorKind};
use crate::guest::{Guest, call_guest};

use plan::Planned;
pub use types::{
    ByteRange, FileAction, FileOperation, HttpOperation, MultipartLimits, Object, ObjectPage, Operation,
    Outcome, PartOutcome, PartRequest, Upload, UploadStyle, Verdict,
};

/// A running storage target.
pub struct StorageTarget {
    guest: Guest<wit::StorageTarget>,
    planned: Planned,
}

impl StorageTarget {
    /// Running and who it claims to be, but not configured.
    pub(crate) async fn described(guest: Guest<wit::StorageTarget>, contract: &str) -> Result<Self, Error> {
        let mut target = Self { guest, planned: Planned::default() };
        let guest = &mut target.guest;
        let said = call_guest!(guest, "describe", tidemark_plugin_storage.call_describe());
        guest.check_description(said, contract)?;
        Ok(target)
    }

    pub(crate) async fn start(
        guest: Guest<wit::StorageTarget>,
        contract: &str,
        settings: &str,
    ) -> Result<Self, Error> {
        let mut target = Self::described(guest, contract).await?;
        let guest = &mut target.guest;
        let configured = call_guest!(guest, "configure", tidemark_plugin_storage.call_configure(settings));
        guest.returned("configure", configured)?;
        Ok(target)
    }

    /// The folder whose free space counts; none where the target is no folder.
    ///
    /// # Errors
    /// See [`ErrorKind`]; [`ErrorKind::Denied`] where the folder was not granted.
    pub async fn watch_space(&mut self) -> Result<Option<std::path::PathBuf>, Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "watch-space", tidemark_plugin_storage.call_watch_space());
        let st::Space { folder } = guest.returned("watch-space", result)?;
        folder.map(|folder| plan::folder(guest, "watch-space", &folder)).transpose()
    }

    /// Plans a new object.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn begin(&mut self, key: &str, size_hint: ByteLen) -> Result<Upload, Error> {
        self.check_key("begin", key)?;
        let guest = &mut self.guest;
        let result = call_guest!(guest, "begin", tidemark_plugin_storage.call_begin(key, size_hint.0, now()));
        let st::Upload { token, style } = guest.returned("begin", result)?;
        plan::check_token(guest, "begin", &token)?;
        let style = match style {
            st::UploadStyle::Append(operation) => {
                let operation = self.planned.file(guest, "begin", key, operation)?;
                if operation.action != FileAction::Create {
                    return Err(
                        guest.nonsense("begin", format!("an upload that begins with {:?}", operation.action))
                    );
                }
                UploadStyle::Append(operation)
            }
            st::UploadStyle::Multipart(limits) => UploadStyle::Multipart(plan::multipart(guest, limits)?),
        };
        Ok(Upload { token, style })
    }

    /// The request that opens a multipart upload.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn open_multipart(&mut self, key: &str) -> Result<Operation, Error> {
        self.check_key("open-multipart", key)?;
        let guest = &mut self.guest;
        let result =
            call_guest!(guest, "open-multipart", tidemark_plugin_storage.call_open_multipart(key, now()));
        let operation = guest.returned("open-multipart", result)?;
        self.planned.operation(guest, "open-multipart", key, operation)
    }

    /// The token that the answer to [`StorageTarget::open_multipart`] gives.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn opened_multipart(&mut self, key: &str, outcome: &Outcome) -> Result<String, Error> {
        let guest = &mut self.guest;
        let outcome = types::outcome(outcome);
        let result = call_guest!(
            guest,
            "opened-multipart",
            tidemark_plugin_storage.call_opened_multipart(key, &outcome)
        );
        let token = guest.returned("opened-multipart", result)?;
        plan::check_token(guest, "opened-multipart", &token)?;
        Ok(token)
    }

    /// One operation for each part, in the parts' order.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn parts(
        &mut self,
        key: &str,
        token: &str,
        parts: &[PartRequest],
    ) -> Result<Vec<Operation>, Error> {
        self.check_key("parts", key)?;
        let guest = &mut self.guest;
        let asked: Vec<_> = parts.iter().map(types::part_request).collect();
        let result =
            call_guest!(guest, "parts", tidemark_plugin_storage.call_parts(key, token, &asked, now()));
        let operations = guest.returned("parts", result)?;
        if operations.len() != parts.len() {
            let message = format!("{} operations for {} parts", operations.len(), parts.len());
            return Err(guest.nonsense("parts", message));
        }
        self.planned.operations(guest, "parts", key, operations)
    }

    /// What makes an upload an object.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn finish(
        &mut self,
        key: &str,
        token: &str,
        parts: &[PartOutcome],
    ) -> Result<Vec<Operation>, Error> {
        self.check_key("finish", key)?;
        let guest = &mut self.guest;
        let done: Vec<_> = parts.iter().map(types::part_outcome).collect();
        let result =
            call_guest!(guest, "finish", tidemark_plugin_storage.call_finish(key, token, &done, now()));
        let operations = guest.returned("finish", result)?;
        self.planned.operations(guest, "finish", key, operations)
    }

    /// What undoes an upload.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn abort(&mut self, key: &str, token: &str) -> Result<Vec<Operation>, Error> {
        self.check_key("abort", key)?;
        let guest = &mut self.guest;
        let result = call_guest!(guest, "abort", tidemark_plugin_storage.call_abort(key, token, now()));
        let operations = guest.returned("abort", result)?;
        self.planned.operations(guest, "abort", key, operations)
    }

    /// How an object, or a part of it, is read.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn get(&mut self, key: &str, range: Option<ByteRange>) -> Result<Operation, Error> {
        self.check_key("get", key)?;
        let guest = &mut self.guest;
        let range =
            range.map(|ByteRange { offset, length }| st::ByteRange { offset: offset.0, length: length.0 });
        let result = call_guest!(guest, "get", tidemark_plugin_storage.call_get(key, range, now()));
        let operation = guest.returned("get", result)?;
        self.planned.operation(guest, "get", key, operation)
    }

    /// How an object is removed.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn remove(&mut self, key: &str) -> Result<Operation, Error> {
        self.check_key("remove", key)?;
        let guest = &mut self.guest;
        let result = call_guest!(guest, "remove", tidemark_plugin_storage.call_remove(key, now()));
        let operation = guest.returned("remove", result)?;
        self.planned.operation(guest, "remove", key, operation)
    }

    /// How the objects below a prefix are listed.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn list_op(&mut self, prefix: &str, cursor: Option<&str>) -> Result<Operation, Error> {
        let guest = &mut self.guest;
        let result =
            call_guest!(guest, "list-op", tidemark_plugin_storage.call_list_op(prefix, cursor, now()));
        let operation = guest.returned("list-op", result)?;
        plan::list_operation(guest, operation)
    }

    /// What a listing's outcome says.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn list_parse(&mut self, prefix: &str, outcome: &Outcome) -> Result<ObjectPage, Error> {
        let guest = &mut self.guest;
        let outcome = types::outcome(outcome);
        let result =
            call_guest!(guest, "list-parse", tidemark_plugin_storage.call_list_parse(prefix, &outcome));
        let page = guest.returned("list-parse", result)?;
        plan::page(guest, prefix, page)
    }

    /// What an operation's outcome means.
    ///
    /// # Errors
    /// How the plugin misbehaved.
    pub async fn classify(&mut self, outcome: &Outcome) -> Result<Verdict, Error> {
        let guest = &mut self.guest;
        let outcome = types::outcome(outcome);
        let verdict = call_guest!(guest, "classify", tidemark_plugin_storage.call_classify(&outcome));
        Ok(match verdict {
            st::Verdict::Done => Verdict::Done,
            st::Verdict::Retry(after) => Verdict::Retry(std::time::Duration::from_millis(after)),
            st::Verdict::Failed(error) => match guest.returned::<()>("classify", Err(error)) {
                Ok(()) => Verdict::Done,
                Err(error) => Verdict::Failed(error),
            },
        })
    }

    /// Keys are the host's own; a wrong one is our mistake and never reaches the guest.
    fn check_key(&self, operation: &str, key: &str) -> Result<(), Error> {
        if plan::is_clean(key) {
            return Ok(());
        }
        Err(self.guest.error(ErrorKind::Config, operation, format!("'{key}' is no object key")))
    }
}

fn now() -> u64 {
    u64::try_from(UtcMillis::now().0).unwrap_or(0)
}

impl std::fmt::Debug for StorageTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.guest.store.data();
        write!(f, "StorageTarget({} {})", state.plugin, state.version)
    }
}
