//! The fault switches: what is to go wrong, at which call, how often.
//!
//! A switch whose fault strikes a call reads its argument as `METHOD`, `N` or `METHOD:N` (from the N-th matching
//! call on); the argument of the others is their own. README.md lists them all.

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultName {
    /// A login is refused.
    InvalidLogin,
    /// The session ends before a call.
    NotAuthenticated,
    /// A privilege is missing.
    NoPermission,
    /// A call or task fails with `FileFault`.
    FileFault,
    /// A call or task fails with `InvalidArgument`.
    InvalidArgument,
    /// A task fails with `InvalidState`.
    InvalidState,
    /// A quiesced snapshot fails.
    ApplicationQuiesceFault,
    /// A task finds another one in progress.
    TaskInProgress,
    /// A snapshot's removal leaves its files behind.
    ConsolidationNeeded,
    /// Answers leave changed areas out.
    CbtWrongMap,
    /// Answers come late.
    SlowAnswers,
    /// NBD reads come late.
    NbdSlow,
    /// An HTTP connection closes without an answer.
    DropConnections,
    /// An NBD connection closes after some bytes.
    DropNbd,
    /// The NBD server knows no export and answers no read.
    NbdGone,
    /// Empty pages between the pages of changed areas.
    EmptyPages,
    /// Changed areas that did not change.
    FalsePositives,
    /// At once: the change history is lost.
    CbtReset,
    /// At once: a disk grows.
    Resize,
    /// At once: a VM goes back.
    Revert,
}

const NAMES: [(&str, FaultName); 20] = [
    ("InvalidLogin", FaultName::InvalidLogin),
    ("NotAuthenticated", FaultName::NotAuthenticated),
    ("NoPermission", FaultName::NoPermission),
    ("FileFault", FaultName::FileFault),
    ("InvalidArgument", FaultName::InvalidArgument),
    ("InvalidState", FaultName::InvalidState),
    ("ApplicationQuiesceFault", FaultName::ApplicationQuiesceFault),
    ("TaskInProgress", FaultName::TaskInProgress),
    ("ConsolidationNeeded", FaultName::ConsolidationNeeded),
    ("CbtWrongMap", FaultName::CbtWrongMap),
    ("SlowAnswers", FaultName::SlowAnswers),
    ("NbdSlow", FaultName::NbdSlow),
    ("DropConnections", FaultName::DropConnections),
    ("DropNbd", FaultName::DropNbd),
    ("NbdGone", FaultName::NbdGone),
    ("EmptyPages", FaultName::EmptyPages),
    ("FalsePositives", FaultName::FalsePositives),
    ("CbtReset", FaultName::CbtReset),
    ("Resize", FaultName::Resize),
    ("Revert", FaultName::Revert),
];

impl FaultName {
    /// The fault of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        NAMES.iter().find(|(name, _)| *name == text).map(|(_, fault)| *fault)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }

    /// Whether it is a condition that lasts until it is cleared, when nobody says how often it strikes.
    fn lasts(self) -> bool {
        matches!(
            self,
            Self::NoPermission
                | Self::CbtWrongMap
                | Self::SlowAnswers
                | Self::NbdSlow
                | Self::NbdGone
                | Self::EmptyPages
                | Self::FalsePositives
        )
    }

    /// The methods it strikes when its argument names none; an empty list means every method.
    fn default_methods(self) -> &'static [&'static str] {
        match self {
            Self::InvalidLogin => &["Login"],
            Self::FileFault | Self::InvalidArgument => &["QueryChangedDiskAreas"],
            Self::ApplicationQuiesceFault | Self::TaskInProgress | Self::InvalidState => {
                &["CreateSnapshot_Task", "CreateSnapshotEx_Task"]
            }
            Self::ConsolidationNeeded => &["RemoveSnapshot_Task", "RemoveAllSnapshots_Task"],
            _ => &[],
        }
    }
}

/// How often a switch strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// So many times.
    Count(u32),
    /// Until it is cleared.
    Always,
}

/// One switch that is set.
#[derive(Debug, Clone)]
pub struct Switch {
    /// What goes wrong.
    pub name: FaultName,
    /// Its argument.
    pub arg: Option<String>,
    /// How often it will still strike.
    pub times: Times,
    seen: u32,
    spent_bytes: u64,
}

/// All switches that are set, at most one a name.
#[derive(Debug, Clone, Default)]
pub struct FaultSwitches(Vec<Switch>);

