//! What the fields of the objects are, for [`super::check`]: the one table that the guide, the getters and the checks are
//! held against.

/// What a value is, as far as it can be told from the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A plain value, or nothing known.
    Value,
    Backup,
    Ranks,
    Backups,
    RetentionContext,
    GroupContext,
    Settings,
    Vm,
    Disk,
    Disks,
    History,
    Moment,
}

const RANKS: &[(&str, Shape)] = &[
    ("last", Shape::Value),
    ("hourly", Shape::Value),
    ("daily", Shape::Value),
    ("weekly", Shape::Value),
    ("monthly", Shape::Value),
    ("yearly", Shape::Value),
];

const BACKUP: &[(&str, Shape)] = &[
    ("id", Shape::Value),
    ("created_at", Shape::Moment),
    ("age_days", Shape::Value),
    ("rank", Shape::Ranks),
    ("type", Shape::Value),
    ("verified", Shape::Value),
    ("damaged", Shape::Value),
    ("pinned", Shape::Value),
    ("size_bytes", Shape::Value),
];

const RETENTION_CONTEXT: &[(&str, Shape)] = &[
    ("now", Shape::Moment),
    ("tz", Shape::Value),
    ("cfg", Shape::Settings),
    ("vm", Shape::Vm),
    ("prepared", Shape::Value),
    ("points", Shape::Backups),
];

const GROUP_CONTEXT: &[(&str, Shape)] =
    &[("now", Shape::Moment), ("tz", Shape::Value), ("cfg", Shape::Settings)];

const VM: &[(&str, Shape)] = &[
    ("key", Shape::Value),
    ("name", Shape::Value),
    ("connector", Shape::Value),
    ("folder", Shape::Value),
    ("power", Shape::Value),
    ("guest_os", Shape::Value),
    ("tags", Shape::Value),
    ("datastores", Shape::Value),
    ("protected_by", Shape::Value),
    ("disks", Shape::Disks),
];

const DISK: &[(&str, Shape)] =
    &[("key", Shape::Value), ("label", Shape::Value), ("capacity_bytes", Shape::Value)];

const HISTORY: &[(&str, Shape)] = &[
    ("chain_length", Shape::Value),
    ("last_full", Shape::Moment),
    ("last_backup", Shape::Moment),
    ("days_since_full", Shape::Value),
    ("days_since_backup", Shape::Value),
    ("full_bytes", Shape::Value),
    ("increments_bytes", Shape::Value),
    ("changed_bytes", Shape::Value),
];

const MOMENT: &[(&str, Shape)] = &[
    ("year", Shape::Value),
    ("month", Shape::Value),
    ("day", Shape::Value),
    ("hour", Shape::Value),
    ("minute", Shape::Value),
    ("weekday", Shape::Value),
    ("iso_week", Shape::Value),
    ("ms", Shape::Value),
    ("text", Shape::Value),
    ("date", Shape::Value),
];

impl Shape {
    /// What people call it.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Backup => "backup",
            Self::Ranks => "rank",
            Self::Backups => "list of backups",
            Self::RetentionContext | Self::GroupContext => "context",
            Self::Settings => "settings",
            Self::Vm => "VM",
            Self::Disk => "disk",
            Self::Disks => "list of disks",
            Self::History => "history",
            Self::Moment => "moment",
        }
    }

    /// Its fields; none where anything may be asked of it.
    pub(super) fn fields(self) -> Option<&'static [(&'static str, Shape)]> {
        match self {
            Self::Value | Self::Settings => None,
            Self::Backups | Self::Disks => Some(&[]),
            Self::Backup => Some(BACKUP),
            Self::Ranks => Some(RANKS),
            Self::RetentionContext => Some(RETENTION_CONTEXT),
            Self::GroupContext => Some(GROUP_CONTEXT),
            Self::Vm => Some(VM),
            Self::Disk => Some(DISK),
            Self::History => Some(HISTORY),
            Self::Moment => Some(MOMENT),
        }
    }

    /// What one of it is, in a loop or by a place.
    pub(super) fn element(self) -> Self {
        match self {
            Self::Backups => Self::Backup,
            Self::Disks => Self::Disk,
            _ => Self::Value,
        }
    }

    /// What the host hands to a parameter of an entry function.
    pub(super) fn parameter(function: &str, at: usize) -> Self {
        match (function, at) {
            ("retain", 0) => Self::Backup,
            ("prepare", 0) => Self::Backups,
            ("retain" | "prepare", 1) => Self::RetentionContext,
            ("select" | "plan", 0) => Self::Vm,
            ("plan", 1) => Self::History,
            ("select", 1) | ("plan", 2) => Self::GroupContext,
            _ => Self::Value,
        }
    }
}
