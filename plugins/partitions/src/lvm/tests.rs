//! Volume groups of the real tools, read back.

mod lab;
mod made;

use std::collections::HashMap;

use tidemark_plugin::guest_filesystem::Mapped;

use super::budget::Budget;
use super::group::Group;
use super::mapping::{Mapper, Place};
use super::zeros::Zeros;
use crate::bytes::Bytes;
use crate::extents::Map;
use lab::{Lab, Random, Seen, noise};

const MIB: u64 = 1 << 20;
/// Where the partition of the first disk begins.
const PARTITION: u64 = 2 * MIB;
const SMALL: &str = "--metadatasize 60k --dataalignment 64k";

/// One partition of LVM2 that takes the rest of the disk.
fn partitioned(lab: &Lab) {
    let disk = &lab.disks[0];
    let mut entry = vec![0, 0, 0, 0, 0x8e, 0, 0, 0];
    entry.extend(u32::try_from(PARTITION / 512).unwrap().to_le_bytes());
    entry.extend(u32::try_from((disk.size() - PARTITION) / 512).unwrap().to_le_bytes());
    disk.write(446, &entry);
    disk.write(510, &[0x55, 0xaa]);
}

/// A group over a partition and two disks.
fn three() -> Lab {
    let lab = Lab::new(&[(24 * MIB, PARTITION), (16 * MIB, 0), (16 * MIB, 0)]);
    partitioned(&lab);
    lab.all(
        "pvcreate -q @0 @1 @2
         vgcreate -q --setautoactivation n -s 64k vg0 @0 @1 @2
         lvcreate -q -an -Zn -Wn -l 30 -n home vg0 @0
         lvcreate -q -an -Zn -Wn -l 20 -n my-data vg0 @0
         lvextend -q -l 60 vg0/home @0
         lvextend -q -l 100 vg0/home @2
         lvcreate -q -an -Zn -Wn -l 40 -i 2 -I 4k -n two vg0 @0 @1
         lvcreate -q -an -Zn -Wn -l 45 -i 3 -I 64k -n three vg0
         lvextend -q -l 75 vg0/three
         lvcreate -q -an -Zn -Wn -l 42 --type raid0 -i 3 -I 16k -n zero vg0
         lvcreate -q -an -Zn -Wn -l 10 -n last vg0 @2",
    );
    lab
}

#[test]
fn volumes_over_three_disks_are_what_lvm2_says() {
    let lab = three();
    let ext4 = {
        let image = tidemark_fs_testing::Image::new(100 * 65536);
        image.run("mkfs.ext4", "-q -b 1024");
        image.bytes(0, 100 * 65536)
    };
    let home = lab.lies("vg0/home");
    assert_eq!(home.len(), 3, "it lies in three pieces");
    lab.fill(&home, &ext4);
    let mut wanted = vec![("Volume vg0-home", ext4)];
    for (name, volume) in [
        ("Volume vg0-my--data", "vg0/my-data"),
        ("Volume vg0-two", "vg0/two"),
        ("Volume vg0-three", "vg0/three"),
        ("Volume vg0-last", "vg0/last"),
    ] {
        wanted.push((name, lab.noise(volume)));
    }
    let (zero, images) =
        (noise(42 * 65536, 5), [0, 1, 2].map(|image| lab.lies(&format!("vg0/zero_rimage_{image}"))));
    for (image, lies) in images.iter().enumerate() {
        let own: Vec<u8> = zero.chunks(16 << 10).skip(image).step_by(3).flatten().copied().collect();
        lab.fill(lies, &own);
    }
    wanted.push(("Volume vg0-zero", zero));
    let seen = lab.scan();
    assert_eq!(seen.complaints, Vec::<String>::new());
    assert_eq!(
        seen.names(),
        [
            "Partition 1",
            "Disk",
            "Disk",
            "Volume vg0-home",
            "Volume vg0-my--data",
            "Volume vg0-two",
            "Volume vg0-three",
            "Volume vg0-zero",
            "Volume vg0-last"
        ]
    );
    for place in 0..3 {
        assert_eq!(seen.volumes[place].content, "LVM2 physical volume of volume group vg0");
    }
    for (name, bytes) in &wanted {
        assert!(seen.bytes(&lab.disks, name) == *bytes, "{name}");
    }
    assert_eq!((seen.content("Volume vg0-home"), seen.content("Volume vg0-last")), ("ext", ""));
}

