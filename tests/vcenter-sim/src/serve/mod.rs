//! The sockets: HTTPS for vCenter's own protocol, plain HTTP for the control routes, NBD for the frozen disks.

pub mod control;
mod folder;
mod http;
pub mod https;
pub mod nbd;
mod sdk;
pub mod tls;
