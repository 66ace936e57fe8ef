//! The duties of a storage target: what it plans for an object, from its beginning to its removal, is carried out in a
//! folder and looked at. Of one that plans requests only the plans are looked at, as nobody here sends them.

use serde_json::{Map, Value};
use tidemark_model::{ByteLen, HostOffset};

use super::{Report, Trial, ensure, scratch, words};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::runtime::{Plugin, Runtime};
use crate::storage::{
    ByteRange, FileOperation, ObjectPage, Operation, Outcome, StorageTarget, UploadStyle, Verdict,
};

const KEY: &str = "web01-1a2b3c4d/disk-0/20260102T030405Z-5e6f7a8b-full.qcow2";
const CONTENT: &[u8] = b"0123456789abcdef";
/// No listing of a handful of objects has more pages.
const MOST_PAGES: usize = 100;
/// Names that are allowed, and easily broken by whoever escapes, splits or folds them.
const ODD_KEYS: [&str; 6] = ["a b/c", "50%25/x+y", "größe/日本", "q?x=1&y=#z", "~/-rf", "UPPER/lower.JSON"];

pub(super) async fn run(
    runtime: &Runtime,
    plugin: &Plugin,
    trial: &Trial,
    report: &mut Report,
) -> Option<()> {
    let folder = tempfile::Builder::new().prefix("tidemark-conformance-").tempdir();
    let folder = report.settle("a scratch folder is made", folder)?;
    let mut trial = trial.clone();
    trial.settings = with_folder(&trial.settings, plugin.manifest(), &folder.path().to_string_lossy());
    let opened = runtime.storage_target(plugin, trial.session(plugin)).await;
    let mut target = report.settle("configure takes the settings", told(opened))?;
    report.settle("watch-space names a granted folder or none", told(target.watch_space().await));
    let begun = target.begin(KEY, ByteLen(CONTENT.len() as u64)).await;
    let begun = report.settle("begin plans an object", told(begun))?;
    match begun.style {
        UploadStyle::Append(create) => objects(&mut target, create, &begun.token, report).await,
        UploadStyle::Multipart(_) => requests(&mut target, report).await,
    }
    report.settle("list-parse of nonsense is an error", nonsense(&mut target).await);
    report.settle("classify tells done from failed", classified(&mut target).await);
    Some(())
}

fn told<T>(ended: Result<T, Error>) -> Result<T, String> {
    ended.map_err(|error| words(&error))
}

/// The settings, with the folder in place of each one that a `path` capability names and nobody gave.
fn with_folder(given: &Map<String, Value>, manifest: &Manifest, folder: &str) -> Map<String, Value> {
    let mut settings = given.clone();
    let paths = manifest.capabilities.iter().filter(|capability| capability.name == "path");
    for target in paths.flat_map(|capability| &capability.targets) {
        let name = target.strip_prefix("${config.").and_then(|rest| rest.strip_suffix('}'));
        if let Some(name) = name.filter(|name| !settings.contains_key(*name)) {
            settings.insert(name.to_owned(), Value::from(folder));
        }
    }
    settings
}

/// The life of objects in a folder.
async fn objects(target: &mut StorageTarget, create: FileOperation, token: &str, report: &mut Report) {
    let unfinished = async {
        scratch::create(&create, CONTENT)?;
        let page = listed(target, "").await?;
        ensure(page.objects.is_empty(), || format!("it is listed as finished: {:?}", page.objects))?;
        let known = page.unfinished.iter().any(|name| name == KEY || name == token);
        ensure(known, || format!("it is not among the unfinished: {:?}", page.unfinished))
    }
    .await;
    report.settle("what was begun is listed as unfinished, by key or token", unfinished);
    let published = async {
        carry_out(&told(target.finish(KEY, token, &[]).await)?)?;
        only(&listed(target, "").await?, KEY)
    }
    .await;
    report.settle("finish publishes it, and it is listed with its size", published);
    report.settle("get reads a range of it", ranged(target, KEY).await);
    report.settle("a prefix lists only what is below it", prefixed(target).await);
    report.settle("remove takes it away, and again when it is gone", removed(target, KEY).await);
    report.settle("abort leaves nothing behind", aborted(target).await);
    report.settle("odd names come back as they are, or are refused", odd_names(target).await);
}

async fn listed(target: &mut StorageTarget, prefix: &str) -> Result<ObjectPage, String> {
    let mut all = ObjectPage { objects: Vec::new(), unfinished: Vec::new(), next: None };
    let mut cursor = None;
    for _ in 0..MOST_PAGES {
        let operation = told(target.list_op(prefix, cursor.as_deref()).await)?;
        let outcome = scratch::list(&file(operation)?)?;
        let page = told(target.list_parse(prefix, &outcome).await)?;
        all.objects.extend(page.objects);
        all.unfinished.extend(page.unfinished);
        let Some(next) = page.next else { return Ok(all) };
        cursor = Some(next);
    }
    Err(format!("the listing has more than {MOST_PAGES} pages"))
}

