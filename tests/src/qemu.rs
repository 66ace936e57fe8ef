//! The judge of images: `qemu-img`, which shares no line of code with the product.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::tool;

/// Checks that an image is consistent, without errors and without leaked clusters.
///
/// # Errors
/// What `qemu-img check` found.
pub fn check(image: &Path) -> Result<()> {
    let report = tool("qemu-img", [Path::new("check"), Path::new("--output=json"), image])?;
    let report: Value = serde_json::from_str(&report)?;
    for fault in ["corruptions", "leaks", "check-errors"] {
        let count = report[fault].as_u64().unwrap_or(0);
        ensure!(count == 0, "{}: {count} {fault}", image.display());
    }
    Ok(())
}

/// The images of a backing chain, the topmost first.
///
/// # Errors
/// Where a link is missing or no image.
pub fn chain(image: &Path) -> Result<Vec<PathBuf>> {
    let args = [Path::new("info"), Path::new("--backing-chain"), Path::new("--output=json"), image];
    let report: Value = serde_json::from_str(&tool("qemu-img", args)?)?;
    let links = report.as_array().context("qemu-img info prints a list")?;
    links
        .iter()
        .map(|link| link["filename"].as_str().map(PathBuf::from).context("an image without a file name"))
        .collect()
}

/// The backing file's name exactly as the image's header has it.
///
/// # Errors
/// Where the image cannot be read.
pub fn backing_name(image: &Path) -> Result<Option<String>> {
    let report: Value =
        serde_json::from_str(&tool("qemu-img", [Path::new("info"), Path::new("--output=json"), image])?)?;
    Ok(report["backing-filename"].as_str().map(str::to_owned))
}

/// Checks that a guest sees the same bytes in an image (through its chain) as in a raw file.
///
/// # Errors
/// The first difference.
pub fn same_content(raw: &Path, image: &Path) -> Result<()> {
    same_content_in(raw, image, "qcow2")
}

/// The same for an image of any format that qemu reads.
///
/// # Errors
/// The first difference.
pub fn same_content_in(raw: &Path, image: &Path, format: &str) -> Result<()> {
    let args = ["compare", "-f", "raw", "-F", format].map(Path::new);
    tool("qemu-img", args.into_iter().chain([raw, image]))?;
    Ok(())
}

/// The capacity a guest sees, in bytes.
///
/// # Errors
/// Where the image cannot be read.
pub fn virtual_size(image: &Path) -> Result<u64> {
    let report: Value =
        serde_json::from_str(&tool("qemu-img", [Path::new("info"), Path::new("--output=json"), image])?)?;
    report["virtual-size"].as_u64().context("an image without a size")
}
