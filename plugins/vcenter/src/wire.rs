//! The two things that talking to a server needs from outside: an exchange and a pause. The component asks the
//! host; tests play back recorded conversations.

use tidemark_plugin::http::{Request, Response};
use tidemark_plugin::{Result, clock};

/// What carries requests.
pub(crate) trait Wire {
    /// One request and its answer; errors are those of the way, never of the answer.
    fn send(&mut self, request: &Request) -> Result<Response>;
    /// Waits.
    fn sleep_ms(&mut self, duration: u64);
    /// Milliseconds since an arbitrary start.
    fn monotonic_ms(&mut self) -> u64;
}

/// The host's HTTP and clock.
#[derive(Debug)]
pub(crate) struct HostWire;

impl Wire for HostWire {
    fn send(&mut self, request: &Request) -> Result<Response> {
        request.send()
    }

    fn sleep_ms(&mut self, duration: u64) {
        clock::sleep_ms(duration);
    }

    fn monotonic_ms(&mut self) -> u64 {
        clock::monotonic_ms()
    }
}
