//! The disks of the scenarios: small, but with everything that matters: noise, text, zeros, holes, and an end
//! that is no whole cluster.

use std::path::Path;

use anyhow::Result;
use tidemark_tests::changes::CLUSTER;
use tidemark_tests::disk::{Fill, RawDisk, bytes};

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// Two disks of 48 MiB and of 33 MiB and one sector.
pub(crate) fn two(folder: &Path) -> Result<Vec<RawDisk>> {
    let system = RawDisk::create(&folder.join("system.raw"), 48 * MIB)?;
    system.write(0, &bytes(Fill::Text(1), 3 << 20))?;
    system.write(7 * MIB + 4096, &bytes(Fill::Noise(2), 5 << 20))?;
    system.write(40 * MIB, &bytes(Fill::Noise(3), 1000))?;
    let data = RawDisk::create(&folder.join("data.raw"), 33 * MIB + 512)?;
    data.write(2 * CLUSTER, &bytes(Fill::Noise(4), 2 << 20))?;
    // The last sector lies alone in a cluster that the disk's end cuts short.
    data.write(33 * MIB, &bytes(Fill::Text(5), 512))?;
    Ok(vec![system, data])
}

/// One disk of 64 MiB, full of noise: something to be busy with.
pub(crate) fn busy(folder: &Path) -> Result<Vec<RawDisk>> {
    let disk = RawDisk::create(&folder.join("busy.raw"), 64 * MIB)?;
    for part in 0..8 {
        disk.write(part * 8 * MIB, &bytes(Fill::Noise(100 + part), 8 << 20))?;
    }
    Ok(vec![disk])
}
