//! Full or incremental: proposed before the snapshot from what was asked for and what exists, then confirmed
//! against the snapshot itself, because only that knows the disks as they are now.

use tidemark_model::{BackupId, ByteLen, ChangeId, DiskKey, FullReason, RequestedType};

/// One disk, in the parent backup or in the new snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskState {
    /// The hypervisor's key.
    pub key: DiskKey,
    /// Its size.
    pub capacity: ByteLen,
    /// From which changes are counted; none where change tracking was off.
    pub change_id: Option<ChangeId>,
}

/// The newest backup of the VM in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentState {
    /// Its identity.
    pub id: BackupId,
    /// A backup of its chain, itself or one below, that a verification found damaged.
    pub damaged: Option<String>,
    /// An object of its chain that is not in the repository any more.
    pub missing_object: Option<String>,
    /// How many backups its chain has, itself among them.
    pub links: usize,
    /// How many a chain may have.
    pub most_links: usize,
    /// Its disks.
    pub disks: Vec<DiskState>,
}

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// A backup that stands alone, and why.
    Full(FullReason),
    /// A backup of what changed since this parent.
    Incremental(BackupId),
}

/// The plan before the snapshot is taken.
#[must_use]
pub fn propose(requested: RequestedType, parent: Option<&ParentState>) -> Plan {
    let Some(parent) = parent else {
        return Plan::Full(match requested {
            RequestedType::Full => FullReason::Requested,
            RequestedType::Incremental | RequestedType::Auto => FullReason::FirstBackup,
        });
    };
    if requested == RequestedType::Full {
        return Plan::Full(FullReason::Requested);
    }
    if let Some(link) = &parent.damaged {
        return Plan::Full(FullReason::ParentDamaged { detail: link.clone() });
    }
    if let Some(object) = &parent.missing_object {
        return Plan::Full(FullReason::ParentMissing { detail: object.clone() });
    }
    if parent.links >= parent.most_links {
        return Plan::Full(FullReason::ChainDepth { depth: parent.links });
    }
    Plan::Incremental(parent.id)
}

/// The plan once the snapshot shows the disks: an incremental stays one only where each disk is the parent's, of
/// the same size, with a change id on both sides.
#[must_use]
pub fn confirm(plan: Plan, parent: Option<&ParentState>, now: &[DiskState]) -> Plan {
    let (Plan::Incremental(_), Some(parent)) = (&plan, parent) else {
        return plan;
    };
    match reason_against_incremental(&parent.disks, now) {
        Some(reason) => Plan::Full(reason),
        None => plan,
    }
}

fn reason_against_incremental(before: &[DiskState], now: &[DiskState]) -> Option<FullReason> {
    let gone = before.iter().find(|old| now.iter().all(|new| new.key != old.key));
    if let Some(disk) = gone {
        return Some(FullReason::DisksChanged { detail: format!("disk {} is gone", disk.key) });
    }
    for disk in now {
        let Some(old) = before.iter().find(|old| old.key == disk.key) else {
            return Some(FullReason::DisksChanged { detail: format!("disk {} is new", disk.key) });
        };
        let key = || disk.key.to_string();
        if old.capacity != disk.capacity {
            return Some(FullReason::CapacityChanged { disk: key() });
        }
        if old.change_id.is_none() {
            return Some(FullReason::NoChangeId { disk: key() });
        }
        if disk.change_id.is_none() {
            return Some(FullReason::ChangeTrackingOff { disk: key() });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(key: &str, capacity: u64, change_id: Option<&str>) -> DiskState {
        DiskState {
            key: DiskKey(key.to_owned()),
            capacity: ByteLen(capacity),
            change_id: change_id.map(|id| ChangeId(id.to_owned())),
        }
    }

    fn parent(disks: Vec<DiskState>) -> ParentState {
        ParentState {
            id: BackupId::random(),
            damaged: None,
            missing_object: None,
            links: 3,
            most_links: 4,
            disks,
        }
    }

    #[test]
    fn without_a_good_parent_it_is_a_full_with_its_reason() {
        let auto = RequestedType::Auto;
        assert_eq!(propose(auto, None), Plan::Full(FullReason::FirstBackup));
        let mut old = parent(vec![]);
        assert_eq!(propose(RequestedType::Full, Some(&old)), Plan::Full(FullReason::Requested));
        assert_eq!(propose(auto, Some(&old)), Plan::Incremental(old.id));
        old.links = 4;
        assert_eq!(propose(auto, Some(&old)), Plan::Full(FullReason::ChainDepth { depth: 4 }));
        old.missing_object = Some("a/b.qcow2".to_owned());
        assert!(matches!(propose(auto, Some(&old)), Plan::Full(FullReason::ParentMissing { .. })));
        old.damaged = Some("backup 1a2b3c4d".to_owned());
        let Plan::Full(reason) = propose(auto, Some(&old)) else { panic!("an incremental on damage") };
        assert_eq!(reason.code(), "parent-damaged");
        assert!(reason.to_string().contains("1a2b3c4d"), "{reason}");
    }

    #[test]
    fn an_incremental_needs_the_same_disks_with_change_ids() {
        let old = parent(vec![disk("2000", 10, Some("a/1"))]);
        let proposed = || propose(RequestedType::Incremental, Some(&old));
        let code = |now: Vec<DiskState>| match confirm(proposed(), Some(&old), &now) {
            Plan::Full(reason) => reason.code().to_owned(),
            Plan::Incremental(_) => "incremental".to_owned(),
        };
        assert_eq!(code(vec![disk("2000", 10, Some("a/2"))]), "incremental");
        assert_eq!(code(vec![disk("2000", 11, Some("a/2"))]), "capacity-changed");
        assert_eq!(code(vec![disk("2000", 10, None)]), "change-tracking-off");
        assert_eq!(code(vec![]), "disks-changed");
        assert_eq!(code(vec![disk("2000", 10, Some("a/2")), disk("2001", 5, Some("b/1"))]), "disks-changed");
        let blind = parent(vec![disk("2000", 10, None)]);
        let plan = confirm(Plan::Incremental(blind.id), Some(&blind), &[disk("2000", 10, Some("a/2"))]);
        assert!(matches!(plan, Plan::Full(FullReason::NoChangeId { .. })));
    }
}
