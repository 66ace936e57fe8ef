//! Files out of backups: how long an administrator waits for the first folder, for a folder of a hundred thousand, and how
//! fast a large file comes, beside what serves the same raw disk without us: the kernel (ext4) or ntfs-3g (NTFS).
//!
//! The guest's disks go through the product as in life: the simulated vCenter, a chain of images, the server, REST. What the
//! way through a socket costs of that is told twice: the kernel sends the same file through one with `sendfile`, and the
//! engine is asked in this process, without any.

mod direct;

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tidemark_fs_testing::Image;
use tidemark_tests::disk::{Fill, RawDisk, bytes, copy_sparse};
use tidemark_tests::filesystem::make_partitioned;
use tidemark_tests::rest::Rest;
use tidemark_tests::site::{Site, SiteOptions};

use crate::data::{GIB, MIB};

/// What is asked of the peers at once.
const PIECE: usize = 1 << 20;
/// What the kernel is asked to send at once.
const SENT: usize = 64 << 20;
/// The first bytes of the large file, by which its place on the disk is found.
const MARK: usize = 4096;

#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// Rounds of each measurement
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Images in the chain
    #[arg(long, default_value_t = 30)]
    depth: u64,
    /// Files in the large folder
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// The large file's size in MiB
    #[arg(long, default_value_t = 1024)]
    large: u64,
    /// The NTFS disk's size in GiB
    #[arg(long, default_value_t = 100)]
    size: u64,
}

/// A file system with its own disk of the VM.
struct Subject {
    name: &'static str,
    kind: u8,
    make: (&'static str, &'static str),
    mount: (&'static str, &'static str),
    size: u64,
}

pub(crate) fn run(args: &FilesArgs) -> Result<()> {
    let subjects = [
        Subject {
            name: "NTFS (peer: ntfs-3g)",
            kind: 0x07,
            make: ("mkntfs", "-q -F -Q"),
            mount: ("ntfs-3g", "ro"),
            size: args.size * GIB,
        },
        Subject {
            name: "ext4 (peer: the kernel)",
            kind: 0x83,
            make: ("mke2fs", "-q -F -t ext4"),
            mount: ("ext4", "ro,noload"),
            // An inode for every 16 KiB.
            size: (3 * args.large * MIB).max(4 * GIB),
        },
    ];
    let mut images = Vec::new();
    let site = Site::start(SiteOptions::default(), |folder| {
        let mut disks = Vec::new();
        for (number, subject) in subjects.iter().enumerate() {
            let image = Image::new(subject.size);
            image.run(subject.make.0, subject.make.1);
            let mounted = image.mounted(subject.mount.0, "noatime");
            fill(mounted.folder(), args, number as u64)?;
            drop(mounted);
            let path = folder.join(format!("disk-{number}.raw"));
            let start = make_partitioned(&path, &[(subject.kind, subject.size)])?[0];
            copy_sparse(image.path(), &path, start)?;
            images.push((image, start));
            disks.push(RawDisk::open(&path)?);
        }
        Ok(disks)
    })?;
    let mut newest = site.backup("full")?;
    for round in 1..args.depth {
        for (disk, (image, start)) in images.iter().enumerate() {
            let place = place_of(image, disk as u64, args)? + round * (args.large * MIB / args.depth);
            let change = bytes(Fill::Noise(1000 + round), 64 << 10);
            image.write(place, &change);
            site.guest_writes(disk, start + place, &change)?;
        }
        newest = site.backup("incremental")?;
    }
    println!(
        "\n| {} images deep | median ms | min–max ms | beside the peer |\n|---|---|---|---|",
        args.depth
    );
    let mut hot = Vec::new();
    for (disk, (subject, (image, _))) in subjects.iter().zip(&images).enumerate() {
        hot.push(measure(&site, &newest.id, disk, subject, image, args)?);
    }
    site.nothing_left_behind()?;
    // The embedded catalog serves one process.
    let Site { server, folder: _folder, .. } = site;
    let data_folder = server.data_folder();
    server.finish(&[])?;
    for (disk, (subject, peer)) in subjects.iter().zip(&hot).enumerate() {
        let taken = direct::measure(&data_folder, &newest.id, disk, args)?;
        let name = subject.name;
        row(&format!("{name}: without REST, listing of {} files", args.files), &taken.listing, None);
        row(&format!("{name}: without REST, {} MiB, hot", args.large), &taken.content, Some(peer));
    }
    Ok(())
}

/// A folder of many small files, and a large one.
fn fill(folder: &Path, args: &FilesArgs, seed: u64) -> Result<()> {
    let large = File::create(folder.join("large"))?;
    for piece in 0..args.large {
        large.write_all_at(&bytes(Fill::Noise(seed * 1_000_000 + piece), PIECE), piece * MIB)?;
    }
    large.sync_all()?;
    fs::create_dir(folder.join("many"))?;
    for number in 0..args.files {
        fs::write(folder.join(format!("many/report {number:06}.txt")), b"few bytes")?;
    }
    Ok(())
}

/// Where the large file begins on its disk.
fn place_of(image: &Image, seed: u64, args: &FilesArgs) -> Result<u64> {
    let mark = bytes(Fill::Noise(seed * 1_000_000), MARK);
    let file = File::open(image.path())?;
    let mut at = 0;
    // Holes are skipped: the disk is much larger than what it holds.
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data))?;
        let mut block = vec![0; MARK];
        for place in (data..end).step_by(MARK) {
            file.read_exact_at(&mut block, place)?;
            if block == mark {
                return Ok(place);
            }
        }
        at = end;
    }
    anyhow::bail!("the large file of {} MiB is nowhere on the disk", args.large)
}

