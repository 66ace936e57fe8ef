//! Conversations with a scripted server: each test plays the answers of a vCenter and checks what was asked.

mod changes;
mod inventory;
mod preflight;
mod reading;
mod script;
mod session;
mod snapshot;