impl FaultSwitches {
    /// Sets a switch; zero times clears it.
    pub fn set(&mut self, name: FaultName, arg: Option<String>, times: Option<Times>) {
        self.0.retain(|switch| switch.name != name);
        let times = times.unwrap_or(if name.lasts() { Times::Always } else { Times::Count(1) });
        if times != Times::Count(0) {
            self.0.push(Switch { name, arg, times, seen: 0, spent_bytes: 0 });
        }
    }

    /// Clears all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The switches that are set.
    pub fn iter(&self) -> impl Iterator<Item = &Switch> {
        self.0.iter()
    }

    /// The argument of a condition that is on, without counting.
    #[must_use]
    pub fn active(&self, name: FaultName) -> Option<&str> {
        self.0
            .iter()
            .find(|switch| switch.name == name)
            .map(|switch| switch.arg.as_deref().unwrap_or_default())
    }

    /// The number in the argument of a condition that is on.
    #[must_use]
    pub fn number(&self, name: FaultName, default: u64) -> Option<u64> {
        self.active(name).map(|arg| arg.parse().unwrap_or(default))
    }

    /// Whether a fault strikes this call; it is counted.
    pub fn strikes(&mut self, name: FaultName, method: &str) -> bool {
        let Some(switch) = self.0.iter_mut().find(|switch| switch.name == name) else { return false };
        let (wanted, first) = switch.call();
        let matches = match wanted {
            Some(wanted) => wanted == method,
            None => name.default_methods().is_empty() || name.default_methods().contains(&method),
        };
        if !matches {
            return false;
        }
        switch.seen += 1;
        if switch.seen < first {
            return false;
        }
        self.count_down(name);
        true
    }

    /// Whether a fault whose argument is a number of bytes strikes a transfer of `bytes` more; it counts them anew
    /// after each strike.
    pub fn strikes_after(&mut self, name: FaultName, bytes: u64) -> bool {
        let limit = self.number(name, 0);
        let switch = self.0.iter_mut().find(|switch| switch.name == name);
        let (Some(limit), Some(switch)) = (limit, switch) else { return false };
        if switch.spent_bytes < limit {
            switch.spent_bytes += bytes;
            return false;
        }
        switch.spent_bytes = 0;
        self.count_down(name);
        true
    }

    /// Takes one strike from a switch.
    pub fn count_down(&mut self, name: FaultName) {
        for switch in self.0.iter_mut().filter(|switch| switch.name == name) {
            if let Times::Count(left) = switch.times {
                switch.times = Times::Count(left.saturating_sub(1));
            }
        }
        self.0.retain(|switch| switch.times != Times::Count(0));
    }
}

impl Switch {
    /// The method and the first call that its argument names.
    fn call(&self) -> (Option<&str>, u32) {
        let arg = self.arg.as_deref().unwrap_or_default();
        match arg.split_once(':') {
            Some((method, number)) => (Some(method), number.parse().unwrap_or(1)),
            None => match arg.parse() {
                Ok(number) => (None, number),
                Err(_) => (Some(arg).filter(|arg| !arg.is_empty()), 1),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_strikes_its_call_as_often_as_it_was_told() {
        let mut faults = FaultSwitches::default();
        faults.set(FaultName::FileFault, Some("QueryChangedDiskAreas:2".into()), Some(Times::Count(2)));
        let struck: Vec<bool> =
            (0..4).map(|_| faults.strikes(FaultName::FileFault, "QueryChangedDiskAreas")).collect();
        assert_eq!(struck, [false, true, true, false]);
        assert!(!faults.strikes(FaultName::FileFault, "Login"));
    }

    #[test]
    fn a_limit_in_bytes_counts_anew_after_each_strike() {
        let mut faults = FaultSwitches::default();
        faults.set(FaultName::DropNbd, Some("100".into()), Some(Times::Always));
        let struck: Vec<bool> = (0..6).map(|_| faults.strikes_after(FaultName::DropNbd, 60)).collect();
        assert_eq!(struck, [false, false, true, false, false, true]);
    }

    #[test]
    fn conditions_last_and_zero_times_clears() {
        let mut faults = FaultSwitches::default();
        faults.set(FaultName::EmptyPages, None, None);
        assert_eq!(faults.active(FaultName::EmptyPages), Some(""));
        faults.set(FaultName::EmptyPages, None, Some(Times::Count(0)));
        assert_eq!(faults.active(FaultName::EmptyPages), None);
        for (name, fault) in NAMES {
            assert_eq!((FaultName::parse(name), fault.name()), (Some(fault), name));
        }
    }
}
