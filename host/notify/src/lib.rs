//! Carries words out of the house: signed webhooks, hooks over HTTP and mail.
//!
//! Everything here blocks and nothing is kept: a caller in an asynchronous program runs it on a thread for blocking
//! work, and stores what must not be lost. What happened, who is told and what a hook's answer means is not known
//! here. Nothing is logged either: an error goes to the caller, and shows no secret.

mod bounds;
mod error;
mod hook;
mod http;
mod mail;
mod quote;
mod retry;
mod secret;
mod signature;
mod trust;
mod webhook;

pub use error::{Error, ErrorKind, Result};
pub use hook::{HookAnswer, HookSettings, HttpHook, Method};
pub use http::HttpSettings;
pub use mail::{Address, Login, MailSettings, Mailer, Security, Sent};
pub use retry::{Cancellation, Pause, RetryPolicy, deliver_with_retries};
pub use secret::Secret;
pub use signature::{SIGNATURE_HEADER, verify_signature};
pub use webhook::{DELIVERY_HEADER, Delivery, EVENT_HEADER, Webhook};
