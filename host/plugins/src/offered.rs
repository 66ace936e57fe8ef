//! The host's side of the interfaces that guests import: one file an interface.

mod clock;
mod crypto;
pub(crate) mod disk;
mod http;
pub(crate) mod log;
pub(crate) mod wasi;

use crate::bindings::host::tidemark::plugin::types;
use crate::state::State;

impl types::Host for State {}
