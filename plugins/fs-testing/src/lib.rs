//! What the tests of all file-system readers share: images made by the real tools, a tree that is hard to read, both sides of
//! a comparison, and damage.
//!
//! ```text
//! Image::new ─▶ run(mkfs) ─▶ mounted(kernel or FUSE) ─▶ Wanted::fill ─┬─▶ Tree::of(folder) ────────┐
//!                                                                     └─▶ disk() ─▶ Tree::read ────┴─▶ compare
//! ```
//! It is no component: nothing here runs in the sandbox.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on fails by panicking"
)]

mod damage;
mod image;
mod loops;
mod tree;

pub use damage::{Damage, Endured};
pub use image::{Image, Mounted};
pub use loops::{Looped, run_as_root};
pub use tree::{Checks, Content, Digest, Item, Tree, Wanted};
