//! What a Tidemark plugin is written with.
//!
//! A plugin turns on the feature of its one world (`connector`, `storage-target`, `guest-filesystem`, `policy`),
//! implements that module's trait and names the type in the module's export macro:
//!
//! ```text
//! struct Mine { /* the settings */ }
//! impl tidemark_plugin::storage_target::StorageTarget for Mine { /* … */ }
//! tidemark_plugin::export_storage_target!(Mine);
//! ```
//!
//! Interfaces that a plugin may leave out (`about`, `attributes`,
//! `placement`) have a trait in the module of their name, and a word in the macro.
//!
//! Everything compiles for the machine at hand too, so that a plugin's logic is tested by a plain `cargo test`;
//! only calls into the host are missing there. What a component imports is what its code calls, and the host links
//! nothing beyond its world.

#[doc(hidden)]
pub mod bindings;
pub mod calendar;
pub mod clock;
pub mod disk;
mod error;
pub mod fields;
pub mod http;
pub mod log;

#[cfg(feature = "connector")]
pub mod about;
#[cfg(feature = "guest-filesystem")]
pub mod attributes;
#[cfg(feature = "connector")]
pub mod connector;
#[cfg(feature = "guest-filesystem")]
pub mod guest_filesystem;
#[cfg(feature = "guest-filesystem")]
pub mod nodes;
#[cfg(feature = "guest-filesystem")]
pub mod placement;
#[cfg(feature = "policy")]
pub mod policy;
#[cfg(feature = "storage-target")]
pub mod storage_target;

pub use bindings::tidemark::plugin::types::{Description, Extent};
pub use error::{Error, ErrorKind, Result};

/// Keyed digests over secrets that the plugin never sees.
pub mod crypto {
    pub use crate::bindings::tidemark::plugin::crypto::{Key, SecretKey, hmac_sha256, sha256};
}

/// The contract version this crate was written against.
pub const CONTRACT: &str = "0.3.0";

/// What a plugin says of itself: its name, its version, and this crate's contract version.
#[must_use]
pub fn description(name: &str, version: &str) -> Description {
    Description { name: name.to_owned(), version: version.to_owned(), contract: CONTRACT.to_owned() }
}
