//! The command line: nouns and verbs, their arguments and their help. Nothing is done here.

mod authoring;
mod connections;
mod files;
mod flows;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use authoring::{CheckArgs, DevArgs, LanguageArg, NewArgs, TemplateArg, TestArgs};
pub(crate) use connections::{
    Bandwidth, ConnectionArgs, ConnectionValues, ConnectorVerb, MaxDisks, RepositoryBounds, RepositoryVerb,
};
pub(crate) use files::{ArchiveArg, FilesVerb};
pub(crate) use flows::{FlowVerb, KindArg, PolicyVerb, PruneVerb, SimulateArgs};

/// Back up virtual machines as plain QCOW2, and get them back.
#[derive(Debug, Parser)]
#[command(name = "tidemark", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print one JSON document (or JSON lines for streams) on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The server
    #[arg(
        long,
        global = true,
        env = "TIDEMARK_URL",
        default_value = "http://127.0.0.1:8082",
        value_name = "URL"
    )]
    pub(crate) url: String,
    /// The access token; by default the one a server of this user on this machine wrote
    #[arg(long, global = true, env = "TIDEMARK_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Trust only the authorities in this PEM file for an https server
    #[arg(long, global = true, env = "TIDEMARK_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Run the server
    Serve(ServeArgs),
    /// Plugins: what talks to hypervisors and stores
    #[command(subcommand)]
    Plugin(PluginVerb),
    /// Connections to hypervisors
    #[command(subcommand)]
    Connector(ConnectorVerb),
    /// Places where backups are kept
    #[command(subcommand)]
    Repository(RepositoryVerb),
    /// Virtual machines under protection
    #[command(subcommand)]
    Vm(VmVerb),
    /// Backups
    #[command(subcommand)]
    Backup(BackupVerb),
    /// Policies: scripts that decide what is protected and what is kept
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Protection flows: backups that run by themselves
    #[command(subcommand)]
    Flow(FlowVerb),
    /// Retention in a repository
    #[command(subcommand)]
    Prune(PruneVerb),
    /// Getting data back
    #[command(subcommand)]
    Restore(RestoreVerb),
    /// What runs and what ran
    #[command(subcommand)]
    Job(JobVerb),
    /// Access tokens
    #[command(subcommand)]
    Token(TokenVerb),
    /// Compile a plugin's component for the server, which starts this by itself
    #[command(hide = true)]
    CompileComponent(CompileArgs),
}

