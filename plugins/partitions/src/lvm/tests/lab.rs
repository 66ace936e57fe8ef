//! Disks with volume groups that lvm2 makes, without the kernel's device mapper: what lies in a volume is written where lvm2's
//! reports say that it lies.

use tidemark_fs_testing::{Image, Looped, run_as_root};
use tidemark_plugin::Result;
use tidemark_plugin::guest_filesystem::{FoundVolume, Mapped};

use crate::bytes::Bytes;
use crate::extents::{Map, View};

/// Nothing of the machine's own is looked at, kept or activated.
const CONFIG: &str = "activation=0 use_lvmlockd=0 use_lvmpolld=0";
const DEVICES: &str = "use_devicesfile=0 scan=\"/dev\" hints=\"none\" obtain_device_list_from_udev=0 \
                       external_device_info_source=\"none\"";

impl Bytes for Image {
    fn size(&self) -> u64 {
        Image::size(self)
    }

    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        Ok(self.bytes(offset, length as usize))
    }
}

/// Disks with physical volumes of lvm2. The loop devices are gone when this is dropped.
pub(crate) struct Lab {
    pub(crate) disks: Vec<Image>,
    loops: Vec<Looped>,
    /// Where the physical volume of each disk begins.
    starts: Vec<u64>,
    home: tempfile::TempDir,
}

/// Bytes of a segment of a volume: how long, in stripes of how much, and its areas as disk, place and length.
#[derive(Debug)]
pub(crate) struct Lies {
    start: usize,
    length: usize,
    stripe: usize,
    areas: Vec<(usize, u64)>,
}

impl Lies {
    /// The disk and place of its first byte.
    pub(crate) fn place(&self) -> (usize, usize) {
        let (disk, place) = self.areas[0];
        (disk, usize::try_from(place).unwrap())
    }
}

impl Lab {
    /// Disks of so many bytes; a physical volume begins where it is said.
    pub(crate) fn new(disks: &[(u64, u64)]) -> Self {
        let starts = disks.iter().map(|(_, start)| *start).collect();
        let disks: Vec<Image> = disks.iter().map(|(size, _)| Image::new(*size)).collect();
        let mut lab = Self { disks, loops: Vec::new(), starts, home: tempfile::tempdir().unwrap() };
        lab.loops = lab.disks.iter().zip(&lab.starts).map(|(disk, start)| disk.looped(*start, 0)).collect();
        lab
    }

    /// Runs a command of lvm2; `@0` is the first disk's physical volume.
    pub(crate) fn lvm(&self, command: &str) -> String {
        let accepted: Vec<String> =
            self.loops.iter().map(|device| format!("\"a|^{}$|\"", device.device().display())).collect();
        let home = self.home.path().display();
        let config = format!(
            "global{{{CONFIG} locking_dir=\"{home}\"}} backup{{backup=0 archive=0}} \
             devices{{{DEVICES} filter=[{}, \"r|.*|\"]}}",
            accepted.join(", ")
        );
        let mut arguments =
            vec![format!("LVM_SYSTEM_DIR={home}"), "LVM_SUPPRESS_FD_WARNINGS=1".to_owned(), "lvm".to_owned()];
        arguments.extend(command.split_whitespace().map(|word| match word.strip_prefix('@') {
            Some(disk) => self.loops[disk.parse::<usize>().unwrap()].device().display().to_string(),
            None => word.to_owned(),
        }));
        arguments.extend(["--config".to_owned(), config]);
        run_as_root("env", arguments.iter().map(String::as_str))
    }

    /// Runs commands, one a line.
    pub(crate) fn all(&self, commands: &str) {
        for command in commands.lines().map(str::trim).filter(|command| !command.is_empty()) {
            self.lvm(command);
        }
    }

    /// A linear volume of so many extents.
    pub(crate) fn create(&self, group: &str, name: &str, extents: u32) {
        self.lvm(&format!("lvcreate -q -an -Zn -Wn -l {extents} -n {name} {group}"));
    }

    /// Lets lvm2 check and take over a changed text of a group's metadata.
    pub(crate) fn rewrite(&self, group: &str, change: impl FnOnce(String) -> String) {
        let file = self.home.path().join("metadata");
        self.lvm(&format!("vgcfgbackup -f {} {group}", file.display()));
        let path = file.display().to_string();
        let text = run_as_root("cat", [path.as_str()]);
        let changed = self.home.path().join("changed");
        std::fs::write(&changed, change(text)).unwrap();
        self.lvm(&format!("vgcfgrestore --force -f {} {group}", changed.display()));
    }

