//! The arguments of connectors and repositories, which are alike but for their bounds.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Wait;

/// What a connector and a repository are made of.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// A name for it
    pub(crate) name: String,
    /// The plugin that serves it
    #[arg(long)]
    pub(crate) plugin: String,
    #[command(flatten)]
    pub(crate) values: ConnectionValues,
}

/// What can be given and changed.
#[derive(Debug, Args)]
pub(crate) struct ConnectionValues {
    /// A setting
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// A secret, read from a file (`-` is standard input)
    #[arg(long = "secret", value_name = "KEY=@FILE", value_parser = parse_secret)]
    pub(crate) secrets: Vec<(String, PathBuf)>,
}

/// How many disks are moved at once.
#[derive(Debug, Args)]
pub(crate) struct MaxDisks {
    /// Move at most so many of its disks at the same time; 0 for no bound
    #[arg(long, value_name = "N")]
    pub(crate) max_disks: Option<u32>,
}

/// How fast something is written.
#[derive(Debug, Args)]
pub(crate) struct Bandwidth {
    /// Write at most so much in a second, for example 100MiB (K, M, G with or without iB); 0 for no bound
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub(crate) bandwidth: Option<u64>,
}

/// How much a repository takes.
#[derive(Debug, Args)]
pub(crate) struct RepositoryBounds {
    #[command(flatten)]
    pub(crate) disks: MaxDisks,
    #[command(flatten)]
    pub(crate) rate: Bandwidth,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectorVerb {
    /// Add a connection
    Add {
        #[command(flatten)]
        connection: ConnectionArgs,
        #[command(flatten)]
        bound: MaxDisks,
    },
    /// Change settings, secrets (for example the password) or the bound; the rest stays
    Update {
        /// Name or id
        name: String,
        #[command(flatten)]
        values: ConnectionValues,
        #[command(flatten)]
        bound: MaxDisks,
    },
    /// The connections
    List,
    /// Log in and say what stands in the way of backups
    Test {
        /// Name or id
        name: String,
    },
    /// List the hypervisor's VMs
    Discover {
        /// Name or id
        name: String,
    },
    /// Remove an unused connection
    Remove {
        /// Name or id
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RepositoryVerb {
    /// Add a repository
    Add {
        #[command(flatten)]
        connection: ConnectionArgs,
        #[command(flatten)]
        bounds: RepositoryBounds,
    },
    /// Change settings, secrets or the bounds; the rest stays, and no object is moved
    Update {
        /// Name or id
        name: String,
        #[command(flatten)]
        values: ConnectionValues,
        #[command(flatten)]
        bounds: RepositoryBounds,
    },
    /// The repositories
    List,
    /// One repository
    Show {
        /// Name or id
        name: String,
    },
    /// Rebuild the catalog from the repository's manifests
    Import {
        /// Name or id
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Compare the repository with the catalog, both ways
    Check {
        /// Name or id
        name: String,
        /// Delete what belongs to no backup
        #[arg(long)]
        delete: bool,
        /// Leave what is younger alone
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        grace_hours: u32,
        #[command(flatten)]
        wait: Wait,
    },
    /// Forget a repository that holds no known backup; deletes nothing in it
    Remove {
        /// Name or id
        name: String,
    },
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Only from files: arguments are visible to every user of the machine.
fn parse_secret(text: &str) -> Result<(String, PathBuf), String> {
    let (key, value) = parse_setting(text).map_err(|_| "expected KEY=@FILE".to_owned())?;
    match value.strip_prefix('@') {
        Some(file) if !file.is_empty() => Ok((key, PathBuf::from(file))),
        _ => Err("secrets are read from files: KEY=@FILE, or KEY=@- for standard input".to_owned()),
    }
}

/// Bytes: a number with an optional binary unit.
fn parse_rate(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        _ => None,
    };
    let bytes =
        number.parse::<u64>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| {
        "expected a whole number with K, M or G (or KiB, MiB, GiB), for example 100MiB".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_binary_units() {
        for (text, bytes) in
            [("0", 0), ("65536", 65536), ("100MiB", 100 << 20), ("512k", 512 << 10), ("2 G", 2 << 30)]
        {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
        for nonsense in ["", "MiB", "1.5M", "-1", "10MB/s", "99999999999G"] {
            assert!(parse_rate(nonsense).is_err(), "{nonsense}");
        }
    }
}
