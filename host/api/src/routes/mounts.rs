//! Files out of backups.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::iter;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemark_engine::{ArchiveFormat, Error, FileStream, Listing};
use tidemark_model::{BackupId, ByteLen};

use super::created;
use super::sending::{self, ANY_BYTES};
use crate::auth::Actor;
use crate::extract::{Json as JsonBody, KeptJson, Path, Query, parse_id};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, operator};
use crate::state::AppState;
use crate::wire::{FileEntry, FileList, FoundFiles, MountBackup, MountEntry, MountList};

const ZIP: &str = "application/zip";
/// One JSON document a line.
const LINES: &str = "application/x-ndjson";
/// What one document has of a search; as lines it has no bound.
const MAX_FOUND: usize = 10_000;
/// What a file takes in a folder's document, more or less.
const USUAL: usize = 400;
/// About as much of a folder's document is sent at once.
const PART: usize = 256 << 10;
/// Paths in one archive.
const MAX_PATHS: usize = 1000;

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .post(
            "/api/v1/restore/mount",
            operator("mountBackup", "Opens a disk of a backup for reading its files")
                .body::<MountBackup>()
                .answers::<MountEntry>(201),
            mount,
        )
        .get(
            "/api/v1/restore/mounts",
            operator("listMounts", "The disks whose files can be read on this host")
                .answers::<MountList>(200),
            list,
        )
        .delete("/api/v1/restore/{mount}", operator("unmountBackup", "Ends a mount"), unmount)
        .get(
            "/api/v1/restore/{mount}/files",
            operator("listFiles", "What is in a folder; at the root the partitions")
                .query::<PathQuery>()
                .answers::<FileList>(200),
            files,
        )
        .get(
            "/api/v1/restore/{mount}/file-info",
            operator("getFileInfo", "All that is known of one file, folder or link")
                .query::<PathQuery>()
                .answers::<FileEntry>(200),
            file_info,
        )
        .get(
            "/api/v1/restore/{mount}/search",
            operator(
                "searchFiles",
                "Files by their name, below a folder; one a line where `application/x-ndjson` is accepted",
            )
            .query::<SearchQuery>()
            .answers::<FoundFiles>(200),
            search,
        )
        .get(
            "/api/v1/restore/{mount}/download",
            operator("downloadFile", "Sends one file (with HTTP ranges), or a folder as a ZIP")
                .query::<PathQuery>()
                .answers_bytes(ANY_BYTES),
            download,
        )
        .get(
            "/api/v1/restore/{mount}/download-directory",
            operator("downloadDirectory", "Sends a folder as a ZIP or a TAR.GZ")
                .query::<ArchiveQuery>()
                .answers_bytes(ZIP),
            download_directory,
        )
        .post(
            "/api/v1/restore/{mount}/actions/download",
            operator("downloadSelection", "Sends several files and folders as one archive")
                .body::<DownloadSelection>()
                .answers_bytes(ZIP),
            download_selection,
        )
}

