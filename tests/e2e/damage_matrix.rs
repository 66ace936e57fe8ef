//! Every kind of damage to every kind of object, at every level of verification: each is answered by the right
//! finding, names the disk, the guest's range and every backup whose view shows it, and blames nothing else. The table
//! is printed.
//!
//! ```text
//!   full ◀── first ◀── second      disk 0, clusters:  A in full, first       (hidden from first on)
//!                                                     B in full              (seen by all)
//!                                                     C in first, second     (seen by first only)
//!                                                     D in first             (seen by first and second)
//! ```

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidemark_tests::changes::CLUSTER;
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::site::{BackupView, Site, SiteOptions, object_path};

use crate::disks::{self, MIB};
use crate::image_map::ImageMap;

const LEVELS: [&str; 3] = ["quick", "full", "deep"];
/// Clusters of disk 0.
const A: u64 = 120;
const B: u64 = 150;
const C: u64 = 600;
const D: u64 = 610;
/// A compressed one of the full that nothing overwrites, and one of the first incremental.
const FULL_TEXT: u64 = 20;
const FIRST_TEXT: u64 = 640;

/// What is done to an object.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// The lowest bit of a byte is flipped.
    Flip(u64),
    /// The last byte goes.
    Truncate,
    /// Only so many bytes stay.
    CutTo(u64),
    Missing,
    /// Another file's bytes, and its own there.
    SwapWith(usize),
}

/// One row: an object, by its place in the list of all, and what must be found.
struct Row {
    what: &'static str,
    object: usize,
    damage: Damage,
    /// The kind of finding at each level; none where nothing can be seen.
    kinds: [Option<&'static str>; 3],
    /// Which cluster of the guest is named.
    cluster: Option<u64>,
    /// Which of the three backups are blamed.
    blamed: [bool; 3],
}

const ALWAYS: fn(&'static str) -> [Option<&'static str>; 3] = |kind| [Some(kind); 3];
const BY_BYTES: fn(&'static str) -> [Option<&'static str>; 3] = |kind| [None, Some(kind), Some(kind)];
const NOBODY: [bool; 3] = [false; 3];
const ALL: [bool; 3] = [true; 3];
const FROM_FIRST: [bool; 3] = [false, true, true];

struct Matrix {
    site: Site,
    old: BackupView,
    chain: [BackupView; 3],
    /// Images of disk 0 (full, first, second), their range digests, the manifests, the full's image of disk 1.
    objects: Vec<PathBuf>,
}

const FULL: usize = 0;
const FIRST: usize = 1;
const SECOND: usize = 2;
const FULL_DIGESTS: usize = 3;
const FIRST_DIGESTS: usize = 4;
const FULL_MANIFEST: usize = 6;
const FIRST_MANIFEST: usize = 7;
const OTHER_DISK: usize = 9;

#[test]
fn every_damage_is_answered_by_the_right_finding() -> Result<()> {
    let matrix = Matrix::make()?;
    let rows = matrix.rows()?;
    println!("{:<44} {:<14} {:<14} {:<14} {:<12} blamed", "damage", "quick", "full", "deep", "cluster");
    for row in &rows {
        matrix.hold(row).with_context(|| row.what.to_owned())?;
        let kinds = row.kinds.map(|kind| kind.unwrap_or("-"));
        let cluster = row.cluster.map_or_else(|| "-".to_owned(), |cluster| cluster.to_string());
        let names = ["full", "first", "second"].iter().zip(row.blamed).filter(|(_, blamed)| *blamed);
        let names: Vec<_> = names.map(|(name, _)| *name).collect();
        println!(
            "{:<44} {:<14} {:<14} {:<14} {cluster:<12} {}",
            row.what,
            kinds[0],
            kinds[1],
            kinds[2],
            names.join(" ")
        );
    }
    matrix.hidden_damage_ends_the_chain()?;
    matrix.site.finish(&["damaged", "what the guest had is whole"])
}

impl Matrix {
    fn make() -> Result<Self> {
        let site = Site::start(SiteOptions::default(), disks::two)?;
        let old = site.backup("full")?;
        let full = site.backup("full")?;
        let noise = |seed| bytes(Fill::Noise(seed), usize::try_from(CLUSTER).unwrap_or(0));
        site.guest_writes(0, A * CLUSTER, &noise(21))?;
        site.guest_writes(0, C * CLUSTER, &noise(22))?;
        site.guest_writes(0, D * CLUSTER, &noise(23))?;
        site.guest_writes(0, FIRST_TEXT * CLUSTER, &bytes(Fill::Text(24), 2 << 16))?;
        let first = site.backup("incremental")?;
        site.guest_writes(0, C * CLUSTER, &noise(25))?;
        site.guest_writes(1, 4 * MIB, &noise(26))?;
        let second = site.backup("incremental")?;
        let chain = [full, first, second];
        let path = |value: &Value| value.as_str().map(PathBuf::from).context("a path");
        let mut objects = Vec::new();
        for backup in &chain {
            objects.push(object_path(backup, 0)?);
        }
        for backup in &chain {
            objects.push(path(&backup.detail["disks"][0]["range_digests_path"])?);
        }
        for backup in &chain {
            objects.push(path(&backup.detail["manifest_path"])?);
        }
        objects.push(object_path(&chain[0], 1)?);
        Ok(Self { site, old, chain, objects })
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let (full, first) = (ImageMap::read(&self.objects[FULL])?, ImageMap::read(&self.objects[FIRST])?);
        let mut rows = bits_of_the_full(&full)?;
        rows.extend(bits_of_the_first(&first)?);
        rows.extend(bits_beside_images());
        rows.extend(cut_missing_and_swapped());
        Ok(rows)
    }

