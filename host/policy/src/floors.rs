//! What no policy can cross: the last word on which backups go.
//!
//! ```text
//!   a policy's verdicts ─▶ pinned, newest good, minimum, dated later than now   each of these stays
//!                       ─▶ the clock went back, or jumped ahead                 then nothing goes, and an alert says so
//!                       ─▶ the brake: a largest share a run, the oldest first   the rest stays, and an alert says so
//! ```
//! Pure, and independent of the order of the points. Chains are not looked at: what a kept backup needs of a dropped one
//! is merged into it (`chain.rs`), so dropping never breaks a kept one.

use std::fmt;

use tidemark_model::{BackupId, KeepVerdict, RetentionPoint, UtcMillis};

use crate::calendar::newest_first;

/// A newest backup this much later than now is put down to clocks that differ a little.
const CLOCK_TOLERANCE_MS: i64 = 5 * 60_000;

const DAY_MS: i64 = 86_400_000;

/// A pause between runs is no jump of the clock until it is so many times what lies between backups.
const USUAL_GAPS: i64 = 3;

/// The floors, and the moments that they are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floors {
    /// How many of the newest good backups always stay; 0 counts as 1.
    pub min_keep: u32,
    /// The largest share of the backups that one run may drop, in percent. One may always go.
    pub max_delete_percent: u8,
    /// How many days may have passed since the last run before the clock is doubted; more where backups lie far apart.
    pub max_clock_jump_days: u32,
    /// The moment of this run.
    pub now: UtcMillis,
    /// The moment of the last run; none where there was none.
    pub last_run: Option<UtcMillis>,
}

/// Who keeps a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keeper {
    /// The policy.
    Policy,
    /// A floor: it is pinned.
    Pinned,
    /// A floor: it is the newest good one.
    NewestGood,
    /// A floor: it is one of the least number of good ones.
    Minimum,
    /// A floor: it is dated later than now.
    Future,
    /// A floor: the clock went back, nothing goes.
    ClockBack,
    /// A floor: the clock jumped ahead, nothing goes.
    ClockJump,
    /// A floor: enough went in this run.
    Brake,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Kept {
        /// By whom.
        by: Keeper,
        /// Why, in words.
        reason: String,
    },
    /// It goes.
    Dropped,
}

/// What an administrator should know about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FloorAlert {
    /// The newest backup is dated later than now: nothing went.
    ClockBack {
        /// The newest backup.
        newest: BackupId,
        /// How much later than now it is, in milliseconds.
        ahead_ms: i64,
    },
    /// No run for so long, and much longer than backups lie apart: nothing went.
    ClockJump {
        /// Days since the last run.
        days: i64,
    },
    /// The policy wanted to drop more than the brake allows.
    Brake {
        /// How many it wanted to drop.
        wanted: usize,
        /// How many went.
        allowed: usize,
    },
}

/// What becomes of all backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionOutcome {
    /// Fate number `i` is that of point number `i`.
    pub fates: Vec<Fate>,
    /// What an administrator should know.
    pub alerts: Vec<FloorAlert>,
}

impl Floors {
    /// The floors as they are where nobody set them: the newest good one, half of all at most, a week.
    #[must_use]
    pub fn new(now: UtcMillis) -> Self {
        Self { min_keep: 1, max_delete_percent: 50, max_clock_jump_days: 7, now, last_run: None }
    }

    /// How many of so many backups one run may drop.
    #[must_use]
    pub fn allowed(&self, points: usize) -> usize {
        (points.saturating_mul(usize::from(self.max_delete_percent.min(100))) / 100).max(1)
    }
}

impl RetentionOutcome {
    /// How many go.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.fates.iter().filter(|fate| **fate == Fate::Dropped).count()
    }
}

impl Keeper {
    /// The word that the catalog, the API and reports use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Pinned => "pinned",
            Self::NewestGood => "newest-good",
            Self::Minimum => "minimum",
            Self::Future => "future",
            Self::ClockBack => "clock-back",
            Self::ClockJump => "clock-jump",
            Self::Brake => "brake",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Policy => "kept by the policy",
            Self::Pinned => "pinned",
            Self::NewestGood => "the newest good backup",
            Self::Minimum => "one of the least number of good backups",
            Self::Future => "dated later than now",
            Self::ClockBack => "nothing goes: the newest backup is dated later than now",
            Self::ClockJump => "nothing goes: the clock seems to have jumped ahead",
            Self::Brake => "enough went in this run",
        }
    }
}

