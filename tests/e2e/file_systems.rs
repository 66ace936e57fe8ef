//! Every file system that guests have, through a compressed chain of three, over REST: what went in by the kernel or by FUSE
//! comes out byte for byte, from a server without any capability, with nothing mounted and no process started.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidemark_fs_testing::{Checks, Content, Digest, Image, Item, Tree, Wanted, run_as_root};
use tidemark_tests::disk::{Fill, RawDisk, bytes, copy_sparse};
use tidemark_tests::filesystem::make_partitioned;
use tidemark_tests::process::tool;
use tidemark_tests::rest::Rest;
use tidemark_tests::server::ServerOptions;
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks::MIB;
use crate::files::{bring_over, escape, get, word};

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

const SMALL_LOGICAL: Wanted = Wanted { sparse: 8 << 20, many: 100, ..SMALL };

/// A file system of a guest.
struct Guest {
    image: Image,
    mounted_with: (&'static str, &'static str),
    name: &'static str,
    checks: Checks,
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
        let guest = Self { image, mounted_with, name, checks };
        guest.change(|folder| wanted.fill(folder));
        guest
    }

    /// Does something in it, as the guest would.
    fn change<T>(&self, change: impl FnOnce(&Path) -> T) -> T {
        let mounted = self.image.mounted(self.mounted_with.0, self.mounted_with.1);
        change(mounted.folder())
    }

    /// What is in it by now.
    fn tree(&self) -> Tree {
        let mut tree = self.change(Tree::of);
        // The file system's own, which readers show or not.
        tree.0.remove(b"/lost+found".as_slice());
        tree
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

/// Starts the server without capabilities; as root it may drop them, others have none.
fn powerless() -> ServerOptions {
    let mut wrapper = vec!["setpriv", "--no-new-privs"];
    if rustix::process::geteuid().is_root() {
        wrapper.extend(["--bounding-set=-all", "--inh-caps=-all"]);
    }
    ServerOptions { wrapper: wrapper.into_iter().map(str::to_owned).collect(), ..ServerOptions::default() }
}

/// The processes that a process has started, and what is mounted of a site's files where it runs.
fn surroundings(pid: u32, site: &Site) -> Result<(BTreeSet<String>, Vec<String>)> {
    let mut children = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let listed = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().map(str::to_owned));
    }
    let (mounts, own) =
        (fs::read_to_string(format!("/proc/{pid}/mounts"))?, site.folder().display().to_string());
    Ok((children, mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect()))
}

#[test]
fn every_file_system_comes_out_of_a_chain_of_three() -> Result<()> {
    let unix = Checks { time_step_ns: 1, owners: true, links: true };
    let windows = Checks { time_step_ns: 100, owners: false, links: true };
    let guests = vec![
        Guest::new(320 * MIB, ("mkfs.xfs", "-q -f -L data"), ("xfs", "nouuid"), SMALL, unix, "xfs"),
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
            guests.iter().zip(&starts).filter(|(guest, _)| guest.name != "ntfs" || round == 1)
        {
            guest.change(|folder| {
                fs::write(folder.join(format!("a/b/new in {round}")), bytes(Fill::Noise(round), 300_000))
                    .unwrap();
                fs::remove_file(folder.join(format!("many/file-00010{round}"))).unwrap();
                fs::write(folder.join("odd"), format!("written over in {round}")).unwrap();
            });
            bring_over(&site, guest.image.path(), *start)?;
        }
        newest = site.backup("incremental")?;
    }
    look_at_all(&site, &newest.id, &guests)?;
    site.finish(&[])
}

/// The tree without what FAT does not know.
const PLAIN: Wanted = Wanted {
    links: false,
    owners: false,
    times: false,
    longest_name: 100,
    sparse: 0,
    many: 100,
    large: 1 << 20,
};

/// A FAT32 file system, filled by mtools, and a disc of xorriso, both of one folder.
fn fat_and_disc(folder: &Path) -> Result<(Image, Image, Tree)> {
    let source = folder.join("source");
    fs::create_dir(&source)?;
    PLAIN.fill(&source);
    // mtools writes letters beyond the first 65,536 wrongly.
    fs::remove_file(source.join("emoji 🦀"))?;
    let fat = Image::new(64 * MIB);
    fat.run("mkfs.vfat", "-F 32 -n DATA");
    let items = fs::read_dir(&source)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut mcopy = Command::new("mcopy");
    mcopy.envs([("MTOOLS_SKIP_CHECK", "1"), ("TZ", "UTC"), ("LC_ALL", "C.UTF-8")]);
    mcopy.arg("-i").arg(fat.path()).args(["-s", "-m", "-o"]).args(items).arg("::/");
    ensure!(mcopy.status()?.success(), "mcopy");
    let disc = Image::new(0);
    let options = ["-as", "mkisofs", "-quiet", "-R", "-V", "DATA", "-o"].map(Path::new);
    tool("xorriso", options.into_iter().chain([disc.path(), &source]))?;
    Ok((fat, disc, Tree::of(&source)))
}

/// A physical volume with one logical volume, of which ext4 takes the whole.
fn logical(ext4: &Image) -> Result<Image> {
    let image = Image::new(ext4.size() + 16 * MIB);
    let looped = image.looped(0, 0);
    let device = looped.device().display().to_string();
    // Nothing of the machine's own is looked at, kept or activated.
    let config = format!(
        "global{{activation=0}} backup{{backup=0 archive=0}} devices{{use_devicesfile=0 \
         obtain_device_list_from_udev=0 filter=[\"a|^{device}$|\", \"r|.*|\"]}}"
    );
    let size = format!("{}m", ext4.size() / MIB);
    for command in [
        vec!["pvcreate", "-q", &device],
        vec!["vgcreate", "-q", "vg0", &device],
        vec!["lvcreate", "-q", "-an", "-Zn", "-L", &size, "-n", "my-data", "vg0"],
    ] {
        run_as_root("lvm", command.into_iter().chain(["--config", &config]));
    }
    // The first extent of a fresh group is the second mebibyte.
    drop(looped);
    copy_sparse(ext4.path(), image.path(), MIB)?;
    Ok(image)
}

