//! A disk leaves Tidemark: as raw, QCOW2 and VMDK, into a file and through standard output, whole and in parts. What
//! breaks off on the way never passes for complete.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidemark_tests::binaries;
use tidemark_tests::disk::{Fill, RawDisk, bytes, identical};
use tidemark_tests::qemu;
use tidemark_tests::rest::Rest;
use tidemark_tests::site::{Site, SiteOptions, object_path};

use crate::disks::{self, MIB};

const FORMATS: [&str; 3] = ["raw", "qcow2", "vmdk"];

/// How the command line ended.
#[derive(Debug)]
struct Sent {
    code: Option<i32>,
    stderr: String,
}

#[test]
fn a_chain_leaves_in_every_format_by_file_and_by_stream() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let mut links = vec![(site.backup("full")?, site.freeze("link-0")?)];
    for link in 1..=2_u64 {
        site.guest_writes(0, 8 * MIB + link * 300_000, &bytes(Fill::Noise(link), 400_000))?;
        site.guest_writes(0, 2 * MIB + link * 70_000, &vec![0; 128 << 10])?;
        site.guest_writes(1, 33 * MIB, &bytes(Fill::Text(link), 512))?;
        links.push((site.backup("incremental")?, site.freeze(&format!("link-{link}"))?));
    }
    for (backup, frozen) in &links {
        for (index, wanted) in frozen.iter().enumerate() {
            for format in FORMATS {
                let streamed = site.folder().join(format!("streamed.{format}"));
                let sent = send(&site, &backup.id, index, format, &streamed)?;
                ensure!(sent.code == Some(0), "{sent:?}");
                same(wanted, &streamed, format)?;
            }
            let file = site.folder().join("restored.vmdk");
            let (number, to) = (index.to_string(), file.to_string_lossy().into_owned());
            let cli = site.server.cli()?;
            let restore = ["restore", "disk", &backup.id, "--disk", &number, "--to", &to, "--format", "vmdk"];
            cli.run(&restore)?;
            same(wanted, &file, "vmdk")?;
            ensure!(cli.outcome(&restore)?.code == 1, "a file is never written over");
            fs::remove_file(file)?;
        }
    }
    let (newest, frozen) = links.last().context("a link")?;
    parts_of_a_raw_disk(&site, &newest.id, &frozen[0])?;
    only_who_may_restore_exports(&site, &newest.id)?;
    nothing_but_the_disk_is_sent(&site, &newest.id)?;
    site.finish(&[])
}

fn parts_of_a_raw_disk(site: &Site, id: &str, disk: &RawDisk) -> Result<()> {
    let rest = site.rest();
    let path = format!("/api/v1/backups/{id}/disks/0/export");
    let whole = rest.send("HEAD", &path, &[], None)?;
    ensure!(whole.status == 200 && whole.header("accept-ranges") == "bytes", "{whole:?}");
    ensure!(whole.header("content-length") == disk.size().to_string(), "{whole:?}");
    ensure!(whole.header("content-type") == "application/octet-stream", "{whole:?}");
    let name = whole.header("content-disposition");
    ensure!(name.starts_with("attachment; filename=\"web01-") && name.ends_with("-disk-0.raw\""), "{name}");
    let tag = whole.header("etag").to_owned();

    // The first MiB is text.
    let mut expected = vec![0; 1000];
    File::open(disk.path())?.read_exact_at(&mut expected, 65_000)?;
    let part = rest.send("GET", &path, &[("range", "bytes=65000-65999"), ("if-range", &tag)], None)?;
    ensure!(part.status == 206 && part.text.as_bytes() == expected, "{}: {}", part.status, part.text);
    ensure!(part.header("content-range") == format!("bytes 65000-65999/{}", disk.size()), "{part:?}");
    let last = rest.send("GET", &path, &[("range", "bytes=-512")], None)?;
    ensure!(last.status == 206 && last.text.as_bytes() == [0; 512], "{last:?}");
    let beyond = format!("bytes={}-", disk.size());
    let beyond = rest.send("GET", &path, &[("range", &beyond)], None)?;
    ensure!(beyond.header("content-range") == format!("bytes */{}", disk.size()), "{beyond:?}");
    ensure!(beyond.expect(416)?["kind"] == "range", "a problem document: {beyond:?}");

    // Images are sent whole.
    for format in ["qcow2", "vmdk"] {
        let path = format!("{path}?format={format}");
        let image = rest.send("HEAD", &path, &[("range", "bytes=0-0")], None)?;
        ensure!(image.status == 200 && image.header("accept-ranges") == "none", "{image:?}");
        ensure!(image.header("content-length").is_empty() == (format == "vmdk"), "{image:?}");
    }
    rest.get(&format!("/api/v1/backups/{id}/disks/7/export"))?.expect(404)?;
    rest.get(&format!("{path}?format=iso"))?.expect(400)?;
    Ok(())
}

fn only_who_may_restore_exports(site: &Site, id: &str) -> Result<()> {
    let token = |role: &str| -> Result<Rest> {
        let made = site.rest().post("/api/v1/tokens", &json!({"name": role, "role": role}))?.expect(201)?;
        Ok(Rest::new(&site.server.url, made["token"].as_str()))
    };
    let path = format!("/api/v1/backups/{id}/disks/1/export");
    token("viewer")?.get(&path)?.expect(403)?;
    let status = token("operator")?.send("HEAD", &path, &[], None)?.status;
    ensure!(status == 200, "an operator exports: {status}");
    let audit = site.rest().get("/api/v1/audit")?.expect(200)?.to_string();
    ensure!(audit.contains("backup.export") && audit.contains("\"operator\""), "{audit}");
    Ok(())
}

