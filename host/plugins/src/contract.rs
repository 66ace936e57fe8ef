//! The contract's versions that this host speaks, and which interfaces make up the world of each kind.
//!
//! An interface keeps the version of the contract that brought it and never changes. A newer contract only adds interfaces
//! that a plugin may leave out, which are looked for in each component; so one set of bindings serves the plugins of all
//! versions. What may change, and what may not, is in `sdk/wit/README.md`.

use crate::manifest::PluginKind;

/// The contract that new plugins are written against: the last of those below.
pub const CONTRACT: &str = "0.3.0";
/// Every contract whose plugins run here. One that was released is never taken away.
pub const CONTRACTS: [&str; 3] = ["0.1.0", "0.2.0", "0.3.0"];
/// The contract that brought every interface that a plugin must export or may import.
const FIRST: &str = "0.1.0";

/// An interface of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interface {
    name: &'static str,
    /// The contract that brought it.
    since: &'static str,
}

impl Interface {
    const fn first(name: &'static str) -> Self {
        Self { name, since: FIRST }
    }

    /// Whether a component means this one by `full`, for example `tidemark:plugin/log@0.1.0`.
    pub(crate) fn is(self, full: &str) -> bool {
        full.strip_prefix("tidemark:plugin/")
            .and_then(|rest| rest.split_once('@'))
            .is_some_and(|(name, version)| name == self.name && runs_with(version, self.since))
    }

    /// Whether the contract of a plugin has it.
    pub(crate) fn is_in(self, contract: &str) -> bool {
        match (numbers(self.since), numbers(contract)) {
            (Some(since), Some(contract)) => since <= contract,
            _ => false,
        }
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, since } = self;
        write!(f, "tidemark:plugin/{name}@{since}")
    }
}

pub(crate) const HTTP: Interface = Interface::first("http");
const TYPES: Interface = Interface::first("types");
const LOG: Interface = Interface::first("log");
const CLOCK: Interface = Interface::first("clock");
const CRYPTO: Interface = Interface::first("crypto");
const DISK: Interface = Interface::first("disk");
pub(crate) const ABOUT: Interface = Interface { name: "about", since: "0.2.0" };
pub(crate) const ATTRIBUTES: Interface = Interface { name: "attributes", since: "0.3.0" };
pub(crate) const PLACEMENT: Interface = Interface { name: "placement", since: "0.3.0" };

impl PluginKind {
    /// The host interfaces that its world names.
    pub(crate) fn imports(self) -> &'static [Interface] {
        match self {
            Self::Connector => &[TYPES, LOG, CLOCK, HTTP],
            Self::StorageTarget => &[TYPES, LOG, CRYPTO],
            Self::GuestFilesystem | Self::VolumeReader => &[TYPES, LOG, DISK],
            Self::Policy => &[TYPES, LOG],
        }
    }

    /// The interface that it has to export.
    pub(crate) fn export(self) -> Interface {
        Interface::first(match self {
            Self::Connector => "hypervisor",
            Self::StorageTarget => "storage",
            Self::GuestFilesystem => "filesystem",
            Self::VolumeReader => "volumes",
            Self::Policy => "decisions",
        })
    }

    /// Whether a call of the host may have it wait for somebody else: a server, or a disk.
    pub(crate) fn waits_for_others(self) -> bool {
        match self {
            Self::Connector | Self::GuestFilesystem | Self::VolumeReader => true,
            Self::StorageTarget | Self::Policy => false,
        }
    }

    /// The interfaces that it may export.
    pub(crate) fn optional_exports(self) -> &'static [Interface] {
        match self {
            Self::Connector => &[ABOUT],
            Self::GuestFilesystem => &[ATTRIBUTES, PLACEMENT],
            Self::StorageTarget | Self::VolumeReader | Self::Policy => &[],
        }
    }
}

/// Whether a plugin written against `contract` runs here.
pub(crate) fn contract_fits(contract: &str) -> bool {
    CONTRACTS.iter().any(|known| runs_with(contract, known))
}

/// Whether `version` is of the same minor version as `known`, and no newer patch of it.
fn runs_with(version: &str, known: &str) -> bool {
    match (numbers(version), numbers(known)) {
        (Some([major, minor, patch]), Some([known_major, known_minor, known_patch])) => {
            (major, minor) == (known_major, known_minor) && patch <= known_patch
        }
        _ => false,
    }
}

/// The three numbers of a version; none where it is written otherwise.
pub(crate) fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spoken_contract_fits_and_no_other() {
        assert!(CONTRACTS.iter().all(|contract| contract_fits(contract)));
        assert_eq!(CONTRACTS.last(), Some(&CONTRACT));
        for wrong in ["0.4.0", "0.2.1", "0.1.1", "1.0.0", "0.2", "0.2.0.0", "", "x.2.0"] {
            assert!(!contract_fits(wrong), "{wrong}");
        }
    }

    #[test]
    fn an_interface_is_meant_by_its_own_version_only() {
        assert!(LOG.is("tidemark:plugin/log@0.1.0"));
        for other in ["tidemark:plugin/log@0.2.0", "tidemark:plugin/logs@0.1.0", "wasi:cli/log@0.1.0", "log"]
        {
            assert!(!LOG.is(other), "{other}");
        }
        assert!(ABOUT.is(&ABOUT.to_string()) && !ABOUT.is("tidemark:plugin/about@0.1.0"));
        assert!(ABOUT.is_in("0.2.0") && !ABOUT.is_in("0.1.0") && LOG.is_in("0.2.0"));
        assert!(ATTRIBUTES.is_in("0.3.0") && !ATTRIBUTES.is_in("0.2.0") && ABOUT.is_in("0.3.0"));
    }
}
