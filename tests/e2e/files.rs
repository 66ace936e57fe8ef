//! Files come out of backups, from any point of a chain, byte for byte, by REST and by the command line, with nothing mounted
//! and no process started.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::filesystem::{PARTITION_START, make_disk, make_ext4, put_ext4, remove_ext4};
use tidemark_tests::process::wait_for;
use tidemark_tests::rest::Rest;
use tidemark_tests::server::ServerOptions;
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks::MIB;

const DISK: u64 = 64 * MIB;
const CLUSTER: usize = 64 << 10;
const LINUX: u8 = 0x83;

/// What a guest has: odd names, empty and sparse and larger files, links, a folder of many, old and new times.
fn tree(folder: &Path) -> Result<()> {
    let long = "n".repeat(255);
    fs::create_dir_all(folder.join("docs/deep/deeper/deepest"))?;
    fs::write(folder.join("docs/readme.txt"), "read me\n")?;
    fs::write(folder.join("docs/empty"), "")?;
    fs::write(folder.join("docs/grüße & \"more\" %20.TXT"), "unicode\n")?;
    fs::write(folder.join(format!("docs/deep/{long}")), "a long name\n")?;
    fs::write(folder.join("docs/deep/deeper/deepest/noise.bin"), bytes(Fill::Noise(7), 3_000_001))?;
    symlink("../docs/readme.txt", folder.join("docs/link"))?;
    symlink("/etc/passwd", folder.join("docs/out"))?;
    let sparse = File::create(folder.join("sparse.img"))?;
    sparse.set_len(40 << 20)?;
    sparse.write_all_at(b"in the middle", 20 << 20)?;
    fs::create_dir(folder.join("many"))?;
    for number in 0..3000 {
        fs::write(folder.join(format!("many/file-{number:04}")), format!("{number}\n"))?;
    }
    fs::set_permissions(folder.join("docs/readme.txt"), fs::Permissions::from_mode(0o4751))?;
    fs::write(folder.join("docs/old"), "old\n")?;
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(86_400);
    let old = File::options().write(true).open(folder.join("docs/old"))?;
    old.set_times(FileTimes::new().set_modified(before))?;
    Ok(())
}

/// The disk of a site: one partition with what lies in `folder/tree`.
fn disk(folder: &Path) -> Result<Vec<RawDisk>> {
    let source = folder.join("tree");
    fs::create_dir(&source)?;
    tree(&source)?;
    let image = folder.join("ext4");
    make_ext4(&image, DISK - PARTITION_START, &source)?;
    Ok(vec![make_disk(&folder.join("disk.raw"), DISK, LINUX, &image)?])
}

/// Brings what changed in the image of a file system onto the guest's disk, where its partition begins at `start`.
pub(crate) fn bring_over(site: &Site, image: &Path, start: u64) -> Result<()> {
    let (new, old) = (File::open(image)?, File::open(site.disks[0].path())?);
    let (mut now, mut then) = (vec![0; CLUSTER], vec![0; CLUSTER]);
    let mut at = 0;
    while at + CLUSTER as u64 <= new.metadata()?.len() {
        new.read_exact_at(&mut now, at)?;
        old.read_exact_at(&mut then, start + at)?;
        if now != then {
            site.guest_writes(0, start + at, &now)?;
        }
        at += CLUSTER as u64;
    }
    Ok(())
}

/// A file's or folder's path, and what has to come back: kind, size, time and bytes.
type Expected = BTreeMap<String, (String, u64, i64, Vec<u8>)>;

fn expected(folder: &Path) -> Result<Expected> {
    let (mut found, mut waiting) = (Expected::new(), vec![folder.to_path_buf()]);
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(&at)? {
            let path = entry?.path();
            let about = fs::symlink_metadata(&path)?;
            let place = format!("/{}", path.strip_prefix(folder)?.display());
            let (kind, content) = if about.is_dir() {
                waiting.push(path.clone());
                ("directory", Vec::new())
            } else if about.is_symlink() {
                ("symlink", fs::read_link(&path)?.display().to_string().into_bytes())
            } else {
                ("file", fs::read(&path)?)
            };
            found.insert(place, (kind.to_owned(), about.len(), about.mtime(), content));
        }
    }
    Ok(found)
}

pub(crate) fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |out, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
            out + &char::from(byte).to_string()
        }
        _ => out + &format!("%{byte:02X}"),
    })
}

pub(crate) fn get(rest: &Rest, mount: &str, route: &str, path: &str) -> Result<Value> {
    rest.get(&format!("/api/v1/restore/{mount}/{route}?path={}", escape(path)))?.expect(200)
}

