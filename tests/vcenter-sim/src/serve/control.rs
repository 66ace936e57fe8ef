//! The control routes: what no vCenter offers, for tests. Plain HTTP on the loopback.
//!
//! ```text
//!   POST /vms/NAME/disks/N/write?offset=O      the body is what the guest writes
//!   POST /vms/NAME/disks/N/trim?offset=O&length=L
//!   GET  /vms/NAME/disks/N/frozen/SNAPSHOT     the frozen bytes of a live snapshot
//!   GET  /vms/NAME/disks/N/live                the bytes as they are now
//!   GET  /vms, GET /vms/NAME/snapshots
//!   GET /faults, POST /faults {"name","arg","times"}, DELETE /faults
//!   POST /sessions/expire                      ends all sessions
//! ```
//! `N` counts the disks from 0.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::http::{Answer, Refusal, answer, query, read_body, segments};
use crate::disk::{Disk, DiskError};
use crate::soap::value::MoRef;
use crate::state::faults::{FaultName, Times};
use crate::state::machine::Vm;
use crate::state::{Simulator, Vcenter};

const LARGEST_WRITE: usize = 64 << 20;
const PIECE_BYTES: u64 = 1 << 20;

/// Accepts connections until the task is dropped.
pub async fn serve(simulator: Simulator, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        _ = stream.set_nodelay(true);
        let simulator = simulator.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let simulator = simulator.clone();
                async move {
                    let answer = route(&simulator, request).await.unwrap_or_else(Refusal::answer);
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn route(simulator: &Simulator, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let path = segments(&uri);
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (&method, path.as_slice()) {
        (&Method::POST, ["vms", vm, "disks", disk, "write"]) => {
            let disk = find_disk(&simulator.lock(), vm, disk)?;
            let body = read_body(request.into_body(), LARGEST_WRITE).await?;
            disk.write(number(&uri, "offset")?, &body).map_err(|error| refused(&error))?;
            Ok(done(&json!({"written": body.len()})))
        }
        (&Method::POST, ["vms", vm, "disks", disk, "trim"]) => {
            let disk = find_disk(&simulator.lock(), vm, disk)?;
            let length = number(&uri, "length")?;
            disk.trim(number(&uri, "offset")?, length).map_err(|error| refused(&error))?;
            Ok(done(&json!({"trimmed": length})))
        }
        (&Method::GET, ["vms", vm, "disks", disk, "frozen", snapshot]) => {
            frozen(&simulator.lock(), vm, disk, snapshot)
        }
        (&Method::GET, ["vms", vm, "disks", disk, "live"]) => {
            let disk = find_disk(&simulator.lock(), vm, disk)?;
            Ok(streamed(disk.capacity(), move |offset, buffer: &mut [u8]| disk.read(offset, buffer).is_ok()))
        }
        (&Method::GET, ["vms"]) => {
            let vcenter = simulator.lock();
            Ok(done(&json!({"vms": vcenter.vms.iter().map(describe).collect::<Vec<_>>()})))
        }
        (&Method::GET, ["vms", vm, "snapshots"]) => {
            let vcenter = simulator.lock();
            Ok(done(&json!({"snapshots": snapshots(find_vm(&vcenter, vm)?)})))
        }
        (&Method::GET, ["faults"]) => Ok(done(&faults(&simulator.lock()))),
        (&Method::DELETE, ["faults"]) => {
            simulator.lock().faults.clear();
            Ok(done(&json!({"faults": []})))
        }
        (&Method::POST, ["faults"]) => {
            let body = read_body(request.into_body(), 1 << 16).await?;
            let asked: Value = serde_json::from_slice(&body).map_err(|error| bad(&error.to_string()))?;
            set_fault(simulator, &asked)
        }
        (&Method::POST, ["sessions", "expire"]) => {
            let mut vcenter = simulator.lock();
            let keys: Vec<String> = vcenter.sessions.iter().map(|session| session.key.clone()).collect();
            for key in &keys {
                vcenter.sessions.end(key);
                vcenter.forget_session(key);
            }
            Ok(done(&json!({"ended": keys.len()})))
        }
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such control route")),
    }
}

fn done(value: &Value) -> Answer {
    answer(StatusCode::OK, "application/json", value.to_string())
}

fn bad(why: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, why)
}

fn refused(error: &DiskError) -> Refusal {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    let status = if matches!(error, DiskError::Io(_)) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::CONFLICT
    };
    Refusal::new(status, text)
}

fn number(uri: &Uri, name: &str) -> Result<u64, Refusal> {
    let value = query(uri, name).and_then(|text| text.parse().ok());
    value.ok_or_else(|| bad(&format!("the parameter {name} is a number of bytes")))
}

