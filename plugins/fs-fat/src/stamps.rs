//! Dates and times as FAT and exFAT write them: two seconds to a step from 1980 on, with a hundredth of a second beside it for
//! some. FAT knows no time zone: its local times are read as if they were UTC.

use tidemark_plugin::calendar;
use tidemark_plugin::nodes::nanoseconds;

/// Nanoseconds since 1970. `hundredths` may have up to 199 of them; none where the date was never set or does not exist.
pub(crate) fn stamp(date: u16, time: u16, hundredths: u8) -> Option<i64> {
    let seconds = seconds(date, time)? + i64::from(hundredths.min(199) / 100);
    nanoseconds(seconds, u32::from(hundredths.min(199) % 100) * 10_000_000)
}

/// The same of exFAT, with the zone's byte: quarters of an hour east of Greenwich in seven bits, where the eighth says so.
pub(crate) fn zoned(stamp_bits: u32, hundredths: u8, zone: u8) -> Option<i64> {
    let [low, high] =
        [stamp_bits & 0xffff, stamp_bits >> 16].map(|part| u16::try_from(part).unwrap_or_default());
    let quarters = match zone {
        0x80..=0xbf => i64::from(zone & 0x7f),
        0xc0.. => i64::from(zone) - 0x100,
        _ => 0,
    };
    stamp(high, low, hundredths)?.checked_sub(quarters * 15 * 60 * 1_000_000_000)
}

fn seconds(date: u16, time: u16) -> Option<i64> {
    let part = |of: u16, shift: u32, mask: u16| u8::try_from((of >> shift) & mask).unwrap_or(u8::MAX);
    let date = [1980 + (date >> 9), (date >> 5) & 0xf, date & 0x1f];
    calendar::seconds(
        date,
        [part(time, 11, 0x1f), part(time, 5, 0x3f), part(time, 0, 0x1f).saturating_mul(2)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_in_steps_of_two_seconds_with_their_hundredths() {
        let date = |year: u16, month: u16, day: u16| (year - 1980) << 9 | month << 5 | day;
        let time = 23 << 11 | 59 << 5 | 29;
        assert_eq!(stamp(date(1980, 1, 1), 0, 0), Some(315_532_800_000_000_000));
        assert_eq!(stamp(date(2107, 12, 31), time, 199), Some(4_354_819_199_990_000_000));
        assert_eq!(
            (stamp(0, 0, 0), stamp(date(1999, 2, 29), 0, 0), stamp(date(1999, 2, 1), 30, 0)),
            (None, None, None)
        );
        let bits = u32::from(date(1980, 1, 1)) << 16;
        let hour = 3_600_000_000_000;
        let zones = [0, 0x80, 0x84, 0xfc, 0x04].map(|zone| zoned(bits, 0, zone));
        let utc = 315_532_800_000_000_000;
        assert_eq!(zones, [utc, utc, utc - hour, utc + hour, utc].map(Some));
    }
}