    /// Damages, verifies at each level, repairs, and sees that a deep verification takes every mark away.
    fn hold(&self, row: &Row) -> Result<()> {
        let other = match row.damage {
            Damage::SwapWith(other) => Some(other),
            _ => None,
        };
        let touched: Vec<_> =
            [row.object].into_iter().chain(other).map(|number| &self.objects[number]).collect();
        let saved = touched.iter().map(|path| Ok(fs::read(path)?)).collect::<Result<Vec<_>>>()?;
        damage(&self.objects, row)?;
        for (level, kind) in LEVELS.iter().zip(row.kinds) {
            self.verify(level, kind, row).with_context(|| format!("at level {level}"))?;
        }
        for (path, bytes) in touched.iter().zip(saved) {
            fs::write(path, bytes)?;
        }
        let job = self.verified("deep")?;
        ensure!(job["status"] == "succeeded" && job["result"]["findings"] == json!([]), "repaired: {job}");
        ensure!(job["result"]["compared_clusters"].as_u64() > Some(100), "clusters are compared: {job}");
        for backup in self.chain.iter().chain([&self.old]) {
            let seen = self.site.view(&backup.id)?.detail;
            ensure!(seen["status"] == "completed", "repaired and verified: {seen}");
        }
        Ok(())
    }

    fn verified(&self, level: &str) -> Result<Value> {
        let path = format!("/api/v1/backups/{}/actions/verify", self.chain[2].id);
        let accepted = self.site.rest().post(&path, &json!({ "level": level }))?.expect(202)?;
        self.site.ended_job(accepted["job_id"].as_str().context("a job_id")?)
    }

    fn verify(&self, level: &str, kind: Option<&str>, row: &Row) -> Result<()> {
        let job = self.verified(level)?;
        let Some(kind) = kind else {
            ensure!(job["status"] == "succeeded", "nothing can be seen: {job}");
            return Ok(());
        };
        ensure!(job["status"] == "failed" && job["error"]["kind"] == "damaged", "{job}");
        let findings = job["error"]["detail"]["findings"].as_array().context("findings")?;
        let expected = if matches!(row.damage, Damage::SwapWith(_)) { 2 } else { 1 };
        ensure!(findings.len() == expected, "{expected} finding(s): {findings:?}");
        let object = self.objects[row.object].to_string_lossy().into_owned();
        let named = |finding: &&Value| {
            finding["object"].as_str().is_some_and(|key| object.ends_with(key)) && finding["kind"] == kind
        };
        let finding = findings.iter().find(named).with_context(|| format!("no {kind}: {findings:?}"))?;
        if row.object < FULL_MANIFEST {
            ensure!(finding["disk_index"] == 0, "the disk is named: {finding}");
        }
        if let Some(cluster) = row.cluster {
            let range = json!([{ "offset": cluster * CLUSTER, "length": CLUSTER }]);
            ensure!(finding["guest_ranges"] == range, "the guest's range is named: {finding}");
        }
        let affected = |finding: &Value| finding["affected_backups"].as_array().cloned().unwrap_or_default();
        for (backup, blamed) in self.chain.iter().zip(row.blamed) {
            let named = findings.iter().any(|finding| affected(finding).contains(&json!(backup.id)));
            ensure!(named == blamed, "backup {} blamed: {named}, expected {blamed}: {findings:?}", backup.id);
            let status = if blamed { "damaged" } else { "completed" };
            let seen = self.site.view(&backup.id)?.detail;
            ensure!(seen["status"] == status, "expected {status}: {seen}");
        }
        ensure!(self.site.view(&self.old.id)?.detail["status"] == "completed", "another chain is untouched");
        Ok(())
    }

