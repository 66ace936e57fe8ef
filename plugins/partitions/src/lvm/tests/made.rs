//! Kinds of volumes that lvm2 makes with the kernel's help only: their metadata is written here, checked and taken over by
//! lvm2 (`vgcfgrestore`), and what the kernel would keep on the disks comes from `thin_restore` or is written by hand.

use tidemark_fs_testing::run_as_root;

use super::lab::{Lab, Seen, noise};
use super::{MIB, SMALL};
use crate::checksum;

const CHUNK: usize = 64 << 10;

/// A volume becomes a part of another: it gets another name, and is not shown.
fn part(text: &str, old: &str, new: &str) -> String {
    let start = text.find(&format!("\t\t{old} {{")).unwrap();
    let end = start + text[start..].find("\n\t\t}\n").unwrap();
    let section = text[start..end].replacen(old, new, 1).replace(", \"VISIBLE\"", "");
    format!("{}{section}{}", &text[..start], &text[end..])
}

/// One more volume of one segment.
fn with(text: &str, name: &str, extents: u32, segment: &str) -> String {
    let at = text.find("logical_volumes {").unwrap() + "logical_volumes {".len();
    let mut id: String =
        name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte) } else { 'x' }).collect();
    id.extend(std::iter::repeat_n('0', 32 - id.len()));
    let id = crate::lvm::group::shown(&id);
    let volume = format!(
        "\n{name} {{\nid = \"{id}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nsegment_count = 1\n\
         segment1 {{\nstart_extent = 0\nextent_count = {extents}\n{segment}\n}}\n}}\n"
    );
    format!("{}{volume}{}", &text[..at], &text[at..])
}

/// A group of two disks.
fn two() -> Lab {
    let lab = Lab::new(&[(4 * MIB, 0), (4 * MIB, 0)]);
    lab.all(&format!("pvcreate -q {SMALL} @0 @1\nvgcreate -q --setautoactivation n -s 64k vg0 @0 @1"));
    lab
}

/// What the kernel keeps of an image of a raid1.
fn superblock(lab: &Lab, meta: &str, events: u64, failed: u64, recovered: u64) {
    let mut block = b"DmRd".to_vec();
    block.resize(16, 0);
    for number in [events, failed, recovered] {
        block.extend(number.to_le_bytes());
    }
    block.resize(4096, 0);
    let mut all = vec![0; 65536];
    all[..4096].copy_from_slice(&block);
    lab.fill(&lab.lies(meta), &all);
}

#[test]
fn of_raid1_the_image_that_is_whole_is_read() {
    let lab = two();
    for (name, extents) in [("a", 8), ("b", 1), ("c", 8), ("d", 1)] {
        lab.create("vg0", name, extents);
    }
    lab.rewrite("vg0", |text| {
        let parts = [("a", "m_rimage_0"), ("b", "m_rmeta_0"), ("c", "m_rimage_1"), ("d", "m_rmeta_1")];
        let text = parts.iter().fold(text, |text, (old, new)| part(&text, old, new));
        let raids = "raids = [\"m_rmeta_0\", \"m_rimage_0\", \"m_rmeta_1\", \"m_rimage_1\"]";
        with(&text, "m", 8, &format!("type = \"raid1\"\ndevice_count = 2\nregion_size = 64\n{raids}"))
    });
    let bytes = ["m_rimage_0", "m_rimage_1"].map(|image| lab.noise(&format!("vg0/{image}")));
    let read = || {
        let seen = lab.scan();
        assert_eq!(seen.names(), ["Disk", "Disk", "Volume vg0-m"]);
        if seen.volumes[2].extents.is_empty() {
            assert!(seen.volumes[2].content.contains("without an image that is known to be whole"));
            return None;
        }
        let read = seen.bytes(&lab.disks, "Volume vg0-m");
        bytes.iter().position(|image| *image == read)
    };
    assert_eq!(read(), Some(0), "never used");
    for (first, second, which) in [
        ((5, 0, u64::MAX), (5, 0, u64::MAX), Some(0)),
        ((5, 0, 4096), (5, 0, u64::MAX), Some(1)),
        ((4, 0, u64::MAX), (5, 0, u64::MAX), Some(1)),
        ((5, 0, u64::MAX), (5, 1, u64::MAX), Some(1)),
        ((4, 0, u64::MAX), (5, 0, 0), None),
    ] {
        superblock(&lab, "vg0/m_rmeta_0", first.0, first.1, first.2);
        superblock(&lab, "vg0/m_rmeta_1", second.0, second.1, second.2);
        assert_eq!(read(), which, "{first:?} {second:?}");
    }
}

