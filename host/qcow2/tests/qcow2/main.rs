//! The QCOW2 writer, reader and check against qemu's own tools: images that this crate makes are read by qemu-img,
//! images that qemu makes are read by this crate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod chains;
mod foreign;
mod images;
mod merge_cases;
mod merging;
mod property;
mod streaming;
mod structure;
mod writing;