fn download(rest: &Rest, mount: &str, path: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    rest.download(&format!("/api/v1/restore/{mount}/download?path={}", escape(path)), &mut content)?;
    Ok(content)
}

pub(crate) fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Mounts a backup's disk; answers with the mount and the path of its only partition.
fn mount(rest: &Rest, backup: &str) -> Result<(String, String)> {
    let body = json!({ "backup_id": backup, "disk_index": 0 });
    let mounted = rest.post("/api/v1/restore/mount", &body)?.expect(201)?;
    let partitions = mounted["partitions"].as_array().context("'partitions'")?;
    ensure!(partitions.len() == 1, "{mounted}");
    let partition = &partitions[0];
    ensure!(partition["name"] == "Partition 1 - data (63.0 MB)", "{partition}");
    ensure!(partition["filesystem"] == "ext4" && partition["readable"] == true, "{partition}");
    Ok((word(&mounted["mount_id"]), word(&partition["path"])))
}

/// Everything below a partition, over REST, with every byte.
fn seen(rest: &Rest, mount: &str, partition: &str) -> Result<Expected> {
    let (mut found, mut waiting) = (Expected::new(), vec![partition.to_owned()]);
    while let Some(at) = waiting.pop() {
        let listed = get(rest, mount, "files", &at)?;
        ensure!(listed["path"] == at.as_str(), "{}", listed["path"]);
        for file in listed["files"].as_array().context("'files'")? {
            let (path, kind) = (word(&file["path"]), word(&file["type"]));
            let place = path.strip_prefix(partition).context("a path below the partition")?.to_owned();
            if place == "/lost+found" {
                continue;
            }
            let content = match kind.as_str() {
                "directory" => {
                    waiting.push(path.clone());
                    Vec::new()
                }
                "symlink" => word(&get(rest, mount, "file-info", &path)?["target"]).into_bytes(),
                _ => download(rest, mount, &path)?,
            };
            let modified = time::OffsetDateTime::parse(
                &word(&file["modified_time"]),
                &time::format_description::well_known::Rfc3339,
            )?;
            let size = file["size"].as_u64().context("'size'")?;
            found.insert(place, (kind, size, modified.unix_timestamp(), content));
        }
    }
    Ok(found)
}

fn same(expected: &Expected, found: &Expected) -> Result<()> {
    for (path, (kind, size, modified, content)) in expected {
        let other = found.get(path).with_context(|| format!("{path} is missing"))?;
        ensure!((kind, modified) == (&other.0, &other.2), "{path}: {:?}", (&other.0, &other.2));
        // A folder's size is its file system's own affair.
        ensure!(kind == "directory" || *size == other.1, "{path}: {} bytes", other.1);
        ensure!(*content == other.3, "{path} has other bytes");
    }
    ensure!(expected.len() == found.len(), "{} names, {} were found", expected.len(), found.len());
    Ok(())
}

#[test]
fn every_file_comes_out_of_every_link_of_a_chain() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disk)?;
    let rest = site.rest();
    let (image, source) = (site.folder().join("ext4"), site.folder().join("tree"));
    let mut links = vec![(site.backup("full")?.id, expected(&source)?)];
    for round in 1..3_u64 {
        let file = source.join(format!("docs/added-{round}.bin"));
        fs::write(&file, bytes(Fill::Noise(round), 500_000))?;
        put_ext4(&image, &file, &format!("/docs/added-{round}.bin"))?;
        remove_ext4(&image, &format!("/many/file-{round:04}"))?;
        fs::remove_file(source.join(format!("many/file-{round:04}")))?;
        bring_over(&site, &image, PARTITION_START)?;
        let mut wanted = expected(&source)?;
        // What debugfs writes has the moment of the writing, and folders theirs.
        wanted.retain(|path, _| !path.contains("added") && path != "/docs" && path != "/many");
        links.push((site.backup("incremental")?.id, wanted));
    }
    for (place, (backup, wanted)) in links.iter().enumerate() {
        let (mount, partition) = mount(&rest, backup)?;
        let mut found = seen(&rest, &mount, &partition)?;
        for round in 1..3_u64 {
            let added = found.remove(&format!("/docs/added-{round}.bin"));
            let there = added.is_some_and(|(_, _, _, content)| content == bytes(Fill::Noise(round), 500_000));
            ensure!(there == (usize::try_from(round)? <= place), "round {round} in link {place}");
        }
        if place > 0 {
            found.remove("/docs");
            found.remove("/many");
        }
        same(wanted, &found)?;
        rest.delete(&format!("/api/v1/restore/{mount}"))?.expect(204)?;
        ensure!(rest.get(&format!("/api/v1/restore/{mount}/files?path=/"))?.status == 404, "it has ended");
    }
    parts_and_archives(&site, &rest, &links[2].0)?;
    from_the_command_line(&site, &links[0].0, &links[2].0)?;
    // A mount ends with its backup.
    let (mount, _) = mount(&rest, &links[2].0)?;
    site.server.cli()?.run(&["backup", "delete", &links[2].0])?;
    ensure!(rest.get(&format!("/api/v1/restore/{mount}/files?path=/"))?.status == 404, "its backup is gone");
    site.finish(&[])
}