#[derive(Debug, Deserialize, JsonSchema)]
struct PathQuery {
    /// `/` where not given.
    #[serde(default)]
    path: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SearchQuery {
    /// Where to search; everywhere where not given.
    #[serde(default)]
    path: String,
    /// A pattern for names: `*` and `?`, whatever the case of letters.
    name: String,
}

/// How a folder is packed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
enum ArchiveWord {
    /// ZIP.
    #[default]
    #[serde(rename = "zip")]
    Zip,
    /// A tar archive, compressed with gzip.
    #[serde(rename = "tar.gz")]
    TarGz,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ArchiveQuery {
    /// The folder.
    path: String,
    /// `zip` where not given.
    #[serde(default)]
    format: ArchiveWord,
}

/// Several files and folders, which may lie anywhere.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DownloadSelection {
    /// Their paths.
    paths: Vec<String>,
    /// `zip` where not given.
    #[serde(default)]
    format: ArchiveWord,
}

async fn mount(
    State(state): State<AppState>,
    actor: Actor,
    KeptJson(MountBackup { backup_id, disk_index }, warnings): KeptJson<MountBackup>,
) -> Answer<Response> {
    let backup: BackupId = parse_id("backup_id", &backup_id)?;
    let mounted = state.engine.mount(&actor.name, backup, disk_index).await?;
    let mounted = MountEntry { warnings, ..MountEntry::from(mounted) };
    let place = mounted.mount_id.clone();
    created("restore", &place, &mounted)
}

async fn list(State(state): State<AppState>) -> Answer<Json<MountList>> {
    Ok(Json(MountList { mounts: state.engine.mounts().into_iter().map(MountEntry::from).collect() }))
}

async fn unmount(State(state): State<AppState>, actor: Actor, Path(id): Path<String>) -> Answer<StatusCode> {
    state.engine.unmount(&actor.name, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn files(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(PathQuery { path }): Query<PathQuery>,
) -> Answer<Response> {
    let shown = |file| {
        let mut json = Vec::with_capacity(USUAL);
        serde_json::to_writer(&mut json, &FileEntry::from(file)).map(|()| json)
    };
    let (length, document) =
        document(state.engine.files(&id, &path, shown).await?).map_err(Problem::internal)?;
    let json = (header::CONTENT_TYPE, "application/json".to_owned());
    if length.0 <= PART as u64 {
        // Whole, like other answers: a server that stops does not cut it off.
        let whole: Vec<Bytes> = document.try_collect().await?;
        return Ok(([json], whole.concat()).into_response());
    }
    sending::answer(&state, vec![json], Some(length), document)
}

/// A [`FileList`] of files that are JSON already: a large folder's is put together while it is sent.
fn document(listing: Listing<serde_json::Result<Vec<u8>>>) -> serde_json::Result<(ByteLen, FileStream)> {
    let Listing { path, files } = listing;
    let files = files.into_iter().collect::<serde_json::Result<Vec<_>>>()?;
    let head = format!("{{\"path\":{},\"files\":[", serde_json::to_string(&path)?);
    let end = "]}";
    let commas = files.len().saturating_sub(1);
    let length = head.len() + files.iter().map(Vec::len).sum::<usize>() + commas + end.len();
    let mut files = files.into_iter().enumerate();
    let parts = iter::from_fn(move || {
        let mut part = Vec::new();
        for (number, file) in files.by_ref() {
            if number > 0 {
                part.push(b',');
            }
            part.extend(file);
            if part.len() >= PART {
                break;
            }
        }
        (!part.is_empty()).then(|| Bytes::from(part))
    });
    let parts =
        iter::once(Bytes::from(head)).chain(parts).chain(iter::once(Bytes::from_static(end.as_bytes())));
    Ok((ByteLen(length as u64), stream::iter(parts.map(Ok)).boxed()))
}

async fn file_info(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(PathQuery { path }): Query<PathQuery>,
) -> Answer<Json<FileEntry>> {
    Ok(Json(FileEntry::from(state.engine.file_info(&id, &path).await?)))
}

async fn search(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(SearchQuery { path, name }): Query<SearchQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let mut found = state.engine.search(&id, &path, &name).await?;
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains(LINES)) {
        let lines = found.map(|entry| entry.and_then(|entry| line(FileEntry::from(entry)))).boxed();
        return sending::answer(&state, vec![(header::CONTENT_TYPE, LINES.to_owned())], None, lines);
    }
    let mut files = Vec::new();
    while let Some(entry) = found.next().await {
        if files.len() >= MAX_FOUND {
            return Ok(Json(FoundFiles { files, truncated: true }).into_response());
        }
        files.push(FileEntry::from(entry?));
    }
    Ok(Json(FoundFiles { files, truncated: false }).into_response())
}

/// A line of JSON.
fn line(entry: FileEntry) -> Result<Bytes, Error> {
    let mut line = serde_json::to_vec(&entry).map_err(|error| Error::internal(error.to_string()))?;
    line.push(b'\n');
    Ok(line.into())
}

async fn download(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    Query(PathQuery { path }): Query<PathQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Some(download) = state.engine.open_download(&actor.name, &id, &path).await? else {
        return archive(&state, &actor, &id, vec![path], ArchiveWord::Zip).await;
    };
    let mut fields = vec![
        (header::CONTENT_TYPE, ANY_BYTES.to_owned()),
        (header::CONTENT_DISPOSITION, attachment(&download.file_name)),
    ];
    let (size, tag) = (download.size, format!("{id}-{}", tag_of(&path)));
    match sending::part(&headers, size, &tag, &mut fields)? {
        Some(part) => sending::answer(&state, fields, Some(part.length), download.stream_range(part)),
        None => sending::answer(&state, fields, Some(size), download.stream()),
    }
}

async fn download_directory(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    Query(ArchiveQuery { path, format }): Query<ArchiveQuery>,
) -> Answer<Response> {
    if !state.engine.is_folder(&id, &path).await? {
        return Err(Problem::invalid_field("path", format!("'{path}' is no folder")));
    }
    archive(&state, &actor, &id, vec![path], format).await
}

async fn download_selection(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    JsonBody(DownloadSelection { paths, format }): JsonBody<DownloadSelection>,
) -> Answer<Response> {
    if paths.is_empty() || paths.len() > MAX_PATHS {
        return Err(Problem::invalid_field("paths", format!("name 1 to {MAX_PATHS} files and folders")));
    }
    archive(&state, &actor, &id, paths, format).await
}

async fn archive(
    state: &AppState,
    actor: &Actor,
    id: &str,
    paths: Vec<String>,
    format: ArchiveWord,
) -> Answer<Response> {
    let (format, media, ending) = match format {
        ArchiveWord::Zip => (ArchiveFormat::Zip, ZIP, "zip"),
        ArchiveWord::TarGz => (ArchiveFormat::TarGz, "application/gzip", "tar.gz"),
    };
    let name = match paths.as_slice() {
        [path] => path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned(),
        _ => "files".to_owned(),
    };
    let stream = state.engine.open_archive(&actor.name, id, &paths, format).await?;
    let fields = vec![
        (header::CONTENT_TYPE, media.to_owned()),
        (header::CONTENT_DISPOSITION, attachment(&format!("{name}.{ending}"))),
        (header::ACCEPT_RANGES, "none".to_owned()),
    ];
    sending::answer(state, fields, None, stream)
}

/// A file's name for the receiver (RFC 6266): plain letters for the oldest, all of it for the others.
fn attachment(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let full: String = name
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{full}")
}

/// What tells a path of a mount from others; what a backup holds never changes.
fn tag_of(path: &str) -> String {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_makes_a_header() {
        assert_eq!(attachment("a b.txt"), "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt");
        assert_eq!(
            attachment("grün\"\r\n"),
            "attachment; filename=\"gr_n___\"; filename*=UTF-8''gr%C3%BCn%22%0D%0A"
        );
    }
}
