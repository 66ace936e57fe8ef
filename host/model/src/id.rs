//! Identifiers: one newtype a noun, so that a backup's id is never taken for a job's.
//!
//! All are random (version 4) UUIDs; their textual form is the 36-character lower-case hyphenated one. Random,
//! not time-ordered, because object names carry only the first eight digits.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A text that is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {noun} id (a UUID is expected)")]
pub struct IdParseError {
    /// Which identifier was expected.
    pub noun: &'static str,
    /// What was given.
    pub text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random identifier.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The first eight hexadecimal digits, as object names carry them.
            #[must_use]
            pub fn short(&self) -> String {
                let mut text = self.0.simple().to_string();
                text.truncate(8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;

            fn from_str(text: &str) -> Result<Self, IdParseError> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| IdParseError { noun: $noun, text: text.to_owned() })
            }
        }
    };
}

id!(
    /// A virtual machine under protection.
    VmId,
    "VM"
);
id!(
    /// One disk of a protected virtual machine.
    DiskId,
    "disk"
);
id!(
    /// A configured hypervisor connection.
    ConnectorId,
    "connector"
);
id!(
    /// A place where backups are kept.
    RepositoryId,
    "repository"
);
id!(
    /// A backup of one virtual machine at one moment, all of its disks together.
    BackupId,
    "backup"
);
id!(
    /// A piece of work that the engine carries out.
    JobId,
    "job"
);
id!(
    /// A protection flow.
    FlowId,
    "flow"
);
id!(
    /// A session of file-level restore.
    MountId,
    "mount"
);
id!(
    /// An access token.
    TokenId,
    "token"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = BackupId::random();
        assert_eq!(id.to_string().parse::<BackupId>(), Ok(id));
        assert!(id.to_string().starts_with(&id.short()));
    }

    #[test]
    fn a_wrong_text_names_the_noun() {
        let error = "web01".parse::<VmId>().unwrap_err();
        assert_eq!(error.to_string(), "'web01' is not a VM id (a UUID is expected)");
    }
}