/// What REST gives of one disk beside its peer; answers with the peer's times for the large file, hot.
fn measure(
    site: &Site,
    backup: &str,
    disk: usize,
    subject: &Subject,
    image: &Image,
    args: &FilesArgs,
) -> Result<Vec<Duration>> {
    let rest = site.rest();
    let (mut mounts, mut first, mut many, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cold, mut hot, mut peer_cold, mut peer_hot) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut peer_many, mut peer_sent) = (Vec::new(), Vec::new());
    let mut memory = 0;
    for _ in 0..args.rounds {
        drop_caches()?;
        let body = json!({ "backup_id": backup, "disk_index": disk });
        let (mounted, took) = timed(|| rest.post("/api/v1/restore/mount", &body)?.expect(201))?;
        mounts.push(took);
        let mount = mounted["mount_id"].as_str().context("a mount_id")?.to_owned();
        let path = mounted["partitions"][0]["path"].as_str().context("a path")?.to_owned();
        first.push(timed(|| list(&rest, &mount, &path))?.1);
        for times in [&mut many, &mut again] {
            let (listed, took) = timed(|| list(&rest, &mount, &format!("{path}/many")))?;
            ensure!(listed > args.files * 100, "a listing of {listed} bytes");
            times.push(took);
        }
        drop_caches()?;
        for times in [&mut cold, &mut hot] {
            times.push(timed(|| download(&rest, &mount, &format!("{path}/large"), args.large * MIB))?.1);
        }
        let shown: Value = rest.get("/api/v1/restore/mounts")?.expect(200)?;
        memory = memory.max(shown["mounts"][0]["memory_bytes"].as_u64().context("memory_bytes")?);
        rest.delete(&format!("/api/v1/restore/{mount}"))?.expect(204)?;
        drop_caches()?;
        let peer = image.mounted(subject.mount.0, subject.mount.1);
        let (listed, took) = timed(|| stat_all(&peer.folder().join("many")))?;
        ensure!(listed == args.files, "the peer listed {listed} files");
        peer_many.push(took);
        for times in [&mut peer_cold, &mut peer_hot] {
            times.push(timed(|| read(File::open(peer.folder().join("large"))?))?.1);
        }
        peer_sent.push(timed(|| sent(&peer.folder().join("large")))?.1);
    }
    let name = subject.name;
    row(&format!("{name}: mount"), &mounts, None);
    row(&format!("{name}: first listing"), &first, None);
    row(&format!("{name}: listing of {} files", args.files), &many, Some(&peer_many));
    row(&format!("{name}: the same again"), &again, None);
    row(&format!("{name}: {} MiB, cold", args.large), &cold, Some(&peer_cold));
    row(&format!("{name}: {} MiB, hot", args.large), &hot, Some(&peer_hot));
    row(&format!("{name}: the peer's file through a socket, hot"), &peer_sent, Some(&peer_hot));
    println!("| {name}: memory of the mount | {} MiB | | |", memory / MIB);
    Ok(peer_hot)
}

fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace(' ', "%20").replace('&', "%26").replace('#', "%23")
}

fn list(rest: &Rest, mount: &str, path: &str) -> Result<u64> {
    rest.pull(&format!("/api/v1/restore/{mount}/files?path={}", escaped(path)), &mut vec![0; PIECE])
}

fn download(rest: &Rest, mount: &str, path: &str, size: u64) -> Result<()> {
    let route = format!("/api/v1/restore/{mount}/download?path={}", escaped(path));
    let read = rest.pull(&route, &mut vec![0; PIECE])?;
    ensure!(read == size, "{read} bytes of {size}");
    Ok(())
}

/// Looks at everything in a folder, as a listing with sizes and times does; how many there are.
fn stat_all(folder: &Path) -> Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        entry?.metadata()?;
        count += 1;
    }
    Ok(count)
}

/// Has the kernel send a file through a socket and takes it there, as a client of the fastest server would.
fn sent(path: &Path) -> Result<u64> {
    let (listener, file) = (TcpListener::bind(("127.0.0.1", 0))?, File::open(path)?);
    let (address, size) = (listener.local_addr()?, file.metadata()?.len());
    let sender = thread::spawn(move || {
        let (socket, _) = listener.accept()?;
        let mut at = 0;
        while at < size && rustix::fs::sendfile(&socket, &file, Some(&mut at), SENT)? > 0 {}
        Ok::<_, std::io::Error>(())
    });
    let taken = read(TcpStream::connect(address)?)?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    ensure!(taken == size, "{taken} bytes of {size} came through");
    Ok(taken)
}

/// Takes all there is, and says how much that was.
fn read(mut from: impl Read) -> Result<u64> {
    let (mut piece, mut sum) = (vec![0; PIECE], 0);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(sum),
            count => sum += count as u64,
        }
    }
}

/// Forgets what was read of files; only root may.
fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache, which needs root")
}

fn timed<T>(mut work: impl FnMut() -> Result<T>) -> Result<(T, Duration)> {
    let started = Instant::now();
    let done = work()?;
    Ok((done, started.elapsed()))
}

fn row(what: &str, times: &[Duration], peer: Option<&[Duration]>) {
    let ms = |times: &[Duration]| {
        let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let own = ms(times);
    let middle = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    let beside = peer.map_or(String::new(), |peer| {
        let peer = middle(&ms(peer));
        format!("{:.2} times its {peer:.0} ms", middle(&own) / peer)
    });
    let (least, most) = (own.first().copied().unwrap_or(0.0), own.last().copied().unwrap_or(0.0));
    println!("| {what} | {:.0} | {least:.0}–{most:.0} | {beside} |", middle(&own));
}
