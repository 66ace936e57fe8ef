//! `GET /folder/VM/VM-flat.vmdk?dcPath=…&dsName=…`: the first file of a disk's chain, with ranges.
//!
//! That file is the frozen disk exactly when the VM has one snapshot. A VM that runs without a snapshot holds its
//! file locked, as on a host; with several snapshots the file is the *oldest* one's, and delta files are not served.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE,
};
use hyper::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};

use super::http::{Answer, plain, query, session_cookie};
use super::https::Dropped;
use crate::disk::{Disk, Frozen};
use crate::state::faults::FaultName;
use crate::state::machine::DiskKind;
use crate::state::{Simulator, Vcenter};

const PIECE_BYTES: u64 = 256 * 1024;

pub(super) fn get(simulator: &Simulator, request: &Request<Incoming>, path: &str) -> Result<Answer, Dropped> {
    let mut vcenter = simulator.lock();
    if vcenter.faults.strikes(FaultName::DropConnections, "folder") {
        return Err(Dropped);
    }
    if !allowed(&mut vcenter, request.headers()) {
        let mut answer = plain(StatusCode::UNAUTHORIZED, "log in first");
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"vCenter\""));
        return Ok(answer);
    }
    let known = query(request.uri(), "dcPath").as_deref() == Some(&vcenter.settings.datacenter)
        && query(request.uri(), "dsName").as_deref() == Some(&vcenter.settings.datastore);
    let file = if known { find(&vcenter, path) } else { None };
    let Some(file) = file else { return Ok(plain(StatusCode::NOT_FOUND, "no such file")) };
    Ok(match file {
        File::Locked => plain(StatusCode::INTERNAL_SERVER_ERROR, "the file is locked by the running VM"),
        File::Frozen(frozen) => {
            let capacity = frozen.capacity();
            let read = move |offset, buffer: &mut [u8]| frozen.read(offset, buffer).is_ok();
            ranged(request, capacity, read)
        }
        File::Idle(disk) => {
            let capacity = disk.capacity();
            ranged(request, capacity, move |offset, buffer: &mut [u8]| disk.read(offset, buffer).is_ok())
        }
    })
}

fn allowed(vcenter: &mut Vcenter, headers: &HeaderMap) -> bool {
    if session_cookie(headers).is_some_and(|cookie| vcenter.sessions.touch(&cookie).is_some()) {
        return true;
    }
    let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let basic =
        basic.and_then(|value| value.strip_prefix("Basic ")).and_then(|text| STANDARD.decode(text).ok());
    let expected = format!("{}:{}", vcenter.settings.username, vcenter.settings.password);
    basic.is_some_and(|given| given == expected.as_bytes())
}

enum File {
    Frozen(Arc<Frozen>),
    Idle(Arc<Disk>),
    Locked,
}

fn find(vcenter: &Vcenter, path: &str) -> Option<File> {
    let base = path.strip_suffix("-flat.vmdk")?;
    let mut all = vcenter.vms.iter().flat_map(|vm| vm.disks.iter().map(move |disk| (vm, disk)));
    let (vm, disk) = all.find(|(_, disk)| disk.base == base && disk.kind != DiskKind::PhysicalRdm)?;
    let descriptor = format!("{base}.vmdk");
    let mut frozen = vm.snapshots.iter().filter_map(|snapshot| snapshot.disk(disk.key));
    let owner = frozen.find(|frozen| frozen.file == descriptor).and_then(|disk| disk.frozen.clone());
    Some(match owner {
        Some(frozen) => File::Frozen(frozen),
        None if vm.powered_on => File::Locked,
        None => File::Idle(Arc::clone(&disk.disk)),
    })
}

/// The range that a header asks for: first byte and length.
fn range_of(headers: &HeaderMap, capacity: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(text) = headers.get(RANGE).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|text| text.split_once('-')) else {
        return Ok(None);
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.min(capacity.saturating_sub(1))),
        (Ok(first), Err(_)) => (first, capacity.saturating_sub(1)),
        (Err(_), Ok(count)) => (capacity.saturating_sub(count), capacity.saturating_sub(1)),
        _ => return Err(()),
    };
    if first >= capacity || last < first { Err(()) } else { Ok(Some((first, last - first + 1))) }
}

fn ranged(
    request: &Request<Incoming>,
    capacity: u64,
    read: impl Fn(u64, &mut [u8]) -> bool + Send + Sync + 'static,
) -> Answer {
    let Ok(range) = range_of(request.headers(), capacity) else {
        let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE, "no such range");
        set(&mut answer, CONTENT_RANGE, &format!("bytes */{capacity}"));
        return answer;
    };
    let (first, length) = range.unwrap_or((0, capacity));
    let end = if request.method() == Method::HEAD { first } else { first + length };
    let pieces = stream::unfold((first, read), move |(offset, read)| async move {
        if offset >= end {
            return None;
        }
        let count = (end - offset).min(PIECE_BYTES);
        let mut piece = vec![0; usize::try_from(count).unwrap_or_default()];
        // A snapshot that went away in the middle ends the body early: the client sees a short answer.
        read(offset, &mut piece).then(|| (Ok(Frame::data(Bytes::from(piece))), (offset + count, read)))
    });
    let mut answer = Response::new(StreamBody::new(pieces).boxed_unsync());
    if range.is_some() {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut answer, CONTENT_RANGE, &format!("bytes {first}-{}/{capacity}", first + length - 1));
    }
    set(&mut answer, CONTENT_LENGTH, &length.to_string());
    set(&mut answer, CONTENT_TYPE, "application/octet-stream");
    set(&mut answer, ACCEPT_RANGES, "bytes");
    answer
}

fn set(answer: &mut Answer, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}
