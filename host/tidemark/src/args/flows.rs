//! The arguments of policies, flows and retention.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Wait;

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// Which backups are kept
    Retention,
    /// Which VMs are protected, and how
    Group,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// The stored policies
    List,
    /// Store a script as a policy's next version; it decides from now on unless told otherwise
    Put {
        /// The policy
        name: String,
        /// The script
        file: PathBuf,
        /// What it decides
        #[arg(long, value_enum)]
        kind: KindArg,
        /// Store it, but leave the decisions to the version that is active
        #[arg(long)]
        no_activate: bool,
    },
    /// A stored policy's script
    Show {
        /// The policy
        name: String,
        /// That version instead of the one that decides
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
    /// All versions of a policy
    Versions {
        /// The policy
        name: String,
    },
    /// How two versions differ
    Diff {
        /// The policy
        name: String,
        /// The older one [default: the one that decides]
        #[arg(long, value_name = "N")]
        from: Option<u32>,
        /// The newer one [default: the newest]
        #[arg(long, value_name = "N")]
        to: Option<u32>,
    },
    /// Let a version decide from now on
    Activate {
        /// The policy
        name: String,
        /// The version
        version: u32,
    },
    /// Return to the version that decided before
    Rollback {
        /// The policy
        name: String,
    },
    /// Forget a policy that no flow uses
    Remove {
        /// The policy
        name: String,
    },
    /// What a version would keep and drop in today's catalog, beside the one that decides
    Backtest {
        /// The policy
        name: String,
        /// A script that is not stored yet
        #[arg(long, value_name = "FILE", conflicts_with = "version")]
        file: Option<PathBuf>,
        /// A stored version [default: the newest]
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
    /// Compile a script and look for mistakes; needs no server
    Check {
        /// The script
        file: PathBuf,
        /// What it decides [default: what its functions say]
        #[arg(long, value_enum)]
        kind: Option<KindArg>,
    },
    /// Run the test cases beside a script, or beside all scripts of a folder; needs no server
    Test {
        /// The script or the folder
        path: PathBuf,
    },
    /// Play a schedule and a policy over some days; needs no server for a file
    Simulate(Box<SimulateArgs>),
}

/// What is played.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// A retention script's file, or the name of a stored policy
    pub(crate) name_or_file: String,
    /// So many days
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3660))]
    pub(crate) days: u32,
    /// When backups are made, as cron
    #[arg(long, value_name = "CRON", default_value = "0 22 * * *")]
    pub(crate) every: String,
    /// The time zone of days and of the schedule
    #[arg(long, value_name = "TZ", default_value = "UTC")]
    pub(crate) time_zone: String,
    /// The first day [default: today]
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub(crate) start: Option<String>,
    /// A setting of the policy; numbers and true or false are taken as such
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) settings: Vec<String>,
    /// A group script whose plan decides between full and incremental
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// What a full stores
    #[arg(long, value_name = "SIZE", default_value = "100GiB")]
    pub(crate) full_size: String,
    /// What changes in a day
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub(crate) change_per_day: String,
    /// Take sizes and changes from this VM's backups (asks the server)
    #[arg(long, value_name = "VM")]
    pub(crate) like: Option<String>,
    /// How many links a chain may have
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) max_chain_depth: u32,
    /// Draw it
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// A page with the drawing and the table
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FlowVerb {
    /// Make a flow of a definition
    Create {
        /// A unique name
        name: String,
        /// The definition, TOML
        #[arg(long, value_name = "FLOW.toml")]
        file: PathBuf,
        /// A secret for hooks and webhooks, read from a file
        #[arg(long = "secret", value_name = "NAME=@FILE")]
        secrets: Vec<String>,
        /// Let it not fire yet
        #[arg(long)]
        disabled: bool,
    },
    /// Replace a flow's definition
    Update {
        /// Name or id
        name: String,
        /// The definition, TOML
        #[arg(long, value_name = "FLOW.toml")]
        file: PathBuf,
        /// A secret for hooks and webhooks, read from a file
        #[arg(long = "secret", value_name = "NAME=@FILE")]
        secrets: Vec<String>,
    },
    /// The flows
    List,
    /// One flow, its newest run and its next
    Show {
        /// Name or id
        name: String,
    },
    /// Run a flow now
    Run {
        /// Name or id
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a flow fire
    Enable {
        /// Name or id
        name: String,
    },
    /// Let a flow fire no more
    Disable {
        /// Name or id
        name: String,
    },
    /// A flow's runs, or one of them with each VM's reason
    Runs {
        /// Name or id
        name: String,
        /// Only this run, with its VMs
        #[arg(long, value_name = "ID")]
        run: Option<String>,
    },
    /// The times for which a flow fired, and which of them were passed over
    Firings {
        /// Name or id
        name: String,
    },
    /// What a flow would do now
    Preview {
        /// Name or id
        name: String,
    },
    /// Forget a flow and its runs; its backups stay
    Remove {
        /// Name or id
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PruneVerb {
    /// Let the flows' policies decide, and delete what is due
    Run {
        /// Where
        #[arg(long, short)]
        repository: String,
        /// Only tell what would become of each backup
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Backups that policies let go, and when
    Marks {
        /// Where
        #[arg(long, short)]
        repository: String,
    },
    /// Let marked backups go that wait for approval
    Approve {
        /// Where
        #[arg(long, short)]
        repository: String,
        /// Only those of this VM
        #[arg(long)]
        vm: Option<String>,
    },
}
