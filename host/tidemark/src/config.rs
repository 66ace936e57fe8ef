//! How the server is set up: arguments over the configuration file over defaults.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tidemark_engine::{
    Address, AtMaxDepth, CompileLimits, Compiler, Limits, Login, MailSettings, PluginOptions, Secret,
    Security, Trust,
};

use crate::args::ServeArgs;

/// Wrong usage that the argument parser cannot see.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    database_url: Option<String>,
    plugins: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    log: Option<String>,
    #[serde(default)]
    limits: FileLimits,
    smtp: Option<FileSmtp>,
    #[serde(default)]
    plugin_trust: FilePluginTrust,
}

/// The table `[plugin_trust]`: whose plugins are installed, and what compiling one may take.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePluginTrust {
    /// The base64 lines of minisign public keys.
    #[serde(default)]
    keys: Vec<String>,
    /// Whether a plugin without a signature by one of them is refused.
    #[serde(default)]
    require_signature: bool,
    compile_memory_mib: Option<u64>,
    compile_seconds: Option<u64>,
}

impl FilePluginTrust {
    fn options(self, dir: Option<PathBuf>) -> Result<PluginOptions> {
        let Self { keys, require_signature, compile_memory_mib, compile_seconds } = self;
        let trust = Trust::new(&keys, require_signature);
        let trust = trust.map_err(|error| Usage(format!("[plugin_trust]: {error}")))?;
        let mut limits = CompileLimits::default();
        limits.memory_bytes = compile_memory_mib.map_or(limits.memory_bytes, |mib| mib << 20);
        limits.seconds = compile_seconds.unwrap_or(limits.seconds);
        // This very program, also where another one lies at its path by now. Where there is no such link, the server
        // compiles by itself.
        let program = PathBuf::from("/proc/self/exe");
        let arguments = vec!["compile-component".into()];
        let compiler =
            Some(Compiler { program, arguments, limits }).filter(|compiler| compiler.program.exists());
        Ok(PluginOptions { dir, trust, compiler })
    }
}

/// The table `[smtp]`: through which mail is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSmtp {
    host: String,
    port: Option<u16>,
    /// `starttls`, `tls` or `none`.
    security: Option<FileSecurity>,
    from: String,
    username: Option<String>,
    password_file: Option<PathBuf>,
    /// PEM of authorities to believe in place of the machine's.
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileSecurity {
    StartTls,
    Tls,
    None,
}

impl FileSmtp {
    fn settings(self) -> Result<MailSettings> {
        let Self { host, port, security, from, username, password_file, ca_file } = self;
        let security = match security.unwrap_or(FileSecurity::StartTls) {
            FileSecurity::StartTls => Security::StartTls,
            FileSecurity::Tls => Security::Tls,
            FileSecurity::None => Security::None,
        };
        let from = from.parse::<Address>().map_err(|error| Usage(format!("[smtp] from: {error}")))?;
        let mut settings = MailSettings::new(host, security, from);
        settings.port = port.unwrap_or(settings.port);
        let text = |path: PathBuf| {
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        settings.authorities = ca_file.map(text).transpose()?;
        settings.login = match (username, password_file.map(text).transpose()?) {
            (Some(username), Some(password)) => {
                Some(Login { username, password: Secret::new(password.trim_end_matches(['\r', '\n'])) })
            }
            (None, None) => None,
            _ => return Err(Usage("[smtp] username and password_file belong together".to_owned()).into()),
        };
        Ok(settings)
    }
}

/// The table `[limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLimits {
    jobs: Option<usize>,
    disks: Option<usize>,
    reads: Option<usize>,
    encoders: Option<usize>,
    /// 0 stores clusters as they are.
    zstd_level: Option<i32>,
    max_chain_depth: Option<usize>,
    at_max_chain_depth: Option<FileMaxDepth>,
    source_attempts: Option<u32>,
    /// 0 compares nothing.
    audit_percent: Option<f64>,
    /// Seconds.
    mount_idle_seconds: Option<u64>,
    nbdkit: Option<PathBuf>,
    vddk_libdir: Option<PathBuf>,
}

/// What happens when a chain has as many links as it may have.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileMaxDepth {
    Full,
    SyntheticFull,
}

impl From<FileMaxDepth> for AtMaxDepth {
    fn from(file: FileMaxDepth) -> Self {
        match file {
            FileMaxDepth::Full => Self::Full,
            FileMaxDepth::SyntheticFull => Self::SyntheticFull,
        }
    }
}

