//! The NBD protocol's bytes, without any I/O: what each message looks like and what is believed of it.
//!
//! `wire` has the numbers and the bounded field reader, `handshake` the fixed-newstyle negotiation,
//! `transmission` requests and replies. Everything parses from a slice that the caller read with a length it had
//! checked before; nothing here allocates by a length that a peer claims.
//! Source: the NBD project's `doc/proto.md`.

mod handshake;
mod transmission;
mod wire;

pub use handshake::*;
pub use transmission::*;
pub use wire::*;

#[cfg(test)]
mod tests;
