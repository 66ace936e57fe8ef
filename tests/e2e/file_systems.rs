//! Every file system that guests have, through a compressed chain of three, over REST: what went in by the kernel or by FUSE
//! comes out byte for byte, from a server without any capability, with nothing mounted and no process started.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidemark_fs_testing::{Checks, Content, Digest, Image, Item, Tree, Wanted};
use tidemark_tests::disk::{RawDisk, copy_sparse};
use tidemark_tests::filesystem::make_partitioned;
use tidemark_tests::process::tool;
use tidemark_tests::rest::Rest;
use tidemark_tests::server::ServerOptions;
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks::MIB;
use crate::files::{escape, get, word};

const CLUSTER: usize = 64 << 10;
const NTFS: u8 = 0x07;
const LINUX: u8 = 0x83;
const SMALL: Wanted = Wanted {
    links: true,
    owners: true,
    times: true,
    longest_name: 255,
    sparse: 64 << 20,
    many: 2000,
    large: 5 << 20,
};

/// A file system of a guest.
struct Guest {
    image: Image,
    mounted_with: (&'static str, &'static str),
    name: &'static str,
    checks: Checks,
    tree: Tree,
}

impl Guest {
    fn new(
        size: u64,
        make: (&str, &str),
        mounted_with: (&'static str, &'static str),
        wanted: Wanted,
        checks: Checks,
        name: &'static str,
    ) -> Self {
        let image = Image::new(size);
        image.run(make.0, make.1);
        let mut guest = Self { image, mounted_with, name, checks, tree: Tree::default() };
        guest.change(|folder| wanted.fill(folder));
        guest
    }

    /// Does something in it, as the guest would.
    fn change(&mut self, change: impl FnOnce(&Path)) {
        let mounted = self.image.mounted(self.mounted_with.0, self.mounted_with.1);
        change(mounted.folder());
        self.tree = Tree::of(mounted.folder());
        // The file system's own, which readers show or not.
        self.tree.0.remove(b"/lost+found".as_slice());
    }
}

/// Hashes what is written into it, as the trees' contents are hashed.
struct Hashing {
    digest: Digest,
    waiting: Vec<u8>,
    taken: u64,
}

impl Hashing {
    fn new() -> Self {
        Self { digest: Digest::default(), waiting: Vec::new(), taken: 0 }
    }

    fn finish(mut self) -> u64 {
        self.digest.take(self.taken, &self.waiting);
        self.digest.finish()
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        let whole = self.waiting.len() - self.waiting.len() % Digest::BLOCK;
        self.digest.take(self.taken, &self.waiting[..whole]);
        self.taken += whole as u64;
        self.waiting.drain(..whole);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a file system has, over REST; the folder `many` by its listing and one archive.
fn seen(rest: &Rest, mount: &str, partition: &str, folder: &Path) -> Result<Tree> {
    let (mut found, mut waiting) = (Tree::default(), vec![partition.to_owned()]);
    while let Some(at) = waiting.pop() {
        let unpacked =
            (at == format!("{partition}/many")).then(|| archive(rest, mount, &at, folder)).transpose()?;
        let listed = get(rest, mount, "files", &at)?;
        for file in listed["files"].as_array().context("'files'")? {
            let (path, kind) = (word(&file["path"]), word(&file["type"]));
            let place = path.strip_prefix(partition).context("a path below the partition")?.to_owned();
            if place == "/lost+found" {
                continue;
            }
            let size = file["size"].as_u64().context("'size'")?;
            let content = match kind.as_str() {
                "directory" => {
                    waiting.push(path);
                    Content::Folder
                }
                "symlink" => {
                    Content::Link(word(&get(rest, mount, "file-info", &path)?["target"]).into_bytes())
                }
                "file" => match &unpacked {
                    Some(unpacked) => {
                        unpacked.0[format!("/{}", word(&file["name"])).as_bytes()].content.clone()
                    }
                    None => {
                        let mut hashing = Hashing::new();
                        let route = format!("/api/v1/restore/{mount}/download?path={}", escape(&path));
                        let sent = rest.download(&route, &mut hashing)?;
                        ensure!(sent == size, "{place}: {sent} bytes of {size}");
                        Content::File(size, hashing.finish())
                    }
                },
                _ => Content::Other,
            };
            found.0.insert(place.into_bytes(), item(content, file)?);
        }
    }
    Ok(found)
}

fn item(content: Content, file: &Value) -> Result<Item> {
    let moment = |text: &str| {
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
            .map(time::OffsetDateTime::unix_timestamp_nanos)
    };
    let modified = file["modified_time"].as_str().map(moment).transpose()?;
    Ok(Item {
        content,
        modified_ns: modified.and_then(|modified| i64::try_from(modified).ok()),
        mode: file["mode"].as_str().map(|mode| u32::from_str_radix(mode, 8)).transpose()?,
        owner: (file["owner"].as_str().map(str::to_owned), file["group"].as_str().map(str::to_owned)),
        links: file["links"].as_u64().unwrap_or(0),
    })
}

/// What a folder's archive unpacks to.
fn archive(rest: &Rest, mount: &str, path: &str, folder: &Path) -> Result<Tree> {
    let (tar, to) = (folder.join("many.tar.gz"), folder.join("unpacked"));
    let place = format!("/api/v1/restore/{mount}/download-directory?path={}&format=tar.gz", escape(path));
    rest.download(&place, File::create(&tar)?)?;
    fs::create_dir(&to)?;
    tool("tar", [Path::new("-xzf"), &tar, Path::new("-C"), &to])?;
    let tree = Tree::of(&to.join("many"));
    fs::remove_dir_all(&to)?;
    Ok(tree)
}

/// Brings what changed in an image onto the guest's disk.
fn bring_over(site: &Site, disk: usize, guest: &Guest, start: u64) -> Result<()> {
    let old = File::open(site.disks[disk].path())?;
    let (mut then, mut at) = (vec![0; CLUSTER], 0);
    while at + CLUSTER as u64 <= guest.image.size() {
        let now = guest.image.bytes(at, CLUSTER);
        old.read_exact_at(&mut then, start + at)?;
        if now != then {
            site.guest_writes(disk, start + at, &now)?;
        }
        at += CLUSTER as u64;
    }
    Ok(())
}

/// Starts the server without capabilities; as root it may drop them, others have none.
fn powerless() -> ServerOptions {
    let mut wrapper = vec!["setpriv", "--no-new-privs"];
    if rustix::process::geteuid().is_root() {
        wrapper.extend(["--bounding-set=-all", "--inh-caps=-all"]);
    }
    ServerOptions { wrapper: wrapper.into_iter().map(str::to_owned).collect(), ..ServerOptions::default() }
}

/// The processes that a process has started, and what is mounted where it runs.
fn surroundings(pid: u32) -> Result<(BTreeSet<String>, String)> {
    let mut children = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let listed = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().map(str::to_owned));
    }
    Ok((children, fs::read_to_string(format!("/proc/{pid}/mounts"))?))
}