fn parts_and_archives(site: &Site, rest: &Rest, backup: &str) -> Result<()> {
    let (mount, partition) = mount(rest, backup)?;
    let noise = format!("{partition}/docs/deep/deeper/deepest/noise.bin");
    let place =
        format!("/api/v1/restore/{mount}/download?path={}", escape(&format!("{partition}/docs/readme.txt")));
    let part = rest.send("GET", &place, &[("range", "bytes=5-6")], None)?;
    ensure!(part.status == 206 && part.text == "me", "{part:?}");
    ensure!(part.header("content-range") == "bytes 5-6/8", "{part:?}");
    ensure!(rest.send("GET", &place, &[("range", "bytes=8-")], None)?.status == 416, "beyond the end");
    let about = get(rest, &mount, "file-info", &format!("{partition}/docs/readme.txt"))?;
    ensure!(about["mode"] == "4751" && about["size"] == 8 && about["owner"].is_string(), "{about}");
    // Links are shown and lead nowhere.
    let out = format!("{partition}/docs/out");
    ensure!(get(rest, &mount, "file-info", &out)?["target"] == "/etc/passwd", "the link is shown");
    for path in
        [out.clone(), format!("{out}/x"), format!("{partition}/../etc"), "/no such partition".to_owned()]
    {
        let refused = rest.get(&format!("/api/v1/restore/{mount}/download?path={}", escape(&path)))?;
        ensure!([400, 404, 422].contains(&refused.status), "{path}: {refused:?}");
    }
    let found = rest.get(&format!("/api/v1/restore/{mount}/search?name=*.txt"))?.expect(200)?;
    let names: Vec<String> =
        found["files"].as_array().context("'files'")?.iter().map(|file| word(&file["name"])).collect();
    ensure!(names.len() == 2 && names.contains(&"readme.txt".to_owned()), "{names:?}");
    // Both archives hold the same files as the folder.
    let folder = format!("{partition}/docs");
    let zip = site.folder().join("docs.zip");
    fs::write(&zip, download(rest, &mount, &folder)?)?;
    let tar = site.folder().join("docs.tar.gz");
    let place = format!("/api/v1/restore/{mount}/download-directory?path={}&format=tar.gz", escape(&folder));
    rest.download(&place, File::create(&tar)?)?;
    for (archive, by) in [(&zip, ["-m", "zipfile", "-e"]), (&tar, ["-m", "tarfile", "-e"])] {
        let to = site.folder().join("unpacked");
        let mut python = Command::new("python3");
        ensure!(python.args(by).arg(archive).arg(&to).status()?.success(), "{} unpacks", archive.display());
        let unpacked = fs::read(to.join("docs/deep/deeper/deepest/noise.bin"))?;
        ensure!(unpacked == download(rest, &mount, &noise)?, "{}", archive.display());
        ensure!(
            fs::read_to_string(to.join("docs/grüße & \"more\" %20.TXT"))? == "unicode\n",
            "unicode names"
        );
        ensure!(
            to.join("docs/empty").exists() && to.join(format!("docs/deep/{}", "n".repeat(255))).exists(),
            "all"
        );
        fs::remove_dir_all(&to)?;
    }
    rest.delete(&format!("/api/v1/restore/{mount}"))?.expect(204)?;
    Ok(())
}