    /// Damage that the newest backup hides: that one can be restored, and nothing new is built on the chain.
    fn hidden_damage_ends_the_chain(&self) -> Result<()> {
        let site = &self.site;
        let now = site.freeze("now")?;
        let at = ImageMap::read(&self.objects[FULL])?.cluster(A, false)?.host;
        flip(&self.objects[FULL], at + 300)?;
        let events = crate::events::Listener::start(site)?;
        let outcome =
            site.server.cli()?.outcome(&["backup", "verify", &self.chain[2].id, "--level", "deep"])?;
        ensure!(outcome.code == 1, "{outcome:?}");
        let alert = events.wait_for("alert")?;
        ensure!(alert["payload"]["kind"] == "damage-found", "{alert}");
        ensure!(alert["payload"]["backups"] == json!([self.chain[0].id]), "{alert}");
        restores_first_disk(site, &self.chain[2], &now[0])?;
        let next = site.backup("incremental")?;
        ensure!(next.detail["reason_code"] == "parent-damaged", "{next:?}");
        let reason = next.detail["reason"].as_str().context("a reason")?;
        ensure!(reason.contains(&self.chain[0].id), "the reason names the link: {reason}");
        site.restores_to(&next, &now)
    }
}

fn restores_first_disk(site: &Site, backup: &BackupView, expected: &RawDisk) -> Result<()> {
    let to = site.folder().join("hidden.raw");
    let file = to.to_string_lossy();
    site.server.cli()?.run(&["restore", "disk", &backup.id, "--disk", "0", "--to", &file])?;
    tidemark_tests::disk::identical(expected.path(), &to)
}

fn damage(objects: &[PathBuf], row: &Row) -> Result<()> {
    let object = &objects[row.object];
    let cut = |length: u64| File::options().write(true).open(object)?.set_len(length);
    match row.damage {
        Damage::Flip(at) => flip(object, at)?,
        Damage::Truncate => cut(fs::metadata(object)?.len() - 1)?,
        Damage::CutTo(length) => cut(length)?,
        Damage::Missing => fs::remove_file(object)?,
        Damage::SwapWith(other) => {
            let (one, two) = (fs::read(object)?, fs::read(&objects[other])?);
            fs::write(object, two)?;
            fs::write(&objects[other], one)?;
        }
    }
    Ok(())
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

/// One flipped bit.
fn flipped(
    what: &'static str,
    object: usize,
    at: u64,
    kinds: [Option<&'static str>; 3],
    cluster: Option<u64>,
    blamed: [bool; 3],
) -> Row {
    Row { what, object, damage: Damage::Flip(at), kinds, cluster, blamed }
}

/// A byte inside a cluster's stored bytes.
fn data(image: &ImageMap, guest: u64, compressed: bool) -> Result<u64> {
    Ok(image.cluster(guest, compressed)?.host + 300)
}

fn bits_of_the_full(full: &ImageMap) -> Result<Vec<Row>> {
    let structure = ALWAYS("structure");
    Ok(vec![
        flipped("full: magic", FULL, 3, structure, None, ALL),
        flipped("full: virtual size", FULL, 24 + 5, structure, None, ALL),
        flipped("full: unused byte of the header's cluster", FULL, 60_000, BY_BYTES("digest"), None, ALL),
        flipped("full: L1", FULL, full.l1()? + 5, structure, None, ALL),
        flipped("full: L2 entry", FULL, full.l2()? + B * 8 + 5, structure, None, ALL),
        flipped(
            "full: L2 entry of nothing, now zero",
            FULL,
            full.l2()? + 700 * 8 + 7,
            BY_BYTES("digest"),
            None,
            ALL,
        ),
        flipped("full: refcount", FULL, full.refcounts()? + 2 * 5 + 1, structure, None, ALL),
        flipped(
            "full: plain cluster A",
            FULL,
            data(full, A, false)?,
            BY_BYTES("data"),
            Some(A),
            [true, false, false],
        ),
        flipped("full: plain cluster B", FULL, data(full, B, false)?, BY_BYTES("data"), Some(B), ALL),
        flipped(
            "full: compressed cluster",
            FULL,
            data(full, FULL_TEXT, true)? - 300 + 40,
            BY_BYTES("data"),
            Some(FULL_TEXT),
            ALL,
        ),
    ])
}

fn bits_of_the_first(first: &ImageMap) -> Result<Vec<Row>> {
    let structure = ALWAYS("structure");
    Ok(vec![
        flipped("first: magic", FIRST, 3, structure, None, FROM_FIRST),
        flipped("first: backing file's name", FIRST, 112 + 40, structure, None, FROM_FIRST),
        flipped("first: L1", FIRST, first.l1()? + 5, structure, None, FROM_FIRST),
        flipped("first: L2 entry", FIRST, first.l2()? + D * 8 + 5, structure, None, FROM_FIRST),
        flipped("first: refcount", FIRST, first.refcounts()? + 2 * 2 + 1, structure, None, FROM_FIRST),
        flipped(
            "first: plain cluster C",
            FIRST,
            data(first, C, false)?,
            BY_BYTES("data"),
            Some(C),
            [false, true, false],
        ),
        flipped(
            "first: plain cluster D",
            FIRST,
            data(first, D, false)?,
            BY_BYTES("data"),
            Some(D),
            FROM_FIRST,
        ),
        flipped(
            "first: compressed cluster",
            FIRST,
            data(first, FIRST_TEXT, true)? - 300 + 40,
            BY_BYTES("data"),
            Some(FIRST_TEXT),
            FROM_FIRST,
        ),
    ])
}

fn bits_beside_images() -> Vec<Row> {
    vec![
        flipped(
            "full: range digests",
            FULL_DIGESTS,
            32 + 32 * 3 + 12,
            BY_BYTES("range-digests"),
            None,
            NOBODY,
        ),
        flipped("first: range digests' header", FIRST_DIGESTS, 2, ALWAYS("range-digests"), None, NOBODY),
        flipped("full: manifest", FULL_MANIFEST, 400, ALWAYS("manifest"), None, NOBODY),
        flipped("first: manifest", FIRST_MANIFEST, 20, ALWAYS("manifest"), None, NOBODY),
    ]
}

fn cut_missing_and_swapped() -> Vec<Row> {
    let row = |what, object, damage, kind, blamed| Row {
        what,
        object,
        damage,
        kinds: ALWAYS(kind),
        cluster: None,
        blamed,
    };
    vec![
        row("full: cut off by a byte", FULL, Damage::Truncate, "size", ALL),
        row("full: cut off in the middle", FULL, Damage::CutTo(3 << 20), "size", ALL),
        row("full: empty", FULL, Damage::CutTo(0), "size", ALL),
        row("first: cut off by a byte", FIRST, Damage::Truncate, "size", FROM_FIRST),
        row("second: cut off by a byte", SECOND, Damage::Truncate, "size", [false, false, true]),
        row("full: range digests cut off", FULL_DIGESTS, Damage::Truncate, "range-digests", NOBODY),
        row("first: manifest cut off", FIRST_MANIFEST, Damage::Truncate, "manifest", NOBODY),
        row("full: missing", FULL, Damage::Missing, "missing", ALL),
        row("first: missing", FIRST, Damage::Missing, "missing", FROM_FIRST),
        row("second: missing", SECOND, Damage::Missing, "missing", [false, false, true]),
        row("first: range digests missing", FIRST_DIGESTS, Damage::Missing, "range-digests", NOBODY),
        row("full: manifest missing", FULL_MANIFEST, Damage::Missing, "manifest", NOBODY),
        row("full and first swapped", FULL, Damage::SwapWith(FIRST), "size", ALL),
        row("the full's two disks swapped", FULL, Damage::SwapWith(OTHER_DISK), "size", ALL),
        row("range digests swapped", FULL_DIGESTS, Damage::SwapWith(FIRST_DIGESTS), "range-digests", NOBODY),
        row("manifests swapped", FULL_MANIFEST, Damage::SwapWith(FIRST_MANIFEST), "manifest", NOBODY),
    ]
}
