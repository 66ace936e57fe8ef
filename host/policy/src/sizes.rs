//! Sizes as people write and read them: `100GiB`, `1.5 TB`, `4096`.

use tidemark_model::ByteLen;

const UNITS: [(&str, f64); 10] = [
    ("", 1.0),
    ("b", 1.0),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
];

/// A number of bytes, with or without a unit (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB).
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_size(text: &str) -> Result<ByteLen, String> {
    let refused = || format!("'{text}' is no size (100GiB is expected)");
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|known| known.0 == unit).ok_or_else(refused)?.1;
    if let (Ok(whole), true) = (number.parse::<u64>(), factor <= 1.0) {
        return Ok(ByteLen(whole));
    }
    let bytes = number.parse::<f64>().map_err(|_| refused())? * factor;
    if !(0.0..9e18).contains(&bytes) {
        return Err(refused());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just checked")]
    Ok(ByteLen(bytes.round() as u64))
}

/// The size in the largest binary unit that leaves at least one, with one digit behind the point.
#[must_use]
pub fn format_size(len: ByteLen) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bytes = len.0 as f64;
    for (unit, factor) in [("TiB", UNITS[5].1), ("GiB", UNITS[4].1), ("MiB", UNITS[3].1), ("KiB", UNITS[2].1)]
    {
        if bytes >= factor {
            return format!("{:.1} {unit}", bytes / factor);
        }
    }
    format!("{} B", len.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("4096", 4096), ("1KiB", 1024), ("1.5 GiB", 1_610_612_736), ("2tb", 2_000_000_000_000), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(ByteLen(bytes)), "{text}");
        }
        for text in ["", "GiB", "1 XB", "-1", "1e40", "99999999999TiB", "1.2.3MB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(format_size(ByteLen(1_610_612_736)), "1.5 GiB");
        assert_eq!(format_size(ByteLen(512)), "512 B");
    }
}