#[test]
fn every_file_system_comes_out_of_a_chain_of_three() -> Result<()> {
    let unix = Checks { time_step_ns: 1, owners: true, links: true };
    let windows = Checks { time_step_ns: 100, owners: false, links: true };
    let mut guests = vec![
        Guest::new(256 * MIB, ("mkfs.xfs", "-q -f -L data"), ("xfs", "nouuid"), SMALL, unix, "xfs"),
        Guest::new(
            256 * MIB,
            ("mkfs.btrfs", "-q -L data"),
            ("btrfs", "compress-force=zstd"),
            SMALL,
            unix,
            "btrfs",
        ),
        Guest::new(256 * MIB, ("mke2fs", "-q -F -t ext4 -L data"), ("ext4", "noatime"), SMALL, unix, "ext4"),
        Guest::new(
            9 << 30,
            ("mkntfs", "-q -F -Q -L data"),
            ("ntfs-3g", ""),
            Wanted { owners: false, sparse: 5 << 30, many: 100_000, large: 20 << 20, ..SMALL },
            windows,
            "ntfs",
        ),
    ];
    let sizes: Vec<u64> = guests.iter().map(|guest| guest.image.size()).collect();
    let kinds = [LINUX, LINUX, LINUX, NTFS];
    let mut starts = Vec::new();
    let options = SiteOptions { server: powerless(), ..SiteOptions::default() };
    let site = Site::start(options, |folder| {
        let path = folder.join("disk.raw");
        let partitions: Vec<(u8, u64)> = kinds.into_iter().zip(sizes.iter().copied()).collect();
        starts = make_partitioned(&path, &partitions)?;
        for (guest, start) in guests.iter().zip(&starts) {
            copy_sparse(guest.image.path(), &path, *start)?;
        }
        Ok(vec![RawDisk::open(&path)?])
    })?;
    let mut newest = site.backup("full")?;
    // A round of changes for each link, of which the last must not hide the first.
    for round in 1..3_u64 {
        for (guest, start) in
            guests.iter_mut().zip(&starts).filter(|(guest, _)| guest.name != "ntfs" || round == 1)
        {
            guest.change(|folder| {
                fs::write(folder.join(format!("a/b/new in {round}")), vec![b'0' + round as u8; 300_000])
                    .unwrap();
                fs::remove_file(folder.join(format!("many/file-00010{round}"))).unwrap();
                fs::write(folder.join("odd"), format!("written over in {round}")).unwrap();
            });
            bring_over(&site, 0, guest, *start)?;
        }
        newest = site.backup("incremental")?;
    }
    look_at_all(&site, &newest.id, &guests)?;
    site.finish(&[])
}

fn look_at_all(site: &Site, backup: &str, guests: &[Guest]) -> Result<()> {
    let rest = site.rest();
    let pid = site.server.pid()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("CapEff:\t0000000000000000"), "the server has capabilities: {status}");
    let before = surroundings(pid)?;
    let mounted = rest.post("/api/v1/restore/mount", &json!({ "backup_id": backup }))?.expect(201)?;
    let mount = word(&mounted["mount_id"]);
    let partitions = mounted["partitions"].as_array().context("'partitions'")?;
    ensure!(partitions.len() == guests.len(), "{mounted}");
    for (partition, guest) in partitions.iter().zip(guests) {
        ensure!(
            partition["filesystem"] == guest.name
                && partition["label"] == "data"
                && partition["readable"] == true,
            "{partition}"
        );
        ensure!(partition["warnings"] == json!([]), "{partition}");
        let found = seen(&rest, &mount, &word(&partition["path"]), site.folder())?;
        guest.tree.compare(&found, guest.checks, guest.name);
    }
    let after = surroundings(pid)?;
    ensure!(before == after, "a process or a mount came to be: {after:?}");
    let memory = rest.get("/api/v1/restore/mounts")?.expect(200)?["mounts"][0]["memory_bytes"].clone();
    ensure!(memory.as_u64().is_some_and(|memory| memory > 0 && memory < 256 << 20), "{memory}");
    rest.delete(&format!("/api/v1/restore/{mount}"))?.expect(204)?;
    Ok(())
}
