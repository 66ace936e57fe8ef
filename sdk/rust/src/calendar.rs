//! Dates as file systems write them down: year, month and day, hour, minute and second.

/// A date and time of day without a zone as seconds since 1970-01-01T00:00:00 (Gregorian calendar, also before its time).
/// None for a date or a time of day that does not exist.
#[must_use]
pub fn seconds([year, month, day]: [u16; 3], [hour, minute, second]: [u8; 3]) -> Option<i64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_in = match month {
        2 => 28 + u16::from(leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if day == 0 || day > days_in || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years begin in March here, so that the leap day is the last one; 400 of them lie before year 0.
    let (year, month) = (i64::from(year) + 400, i64::from(month));
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + i64::from(day) - 1;
    let since_1970 = days - 146_097 - 719_468;
    Some(((since_1970 * 24 + i64::from(hour)) * 60 + i64::from(minute)) * 60 + i64::from(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970_and_wrong_ones_are_none() {
        for (date, time, expected) in [
            ([1970, 1, 1], [0, 0, 0], 0),
            ([1969, 12, 31], [23, 59, 59], -1),
            ([2000, 2, 29], [12, 30, 15], 951_827_415),
            ([2038, 1, 19], [3, 14, 8], 1 << 31),
            ([2107, 12, 31], [23, 59, 58], 4_354_819_198),
            ([1601, 1, 1], [0, 0, 0], -11_644_473_600),
            ([0, 1, 1], [0, 0, 0], -62_167_219_200),
        ] {
            assert_eq!(seconds(date, time), Some(expected), "{date:?}");
        }
        for (date, time) in [
            ([1900, 2, 29], [0, 0, 0]),
            ([2024, 4, 31], [0, 0, 0]),
            ([2024, 0, 1], [0, 0, 0]),
            ([2024, 13, 1], [0, 0, 0]),
            ([2024, 1, 0], [0, 0, 0]),
            ([2024, 1, 1], [24, 0, 0]),
            ([2024, 1, 1], [0, 0, 60]),
        ] {
            assert_eq!(seconds(date, time), None, "{date:?} {time:?}");
        }
    }
}