fn file(operation: Operation) -> Result<FileOperation, String> {
    match operation {
        Operation::File(operation) => Ok(operation),
        Operation::Http(operation) => Err(format!("a request to {} among file operations", operation.url)),
    }
}

fn carry_out(operations: &[Operation]) -> Result<(), String> {
    operations.iter().try_for_each(|operation| scratch::carry_out(&file(operation.clone())?))
}

/// Whether a page has one object of the usual size, and nothing unfinished.
fn only(page: &ObjectPage, key: &str) -> Result<(), String> {
    let [object] = page.objects.as_slice() else {
        return Err(format!("'{key}' alone was expected, not {:?}", page.objects));
    };
    let fits = object.key == key && object.size.0 == CONTENT.len() as u64 && page.unfinished.is_empty();
    ensure(fits, || format!("'{key}' of {} bytes was expected, not {page:?}", CONTENT.len()))
}

async fn ranged(target: &mut StorageTarget, key: &str) -> Result<(), String> {
    let range = ByteRange { offset: HostOffset(3), length: ByteLen(5) };
    let read = scratch::read(&file(told(target.get(key, Some(range)).await)?)?, range)?;
    ensure(read == CONTENT[3..8], || format!("other bytes: {read:?}"))?;
    told(target.get(key, None).await).map(drop)
}

async fn prefixed(target: &mut StorageTarget) -> Result<(), String> {
    only(&listed(target, "web01-1a2b3c4d/").await?, KEY)?;
    let elsewhere = listed(target, "other/").await?;
    ensure(elsewhere.objects.is_empty(), || format!("below 'other/' it lists {:?}", elsewhere.objects))
}

async fn removed(target: &mut StorageTarget, key: &str) -> Result<(), String> {
    for _ in 0..2 {
        let operation = told(target.remove(key).await)?;
        carry_out(&[operation])?;
    }
    empty(target).await
}

async fn empty(target: &mut StorageTarget) -> Result<(), String> {
    let page = listed(target, "").await?;
    ensure(page.objects.is_empty() && page.unfinished.is_empty(), || format!("it still lists {page:?}"))
}

async fn aborted(target: &mut StorageTarget) -> Result<(), String> {
    begun(target, KEY).await?;
    let token = told(target.begin(KEY, ByteLen(1)).await)?.token;
    for _ in 0..2 {
        carry_out(&told(target.abort(KEY, &token).await)?)?;
    }
    empty(target).await
}

/// Begins an object in the folder and answers its token.
async fn begun(target: &mut StorageTarget, key: &str) -> Result<String, String> {
    let upload = told(target.begin(key, ByteLen(CONTENT.len() as u64)).await)?;
    match upload.style {
        UploadStyle::Append(create) => scratch::create(&create, CONTENT)?,
        UploadStyle::Multipart(_) => return Err("it appends to some objects only".to_owned()),
    }
    Ok(upload.token)
}

async fn odd_names(target: &mut StorageTarget) -> Result<(), String> {
    for key in ODD_KEYS {
        let token = match target.begin(key, ByteLen(1)).await {
            Err(error) if error.is_misbehaviour() => return Err(words(&error)),
            Err(_) => continue,
            Ok(_) => begun(target, key).await?,
        };
        carry_out(&told(target.finish(key, &token, &[]).await)?)?;
        only(&listed(target, "").await?, key)?;
        ranged(target, key).await?;
        removed(target, key).await?;
    }
    Ok(())
}

/// The plans of a target that is reached by requests; the façade holds each against the grants.
async fn requests(target: &mut StorageTarget, report: &mut Report) {
    report.settle("open-multipart plans a request", told(target.open_multipart(KEY).await));
    report.settle("get plans a request", told(target.get(KEY, None).await));
    report.settle("remove plans a request", told(target.remove(KEY).await));
    report.settle("list-op plans a request", told(target.list_op("", None).await));
}

async fn nonsense(target: &mut StorageTarget) -> Result<(), String> {
    let outcome = Outcome { status: 200, headers: Vec::new(), body: b"\xff nonsense".to_vec() };
    match target.list_parse("", &outcome).await {
        Ok(page) => Err(format!("it reads {page:?} in it")),
        Err(error) if error.is_misbehaviour() => Err(words(&error)),
        Err(_) => Ok(()),
    }
}

async fn classified(target: &mut StorageTarget) -> Result<(), String> {
    for (status, done) in [(200, true), (404, false), (403, false)] {
        let verdict = told(target.classify(&Outcome { status, ..Outcome::default() }).await)?;
        let fits = matches!(verdict, Verdict::Done) == done;
        ensure(fits, || format!("of the status {status} it says {verdict:?}"))?;
    }
    Ok(())
}
