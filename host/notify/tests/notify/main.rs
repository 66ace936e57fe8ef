//! Every way out against a real other side over loopback: HTTP and SMTP servers that answer slowly, wrongly, too much
//! or not at all, with TLS and without, and the documentation's own receiver in Python.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod authority;
mod documentation;
mod hook;
mod http_peer;
mod logs;
mod mail;
mod python;
mod smtp_peer;
mod webhook;
