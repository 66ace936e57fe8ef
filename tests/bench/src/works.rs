//! All that is timed, in order, and what each figure is held against.

use crate::chain::ChainPlan;
use crate::contender::Contender;
use crate::data::{DiskPlan, GIB, MIB};
use crate::sink::SinkPlan;

/// What is timed, and who does it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) subject: Subject,
    pub(crate) sink: SinkPlan,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) claims: Vec<Claim>,
}

/// What a work is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One disk.
    Disk(DiskPlan),
    /// A chain over the dense disk, which its making changes: such works come last.
    Chain {
        /// With compressed clusters.
        compressed: bool,
    },
}

/// How large everything is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) dense: DiskPlan,
    pub(crate) sparse: DiskPlan,
    /// As large as the sparse disk; its data is what has changed.
    pub(crate) listed: DiskPlan,
    /// The same amount of data on a disk as large as the dense one, and on one a thousand times larger.
    pub(crate) small: DiskPlan,
    pub(crate) huge: DiskPlan,
    /// What is moved eight times at once.
    pub(crate) many: DiskPlan,
    pub(crate) chain: ChainPlan,
}

/// A figure that is wanted.
#[derive(Debug)]
pub(crate) struct Claim {
    /// What the summary calls it.
    pub(crate) row: &'static str,
    pub(crate) ours: Contender,
    pub(crate) against: Contender,
    pub(crate) wanted: Wanted,
}

/// What is held against what.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// Their median time ÷ ours is at least this.
    TimesFaster(f64),
    /// Our result ÷ theirs is at most this.
    Size(f64),
    /// Our largest peak less theirs is at most so many MiB.
    MoreMib(f64),
}

impl Work {
    /// Its name and its place.
    pub(crate) fn title(&self) -> String {
        match self.sink {
            SinkPlan::Disk => self.name.to_owned(),
            other => format!("{}, {}", self.name, other.name()),
        }
    }

    /// Whether the result belongs beside the images of a chain.
    pub(crate) fn beside_chain(&self) -> bool {
        self.contenders.contains(&Contender::Rebase)
    }
}

impl Scale {
    /// What `--quick` takes.
    pub(crate) fn quick() -> Self {
        let disk = |size, data| DiskPlan::Scattered { size, data };
        Self {
            dense: DiskPlan::Dense { size: 64 * MIB },
            sparse: disk(GIB, 4 * MIB),
            listed: disk(GIB, 2 * MIB),
            small: disk(GIB, MIB),
            huge: disk(1024 * GIB, MIB),
            many: DiskPlan::Dense { size: 16 * MIB },
            chain: ChainPlan { layers: 5, grains: 8 },
        }
    }

    /// The published figures' data around a dense disk of so many bytes.
    pub(crate) fn full(dense: u64) -> Self {
        let disk = |size, data| DiskPlan::Scattered { size, data };
        Self {
            dense: DiskPlan::Dense { size: dense },
            sparse: disk(100 * GIB, GIB),
            listed: disk(100 * GIB, GIB / 2),
            small: disk(8 * GIB, GIB / 2),
            huge: disk(8192 * GIB, GIB / 2),
            many: DiskPlan::Dense { size: dense / 4 },
            chain: ChainPlan { layers: 29, grains: (dense / (8 * GIB / 640)).max(1) },
        }
    }

    /// The disk that a subject is about.
    pub(crate) fn disk(&self, subject: Subject) -> DiskPlan {
        match subject {
            Subject::Disk(disk) => disk,
            Subject::Chain { .. } => self.dense,
        }
    }
}

/// Everything.
pub(crate) fn all(scale: &Scale) -> Vec<Work> {
    let mut works = full(scale);
    works.extend([sparse(scale), increment(scale)]);
    works.extend(memory(scale));
    works.extend(restore());
    works.push(verify());
    works.extend([SinkPlan::Disk, SinkPlan::Reflink].map(merge));
    works
}

const PLAIN: Contender = Contender::Copy(None);
const CONVERT: Contender = Contender::Convert { compressed: false };

fn full(scale: &Scale) -> Vec<Work> {
    let subject = Subject::Disk(scale.dense);
    let compressed = Contender::Convert { compressed: true };
    let [fast, strong] = [1, 3].map(|level| Contender::Copy(Some(level)));
    vec![
        Work {
            name: "full, uncompressed",
            subject,
            sink: SinkPlan::Fast,
            contenders: vec![PLAIN, CONVERT, Contender::NbdCopy],
            claims: vec![
                faster("full, uncompressed, fast sink", PLAIN, CONVERT, 1.7),
                faster("full, the earlier pipeline, fast sink", PLAIN, Contender::NbdCopy, 2.0),
            ],
        },
        Work {
            name: "full, uncompressed",
            subject,
            sink: SinkPlan::Disk,
            contenders: vec![Contender::Idle, PLAIN, CONVERT, Contender::NbdCopy, Contender::Fio],
            claims: vec![
                faster("full, uncompressed, disk", PLAIN, CONVERT, 1.0),
                faster("full, uncompressed, disk: share of the limit", PLAIN, Contender::Fio, 0.85),
                faster("full, the earlier pipeline, disk", PLAIN, Contender::NbdCopy, 1.4),
                peak("peak memory of one disk's move", PLAIN, 48.0),
            ],
        },
        Work {
            name: "full, zstd",
            subject,
            sink: SinkPlan::Disk,
            contenders: vec![Contender::Idle, fast, strong, compressed],
            claims: vec![
                faster("full, zstd level 3", strong, compressed, 1.6),
                size("full, zstd level 3: size", strong, compressed, 1.005),
                faster("full, zstd level 1", fast, compressed, 1.8),
                size("full, zstd level 1: size", fast, compressed, 1.01),
                peak("peak memory of one disk's move, zstd level 1", fast, 48.0),
            ],
        },
    ]
}