#[test]
fn what_lies_on_a_missing_disk_is_told_and_the_rest_is_read() {
    let lab = three();
    let data = lab.noise("vg0/my-data");
    let id = lab.lvm("pvs --noheadings -o pv_uuid @2").trim().to_owned();
    let disks = &lab.disks[..2];
    let seen = Seen::of(disks);
    assert_eq!(seen.names().len(), 2 + 6);
    assert!(seen.bytes(disks, "Volume vg0-my--data") == data);
    assert!(!seen.volume("Volume vg0-two").extents.is_empty());
    for name in ["home", "three", "zero", "last"] {
        let volume = seen.volume(&format!("Volume vg0-{name}"));
        assert!(volume.extents.is_empty(), "{name}");
        let told = volume.content.contains(&id) && volume.content.contains("/dev/loop");
        assert!(told && volume.content.contains("on no disk of the backup"), "{}", volume.content);
    }
}

#[test]
fn groups_of_one_name_are_told_apart_and_copies_are_not_read() {
    let labs = [1, 2].map(|count| {
        let lab = Lab::new(&[(8 * MIB, 0)]);
        lab.all(&format!("pvcreate -q {SMALL} @0\nvgcreate -q --setautoactivation n -s 64k vg-0 @0"));
        lab.create("vg-0", "root", count);
        lab
    });
    let ids = [0, 1].map(|place| labs[place].lvm("vgs --noheadings -o vg_uuid").trim()[..6].to_owned());
    let bytes = [0, 1].map(|place| labs[place].noise("vg-0/root"));
    let disks: Vec<Vec<u8>> = labs.iter().map(|lab| lab.disks[0].bytes(0, 8 << 20)).collect();
    let seen = Seen::of(&disks);
    assert_eq!(seen.names().len(), 4);
    for place in [0, 1] {
        assert!(seen.bytes(&disks, &format!("Volume vg--0@{}-root", ids[place])) == bytes[place]);
        let group = format!("LVM2 physical volume of volume group vg--0@{}", ids[place]);
        assert_eq!(seen.volumes[place].content, group);
    }
    let copies = [disks[0].clone(), disks[0].clone()];
    let seen = Seen::of(&copies);
    assert_eq!(seen.names(), ["Disk", "Disk", "Volume vg--0-root"]);
    assert!(seen.content("Volume vg--0-root").contains("there more than once"));
    assert!(seen.complaints[0].contains("is there twice"));
}

#[test]
fn labels_and_areas_may_lie_elsewhere_and_the_newest_text_counts() {
    let lab = Lab::new(&[(8 * MIB, 0), (8 * MIB, 0), (8 * MIB, 0)]);
    lab.all(&format!(
        "pvcreate -q {SMALL} --labelsector 3 @0
         pvcreate -q {SMALL} --metadatacopies 2 @1
         pvcreate -q {SMALL} --metadatacopies 0 @2
         vgcreate -q --setautoactivation n -s 64k vg0 @0 @1 @2
         lvcreate -q -an -Zn -Wn -l 5 -n one vg0 @2"
    ));
    let one = lab.noise("vg0/one");
    let old = lab.disks[0].bytes(0, 64 << 10);
    // Until the text of the first area goes on at the area's beginning.
    let wraps = |lab: &Lab| {
        let header = lab.disks[1].bytes(4096, 512);
        let at = |place: usize| u64::from_le_bytes(*header[place..].first_chunk().unwrap());
        at(40) + at(48) > at(32)
    };
    let mut changes = 0;
    while !wraps(&lab) {
        changes += 1;
        assert!(changes < 200, "the area never ends");
        let tag = "t".repeat(900);
        let command = if changes % 2 == 1 { "--addtag" } else { "--deltag" };
        lab.lvm(&format!("lvchange -q {command} {tag} vg0/one"));
    }
    let disks: Vec<Vec<u8>> = lab.disks.iter().map(|disk| disk.bytes(0, 8 << 20)).collect();
    let seen = Seen::of(&disks);
    assert_eq!(seen.names(), ["Disk", "Disk", "Disk", "Volume vg0-one"]);
    assert!(seen.bytes(&disks, "Volume vg0-one") == one);
    assert_eq!(seen.volumes[2].content, "LVM2 physical volume of volume group vg0");
    // The second area stands in for the first, on that disk alone.
    let mut alone = vec![disks[1].clone(), disks[2].clone()];
    alone[0][4096 + 100] ^= 1;
    let seen = Seen::of(&alone);
    assert!(seen.complaints[0].contains("checksum of its header"), "{:?}", seen.complaints);
    assert!(seen.bytes(&alone, "Volume vg0-one") == one);
    // A member that missed the last changes is outvoted.
    lab.all("lvextend -q -l 9 vg0/one @1\nlvcreate -q -an -Zn -Wn -l 3 -n two vg0");
    lab.disks[0].write(0, &old);
    let seen = lab.scan();
    assert_eq!(seen.names(), ["Disk", "Disk", "Disk", "Volume vg0-one", "Volume vg0-two"]);
    assert_eq!(seen.volume("Volume vg0-one").size_bytes, 9 * 65536);
}

