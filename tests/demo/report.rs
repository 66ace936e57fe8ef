//! What the demo tells: each check as it is done, and at the end figures that a person can read.

use anyhow::Result;
use serde_json::Value;

/// The checks so far and the words of the final report.
#[derive(Default)]
pub(crate) struct Report {
    passed: usize,
    failed: Vec<String>,
}

impl Report {
    /// Says what happens now.
    pub(crate) fn chapter(title: &str) {
        println!("\n== {title}");
    }

    /// Notes whether something is right; the demo goes on either way, and ends accordingly.
    pub(crate) fn check(&mut self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("   ok    {what}");
            }
            Err(error) => {
                println!("   FAIL  {what}: {error:#}");
                self.failed.push(what.to_owned());
            }
        }
    }

    /// Says how it ended.
    pub(crate) fn verdict(&self) -> bool {
        if self.failed.is_empty() {
            println!("\nAll {} checks passed.", self.passed);
        } else {
            println!("\n{} of {} checks FAILED:", self.failed.len(), self.passed + self.failed.len());
            for what in &self.failed {
                println!("   {what}");
            }
        }
        self.failed.is_empty()
    }
}

/// One line a backup: what it is and why, what was read, left out and stored, how long it took.
pub(crate) fn backups(details: &[&Value]) {
    println!(
        "   {:<10}{:<13}{:>11}{:>11}{:>11}{:>9}{:>13}  reason",
        "backup", "type", "read", "skipped", "stored", "time", "rate"
    );
    for detail in details {
        let number = |field: &str| detail[field].as_u64().unwrap_or(0);
        let id: String = detail["backup_id"].as_str().unwrap_or("?").chars().take(8).collect();
        println!(
            "   {:<10}{:<13}{:>11}{:>11}{:>11}{:>9}{:>13}  {}",
            id,
            detail["backup_type"].as_str().unwrap_or("?"),
            size(number("read_bytes")),
            size(number("skipped_bytes")),
            size(number("stored_bytes")),
            seconds(number("duration_ms")),
            rate(number("read_bytes"), moved_ms(detail)),
            detail["reason"].as_str().unwrap_or("?"),
        );
    }
    println!(
        "   time is the whole backup, snapshot and catalog included; rate is bytes read over the time of moving them"
    );
}

/// The sandboxed plugins in use and what they may do.
pub(crate) fn plugins(list: &Value) {
    let entries = |field: &str| list[field].as_array().cloned().unwrap_or_default();
    for plugin in entries("plugins").iter().filter(|plugin| plugin["active"] == true) {
        let word = |field: &str| plugin[field].as_str().unwrap_or("?");
        println!(
            "   {} {} ({}): a WebAssembly component, sha256 {:.12}…",
            word("name"),
            word("version"),
            word("kind"),
            word("digest")
        );
        let grants: Vec<_> = entries("grants")
            .iter()
            .filter(|grant| grant["plugin"] == plugin["name"])
            .filter_map(|grant| grant["capability"].as_str().map(str::to_owned))
            .collect();
        let may = if grants.is_empty() { "nothing".to_owned() } else { grants.join(", ") };
        println!("      may reach: {may}");
    }
}

/// The time during which bytes were moved: disks move side by side, so the longest counts.
fn moved_ms(detail: &Value) -> u64 {
    let disks = detail["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
    disks.iter().filter_map(|disk| disk["moved_ms"].as_u64()).max().unwrap_or(0)
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = tenths(bytes, 1 << 10);
    let mut unit = 0;
    while scaled >= 10_240 && unit + 1 < units.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", scaled / 10, scaled % 10, units[unit])
}

fn tenths(value: u64, unit: u64) -> u64 {
    value.saturating_mul(10) / unit
}

fn seconds(millis: u64) -> String {
    format!("{}.{:02} s", millis / 1000, millis % 1000 / 10)
}

fn rate(bytes: u64, millis: u64) -> String {
    let per_second = bytes.saturating_mul(1000) / millis.max(1);
    format!("{}/s", size(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(512), "0.5 KiB");
        assert_eq!(size(1 << 20), "1.0 MiB");
        assert_eq!(size(1536 << 20), "1.5 GiB");
        assert_eq!(rate(3 << 20, 1500), "2.0 MiB/s");
        assert_eq!(seconds(3456), "3.45 s");
    }
}
