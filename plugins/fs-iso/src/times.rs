//! Dates as ISO 9660 writes them, in seven bytes or in seventeen, each with its zone in quarters of an hour.

use tidemark_plugin::calendar;
use tidemark_plugin::nodes::nanoseconds;

/// Seven bytes (ECMA-119, section 9.1.5); none for a date that was never set or does not exist.
pub(crate) fn short(bytes: [u8; 7]) -> Option<i64> {
    let [year, month, day, hour, minute, second, zone] = bytes;
    let date = [1900 + u16::from(year), u16::from(month), u16::from(day)];
    nanoseconds(calendar::seconds(date, [hour, minute, second])? - seconds_east(zone), 0)
}

/// Seventeen bytes, of which sixteen are digits (section 8.4.26.1).
pub(crate) fn long(bytes: &[u8]) -> Option<i64> {
    let (digits, zone) = (bytes.get(..16)?, *bytes.get(16)?);
    let number = |from: usize, to: usize| {
        let digits = digits.get(from..to)?;
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
    };
    let small = |from: usize| number(from, from + 2).and_then(|number| u8::try_from(number).ok());
    let date = [number(0, 4)?, number(4, 6)?, number(6, 8)?];
    let seconds = calendar::seconds(date, [small(8)?, small(10)?, small(12)?])?;
    nanoseconds(seconds - seconds_east(zone), u32::from(number(14, 16)?) * 10_000_000)
}

/// The zones that there are; what else stands there (genisoimage writes such for dates far off) is none, as for Linux.
fn seconds_east(zone: u8) -> i64 {
    let quarters = i64::from(i8::from_ne_bytes([zone]));
    if quarters.abs() <= 52 { quarters * 15 * 60 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_know_their_zone() {
        let second = 1_000_000_000;
        assert_eq!(short([70, 1, 1, 0, 0, 1, 0]), Some(second));
        assert_eq!(short([70, 1, 1, 1, 0, 1, 4]), Some(second));
        assert_eq!(short([70, 1, 1, 0, 0, 1, 160]), Some(second));
        assert_eq!(short([69, 12, 31, 19, 0, 1, 0xec]), Some(second));
        assert_eq!(short([0, 1, 1, 0, 0, 0, 0]), Some(-2_208_988_800 * second));
        assert_eq!(short([255, 12, 31, 23, 59, 59, 0]), Some(5_869_583_999 * second));
        assert_eq!((short([0; 7]), short([99, 2, 29, 0, 0, 0, 0])), (None, None));
        assert_eq!(long(b"1970010101000150\x04"), Some(second + second / 2));
        assert_eq!(
            (long(b"0000000000000000\0"), long(b"19700101010001"), long(b"1970 10101000150\0")),
            (None, None, None)
        );
    }
}