    /// Where a volume lies, as lvm2 reports it.
    pub(crate) fn lies(&self, volume: &str) -> Vec<Lies> {
        let numbers = |text: &str| text.trim().parse::<u64>().unwrap();
        let report =
            |what: &str| self.lvm(&format!("{what} --noheadings --nosuffix --units b --separator ;"));
        let physical = report("pvs -o pv_name,pe_start,vg_extent_size");
        let physical: Vec<(usize, u64, u64)> = physical
            .lines()
            .filter_map(|line| {
                let columns: Vec<&str> = line.trim().split(';').collect();
                let name = columns[0].trim();
                let disk =
                    self.loops.iter().position(|device| device.device().display().to_string() == name)?;
                Some((disk, numbers(columns[1]), numbers(columns[2])))
            })
            .collect();
        let segments =
            report(&format!("lvs -a --segments -o seg_start,seg_size,stripe_size,devices {volume}"));
        let mut lies: Vec<Lies> = segments
            .lines()
            .filter(|line| line.contains('('))
            .map(|line| {
                let columns: Vec<&str> = line.trim().split(';').collect();
                let areas = columns[3].split(',').map(|area| {
                    let (name, extent) = area.trim().trim_end_matches(')').split_once('(').unwrap();
                    let disk = self.loops.iter().position(|one| one.device().display().to_string() == name);
                    let disk = disk.unwrap_or_else(|| panic!("{name} is no disk"));
                    let (_, start, size) = physical.iter().find(|(found, ..)| *found == disk).unwrap();
                    (disk, self.starts[disk] + start + numbers(extent) * size)
                });
                let length = usize::try_from(numbers(columns[1])).unwrap();
                Lies {
                    start: usize::try_from(numbers(columns[0])).unwrap(),
                    length,
                    stripe: match usize::try_from(numbers(columns[2])).unwrap() {
                        0 => length,
                        stripe => stripe,
                    },
                    areas: areas.collect(),
                }
            })
            .collect();
        lies.sort_by_key(|lies| lies.start);
        lies
    }

    /// Writes a volume's bytes where it lies.
    pub(crate) fn fill(&self, lies: &[Lies], bytes: &[u8]) {
        for Lies { start, length, stripe, areas } in lies {
            for (number, chunk) in bytes[*start..start + length].chunks(*stripe).enumerate() {
                let (disk, place) = areas[number % areas.len()];
                self.disks[disk].write(place + (number / areas.len() * stripe) as u64, chunk);
            }
        }
    }

    /// Fills a volume with noise of its own, and gives it.
    pub(crate) fn noise(&self, volume: &str) -> Vec<u8> {
        let lies = self.lies(volume);
        let length = lies.iter().map(|lies| lies.length).sum();
        let bytes = noise(length, volume.bytes().map(u64::from).sum());
        self.fill(&lies, &bytes);
        bytes
    }

    /// What is found on all disks.
    pub(crate) fn scan(&self) -> Seen {
        Seen::of(&self.disks)
    }
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) volumes: Vec<FoundVolume>,
    pub(crate) complaints: Vec<String>,
}

impl Seen {
    pub(crate) fn of(disks: &[impl Bytes]) -> Self {
        let (volumes, complaints) = crate::volumes(disks).unwrap();
        for (volume, index) in volumes.iter().zip(0..) {
            assert_eq!(volume.index, index);
            let mut length = 0;
            for Mapped { disk_index, offset, length: run } in &volume.extents {
                let size = disks[*disk_index as usize].size();
                assert!(*run > 0 && offset.checked_add(*run).unwrap() <= size, "{}", volume.name);
                length += run;
            }
            assert_eq!(length, volume.size_bytes, "{}", volume.name);
        }
        Self { volumes, complaints }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.volumes.iter().map(|volume| volume.name.as_str()).collect()
    }

    pub(crate) fn volume(&self, name: &str) -> &FoundVolume {
        let found = self.volumes.iter().find(|volume| volume.name == name);
        found.unwrap_or_else(|| panic!("no {name} among {:?}", self.names()))
    }

    pub(crate) fn content(&self, name: &str) -> &str {
        &self.volume(name).content
    }

    /// All bytes of a volume.
    pub(crate) fn bytes(&self, disks: &[impl Bytes], name: &str) -> Vec<u8> {
        let volume = self.volume(name);
        assert!(!volume.extents.is_empty(), "{name} is not read: {}", volume.content);
        let mut map = Map::default();
        volume.extents.iter().for_each(|run| map.push(*run).unwrap());
        View { disks, map: &map }.read(0, u32::try_from(volume.size_bytes).unwrap()).unwrap()
    }
}

/// Bytes that are the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes: Vec<u8> = (0..length / 8 + 1).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// The same numbers in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}
