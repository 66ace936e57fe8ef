//! `tidemark plugin test`: a plugin's own tests on this machine, then its component in the sandbox against what its kind
//! owes the host.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use tidemark_model::{BackupId, BackupType, ByteLen, GuestOffset, Ranks, RetentionPoint, UtcMillis};
use tidemark_plugins::build::{BuildOptions, build_plugin, manifest_from_source, run_own_tests};
use tidemark_plugins::conformance::{Check, Trial, try_out};
use tidemark_plugins::{Conversation, DiskRead, PluginKind, ReadOnlyDisk};
use tidemark_policy::{Zone, age_days, rank_points};

use super::recording;
use crate::args::TestArgs;
use crate::commands::connection::typed;
use crate::output::{Ended, Output};

/// Backups that a policy has to judge, two a day.
const POINTS: i64 = 400;
const HALF_DAY_MS: i64 = 43_200_000;
const DAY_MS: i64 = 86_400_000;

pub(super) fn run(args: TestArgs, output: &Output) -> Result<Ended> {
    let TestArgs { dir, values, vm, disk, record, replay, out } = args;
    let manifest = manifest_from_source(&dir).with_context(|| dir.display().to_string())?;
    let disk = disk.as_deref().map(RawImage::open).transpose()?;
    let lacks_disk = manifest.kind == PluginKind::GuestFilesystem && disk.is_none();
    ensure!(
        out.is_none() || !lacks_disk,
        "a file-system reader passes with a disk only: name one with --disk"
    );
    let mut trial = match &replay {
        Some(file) => recording::read(file)?,
        None => {
            let (settings, secrets) = typed(&manifest.settings, values)?;
            let now = UtcMillis::now();
            Trial { settings, secrets: secrets.into_iter().collect(), vm, now, ..Trial::default() }
        }
    };
    trial.timeline = timeline(trial.now)?;
    trial.disk = disk;
    if let Some(path) = &record {
        recording::place(path)?;
        trial.conversation = Some(Conversation::recording());
    }
    let own = run_own_tests(&dir);
    let mut checks =
        vec![Check { name: "its own tests".to_owned(), problem: own.err().map(|e| e.to_string()) }];
    match build_plugin(&dir, &BuildOptions::default()) {
        Ok(built) => {
            let component = std::fs::read(&built.path).with_context(|| built.path.display().to_string())?;
            let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
            checks.extend(runtime.block_on(try_out(&component, &trial)));
            if let Some(path) = &out {
                if checks.iter().all(|check| check.problem.is_none()) {
                    std::fs::write(path, &component)
                        .with_context(|| format!("writing {}", path.display()))?;
                    output.note(&format!("the component is in {}", path.display()));
                } else {
                    output.note(&format!("{} was not written: not all checks passed", path.display()));
                }
            }
            if let Some(path) = &record {
                recording::write(path, &trial)?;
            }
        }
        Err(error) => {
            checks.push(Check { name: "it is built".to_owned(), problem: Some(error.to_string()) });
        }
    }
    if lacks_disk {
        output.note("no file system was read: name a disk with --disk");
    }
    report(output, &manifest.name, &manifest.version, &checks)
}

fn report(output: &Output, name: &str, version: &str, checks: &[Check]) -> Result<Ended> {
    let failed = checks.iter().filter(|check| check.problem.is_some()).count();
    let listed: Vec<Value> = checks
        .iter()
        .map(|Check { name, problem }| json!({ "name": name, "ok": problem.is_none(), "problem": problem }))
        .collect();
    let document = json!({
        "name": name, "version": version, "checks": listed, "passed": checks.len() - failed, "failed": failed,
    });
    output.document(document, |_: Value| {
        let line = |Check { name, problem }: &Check| match problem {
            None => format!("ok      {name}\n"),
            Some(problem) => format!("FAILED  {name}: {problem}\n"),
        };
        let lines: String = checks.iter().map(line).collect();
        format!("{lines}{} checks, {failed} failed", checks.len())
    })?;
    Ok(if failed == 0 { Ended::Done } else { Ended::Failed })
}

/// Backups of the last months: fulls and incrementals, some verified, damaged or pinned.
fn timeline(now: UtcMillis) -> Result<Vec<RetentionPoint>> {
    let point = |place: i64| {
        let created_at = now.plus_millis(-place * HALF_DAY_MS - DAY_MS / 24);
        RetentionPoint {
            id: BackupId::random(),
            created_at,
            age_days: age_days(created_at, now),
            rank: Ranks::default(),
            backup_type: if place % 14 == 0 { BackupType::Full } else { BackupType::Incremental },
            verified: place % 3 == 0,
            damaged: place % 97 == 50,
            pinned: place % 89 == 40,
            size: ByteLen(if place % 14 == 0 { 1 << 33 } else { 1 << 28 }),
        }
    };
    let mut points: Vec<RetentionPoint> = (0..POINTS).map(point).collect();
    rank_points(&mut points, Zone::parse("Europe/Berlin").map_err(|error| anyhow!("{error}"))?);
    Ok(points)
}

/// A file that is read like a disk.
struct RawImage {
    file: File,
    size: u64,
}

impl RawImage {
    fn open(path: &Path) -> Result<Arc<dyn ReadOnlyDisk>> {
        let open = || -> std::io::Result<Self> {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok(Self { file, size })
        };
        Ok(Arc::new(open().with_context(|| format!("opening the disk {}", path.display()))?))
    }
}

impl ReadOnlyDisk for RawImage {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_at(&self, offset: GuestOffset, length: u32) -> DiskRead<'_> {
        // One session and nothing beside it: there is nobody to wait for the file but the plugin.
        Box::pin(async move {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            self.file.read_exact_at(&mut bytes, offset.0)?;
            Ok(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_has_all_that_a_policy_may_meet() {
        let points = timeline(UtcMillis(1_780_000_000_000)).unwrap();
        assert_eq!(points.len(), 400);
        assert!(points.windows(2).all(|pair| pair[0].created_at > pair[1].created_at));
        assert_eq!((points[0].rank.last, points[399].rank.last), (0, 399));
        assert!(points.iter().any(|point| point.rank.yearly == 1), "it spans the end of a year");
        let wanted: [fn(&RetentionPoint) -> bool; 3] = [|p| p.verified, |p| p.damaged, |p| p.pinned];
        for has in wanted {
            assert!(points.iter().any(has) && !points.iter().all(has));
        }
    }
}