/// What the server tells its compiler.
#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    #[arg(long)]
    pub(crate) kind: String,
    #[arg(long)]
    pub(crate) memory_bytes: u64,
    #[arg(long)]
    pub(crate) seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where the catalog, keys, tokens and plugins are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The address to listen on [default: 127.0.0.1:8082]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// The catalog [default: an embedded one in the data folder]
    #[arg(long, value_name = "sqlite://…|postgres://…")]
    pub(crate) database_url: Option<String>,
    /// First-party plugins to install [default: ../plugins beside the binary, then /usr/share/tidemark/plugins]
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
    /// A TOML file with the same keys and a table [limits]; arguments win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The server's certificate chain in PEM; turns TLS on
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// What to log, for example `debug` or `info,tidemark_engine=debug` [default: RUST_LOG, else info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginVerb {
    /// Installed versions
    List,
    /// Install a component
    Install {
        /// The component
        file: PathBuf,
        /// Its minisign signature [default: FILE.minisig where there is one]
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
    },
    /// Make new jobs use a version
    Activate {
        /// The plugin
        name: String,
        /// The version
        version: String,
        /// Grant it what it asks for beyond the version before it
        #[arg(long)]
        approve: bool,
    },
    /// Let a version out of quarantine
    Release {
        /// The plugin
        name: String,
        /// The version
        version: String,
    },
    /// Return to the version that was active before
    Rollback {
        /// The plugin
        name: String,
    },
    /// Give a plugin a capability
    Grant {
        /// The plugin
        name: String,
        /// For example http:HOST:PORT, nbd:HOST:PORT or path:/folder
        capability: String,
        /// Take it away instead
        #[arg(long)]
        revoke: bool,
    },
    /// Show an installed plugin, or look into a component file
    Inspect {
        /// A file where there is one of this name, else an installed plugin
        name_or_file: String,
    },
    /// Remove a version
    Remove {
        /// The plugin
        name: String,
        /// The version
        version: String,
    },
    /// Begin a plugin: a folder with a small one that works; needs no server
    New(NewArgs),
    /// Look for what is wrong with a plugin's sources or component; needs no server
    Check(CheckArgs),
    /// Run a plugin's own tests, then what its kind owes the host; needs no server
    Test(TestArgs),
    /// Build, install and activate a plugin whenever its sources change
    Dev(DevArgs),
    /// Build a plugin from its source; needs no server
    Build {
        /// The folder with plugin.toml
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// The component to write
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmVerb {
    /// The VMs under protection
    List,
    /// Put VMs under protection
    Add {
        /// The connector that has them
        connector: String,
        /// Names or the hypervisor's keys
        #[arg(required = true)]
        vms: Vec<String>,
    },
    /// One VM
    Show {
        /// Name or id
        vm: String,
    },
    /// End the protection of a VM without backups
    Remove {
        /// Name or id
        vm: String,
    },
    /// Copy a VM's backups that another repository lacks
    Copy {
        /// Name or id
        vm: String,
        /// From which repository
        #[arg(long)]
        from: String,
        /// To which
        #[arg(long)]
        to: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// VMs that no enabled flow protects
    Unprotected {
        /// Ask every connector first
        #[arg(long)]
        refresh: bool,
    },
}

/// Whether to wait for a job.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Do not wait for the job's end
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Which backup to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TypeArg {
    /// Everything that is allocated
    Full,
    /// What changed since the last backup
    Incremental,
    /// Whichever is right
    Auto,
}

/// How thoroughly to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    /// Present, sizes, structure
    Quick,
    /// All stored bytes
    Full,
    /// The guest's view through the chain
    Deep,
}

/// What a restored disk looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// The disk's bytes, sparse
    Raw,
    /// One QCOW2 image that stands alone
    Qcow2,
    /// A stream-optimised VMDK
    Vmdk,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Everything
    Admin,
    /// Reads and runs jobs
    Operator,
    /// Reads
    Viewer,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupVerb {
    /// Back a VM up
    Run {
        /// Name or id
        vm: String,
        /// Where to
        #[arg(long, short)]
        repository: String,
        /// Which kind
        #[arg(long = "type", value_enum, default_value_t = TypeArg::Auto)]
        backup_type: TypeArg,
        #[command(flatten)]
        bound: Bandwidth,
        #[command(flatten)]
        wait: Wait,
    },
    /// The backups, newest first
    List {
        /// Only of this VM
        #[arg(long)]
        vm: Option<String>,
    },
    /// One backup with its disks
    Show {
        /// The backup
        id: String,
    },
    /// A VM's newest full and its incrementals in order
    Chain {
        /// Name or id
        vm: String,
    },
    /// Compare what is stored with what was recorded
    Verify {
        /// The backup
        id: String,
        /// How thoroughly
        #[arg(long, value_enum, default_value_t = LevelArg::Full)]
        level: LevelArg,
        #[command(flatten)]
        wait: Wait,
    },
    /// Keep a backup whatever a policy says
    Pin {
        /// The backup
        id: String,
    },
    /// Leave a backup to the policies again
    Unpin {
        /// The backup
        id: String,
    },
    /// Delete backups anywhere in their chains; what newer ones need of them is merged into those first
    Delete {
        /// The backups
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a full of an incremental by merging what it needs into it, without reading the guest
    Synthesize {
        /// The backup
        id: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RestoreVerb {
    /// Restore one disk to a new file on the server's machine, or send it to standard output
    Disk {
        /// The backup
        id: String,
        /// Which disk, from 0
        #[arg(long, value_name = "N")]
        disk: u32,
        /// The file, which must not exist; `-` sends the disk to standard output here
        #[arg(long, value_name = "FILE|-")]
        to: PathBuf,
        /// Its format
        #[arg(long, value_enum, default_value_t = FormatArg::Raw)]
        format: FormatArg,
        #[command(flatten)]
        wait: Wait,
    },
    #[command(flatten)]
    Files(FilesVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobVerb {
    /// Jobs, newest first
    List {
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only queued, running, succeeded, failed or cancelled ones
        #[arg(long)]
        status: Option<String>,
    },
    /// One job
    Show {
        /// The job
        id: String,
    },
    /// Follow a job to its end
    Watch {
        /// The job
        id: String,
    },
    /// Ask a job to end and to undo what it has begun
    Cancel {
        /// The job
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token; its secret is shown this once
    Create {
        /// A name for it
        name: String,
        /// What it allows
        #[arg(long, value_enum)]
        role: RoleArg,
    },
    /// The tokens without their secrets
    List,
    /// Make a token useless
    Revoke {
        /// Name or id
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_declarations_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_contracted_line_is_understood() {
        for line in [
            "tidemark serve --data-dir /d --listen 127.0.0.1:0 --database-url postgres:///t --config /c.toml",
            "tidemark plugin list",
            "tidemark plugin grant vcenter http:vc:443",
            "tidemark plugin new mine --kind connector",
            "tidemark plugin new mine --kind guest-filesystem --dir /tmp/mine --json",
            "tidemark plugin check",
            "tidemark plugin check mine.wasm --json",
            "tidemark plugin test mine --set host=vc --secret password=@/p --vm web01 --disk disk.raw",
            "tidemark plugin dev mine --interval 5",
            "tidemark plugin build",
            "tidemark plugin build plugins/local --out /tmp/x.wasm --json",
            "tidemark connector add a --plugin vcenter --set host=vc --set port=1 --secret password=@/p",
            "tidemark connector update a --max-disks 2",
            "tidemark repository add a --plugin local --set path=/b --bandwidth 100MiB",
            "tidemark repository update a --set path=/c --bandwidth 0",
            "tidemark repository import main --no-wait",
            "tidemark repository check main",
            "tidemark repository check main --delete --grace-hours 0 --json",
            "tidemark vm add a vm1 vm2",
            "tidemark backup run web01 --repository main --type incremental --no-wait --json",
            "tidemark backup run web01 -r main --bandwidth 512k",
            "tidemark backup list --vm web01",
            "tidemark backup verify 1 --level deep",
            "tidemark restore disk 1 --disk 0 --to /x --format qcow2",
            "tidemark restore disk 1 --disk 0 --to - --format vmdk",
            "tidemark job watch 1 --json",
            "tidemark token create ci --role viewer",
            "tidemark policy list",
            "tidemark policy put gfs gfs.rhai --kind retention",
            "tidemark policy put gfs gfs.rhai --kind retention --no-activate",
            "tidemark policy check gfs.rhai",
            "tidemark policy test policies/retention --json",
            "tidemark policy simulate gfs.rhai --days 90 --every @daily --set daily=7 --svg out.svg",
            "tidemark policy rollback gfs",
            "tidemark policy activate gfs 2",
            "tidemark policy backtest gfs --file new.rhai",
            "tidemark policy diff gfs --from 1 --to 2",
            "tidemark policy show gfs",
            "tidemark flow create nightly --file nightly.toml --secret hook=@/s",
            "tidemark flow update nightly --file nightly.toml",
            "tidemark flow list",
            "tidemark flow run nightly --no-wait",
            "tidemark flow runs nightly",
            "tidemark flow preview nightly --json",
            "tidemark flow enable nightly",
            "tidemark flow disable nightly",
            "tidemark flow remove nightly",
            "tidemark prune run --repository main --dry-run",
            "tidemark prune marks --repository main",
            "tidemark prune approve --repository main --vm web01",
            "tidemark vm copy web01 --from main --to offsite",
            "tidemark vm unprotected --refresh",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_usage_ends_with_2() {
        for line in [
            "tidemark backup run",
            "tidemark dance",
            "tidemark vm add a",
            "tidemark connector add a --plugin p --secret password=hunter2",
            "tidemark connector add a --plugin p --set host",
            "tidemark plugin new mine",
            "tidemark plugin new mine --kind volume-reader",
            "tidemark restore disk 1 --to /x",
            "tidemark serve --data-dir /d --tls-cert /c",
            "tidemark backup run a --repository b --type sideways",
            "tidemark repository update a --bandwidth fast",
            "tidemark repository update a --max-disks few",
            "tidemark connector update a --max-disks many",
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} was understood"));
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert_eq!(parse("tidemark --help").unwrap_err().exit_code(), 0);
    }
}
