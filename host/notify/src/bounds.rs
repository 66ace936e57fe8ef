//! The bounds that every way out keeps: how long a call may be given, and how much may be sent by it.

use std::time::Duration;

use crate::error::{Error, Result};

const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// The largest body that is sent.
pub(crate) const LARGEST_BODY: usize = 1 << 20;

/// A timeout that ends.
pub(crate) fn check_timeout(timeout: Duration) -> Result<()> {
    if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
        return Err(Error::invalid("the timeout is none: give it from some seconds to an hour"));
    }
    Ok(())
}

/// A body that is not too large; `what` names it.
pub(crate) fn check_body(what: &str, length: usize) -> Result<()> {
    if length > LARGEST_BODY {
        let context = format!("{what} of {length} bytes is too large; {LARGEST_BODY} are sent at most");
        return Err(Error::invalid(context));
    }
    Ok(())
}
