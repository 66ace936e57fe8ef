//! The client and the server against the implementations everybody uses (qemu-nbd, nbdkit, libnbd's tools,
//! qemu-img), against each other, and the client against a server that lies.
//!
//! Every test has a folder of its own, servers listen on Unix sockets or free loopback ports in it, and end with
//! the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod hostile;
mod liar;
mod memory;
mod nbdkit;
mod process;
mod qemu;
mod server;
mod tls;
