//! The backups of a simulated repository: their chain, their predicted sizes, and the lines of their lives.

use tidemark_model::{BackupId, BackupType, ByteLen, History, Ranks, RetentionPoint, UtcMillis};

use super::{DayView, LifeLine};
use crate::calendar::{Zone, age_days, newest_first, rank_points};
use crate::chain::{ChainLink, ChainRefusal, plan_deletion, plan_full};
use crate::floors::Keeper;
use crate::numbered::numbered_id;

/// What two merged incrementals hold of their sum.
const MERGED_PERCENT: u64 = 80;

const DAY_MS: i64 = 86_400_000;

/// One that exists.
#[derive(Debug, Clone)]
struct Stored {
    point: RetentionPoint,
    parent: Option<BackupId>,
    /// What it read from the guest.
    changed: ByteLen,
    /// Its place among the lines.
    life: usize,
}

#[derive(Debug)]
pub(super) struct Stock {
    /// In the order in which they were made.
    stored: Vec<Stored>,
    lives: Vec<LifeLine>,
    full_size: ByteLen,
}

impl Stock {
    pub(super) fn new(existing: Vec<RetentionPoint>, full_size: ByteLen) -> Self {
        let mut stock = Self { stored: Vec::new(), lives: Vec::new(), full_size };
        let mut order = newest_first(&existing);
        order.reverse();
        for at in order {
            stock.push(existing[at].clone(), "it was there at the beginning".to_owned());
        }
        stock
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    pub(super) fn bytes(&self) -> ByteLen {
        ByteLen(self.stored.iter().map(|stored| stored.point.size.0).sum())
    }

    /// The newest backup and what it needs, the full last.
    fn newest_chain(&self) -> Vec<&Stored> {
        let find = |id: BackupId| self.stored.iter().find(|stored| stored.point.id == id);
        let above = |stored: &&Stored| stored.parent.and_then(find);
        std::iter::successors(self.stored.last(), above).take(self.stored.len()).collect()
    }

    pub(super) fn history(&self) -> History {
        let chain = self.newest_chain();
        let Some((full, increments)) = chain.split_last() else { return History::default() };
        let changed = increments.first().map(|newest| newest.changed);
        History {
            chain_length: u32::try_from(chain.len()).unwrap_or(u32::MAX),
            last_full: Some(full.point.created_at),
            last_backup: chain.first().map(|newest| newest.point.created_at),
            full_size: Some(full.point.size),
            increments_size: ByteLen(increments.iter().map(|stored| stored.point.size.0).sum()),
            changed,
        }
    }

    /// What an incremental at `at` would hold.
    pub(super) fn predicted(&self, at: UtcMillis, change_per_day: ByteLen) -> ByteLen {
        let Some(newest) = self.stored.last() else { return self.full_size };
        let elapsed = u128::try_from(at.0.saturating_sub(newest.point.created_at.0)).unwrap_or(0);
        let day = u128::try_from(DAY_MS).unwrap_or(1);
        let bytes = u128::from(change_per_day.0).saturating_mul(elapsed) / day;
        ByteLen(u64::try_from(bytes).unwrap_or(u64::MAX)).min(self.full_size)
    }

    pub(super) fn add(&mut self, at: UtcMillis, kind: BackupType, size: ByteLen, reason: String) -> BackupId {
        let id = numbered_id(self.lives.len());
        let point = RetentionPoint {
            id,
            created_at: at,
            age_days: 0.0,
            rank: Ranks::default(),
            backup_type: kind,
            verified: false,
            damaged: false,
            pinned: false,
            size,
        };
        self.push(point, reason);
        id
    }

    fn push(&mut self, point: RetentionPoint, plan_reason: String) {
        let before = self.stored.last().map(|stored| stored.point.id);
        let life = LifeLine {
            id: point.id,
            made: point.created_at,
            dropped: None,
            backup_type: point.backup_type,
            became_full: false,
            plan_reason,
            made_size: point.size,
            last_size: point.size,
            keeper: Keeper::Policy,
            reason: "new".to_owned(),
        };
        self.stored.push(Stored {
            parent: if point.backup_type == BackupType::Full { None } else { before },
            changed: point.size,
            life: self.lives.len(),
            point,
        });
        self.lives.push(life);
    }

    /// The backups as a policy sees them at `now`.
    pub(super) fn points(&self, now: UtcMillis, zone: Zone) -> Vec<RetentionPoint> {
        let mut points: Vec<RetentionPoint> = self.stored.iter().map(|stored| stored.point.clone()).collect();
        for point in &mut points {
            point.age_days = age_days(point.created_at, now);
        }
        rank_points(&mut points, zone);
        points
    }

    pub(super) fn kept(&mut self, id: BackupId, by: Keeper, reason: String) {
        if let Some(stored) = self.stored.iter().find(|stored| stored.point.id == id) {
            (self.lives[stored.life].keeper, self.lives[stored.life].reason) = (by, reason);
        }
    }

    fn links(&self) -> Vec<ChainLink> {
        let link = |stored: &Stored| ChainLink {
            id: stored.point.id,
            parent: stored.parent,
            pinned: stored.point.pinned,
            // A simulation damages nothing: what is marked so at the beginning is merged like any other.
            damaged: false,
        };
        self.stored.iter().map(link).collect()
    }

    /// Lets backups go as the engine does, and tells how many took up others.
    pub(super) fn drop(&mut self, going: &[BackupId], at: UtcMillis) -> Result<u32, ChainRefusal> {
        let plan = plan_deletion(&self.links(), going)?;
        for merge in &plan.merges {
            self.merge(merge.into, &merge.run, merge.new_parent);
        }
        for stored in self.stored.iter().filter(|stored| going.contains(&stored.point.id)) {
            self.lives[stored.life].dropped = Some(at);
        }
        self.stored.retain(|stored| !going.contains(&stored.point.id));
        Ok(u32::try_from(plan.merges.len()).unwrap_or(u32::MAX))
    }

    /// Makes a backup a full by merging what it needs into it; false where it was one.
    pub(super) fn make_full(&mut self, id: BackupId) -> bool {
        let Ok(Some(merge)) = plan_full(&self.links(), id) else { return false };
        self.merge(merge.into, &merge.run, merge.new_parent);
        true
    }

    fn merge(&mut self, into: BackupId, run: &[BackupId], new_parent: Option<BackupId>) {
        let taken: Vec<u64> = run
            .iter()
            .filter_map(|id| self.stored.iter().find(|stored| stored.point.id == *id))
            .map(|stored| stored.point.size.0)
            .collect();
        let full_size = self.full_size.0;
        let Some(stored) = self.stored.iter_mut().find(|stored| stored.point.id == into) else { return };
        let together = |size: u64, more: &u64| {
            let sum = u128::from(size) + u128::from(*more);
            let part = u64::try_from(sum * u128::from(MERGED_PERCENT) / 100).unwrap_or(u64::MAX);
            part.max(size).max(*more).min(full_size.max(size))
        };
        let mut size = taken.iter().fold(stored.point.size.0, together);
        let life = &mut self.lives[stored.life];
        if new_parent.is_none() {
            size = full_size;
            stored.point.backup_type = BackupType::Full;
            life.became_full = true;
        }
        stored.parent = new_parent;
        stored.point.size = ByteLen(size);
        life.last_size = ByteLen(size);
    }

    /// What there is, without a day's own counts.
    pub(super) fn day_view(&self) -> DayView {
        let made = |stored: &Stored| stored.point.created_at;
        DayView {
            date: String::new(),
            made: 0,
            dropped: 0,
            count: self.stored.len(),
            oldest: self.stored.iter().map(made).min(),
            newest: self.stored.iter().map(made).max(),
            chain_depth: u32::try_from(self.newest_chain().len()).unwrap_or(u32::MAX),
            bytes: self.bytes(),
        }
    }

    pub(super) fn into_lives(self) -> Vec<LifeLine> {
        self.lives
    }
}