/// A small group of one disk, in memory.
fn small() -> Vec<Vec<u8>> {
    let lab = Lab::new(&[(2 * MIB, 0), (2 * MIB, 0)]);
    lab.all(&format!("pvcreate -q {SMALL} @0 @1\nvgcreate -q --setautoactivation n -s 4k vg0 @0 @1"));
    lab.create("vg0", "root", 3);
    lab.create("vg0", "swap", 2);
    lab.all("lvextend -q -l 5 vg0/root\nlvcreate -q -an -Zn -Wn -l 8 -i 2 -I 4k -n striped vg0");
    lab.disks.iter().map(|disk| disk.bytes(0, 2 << 20)).collect()
}

#[test]
fn damage_leaves_the_physical_volume_and_a_word() {
    let whole = &small()[..1];
    let at = |place: usize| u64::from_le_bytes(*whole[0][4096 + place..].first_chunk().unwrap());
    let text = usize::try_from(4096 + at(40)).unwrap();
    for (place, words) in [
        (512 + 32, "the label of a physical volume: its checksum is wrong"),
        (4096 + 60, "metadata of a volume group: the checksum of its header is wrong"),
        (text + 20, "metadata of a volume group: the checksum of its text is wrong"),
    ] {
        let mut disks = whole.to_vec();
        disks[0][place] ^= 4;
        let seen = Seen::of(&disks);
        assert_eq!(seen.names(), ["Disk"], "{words}");
        assert_eq!(seen.volumes[0].content, "LVM2 physical volume");
        assert!(seen.complaints.len() == 1 && seen.complaints[0].contains(words), "{:?}", seen.complaints);
    }
    // With the other disk at hand its text is used.
    let mut disks = small();
    disks[0][text + 20] ^= 4;
    let seen = Seen::of(&disks);
    assert_eq!((seen.names().len(), seen.complaints.len()), (5, 1));
}