#[test]
fn mirrors_are_read_and_what_is_not_is_named() {
    let lab = two();
    for name in ["a", "b", "origin", "kept", "into", "merged", "c", "d", "e", "f"] {
        lab.create("vg0", name, 4);
    }
    lab.rewrite("vg0", |text| {
        let parts = [("a", "m_mimage_0"), ("b", "m_mimage_1")];
        let text = parts.iter().fold(text, |text, (old, new)| part(&text, old, new));
        let parts = [("c", "z_rmeta_0"), ("d", "z_rimage_0"), ("e", "z_rmeta_1"), ("f", "z_rimage_1")];
        let text = parts.iter().fold(text, |text, (old, new)| part(&text, old, new));
        let raids = "raids = [\"z_rmeta_0\", \"z_rimage_0\", \"z_rmeta_1\", \"z_rimage_1\"]";
        let striped = format!("type = \"raid0_meta\"\nstripe_count = 2\nstripe_size = 128\n{raids}");
        let text = with(&text, "z", 8, &striped);
        let mirrors = "mirrors = [\"m_mimage_0\", 0, \"m_mimage_1\", 0]";
        let text = with(
            &text,
            "m",
            4,
            &format!("type = \"mirror\"\nmirror_count = 2\nregion_size = 128\n{mirrors}"),
        );
        let snapshot = |origin: &str, store: &str| {
            format!("type = \"snapshot\"\nchunk_size = 8\norigin = \"{origin}\"\n{store}")
        };
        let text = with(&text, "snapshot0", 4, &snapshot("origin", "cow_store = \"kept\""));
        let text = with(&text, "snapshot1", 4, &snapshot("into", "merging_store = \"merged\""));
        with(&text, "gone", 4, "type = \"error\"")
    });
    let (mirror, origin) = (lab.noise("vg0/m_mimage_0"), lab.noise("vg0/origin"));
    let images = ["z_rimage_0", "z_rimage_1"].map(|image| lab.noise(&format!("vg0/{image}")));
    let striped: Vec<u8> =
        (0..8).flat_map(|chunk| images[chunk % 2].chunks(CHUNK).nth(chunk / 2).unwrap().to_vec()).collect();
    let seen = lab.scan();
    assert!(seen.bytes(&lab.disks, "Volume vg0-z") == striped);
    let mut names = seen.names().split_off(2);
    names.sort_unstable();
    let wanted = ["gone", "into", "kept", "m", "merged", "origin", "z"];
    assert_eq!(names, wanted.map(|name| format!("Volume vg0-{name}")));
    assert!(seen.bytes(&lab.disks, "Volume vg0-m") == mirror);
    assert!(seen.bytes(&lab.disks, "Volume vg0-origin") == origin);
    for (name, content) in [
        ("kept", "LVM2 snapshot of origin, which is not read"),
        ("into", "LVM2 volume into which a snapshot is being merged, which is not read"),
        ("merged", "LVM2 snapshot of into, which is not read"),
        ("gone", "LVM2 error volume, which is not read"),
    ] {
        let volume = seen.volume(&format!("Volume vg0-{name}"));
        assert_eq!((volume.content.as_str(), volume.extents.len(), volume.size_bytes), (content, 0, 0));
    }
}

/// A pool of 40 chunks with three devices; the mappings are device, first chunk, first chunk of the data, and how many.
const MAPPINGS: [(u64, u64, u64, u64); 8] = [
    (1, 0, 3, 4),
    (1, 7, 0, 1),
    (1, 8, 1, 1),
    (1, 400, 20, 2),
    (7, 2, 3, 1),
    (7, 3, 9, 1),
    (7, 4, 8, 1),
    (7, 5, 10, 2),
];

fn pool() -> (Lab, Vec<u8>) {
    let lab = two();
    lab.all(
        "lvcreate -q -an -Zn -Wn -l 16 -n a vg0
         lvcreate -q -an -Zn -Wn -l 40 -i 2 -I 4k -n b vg0",
    );
    lab.rewrite("vg0", |text| {
        let text = part(&part(&text, "a", "pool_tmeta"), "b", "pool_tdata");
        let text = with(
            &text,
            "pool",
            40,
            "type = \"thin-pool\"\nmetadata = \"pool_tmeta\"\npool = \"pool_tdata\"\ntransaction_id = 3\n\
             chunk_size = 128\ndiscards = \"passdown\"\nzero_new_blocks = 1",
        );
        // The last chunk of `one` is cut, and it has chunks beyond its end.
        let thin =
            |id: u32| format!("type = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\ndevice_id = {id}");
        let text = with(&text, "one", 401, &thin(1));
        let text = with(&text, "seven", 6, &thin(7));
        with(&text, "empty", 5, &thin(8))
    });
    let mut xml = "<superblock uuid=\"\" time=\"1\" transaction=\"3\" flags=\"0\" version=\"2\" data_block_size=\"128\" \
                   nr_data_blocks=\"40\">\n"
        .to_owned();
    for device in [1, 7, 8] {
        let own = || MAPPINGS.iter().filter(|(of, ..)| *of == device);
        let count: u64 = own().map(|(.., count)| count).sum();
        xml += &format!(
            "<device dev_id=\"{device}\" mapped_blocks=\"{count}\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">\n"
        );
        for (_, origin, data, length) in own() {
            xml += &format!(
                "<range_mapping origin_begin=\"{origin}\" data_begin=\"{data}\" length=\"{length}\" time=\"1\"/>\n"
            );
        }
        xml += "</device>\n";
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("xml"), xml + "</superblock>\n").unwrap();
    std::fs::write(path("metadata"), vec![0; 1 << 20]).unwrap();
    run_as_root("thin_restore", ["-i", &path("xml"), "-o", &path("metadata")]);
    lab.fill(&lab.lies("vg0/pool_tmeta"), &std::fs::read(path("metadata")).unwrap());
    let mut data = noise(40 * CHUNK, 11);
    // A chunk that is all zeros does not matter.
    data[8 * CHUNK..9 * CHUNK].fill(0);
    lab.fill(&lab.lies("vg0/pool_tdata"), &data);
    (lab, data)
}

