//! The QCOW2 writer, reader and check against qemu's own tools: images that this crate makes are read by qemu-img,
//! images that qemu makes are read by this crate.

mod chains;
mod foreign;
mod images;
mod property;
mod structure;
mod writing;
