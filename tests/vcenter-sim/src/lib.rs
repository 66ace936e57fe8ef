//! A vCenter for tests and the demo.
//!

pub mod disk;