fn find_vm<'a>(vcenter: &'a Vcenter, name: &str) -> Result<&'a Vm, Refusal> {
    vcenter
        .vm_named(name)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("there is no VM {name}")))
}

fn find_disk(vcenter: &Vcenter, vm: &str, disk: &str) -> Result<Arc<Disk>, Refusal> {
    let found = find_vm(vcenter, vm)?.disks.get(disk.parse::<usize>().unwrap_or(usize::MAX));
    let found =
        found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("{vm} has no disk {disk}")))?;
    Ok(Arc::clone(&found.disk))
}

fn frozen(vcenter: &Vcenter, vm: &str, disk: &str, snapshot: &str) -> Result<Answer, Refusal> {
    let owner = find_vm(vcenter, vm)?;
    let key = owner.disks.get(disk.parse::<usize>().unwrap_or(usize::MAX)).map(|disk| disk.key);
    // By moref or by name, whichever the test has at hand.
    let by_name = owner.snapshots.iter().rev().find(|one| one.name == snapshot);
    let found = owner.snapshot(&MoRef::new("VirtualMachineSnapshot", snapshot)).or(by_name);
    let found = found.and_then(|found| found.disk(key?)).and_then(|disk| disk.frozen.clone());
    let content = found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no such frozen disk"))?;
    Ok(streamed(content.capacity(), move |offset, buffer: &mut [u8]| content.read(offset, buffer).is_ok()))
}

/// A body of `capacity` bytes; one that ends early means that the content went away.
fn streamed(capacity: u64, read: impl Fn(u64, &mut [u8]) -> bool + Send + Sync + 'static) -> Answer {
    let pieces = stream::unfold((0, read), move |(offset, read)| async move {
        if offset >= capacity {
            return None;
        }
        let count = (capacity - offset).min(PIECE_BYTES);
        let mut piece = vec![0; usize::try_from(count).unwrap_or_default()];
        read(offset, &mut piece).then(|| (Ok(Frame::data(Bytes::from(piece))), (offset + count, read)))
    });
    let mut answer = Response::new(StreamBody::new(pieces).boxed_unsync());
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(capacity));
    answer
}

fn describe(vm: &Vm) -> Value {
    let disks = vm.disks.iter().map(|disk| {
        json!({"key": disk.key, "uuid": disk.uuid, "file": disk.file, "capacity_bytes": disk.disk.capacity()})
    });
    json!({
        "name": vm.name,
        "moref": vm.reference.id,
        "instance_uuid": vm.instance_uuid,
        "change_tracking": vm.change_tracking,
        "consolidation_needed": vm.consolidation_needed,
        "disks": disks.collect::<Vec<_>>(),
        "snapshots": snapshots(vm),
    })
}

fn snapshots(vm: &Vm) -> Vec<Value> {
    let one = |snapshot: &crate::state::machine::Snapshot| {
        let disks = snapshot.disks.iter().map(|disk| {
            let id = disk.frozen.as_ref().and_then(|frozen| frozen.change_id().map(ToString::to_string));
            json!({"key": disk.key, "file": disk.file, "change_id": id})
        });
        json!({
            "id": snapshot.reference.id,
            "moref": snapshot.reference.id,
            "name": snapshot.name,
            "description": snapshot.description,
            "parent": snapshot.parent.as_ref().map(|parent| parent.id.clone()),
            "quiesced": snapshot.quiesced,
            "disks": disks.collect::<Vec<_>>(),
        })
    };
    vm.snapshots.iter().map(one).collect()
}

fn faults(vcenter: &Vcenter) -> Value {
    let set = vcenter.faults.iter().map(|switch| {
        let times = match switch.times {
            Times::Count(count) => json!(count),
            Times::Always => json!("always"),
        };
        json!({"name": switch.name.name(), "arg": switch.arg, "times": times})
    });
    json!({"faults": set.collect::<Vec<_>>()})
}

fn set_fault(simulator: &Simulator, asked: &Value) -> Result<Answer, Refusal> {
    let name = asked.get("name").and_then(Value::as_str).unwrap_or_default();
    let fault = FaultName::parse(name).ok_or_else(|| bad(&format!("there is no fault switch {name:?}")))?;
    let arg = match asked.get("arg") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let times = match asked.get("times") {
        None | Some(Value::Null) => None,
        Some(Value::String(word)) if word == "always" => Some(Times::Always),
        Some(count) => match count.as_i64() {
            Some(-1) => Some(Times::Always),
            Some(count) => Some(Times::Count(u32::try_from(count).map_err(|_| bad("times is a count"))?)),
            None => return Err(bad("times is a count, -1 or \"always\"")),
        },
    };
    simulator.set_fault(fault, arg, times).map_err(|why| Refusal::new(StatusCode::CONFLICT, why))?;
    Ok(done(&faults(&simulator.lock())))
}