fn nothing_but_the_disk_is_sent(site: &Site, id: &str) -> Result<()> {
    // A refusal says nothing on standard output, wanted as JSON or not.
    let empty = site.folder().join("empty");
    let sent = send(site, id, 7, "raw", &empty)?;
    ensure!(sent.code == Some(1) && sent.stderr.contains("disk"), "{sent:?}");
    ensure!(fs::metadata(&empty)?.len() == 0, "a refusal left bytes");
    let usage =
        site.server.cli()?.outcome(&["restore", "disk", id, "--disk", "0", "--to", "-", "--no-wait"])?;
    ensure!(usage.code == 2, "{usage:?}");

    // `… | head -c 100000`
    let mut child = sender(site, id, 0, "raw")?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("a pipe")?;
    out.read_exact(&mut vec![0; 100_000])?;
    drop(out);
    let sent = ended(child)?;
    ensure!(sent.code == Some(1) && sent.stderr.contains("standard output was closed"), "{sent:?}");
    Ok(())
}

#[test]
fn a_server_that_dies_leaves_no_complete_download() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::busy)?;
    let backup = site.backup("full")?;
    for format in FORMATS {
        let mut child = sender(&site, &backup.id, 0, format)?;
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut out = child.stdout.take().context("a pipe")?;
        // The pipe and the sockets are full soon; the rest is still on the server.
        out.read_exact(&mut vec![0; 1 << 20])?;
        site.server = site.server.kill_and_restart()?;
        let left = std::io::copy(&mut out, &mut std::io::sink())?;
        let sent = ended(child)?;
        ensure!(
            sent.code == Some(1) && sent.stderr.contains("incomplete"),
            "{format}: {sent:?}, {left} more"
        );
    }
    site.finish(&[])
}

#[test]
fn damage_on_the_way_cuts_the_stream() -> Result<()> {
    let site = Site::start(SiteOptions::default(), |folder| {
        // What is not compressed comes first, what is comes last.
        let disk = RawDisk::create(&folder.join("disk.raw"), 40 * MIB)?;
        disk.write(0, &bytes(Fill::Noise(1), 24 << 20))?;
        disk.write(30 * MIB, &bytes(Fill::Text(2), 4 << 20))?;
        Ok(vec![disk])
    })?;
    let backup = site.backup("full")?;
    let object = site.repository.join(object_path(&backup, 0)?);
    spoil_frames(&object)?;
    for format in FORMATS {
        let got = site.folder().join(format!("cut.{format}"));
        let sent = send(&site, &backup.id, 0, format, &got)?;
        ensure!(sent.code == Some(1) && sent.stderr.contains("incomplete"), "{format}: {sent:?}");
        if format == "raw" {
            let (got, wanted) = (fs::read(&got)?, fs::read(site.disks[0].path())?);
            ensure!(
                got.len() < wanted.len() && wanted.starts_with(&got),
                "{} bytes, not as they were",
                got.len()
            );
        }
    }
    let length = fs::metadata(&object)?.len();
    File::options().write(true).open(&object)?.set_len(length / 2)?;
    let got = site.folder().join("cut.short");
    let sent = send(&site, &backup.id, 0, "raw", &got)?;
    ensure!(sent.code == Some(1) && fs::metadata(&got)?.len() < 40 * MIB, "{sent:?}");
    site.finish(&["an export broke off"])
}

/// Makes every compressed cluster undecodable: the magic of a zstd frame goes.
fn spoil_frames(image: &Path) -> Result<()> {
    let (content, file) = (fs::read(image)?, File::options().write(true).open(image)?);
    let mut spoilt = 0;
    for (at, _) in content.windows(4).enumerate().filter(|(_, four)| *four == [0x28, 0xb5, 0x2f, 0xfd]) {
        file.write_all_at(&[0; 4], at as u64)?;
        spoilt += 1;
    }
    ensure!(spoilt >= 64, "only {spoilt} frames were found");
    Ok(())
}

/// Holds a file that left in some format against what the guest had.
fn same(wanted: &RawDisk, file: &Path, format: &str) -> Result<()> {
    if format == "raw" {
        return identical(wanted.path(), file);
    }
    qemu::check(file)?;
    ensure!(qemu::virtual_size(file)? == wanted.size(), "{} has another capacity", file.display());
    ensure!(qemu::backing_name(file)?.is_none(), "an exported image stands alone");
    qemu::same_content_in(wanted.path(), file, format)
}

/// `tidemark restore disk … --to -`
fn sender(site: &Site, id: &str, disk: usize, format: &str) -> Result<Command> {
    let mut command = Command::new(binaries::tidemark()?);
    command.args(["restore", "disk", id, "--to", "-", "--format", format, "--json", "--disk"]);
    command.arg(disk.to_string()).stdin(Stdio::null());
    command.env("TIDEMARK_URL", &site.server.url).env("TIDEMARK_TOKEN", &site.server.token);
    Ok(command)
}

fn send(site: &Site, id: &str, disk: usize, format: &str, to: &PathBuf) -> Result<Sent> {
    let child = sender(site, id, disk, format)?.stdout(File::create(to)?).stderr(Stdio::piped()).spawn()?;
    ended(child)
}

fn ended(child: Child) -> Result<Sent> {
    let output = child.wait_with_output()?;
    Ok(Sent { code: output.status.code(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() })
}