fn sparse(scale: &Scale) -> Work {
    Work {
        name: "sparse",
        subject: Subject::Disk(scale.sparse),
        sink: SinkPlan::Disk,
        contenders: vec![PLAIN, CONVERT, Contender::NbdCopy],
        claims: vec![
            faster("100 GiB sparse", PLAIN, CONVERT, 3.0),
            faster("100 GiB sparse", PLAIN, Contender::NbdCopy, 2.5),
        ],
    }
}

fn increment(scale: &Scale) -> Work {
    let (ours, zstd) = (Contender::Increment(None), Contender::Increment(Some(1)));
    let [one, many] = [1, 16].map(|in_flight| Contender::ListLoop { in_flight });
    Work {
        name: "incremental from a list",
        subject: Subject::Disk(scale.listed),
        sink: SinkPlan::Disk,
        contenders: vec![ours, zstd, one, many],
        claims: vec![
            faster("incremental from a list", ours, one, 4.0),
            faster("incremental from a list", ours, many, 2.5),
        ],
    }
}

fn restore() -> Vec<Work> {
    let ours = Contender::Restore;
    let [tuned, default] = [true, false].map(|tuned| Contender::ConvertChain { tuned });
    let contenders = vec![ours, tuned, default];
    let places = [
        (SinkPlan::Fast, false, "restore of a chain, fast sink"),
        (SinkPlan::Disk, false, "restore of a chain, disk"),
        (SinkPlan::Disk, true, "restore of a zstd chain, disk"),
    ];
    let work = |(sink, compressed, row)| Work {
        name: if compressed { "restore of a zstd chain" } else { "restore of a chain" },
        subject: Subject::Chain { compressed },
        sink,
        contenders: contenders.clone(),
        claims: vec![faster(row, ours, tuned, 1.2), faster(row, ours, default, 1.6)],
    };
    places.map(work).into()
}

fn verify() -> Work {
    let (ours, peer) = (Contender::Verify, Contender::Compare);
    Work {
        name: "deep verify of a chain",
        subject: Subject::Chain { compressed: false },
        sink: SinkPlan::Disk,
        contenders: vec![ours, peer],
        claims: vec![faster("deep verify of a chain", ours, peer, 1.5)],
    }
}

fn merge(sink: SinkPlan) -> Work {
    let (ours, peer) = (Contender::Merge, Contender::Rebase);
    let mut claims = vec![faster("merge of all layers", ours, peer, 3.0)];
    if sink == SinkPlan::Reflink {
        claims = vec![
            faster("merge of all layers, reflinks", ours, peer, 3.0),
            size("merge of all layers, reflinks: new space", ours, peer, 0.1),
        ];
    }
    Work {
        name: "merge of a chain's layers",
        subject: Subject::Chain { compressed: false },
        sink,
        contenders: vec![ours, peer],
        claims,
    }
}

fn memory(scale: &Scale) -> Vec<Work> {
    let eight = Contender::CopyMany(8, Some(1));
    let work = |name, disk, contender, row, most| Work {
        name,
        subject: Subject::Disk(disk),
        sink: SinkPlan::Disk,
        contenders: vec![Contender::Idle, contender],
        claims: vec![peak(row, contender, most)],
    };
    vec![
        work("memory, eight disks", scale.many, eight, "peak memory, eight disks at once", 256.0),
        work("memory, small disk", scale.small, PLAIN, "peak memory, 8 GiB sparse", 48.0),
        work("memory, huge disk", scale.huge, PLAIN, "peak memory, 8 TiB sparse", 48.0),
    ]
}

fn faster(row: &'static str, ours: Contender, against: Contender, least: f64) -> Claim {
    Claim { row, ours, against, wanted: Wanted::TimesFaster(least) }
}

fn size(row: &'static str, ours: Contender, against: Contender, most: f64) -> Claim {
    Claim { row, ours, against, wanted: Wanted::Size(most) }
}

fn peak(row: &'static str, ours: Contender, most: f64) -> Claim {
    Claim { row, ours, against: Contender::Idle, wanted: Wanted::MoreMib(most) }
}