fn from_the_command_line(site: &Site, full: &str, newest: &str) -> Result<()> {
    let cli = site.server.cli()?;
    let mounted = cli.run(&["restore", "mount", newest])?;
    let (mount, partition) = (word(&mounted["mount_id"]), word(&mounted["partitions"][0]["path"]));
    ensure!(
        cli.run(&["restore", "mounts"])?["mounts"].as_array().is_some_and(|all| all.len() == 1),
        "one mount"
    );
    let listed = cli.run(&["restore", "ls", &mount, &format!("{partition}/docs")])?;
    ensure!(listed["files"].as_array().is_some_and(|files| files.len() == 9), "{listed}");
    let found =
        cli.run(&["restore", "search", &mount, "FILE-29?7", "--path", &format!("{partition}/many")])?;
    ensure!(found["files"].as_array().is_some_and(|files| files.len() == 10), "{found}");
    let to = site.folder().join("got.bin").display().to_string();
    let path = format!("{partition}/docs/deep/deeper/deepest/noise.bin");
    cli.run(&["restore", "get", &mount, &path, "--to", &to])?;
    ensure!(fs::read(&to)? == bytes(Fill::Noise(7), 3_000_001), "the file");
    let again = cli.outcome(&["restore", "get", &mount, &path, "--to", &to])?;
    ensure!(again.code == 1 && again.stderr.contains("exists already"), "{again:?}");
    cli.run(&["restore", "unmount", &mount])?;
    let gone = cli.outcome(&["restore", "ls", &mount])?;
    ensure!(gone.code == 1 && gone.stderr.contains("mount the backup again"), "{gone:?}");
    let differs = cli.run(&["restore", "diff", full, newest, "--path", &format!("{partition}/docs")])?;
    let added = differs["added"].as_array().context("'added'")?;
    ensure!(
        added.len() == 2 && differs["removed"] == json!([]) && differs["changed"] == json!([]),
        "{differs}"
    );
    Ok(())
}

#[test]
fn damage_costs_what_is_damaged_and_says_so() -> Result<()> {
    let site = Site::start(SiteOptions::default(), |folder| {
        let disks = disk(folder)?;
        // Most of the inode tables and the first directories are noise.
        disks[0].write(PARTITION_START + 5 * MIB, &bytes(Fill::Noise(9), 4 << 20))?;
        Ok(disks)
    })?;
    let rest = site.rest();
    let backup = site.backup("full")?.id;
    let body = json!({ "backup_id": backup });
    let mounted = rest.post("/api/v1/restore/mount", &body)?.expect(201)?;
    let (mount, partition) = (word(&mounted["mount_id"]), &mounted["partitions"][0]);
    let (mut read, mut refused) = (0, 0);
    for path in ["docs/readme.txt", "docs/deep/deeper/deepest/noise.bin", "many/file-2500", "sparse.img"] {
        let path = format!("{}/{path}", word(&partition["path"]));
        let answer = rest.get(&format!("/api/v1/restore/{mount}/file-info?path={}", escape(&path)))?;
        match answer.status {
            // Something of which no more is known than that it is there counts as refused.
            200 if answer.json()?["type"] == "file" => read += 1,
            200 | 404 | 409 | 502 | 503 => refused += 1,
            other => anyhow::bail!("{other}: {answer:?}"),
        }
    }
    ensure!(refused > 0, "{read} of 4 were read");
    // The host goes on, and so does another mount.
    ensure!(
        rest.get("/api/v1/restore/mounts")?.expect(200)?["mounts"]
            .as_array()
            .is_some_and(|all| all.len() == 1),
        ""
    );
    site.finish(&["damaged", "file system"])
}

#[test]
fn a_mount_that_nobody_uses_ends_and_a_disk_without_files_is_shown() -> Result<()> {
    let mut options = SiteOptions::default();
    let config = tempfile::NamedTempFile::new()?;
    fs::write(config.path(), "[limits]\nmount_idle_seconds = 1\n")?;
    options.server = ServerOptions {
        arguments: vec!["--config".to_owned(), config.path().display().to_string()],
        ..options.server
    };
    let site = Site::start(options, crate::disks::two)?;
    let rest = site.rest();
    let backup = site.backup("full")?.id;
    let mounted =
        rest.post("/api/v1/restore/mount", &json!({ "backup_id": backup, "disk_index": 1 }))?.expect(201)?;
    let partition = &mounted["partitions"][0];
    ensure!(partition["readable"] == false && partition["filesystem"] == "unknown", "{mounted}");
    let path = escape(&word(&partition["path"]));
    let mount = word(&mounted["mount_id"]);
    let refused = rest.get(&format!("/api/v1/restore/{mount}/files?path={path}"))?;
    ensure!(refused.status == 400, "{refused:?}");
    ensure!(refused.text.contains("known to no installed plugin"), "{refused:?}");
    wait_for("the mount to end", Duration::from_secs(60), || {
        let list = rest.get("/api/v1/restore/mounts")?.expect(200)?;
        Ok(list["mounts"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    let unknown = rest.post("/api/v1/restore/mount", &json!({ "backup_id": backup, "disk_index": 7 }))?;
    ensure!(unknown.status == 404, "{unknown:?}");
    site.finish(&[])
}
