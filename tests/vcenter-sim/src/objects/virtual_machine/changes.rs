//! `QueryChangedDiskAreas`: one page of what changed on a disk.
//!
//! A page covers `[startOffset, startOffset + length)`; within it nothing but `changedArea` changed. The caller asks
//! on from its end until it reaches the capacity, where a further call is refused. Fault switches add what real
//! servers do: empty pages in the middle, areas that did not change, and a map that is wrong in silence.

use std::sync::Arc;

use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset};

use crate::disk::{BLOCK_BYTES, CbtId, ChangedSince, Disk, Frozen};
use crate::objects::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::value::{MoRef, Obj};
use crate::state::Vcenter;
use crate::state::faults::FaultName;
use crate::state::machine::{DiskKind, VmDisk};

use super::config::path_on_datastore;

pub(super) fn query(call: &Call) -> Result<Reply, Fault> {
    let key = call.args.number("deviceKey").and_then(|key| u32::try_from(key).ok());
    let vm = call.vcenter.vm(call.this).ok_or_else(|| Fault::not_found(call.this))?;
    let disk = key.and_then(|key| vm.disk(key)).filter(|disk| disk.kind != DiskKind::PhysicalRdm);
    let disk = disk.ok_or_else(|| Fault::invalid_argument("deviceKey"))?;
    let since = match call.args.text("changeId") {
        "*" => ChangedSince::Creation,
        text => ChangedSince::Id(CbtId::parse(text).ok_or_else(|| Fault::invalid_argument("changeId"))?),
    };
    let moment = Seen::open(call.vcenter, call.this, disk, call.args.reference("snapshot").as_ref())?;
    let capacity = moment.frozen.capacity();
    let start = call.args.number("startOffset").and_then(|start| u64::try_from(start).ok());
    let start =
        start.filter(|&start| start < capacity).ok_or_else(|| Fault::invalid_argument("startOffset"))?;
    // vCenter answers for a change id of another disk or epoch by blaming the file.
    let areas = moment
        .frozen
        .changed(&since)
        .map_err(|_| Fault::file(&path_on_datastore(call.vcenter, &moment.file)))?;
    let areas = disturbed(call.vcenter, &areas, &moment.frozen);
    let empty_pages = call.vcenter.faults.active(FaultName::EmptyPages).is_some();
    let page = page(&areas, start, capacity, call.vcenter.settings.areas_per_page, empty_pages);
    Ok(Reply::Value(
        Obj::new("DiskChangeInfo")
            .set("startOffset", start)
            .set("length", page.length)
            .set(
                "changedArea",
                page.areas
                    .iter()
                    .map(|area| {
                        Obj::new("DiskChangeExtent").set("start", area.offset.0).set("length", area.length.0)
                    })
                    .collect::<Vec<_>>(),
            )
            .into(),
    ))
}

/// The content that is asked about; a view of the running disk is given back when it is dropped.
struct Seen {
    frozen: Arc<Frozen>,
    file: String,
    view_of: Option<Arc<Disk>>,
}

impl Seen {
    fn open(vcenter: &Vcenter, vm: &MoRef, disk: &VmDisk, snapshot: Option<&MoRef>) -> Result<Self, Fault> {
        let Some(reference) = snapshot else {
            let frozen = disk.disk.view();
            return Ok(Self { frozen, file: disk.file.clone(), view_of: Some(Arc::clone(&disk.disk)) });
        };
        let found = vcenter.snapshot(reference).filter(|(owner, _)| owner.reference == *vm);
        let (_, snapshot) = found.ok_or_else(|| Fault::not_found(reference))?;
        let frozen = snapshot.disk(disk.key).ok_or_else(|| Fault::invalid_argument("deviceKey"))?;
        let file = frozen.file.clone();
        let content = frozen.frozen.clone().ok_or_else(|| Fault::file(&path_on_datastore(vcenter, &file)))?;
        Ok(Self { frozen: content, file, view_of: None })
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if let Some(disk) = &self.view_of {
            disk.release(&self.frozen);
        }
    }
}

