//! The NBD protocol: a pure codec, an asynchronous client, a read-only server.
//!
//! The client reads disks out of hypervisors, the server gives frozen disks to whoever speaks NBD. Neither knows
//! what a backup is. Only the fixed newstyle is spoken; lengths are 32-bit (no extended headers).

mod client;
pub mod codec;
mod error;
mod server;
mod stream;
mod uri;

pub use client::{
    Client, ClientOptions, ExportInfo, ListedExport, ReconnectPolicy, StatusExtent, TlsIdentity, TlsOptions,
    TlsTrust, list_exports,
};
pub use codec::{BlockSizes, Command, Errno, TransmissionFlags};
pub use error::{Error, ErrorKind, Result};
pub use server::{AllocationExtent, Export, ExportSource, Fault, FaultHook, Request, Server, ServerOptions};
pub use uri::{DEFAULT_PORT, NbdAddress, NbdUri};