fn thin(device: u64, chunks: usize, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; chunks * CHUNK];
    for (of, origin, from, count) in MAPPINGS {
        for number in (0..count).filter(|_| of == device) {
            let at = |chunk: u64| usize::try_from(chunk + number).unwrap() * CHUNK;
            if let Some(into) = bytes.get_mut(at(origin)..at(origin) + CHUNK) {
                into.copy_from_slice(&data[at(from)..at(from) + CHUNK]);
            }
        }
    }
    bytes
}

#[test]
fn thin_volumes_are_read_with_their_holes() {
    let (lab, data) = pool();
    let seen = lab.scan();
    assert_eq!(seen.complaints, Vec::<String>::new());
    let mut names = seen.names().split_off(2);
    names.sort_unstable();
    assert_eq!(names, ["Volume vg0-empty", "Volume vg0-one", "Volume vg0-seven"]);
    for (name, device, chunks) in [("one", 1, 401), ("seven", 7, 6), ("empty", 8, 5)] {
        let read = seen.bytes(&lab.disks, &format!("Volume vg0-{name}"));
        assert!(read == thin(device, chunks, &data), "{name}");
    }
    // Without any zeros at hand a volume with holes is refused, and one without is read.
    let end = 3 * MIB;
    for disk in &lab.disks {
        for place in (end..disk.size()).step_by(4096) {
            disk.write(place, b"x");
        }
    }
    let seen = lab.scan();
    assert!(
        seen.content("Volume vg0-one").contains("parts that were never written, and no stretch of zeros")
    );
}

#[test]
fn damage_of_a_pool_is_told() {
    let (lab, data) = pool();
    let lies = lab.lies("vg0/pool_tmeta");
    let disks: Vec<Vec<u8>> = lab.disks.iter().map(|disk| disk.bytes(0, 4 << 20)).collect();
    let (disk, at) = lies[0].place();
    // Every block that has anything in it, one after the other.
    let (mut refused, mut whole) = (0, 0);
    for block in 0..256 {
        let start = at + block * 4096;
        if disks[disk][start..start + 4096].iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut damaged = disks.clone();
        damaged[disk][start + 40] ^= 1;
        let seen = Seen::of(&damaged);
        for (name, device, chunks) in [("one", 1, 401), ("seven", 7, 6), ("empty", 8, 5)] {
            let name = format!("Volume vg0-{name}");
            if seen.volume(&name).extents.is_empty() {
                assert!(
                    seen.content(&name).starts_with("LVM2 thin volume: block "),
                    "{}",
                    seen.content(&name)
                );
                refused += 1;
            } else {
                assert!(seen.bytes(&damaged, &name) == thin(device, chunks, &data), "{name}");
                whole += 1;
            }
        }
    }
    assert!(refused >= 3 + 3 + 3 && whole > 0, "{refused} refused, {whole} whole");
    // Whatever numbers stand behind right checksums: an error, or runs inside the disks.
    let mut random = super::Random(5);
    let mut damaged = disks.clone();
    let used: Vec<usize> = (0..256)
        .map(|block| at + block * 4096)
        .filter(|start| disks[disk][*start..start + 4096].iter().any(|byte| *byte != 0))
        .collect();
    for round in 0..1000 {
        let start = used[random.below(used.len())];
        let place = start + 4 + random.below(if start == at { 400 } else { 80 });
        let value = [0, 1, 2, 0xff, 0x80, random.next().to_le_bytes()[0]][random.below(6)];
        damaged[disk][place] = value;
        let salt = if start == at { 160_774 } else { 121_107 };
        let checksum = checksum::castagnoli(&damaged[disk][start + 4..start + 4096]) ^ salt;
        damaged[disk][start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Seen::of(&damaged).names().len(), 5, "round {round}");
        if round % 3 == 2 {
            damaged[disk][at..at + (1 << 20)].copy_from_slice(&disks[disk][at..at + (1 << 20)]);
        }
    }
}