/// The areas after the fault switches had their way.
fn disturbed(vcenter: &Vcenter, areas: &ExtentList, frozen: &Frozen) -> ExtentList {
    let capacity = ByteLen(frozen.capacity());
    let mut kept: Vec<Extent> = areas.iter().collect();
    if let Some(every) = vcenter.faults.number(FaultName::CbtWrongMap, 2) {
        let mut index = 0;
        kept.retain(|_| {
            index += 1;
            (index - 1) % every.max(1) != 0
        });
    }
    if let Some(count) = vcenter.faults.number(FaultName::FalsePositives, 4) {
        let blocks = capacity.0.div_ceil(BLOCK_BYTES);
        let step = (blocks / count.max(1)).max(1);
        for block in (step / 2..blocks).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let offset = block * BLOCK_BYTES;
            let length = ByteLen(BLOCK_BYTES.min(capacity.0 - offset));
            kept.push(Extent { offset: GuestOffset(offset), length });
        }
    }
    ExtentList::checked(kept, capacity).unwrap_or_default()
}

struct Page {
    length: u64,
    areas: Vec<Extent>,
}

/// The page at `start`, of at most `limit` areas.
fn page(areas: &ExtentList, start: u64, capacity: u64, limit: usize, empty_pages: bool) -> Page {
    let clip = |area: Extent| {
        let offset = area.offset.0.max(start);
        Extent { offset: GuestOffset(offset), length: ByteLen(area.end().0 - offset) }
    };
    let mut rest = areas.iter().filter(|area| area.end().0 > start).map(clip).peekable();
    if let Some(next) = rest.peek().filter(|next| empty_pages && next.offset.0 > start) {
        return Page { length: next.offset.0 - start, areas: Vec::new() };
    }
    let chosen: Vec<Extent> = rest.by_ref().take(limit.max(1)).collect();
    let end = match (rest.peek(), chosen.last()) {
        (Some(_), Some(last)) => last.end().0,
        // With empty pages, what follows the last area is an empty page too.
        (None, Some(last)) if empty_pages => last.end().0,
        _ => capacity,
    };
    Page { length: end - start, areas: chosen }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(
        areas: &[(u64, u64)],
        capacity: u64,
        limit: usize,
        empty: bool,
    ) -> (Vec<(u64, u64)>, usize, usize) {
        let list = areas.iter().map(|&(offset, length)| Extent::new(offset, length).unwrap()).collect();
        let list = ExtentList::checked(list, ByteLen(capacity)).unwrap();
        let (mut start, mut found, mut pages, mut empties) = (0, Vec::new(), 0, 0);
        while start < capacity {
            let page = page(&list, start, capacity, limit, empty);
            assert!(page.length > 0 && page.areas.len() <= limit);
            let end = start + page.length;
            assert!(page.areas.iter().all(|area| area.offset.0 >= start && area.end().0 <= end));
            found.extend(page.areas.iter().map(|area| (area.offset.0, area.length.0)));
            (start, pages) = (end, pages + 1);
            empties += usize::from(page.areas.is_empty() && end < capacity);
        }
        (found, pages, empties)
    }

    #[test]
    fn pages_cover_the_disk_and_together_say_all_areas() {
        let areas = [(10, 5), (20, 5), (40, 10), (90, 10)];
        assert_eq!(walk(&areas, 100, 2, false), (areas.to_vec(), 2, 0));
        assert_eq!(walk(&areas, 100, 2000, false), (areas.to_vec(), 1, 0));
        assert_eq!(walk(&[], 100, 2, false), (Vec::new(), 1, 0));
        assert_eq!(walk(&[(0, 10)], 100, 1, false), (vec![(0, 10)], 1, 0));
    }

    #[test]
    fn empty_pages_lie_between_and_hide_nothing() {
        let areas = [(0, 5), (20, 5), (40, 10)];
        let (found, _, empties) = walk(&areas, 100, 1, true);
        assert_eq!((found, empties), (areas.to_vec(), 2));
    }
}