impl From<FileLimits> for Limits {
    fn from(file: FileLimits) -> Self {
        let FileLimits {
            jobs,
            disks,
            reads,
            encoders,
            zstd_level,
            max_chain_depth,
            at_max_chain_depth,
            source_attempts,
            audit_percent,
            mount_idle_seconds,
            nbdkit,
            vddk_libdir,
        } = file;
        let default = Self::default();
        Self {
            jobs: jobs.unwrap_or(default.jobs),
            disks: disks.unwrap_or(default.disks),
            reads: reads.unwrap_or(default.reads),
            encoders: encoders.unwrap_or(default.encoders),
            zstd_level: match zstd_level {
                Some(0) => None,
                Some(level) => Some(level),
                None => default.zstd_level,
            },
            max_chain_depth: max_chain_depth.unwrap_or(default.max_chain_depth),
            at_max_chain_depth: at_max_chain_depth.map_or(default.at_max_chain_depth, AtMaxDepth::from),
            source_attempts: source_attempts.unwrap_or(default.source_attempts),
            audit_percent: audit_percent.unwrap_or(default.audit_percent),
            mount_idle: mount_idle_seconds.map_or(default.mount_idle, Duration::from_secs),
            nbdkit: nbdkit.or(default.nbdkit),
            vddk_libdir: vddk_libdir.or(default.vddk_libdir),
        }
    }
}

/// What the server runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) database_url: Option<String>,
    pub(crate) plugins: PluginOptions,
    /// Certificate chain and key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) log: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) mail: Option<MailSettings>,
}

impl Settings {
    /// Puts arguments and file together.
    pub(crate) fn new(args: ServeArgs) -> Result<Self> {
        let ServeArgs { data_dir, listen, database_url, plugins, config, tls_cert, tls_key, log } = args;
        let file = config.as_deref().map(read).transpose()?.unwrap_or_default();
        let usage = |words: &str| Usage(words.to_owned());
        let tls = match (tls_cert.or(file.tls_cert), tls_key.or(file.tls_key)) {
            (Some(certificates), Some(key)) => Some((certificates, key)),
            (None, None) => None,
            _ => return Err(usage("tls_cert and tls_key belong together").into()),
        };
        if file.limits.audit_percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            return Err(usage("audit_percent is a share from 0 to 100").into());
        }
        Ok(Self {
            data_dir: data_dir
                .or(file.data_dir)
                .ok_or_else(|| usage("serve needs --data-dir (or data_dir in the configuration file)"))?,
            listen: listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8082))),
            database_url: database_url.or(file.database_url),
            plugins: file.plugin_trust.options(plugins.or(file.plugins).or_else(default_plugins))?,
            tls,
            log: log.or(file.log),
            limits: Limits::from(file.limits),
            mail: file.smtp.map(FileSmtp::settings).transpose()?,
        })
    }
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).map_err(|error| Usage(format!("{}: {error}", path.display())).into())
}

/// Beside the binary where it was built or unpacked, then where a package puts them.
fn default_plugins() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("../plugins")));
    beside.into_iter().chain([PathBuf::from("/usr/share/tidemark/plugins")]).find(|folder| folder.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: Option<PathBuf>) -> ServeArgs {
        ServeArgs {
            data_dir: None,
            listen: None,
            database_url: None,
            plugins: None,
            config,
            tls_cert: None,
            tls_key: None,
            log: None,
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidemark.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn arguments_win_over_the_file_over_defaults() {
        let (_dir, path) = file(
            "data_dir = '/f'\nlisten = '127.0.0.1:1'\n[limits]\njobs = 7\nzstd_level = 0\nat_max_chain_depth = 'synthetic-full'\n",
        );
        let listen = "127.0.0.1:2".parse().unwrap();
        let settings = Settings::new(ServeArgs { listen: Some(listen), ..args(Some(path)) }).unwrap();
        assert_eq!((settings.data_dir, settings.listen), (PathBuf::from("/f"), listen));
        assert_eq!((settings.limits.jobs, settings.limits.zstd_level), (7, None));
        assert_eq!(settings.limits.reads, Limits::default().reads);
        assert_eq!(settings.limits.at_max_chain_depth, AtMaxDepth::SyntheticFull);
        assert_eq!(settings.limits.max_chain_depth, 30);
    }

    #[test]
    fn mistakes_are_wrong_usage() {
        assert!(Settings::new(args(None)).unwrap_err().is::<Usage>());
        for text in [
            "data_dir = '/f'\ntls_cert = '/c'",
            "datadir = '/f'",
            "data_dir = 1",
            "[limits]\njobz = 1",
            "[limits]\nat_max_chain_depth = 'no'",
            "data_dir = '/f'\n[limits]\naudit_percent = 101.0",
            "data_dir = '/f'\n[plugin_trust]\nkeys = ['none']",
            "data_dir = '/f'\n[plugin_trust]\nrequire_signature = true",
        ] {
            let (_dir, path) = file(text);
            assert!(Settings::new(args(Some(path))).unwrap_err().is::<Usage>(), "{text}");
        }
    }
}