#[test]
fn discs_sticks_and_logical_volumes_come_out_too() -> Result<()> {
    let mut sources = Vec::new();
    let exfat = Checks { time_step_ns: 2_000_000_000, owners: false, links: false };
    let site = Site::start(SiteOptions { server: powerless(), ..SiteOptions::default() }, |folder| {
        let (fat, disc, tree) = fat_and_disc(folder)?;
        let stick = Guest::new(
            64 * MIB,
            ("mkfs.exfat", "-L DATA"),
            ("mount.exfat-fuse", "nonempty"),
            PLAIN,
            exfat,
            "exfat",
        );
        let unix = Checks { time_step_ns: 1, owners: true, links: true };
        let ext4 = Guest::new(
            64 * MIB,
            ("mke2fs", "-q -F -t ext4"),
            ("ext4", "noatime"),
            SMALL_LOGICAL,
            unix,
            "ext4",
        );
        let group = logical(&ext4.image)?;
        let path = folder.join("disk.raw");
        let images = [&fat, &disc, &stick.image, &group];
        let kinds = [0x0c, 0x17, NTFS, 0x8e];
        let partitions: Vec<_> = kinds.into_iter().zip(images.map(Image::size)).collect();
        for (start, image) in make_partitioned(&path, &partitions)?.into_iter().zip(images) {
            copy_sparse(image.path(), &path, start)?;
        }
        let disc_checks = Checks { time_step_ns: 1_000_000_000, owners: false, links: false };
        sources.push(("fat32", tree.clone(), Checks { time_step_ns: 2_000_000_000, ..exfat }));
        sources.push(("iso9660", tree, disc_checks));
        sources.push(("exfat", stick.tree(), exfat));
        sources.push(("ext4", ext4.tree(), unix));
        Ok(vec![RawDisk::open(&path)?])
    })?;
    let backup = site.backup("full")?.id;
    let rest = site.rest();
    let mounted = rest.post("/api/v1/restore/mount", &json!({ "backup_id": backup }))?.expect(201)?;
    let mount = word(&mounted["mount_id"]);
    let partitions = mounted["partitions"].as_array().context("'partitions'")?;
    ensure!(partitions.len() == 5 && partitions[3]["readable"] == false, "{mounted}");
    ensure!(word(&partitions[3]["filesystem"]).contains("vg0"), "{mounted}");
    ensure!(partitions[4]["name"] == "Volume vg0-my--data (64.0 MB)", "{mounted}");
    let readable = partitions.iter().filter(|partition| partition["readable"] == true);
    for (partition, (name, tree, checks)) in readable.zip(&sources) {
        ensure!(partition["filesystem"] == *name, "{partition}");
        let found = seen(&rest, &mount, &word(&partition["path"]), site.folder())?;
        tree.compare(&found, *checks, name);
        let about = get(&rest, &mount, "file-info", &format!("{}/few", word(&partition["path"])))?;
        let expected = if name.contains("fat") { json!(["archive"]) } else { Value::Null };
        ensure!(about["attributes"] == expected, "{about}");
    }
    ensure!(sources.len() == 4, "all four");
    rest.delete(&format!("/api/v1/restore/{mount}"))?.expect(204)?;
    site.finish(&[])
}

/// A range that begins and ends anywhere has what the file has there.
fn a_part_is_of_the_whole(rest: &Rest, mount: &str, path: &str) -> Result<()> {
    let place = format!("/api/v1/restore/{mount}/download?path={}", escape(path));
    let mut whole = Vec::new();
    rest.download(&place, &mut whole)?;
    for (first, last) in [(1_234_567, 3_456_789), (0, 0), (whole.len() - 200_000, whole.len() - 1)] {
        let mut part = Vec::new();
        rest.part(&place, first as u64..=last as u64)?.read_to_end(&mut part)?;
        ensure!(part == whole[first..=last], "{path}: {first} to {last}");
    }
    Ok(())
}

fn look_at_all(site: &Site, backup: &str, guests: &[Guest]) -> Result<()> {
    let rest = site.rest();
    let pid = site.server.pid()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("CapEff:\t0000000000000000"), "the server has capabilities: {status}");
    let before = surroundings(pid, site)?;
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
        guest.tree().compare(&found, guest.checks, guest.name);
        let partition = word(&partition["path"]);
        a_part_is_of_the_whole(&rest, &mount, &format!("{partition}/large"))?;
        let about = get(&rest, &mount, "file-info", &format!("{partition}/few"))?;
        let is_told = about["access_list"].as_str().is_some_and(|list| list.starts_with("O:"));
        ensure!(is_told == (guest.name == "ntfs"), "{about}");
    }
    let after = surroundings(pid, site)?;
    ensure!(before == after, "a process or a mount came to be: {after:?}");
    let memory = rest.get("/api/v1/restore/mounts")?.expect(200)?["mounts"][0]["memory_bytes"].clone();
    ensure!(memory.as_u64().is_some_and(|memory| memory > 0 && memory < 256 << 20), "{memory}");
    rest.delete(&format!("/api/v1/restore/{mount}"))?.expect(204)?;
    Ok(())
}
