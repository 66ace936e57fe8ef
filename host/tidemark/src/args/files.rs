//! The arguments of `restore mount` and what follows it: files out of backups.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

/// How a folder is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveArg {
    /// ZIP
    Zip,
    /// A tar archive, compressed with gzip
    #[value(name = "tar.gz")]
    TarGz,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FilesVerb {
    /// Open a disk of a backup for reading its files
    Mount {
        /// The backup
        id: String,
        /// Which disk, from 0
        #[arg(long, value_name = "N", default_value_t = 0)]
        disk: u32,
    },
    /// What is open
    Mounts,
    /// What is in a folder
    Ls {
        /// The mount
        mount: String,
        /// The folder; the partitions where none is given
        #[arg(default_value = "/")]
        path: String,
    },
    /// All that is known of a file, folder or link
    Info {
        /// The mount
        mount: String,
        /// The file, folder or link
        path: String,
    },
    /// Get a file, or a folder as an archive
    Get {
        /// The mount
        mount: String,
        /// The file or folder
        path: String,
        /// A new file, or a folder for it; `-` is standard output [default: its name, here]
        #[arg(long, value_name = "FILE|DIR|-")]
        to: Option<PathBuf>,
        /// How a folder is packed
        #[arg(long, value_enum, default_value_t = ArchiveArg::Zip)]
        format: ArchiveArg,
    },
    /// Find files and folders by their names
    Search {
        /// The mount
        mount: String,
        /// A pattern with `*` and `?`, whatever the case of letters
        name: String,
        /// Where to search
        #[arg(long, default_value = "/")]
        path: String,
    },
    /// What was added, removed or changed between two backups
    Diff {
        /// The earlier backup
        from: String,
        /// The later one
        to: String,
        /// Where to look, beginning with the partition
        #[arg(long)]
        path: String,
        /// Which disk, from 0
        #[arg(long, value_name = "N", default_value_t = 0)]
        disk: u32,
    },
    /// Close what was opened
    Unmount {
        /// The mount
        mount: String,
    },
}