impl fmt::Display for FloorAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClockBack { newest, ahead_ms } => write!(
                f,
                "nothing was dropped: backup {newest} is dated {} minutes later than now; set the clock right, or \
                 delete that backup",
                ahead_ms / 60_000
            ),
            Self::ClockJump { days } => write!(
                f,
                "nothing was dropped: the last run is {days} days ago by this clock, which may have jumped ahead; the next run goes on as usual"
            ),
            Self::Brake { wanted, allowed } => {
                write!(
                    f,
                    "the policy wanted to drop {wanted} backups at once; {allowed} went, the oldest first"
                )
            }
        }
    }
}

/// The last word on `points`. Verdict number `i` is that of point number `i`; where one is missing the point stays.
#[must_use]
pub fn apply_floors(
    points: &[RetentionPoint],
    verdicts: &[KeepVerdict],
    floors: &Floors,
) -> RetentionOutcome {
    let order = newest_first(points);
    let mut keepers = standing(points, &order, floors);
    let mut alerts = Vec::new();
    let unkept = |keepers: &[Option<Keeper>]| {
        let goes = |at: usize| matches!(verdicts.get(at), Some(KeepVerdict::MayGo)) && keepers[at].is_none();
        order.iter().copied().filter(|at| goes(*at)).collect::<Vec<usize>>()
    };
    if let Some((keeper, alert)) = doubted_clock(points, &order, floors) {
        let all = unkept(&keepers);
        all.iter().for_each(|&at| keepers[at] = Some(keeper));
        alerts.push(alert);
    }
    let going = unkept(&keepers);
    let allowed = floors.allowed(points.len());
    if going.len() > allowed {
        // The newest of them come first.
        going[..going.len() - allowed].iter().for_each(|&at| keepers[at] = Some(Keeper::Brake));
        alerts.push(FloorAlert::Brake { wanted: going.len(), allowed });
    }
    let fate = |at: usize| match (verdicts.get(at), keepers[at]) {
        (Some(KeepVerdict::Keep(reason)), _) => Fate::Kept { by: Keeper::Policy, reason: reason.clone() },
        (Some(KeepVerdict::MayGo), None) => Fate::Dropped,
        (Some(KeepVerdict::MayGo), Some(by)) => Fate::Kept { by, reason: by.reason().to_owned() },
        (None, _) => Fate::Kept { by: Keeper::Policy, reason: "the policy said nothing about it".to_owned() },
    };
    RetentionOutcome { fates: (0..points.len()).map(fate).collect(), alerts }
}

/// Which floor keeps each point by itself, whatever else goes.
fn standing(points: &[RetentionPoint], order: &[usize], floors: &Floors) -> Vec<Option<Keeper>> {
    let mut keepers: Vec<Option<Keeper>> = vec![None; points.len()];
    let least = usize::try_from(floors.min_keep.max(1)).unwrap_or(usize::MAX);
    let good = order.iter().filter(|&&at| !points[at].damaged);
    for (rank, &at) in good.take(least).enumerate() {
        keepers[at] = Some(if rank == 0 { Keeper::NewestGood } else { Keeper::Minimum });
    }
    for (keeper, point) in keepers.iter_mut().zip(points) {
        if point.pinned {
            *keeper = Some(Keeper::Pinned);
        } else if point.created_at > floors.now {
            *keeper = keeper.or(Some(Keeper::Future));
        }
    }
    keepers
}

/// Whether the clock can be believed: not where it stands before the newest backup, and not where no run
/// happened for long, as when it jumped ahead.
fn doubted_clock(
    points: &[RetentionPoint],
    order: &[usize],
    floors: &Floors,
) -> Option<(Keeper, FloorAlert)> {
    let newest = &points[*order.first()?];
    let ahead_ms = newest.created_at.0.saturating_sub(floors.now.0);
    if ahead_ms > CLOCK_TOLERANCE_MS {
        return Some((Keeper::ClockBack, FloorAlert::ClockBack { newest: newest.id, ahead_ms }));
    }
    let last_run = floors.last_run?;
    let quiet_ms = floors.now.0.saturating_sub(last_run.0);
    let usual_ms = usual_gap(points, order, last_run).saturating_mul(USUAL_GAPS);
    if quiet_ms > i64::from(floors.max_clock_jump_days).saturating_mul(DAY_MS).max(usual_ms) {
        return Some((Keeper::ClockJump, FloorAlert::ClockJump { days: quiet_ms / DAY_MS }));
    }
    None
}

/// How far the backups up to a moment lie apart, in milliseconds: the median. A backup that was made since proves
/// nothing, as the same clock dated it.
fn usual_gap(points: &[RetentionPoint], order: &[usize], until: UtcMillis) -> i64 {
    let times: Vec<i64> = order
        .iter()
        .map(|&at| points[at].created_at.0)
        .filter(|at| *at <= until.0 + CLOCK_TOLERANCE_MS)
        .collect();
    let mut gaps: Vec<i64> = times.windows(2).map(|pair| pair[0] - pair[1]).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