/// Puts the checksums right again, so that damage reaches what lies behind them.
fn sealed(disk: &mut [u8]) {
    let checksum = crate::checksum::lvm(&disk[512 + 20..1024]);
    disk[512 + 16..512 + 20].copy_from_slice(&checksum.to_le_bytes());
    let at = |disk: &[u8], place: usize| u64::from_le_bytes(*disk[place..].first_chunk().unwrap());
    let (offset, length) = (at(disk, 4096 + 40), at(disk, 4096 + 48));
    let text = usize::try_from(offset).ok().and_then(|offset| Some((offset, usize::try_from(length).ok()?)));
    if let Some((offset, length)) = text
        && let Some(text) =
            offset.checked_add(length).and_then(|end| disk.get(4096 + offset..end.checked_add(4096)?))
    {
        let checksum = crate::checksum::lvm(text);
        disk[4096 + 56..4096 + 60].copy_from_slice(&checksum.to_le_bytes());
    }
    let checksum = crate::checksum::lvm(&disk[4096 + 4..4096 + 512]);
    disk[4096..4096 + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn no_damage_leads_beyond_a_disk() {
    let mut disks = small();
    let whole = disks.clone();
    let read = |place: usize| u64::from_le_bytes(*whole[0][4096 + place..].first_chunk().unwrap());
    let text =
        usize::try_from(4096 + read(40)).unwrap()..usize::try_from(4096 + read(40) + read(48)).unwrap();
    let (mut random, mut read_all, mut refused, mut none) = (Random(77), 0, 0, 0);
    for round in 0..10_000 {
        for _ in 0..=random.below(3) {
            let place = match random.below(8) {
                0 => 512 + random.below(200),
                1 => 4096 + random.below(100),
                _ => text.start + random.below(text.len()),
            };
            // Numbers stay numbers mostly, and letters become what separates.
            let old = disks[0][place];
            disks[0][place] = match random.below(4) {
                0 => random.next().to_le_bytes()[0],
                1 => b"{}[]=\"# ,\n\\-"[random.below(12)],
                _ if old.is_ascii_digit() => b"0123456789"[random.below(10)],
                _ => old ^ (1 << random.below(8)),
            };
        }
        if round % 4 > 0 {
            sealed(&mut disks[0]);
        }
        // One of two disks where the other knows better, one alone where it does not.
        let seen = Seen::of(&disks[..1 + usize::from(round % 8 == 0)]);
        let logical = seen.volumes.iter().filter(|volume| volume.name.starts_with("Volume "));
        match logical.map(|volume| !volume.extents.is_empty()).reduce(|a, b| a || b) {
            Some(true) => read_all += 1,
            Some(false) => refused += 1,
            None => none += 1,
        }
        disks[0][..128 << 10].copy_from_slice(&whole[0][..128 << 10]);
    }
    assert!(read_all > 2000 && none > 2000 && refused > 0, "{read_all} {refused} {none}");
}

/// A disk of any size that is all zeros.
struct Hollow(u64);

impl Bytes for Hollow {
    fn size(&self) -> u64 {
        self.0
    }

    fn read(&self, _: u64, length: u32) -> tidemark_plugin::Result<Vec<u8>> {
        Ok(vec![0; length as usize])
    }
}

/// A group of one disk from its text alone, and where a volume of it lies.
fn mapped(disk: u64, volume: &str) -> Result<Map, String> {
    let id = "0123456789abcdef0123456789abcdef";
    let text = format!(
        "contents = \"Text Format Volume Group\"\nversion = 1\nvg {{ id = \"{id}\" seqno = 1 extent_size = 8\n\
         physical_volumes {{ pv0 {{ id = \"{id}\" pe_start = 0 pe_count = {} }} }} logical_volumes {{ {volume} }} }}",
        disk / 4096
    );
    let group = Group::parse(&text).map_err(|error| error.message)?;
    let run = Mapped { disk_index: 0, offset: 0, length: disk };
    let places = HashMap::from([(id.to_owned(), Place::At(Map::of(run)))]);
    let (budget, zeros) = (Budget::default(), Zeros::new(Vec::new()));
    let mapper =
        Mapper { disks: &[Hollow(disk)], places: &places, group: &group, budget: &budget, zeros: &zeros };
    mapper.map(group.logical("v").unwrap(), 0).map_err(|error| error.message)
}

fn logical(name: &str, extents: u64, segment: &str) -> String {
    format!(
        "{name} {{ id = \"{name}\" status = [\"VISIBLE\"] segment_count = 1\n\
         segment1 {{ start_extent = 0 extent_count = {extents} {segment} }} }}\n"
    )
}

#[test]
fn pieces_are_bounded_and_circles_end() {
    let stripes = |count: u64| {
        let segment = r#"type = "striped" stripe_size = 8 stripes = ["pv0", 0, "pv0", 500000]"#;
        mapped(4 << 30, &logical("v", count, segment))
    };
    assert_eq!(stripes(1_000_000).unwrap().count(), 1_000_000);
    assert!(stripes(1_000_002).unwrap_err().contains("more pieces than can be kept in mind"));
    let on = |name: &str| format!(r#"type = "striped" stripes = ["{name}", 0]"#);
    let circle = logical("v", 1, &on("w")) + &logical("w", 1, &on("v"));
    assert!(mapped(1 << 20, &circle).unwrap_err().contains("without an end"));
    // Each of eight volumes is made of a hundred times the next one.
    let many = |next: &str| {
        let parts: String = (1..=100)
            .map(|part| {
                let start = part - 1;
                let area = on(next);
                format!("segment{part} {{ start_extent = {start} extent_count = 1 {area} }}\n")
            })
            .collect();
        format!("id = \"x\" status = [] segment_count = 100 {parts}")
    };
    let mut tower = format!("v {{ {} }} ", many("v1"));
    for level in 1..8 {
        tower += &format!("v{level} {{ {} }} ", many(&format!("v{}", level + 1)));
    }
    tower += &logical("v8", 1, &on("pv0"));
    let error = mapped(1 << 20, &tower).unwrap_err();
    assert!(error.contains("more parts than can be looked at") || error.contains("more pieces"), "{error}");
    for (segment, words) in [
        (
            r#"type = "striped" stripes = ["pv0", 256]"#,
            "leads beyond the end of physical volume 012345-6789-abcd-",
        ),
        (r#"type = "striped" stripes = ["pv9", 0]"#, "which there is not"),
        (r#"type = "striped" stripes = ["pv0", 9223372036854775807]"#, "extents"),
        (r#"type = "striped" stripe_size = 0 stripes = ["pv0", 0, "pv0", 9]"#, "stripes of 0 bytes"),
        (r#"type = "thin""#, "the metadata lacks the text 'thin_pool'"),
        (r#"type = "striped" stripes = "pv0""#, "the metadata lacks the places 'stripes'"),
        (r#"type = "raid5_ls" raids = []"#, "LVM2 raid5_ls volume, which is not read"),
        (r#"type = "cache+METADATA_FORMAT""#, "LVM2 cache+METADATA_FORMAT volume, which is not read"),
    ] {
        let error = mapped(1 << 20, &logical("v", 2, segment)).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
