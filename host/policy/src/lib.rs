//! Decides which kind of backup is right and how backups leave a chain, as pure functions over what is known.
//!
//! The rule above all others: an incremental is only chosen where every disk's changes since the parent can be
//! known, and a full always carries the reason why it is one.

mod chain;
mod plan;

pub use chain::{ChainLink, ChainPlan, ChainRefusal, Merge, plan_deletion, plan_full};
pub use plan::{DiskState, ParentState, Plan, confirm, propose};
