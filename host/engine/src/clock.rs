//! The time by which schedules fire and backups age. Leases never depend on it: they are real time.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_model::UtcMillis;

/// A clock.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's.
    #[default]
    System,
    /// For tests: the system's, moved by the milliseconds that this file holds at each look.
    Moved(PathBuf),
}

impl Clock {
    /// How often whoever waits for a time looks: one that is moved jumps, and a test plays many days.
    pub(crate) fn tick(&self) -> Duration {
        match self {
            Self::System => Duration::from_secs(1),
            Self::Moved(_) => Duration::from_millis(100),
        }
    }

    /// This moment by the clock.
    pub(crate) fn now(&self) -> UtcMillis {
        let now = UtcMillis::now();
        match self {
            Self::System => now,
            Self::Moved(file) => {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                now.plus_millis(text.trim().parse().unwrap_or(0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_clock_follows_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let clock = Clock::Moved(file.path().to_owned());
        assert!(clock.now().0 - UtcMillis::now().0 <= 0);
        std::fs::write(file.path(), "86400000\n").unwrap();
        assert!(clock.now().0 - UtcMillis::now().0 > 80_000_000);
    }
}
