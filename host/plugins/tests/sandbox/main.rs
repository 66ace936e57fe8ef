//! The sandbox against guests that misbehave on purpose (`tests/guests`): each gets a typed error that names it, the
//! host stays up, and the next session works.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails by panicking")]

mod conformance;
mod filesystem;
mod golden;
mod guests;
mod http;
mod http_server;
mod load;
mod matrix;
mod misbehaviour;
mod storage;
