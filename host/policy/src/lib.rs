//! Decides which kind of backup is right, as pure functions over what is known.
//!
//! The rule above all others: an incremental is only chosen where every disk's changes since the parent can be
//! known, and a full always carries the reason why it is one.

mod plan;

pub use plan::{DiskState, ParentState, Plan, confirm, propose};
