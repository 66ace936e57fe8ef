//! A vCenter for tests and the demo: vim25 over HTTPS, snapshots, changed block tracking, frozen disks over NBD.
//!
//! ```text
//!   serve   sockets: HTTPS (/sdk, /folder), control routes, NBD
//!     │
//!   objects the managed objects: methods and properties
//!     │
//!   state   VMs, snapshots, tasks, sessions, fault switches        soap   the codec, with the schema as data
//!     │
//!   disk    blocks, copy-on-write, change tracking
//! ```
//! It follows the protocol as pyvmomi speaks it and the published API reference; it was never compared with a real
//! vCenter. README.md lists the fault switches.

pub mod disk;
pub mod objects;
pub mod options;
mod run;
pub mod serve;
pub mod soap;
pub mod state;

pub use run::run;
