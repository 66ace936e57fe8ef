//! What the end-to-end tests, the demo and the benchmark share: it starts the product and the simulator as
//! separate processes, speaks to them as a user would, and judges the results with tools of others (`qemu-img`).
//!
//! Nothing here links the product's crates: a promise that holds only inside the process is none.

pub mod administrator;
pub mod binaries;
pub mod changes;
pub mod cli;
pub mod disk;
pub mod filesystem;
pub mod logs;
pub mod nbd;
pub mod postgres;
pub mod process;
pub mod qemu;
pub mod rest;
pub mod server;
pub mod simulator;
pub mod site;
