//! What a storage target says, in the host's words.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_model::{ByteLen, HostOffset};

use crate::bindings::storage::exports::tidemark::plugin::storage as st;
use crate::error::Error;

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAction {
    /// Make the folders above and a new file to append to.
    Create,
    /// Durably give a finished file its name, never replacing another.
    Publish,
    /// Read.
    Read,
    /// Remove; done too where it is gone.
    Remove,
    /// List a folder and all below it.
    List,
}

/// Something done to a file below a granted folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOperation {
    /// What.
    pub action: FileAction,
    /// The granted folder, absolute.
    pub folder: PathBuf,
    /// Relative to it, `/` between the parts, none of them `.` or `..`; empty only for a list of the folder itself.
    pub path: String,
    /// For `Publish`, the new name, likewise relative; none for the others.
    pub to: Option<String>,
}

/// A signed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOperation {
    /// The method.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Headers, the signature among them.
    pub headers: Vec<(String, String)>,
    /// The body; parts' bodies are the host's.
    pub body: Vec<u8>,
}

/// Something for the host to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// On a file.
    File(FileOperation),
    /// Over HTTP.
    Http(HttpOperation),
}

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// From where.
    pub offset: HostOffset,
    /// How much.
    pub length: ByteLen,
}

/// What parts may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultipartLimits {
    /// Smallest part but for the last.
    pub min_part: ByteLen,
    /// Largest part.
    pub max_part: ByteLen,
    /// Most parts.
    pub max_parts: u32,
    /// Whether they may come in any order, at the same time.
    pub unordered: bool,
}

/// How an object comes to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStyle {
    /// Appended to a file.
    Append(FileOperation),
    /// Sent in parts.
    Multipart(MultipartLimits),
}

/// A planned upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Opaque; survives a restart.
    pub token: String,
    /// How.
    pub style: UploadStyle,
}

/// A part to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRequest {
    /// From 1.
    pub number: u32,
    /// Its size.
    pub length: ByteLen,
    /// Of its bytes, where it is known.
    pub sha256: Option<[u8; 32]>,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// 0 where there was no HTTP answer.
    pub status: u16,
    /// The answer's headers.
    pub headers: Vec<(String, String)>,
    /// The first 64 KiB, or a listing.
    pub body: Vec<u8>,
}

/// What came of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOutcome {
    /// Which part.
    pub number: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// What an outcome means.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is done.
    Done,
    /// Try again after this.
    Retry(Duration),
    /// It failed.
    Failed(Error),
}

/// A stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size: ByteLen,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPage {
    /// Published objects.
    pub objects: Vec<Object>,
    /// Keys or tokens of uploads that were begun and not finished.
    pub unfinished: Vec<String>,
    /// For the next page.
    pub next: Option<String>,
}

pub(super) fn outcome(outcome: &Outcome) -> st::Outcome {
    let Outcome { status, headers, body } = outcome;
    st::Outcome { status: *status, headers: headers.clone(), body: body.clone() }
}

pub(super) fn part_request(part: &PartRequest) -> st::PartRequest {
    let PartRequest { number, length, sha256 } = part;
    st::PartRequest { number: *number, length: length.0, sha256: sha256.map(|digest| digest.to_vec()) }
}

pub(super) fn part_outcome(part: &PartOutcome) -> st::PartOutcome {
    let PartOutcome { number, outcome: of } = part;
    st::PartOutcome { number: *number, outcome: outcome(of) }
}

pub(super) fn action(action: st::FileAction) -> FileAction {
    match action {
        st::FileAction::Create => FileAction::Create,
        st::FileAction::Publish => FileAction::Publish,
        st::FileAction::Read => FileAction::Read,
        st::FileAction::Remove => FileAction::Remove,
        st::FileAction::List => FileAction::List,
    }
}
