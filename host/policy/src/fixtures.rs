//! What the tests of this crate share: backups made of a number and a time.

use tidemark_model::{BackupType, ByteLen, Ranks, RetentionPoint, UtcMillis};

use crate::calendar::{Zone, age_days, parse_moment, rank_points};
use crate::numbered::numbered_id;

/// A moment from RFC 3339 text, or from wall-clock text in `zone`.
pub(crate) fn moment(text: &str, zone: Zone) -> UtcMillis {
    parse_moment(text, zone).unwrap()
}

/// A sound incremental of 1 GiB that nobody pinned or verified.
pub(crate) fn point(number: usize, created_at: UtcMillis) -> RetentionPoint {
    RetentionPoint {
        id: numbered_id(number),
        created_at,
        age_days: 0.0,
        rank: Ranks::default(),
        backup_type: BackupType::Incremental,
        verified: false,
        damaged: false,
        pinned: false,
        size: ByteLen(1 << 30),
    }
}

/// Such points at `times`, numbered in that order, with ages at `now` and ranks.
pub(crate) fn timeline(times: &[UtcMillis], now: UtcMillis, zone: Zone) -> Vec<RetentionPoint> {
    let mut points: Vec<_> = times.iter().enumerate().map(|(number, &at)| point(number, at)).collect();
    for point in &mut points {
        point.age_days = age_days(point.created_at, now);
    }
    rank_points(&mut points, zone);
    points
}

/// The same moment, `hours` hours earlier.
pub(crate) fn hours_before(at: UtcMillis, hours: i64) -> UtcMillis {
    UtcMillis(at.0 - hours * 3_600_000)
}
