//! How long the shipped retention policies take over a long history, and how much memory they need.
//!
//! `cargo run --release -p tidemark-policy --example policy_speed [BACKUPS]`

use std::path::Path;
use std::str::FromStr as _;
use std::time::Instant;

use tidemark_model::{
    BackupId, BackupType, ByteLen, KeepVerdict, PolicyContext, PolicyKind, Ranks, RetentionPoint, UtcMillis,
};
use tidemark_policy::{Floors, Script, Zone, age_days, apply_floors, rank_points};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let count: i64 = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    let now = UtcMillis(1_781_000_000_000);
    let zone = Zone::parse("Europe/Berlin")?;
    let mut points: Vec<RetentionPoint> =
        (0..count).map(|n| point(n, now)).collect::<Result<_, Failure>>()?;
    let started = Instant::now();
    rank_points(&mut points, zone);
    println!("{count} backups, one an hour; ranks: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/retention");
    for name in ["gfs", "keep-within", "tiered-by-tag", "legal-hold", "grow-only"] {
        let script = Script::compile(
            PolicyKind::Retention,
            &std::fs::read_to_string(folder.join(name).with_extension("rhai"))?,
        )?;
        let context = PolicyContext {
            now,
            time_zone: zone.name().to_owned(),
            settings_json: "{}".to_owned(),
            vm: None,
        };
        let before = resident_kib();
        let mut best = f64::INFINITY;
        let mut kept = 0;
        for _ in 0..5 {
            let started = Instant::now();
            let verdicts = script.retain(&points, &context)?;
            let outcome = apply_floors(&points, &verdicts, &Floors::new(now));
            best = best.min(started.elapsed().as_secs_f64() * 1e3);
            kept = verdicts.iter().filter(|verdict| matches!(verdict, KeepVerdict::Keep(_))).count();
            assert!(outcome.dropped() <= points.len() / 2);
        }
        let grown = resident_kib().saturating_sub(before);
        println!("{name:<14} {best:>8.1} ms   keeps {kept:>5}   memory +{grown} KiB over five runs");
    }
    Ok(())
}

fn point(number: i64, now: UtcMillis) -> Result<RetentionPoint, Failure> {
    let created_at = now.plus_millis(-number * 3_600_000);
    Ok(RetentionPoint {
        id: BackupId::from_str(&format!("00000000-0000-4000-8000-{number:012}"))?,
        created_at,
        age_days: age_days(created_at, now),
        rank: Ranks::default(),
        backup_type: if number % 24 == 0 { BackupType::Full } else { BackupType::Incremental },
        verified: false,
        damaged: false,
        pinned: false,
        size: ByteLen(1 << 30),
    })
}

/// What the process holds in memory, as Linux tells it; 0 elsewhere.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}
