//! Time, as far as a protocol needs it. Outside a component the machine's own clock answers.

/// Milliseconds since 1970-01-01T00:00:00Z.
#[must_use]
pub fn now_ms() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::tidemark::plugin::clock::now_ms();
    #[cfg(not(target_arch = "wasm32"))]
    {
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Milliseconds since an arbitrary start, never going back.
#[must_use]
pub fn monotonic_ms() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::tidemark::plugin::clock::monotonic_ms();
    #[cfg(not(target_arch = "wasm32"))]
    now_ms()
}

/// Waits; bounded by the deadline of the call.
pub fn sleep_ms(duration: u64) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::tidemark::plugin::clock::sleep_ms(duration);
    #[cfg(not(target_arch = "wasm32"))]
    std::thread::sleep(std::time::Duration::from_millis(duration));
}
