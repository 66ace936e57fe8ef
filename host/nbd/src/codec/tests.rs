//! Round trips and garbage.
