//! A running `tidemark serve` with its own data folder, on a free port of the loopback address.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::binaries;
use crate::cli::Cli;
use crate::logs;
use crate::process::{Guarded, wait_for};
use crate::rest::Rest;

/// Compiling the first-party components on the first start is the longest part.
const START_DEADLINE: Duration = Duration::from_secs(180);

/// How to start the server.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Its data folder and log go below this folder.
    pub folder: PathBuf,
    /// Another catalog than the embedded one.
    pub database_url: Option<String>,
    /// A program that puts the server into a changed surrounding and then becomes it.
    pub wrapper: Vec<String>,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    process: Guarded,
    options: ServerOptions,
    /// For example `http://127.0.0.1:40123`.
    pub url: String,
    /// The administrator's token.
    pub token: String,
}

impl Server {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// Where it does not come up; its log's end is in the error.
    pub fn start(options: &ServerOptions) -> Result<Self> {
        let listen = free_address()?;
        let mut command = serve_command(options, &listen)?;
        let log = log_file(&options.folder);
        let mut process = Guarded::start("tidemark serve", &mut command, &log)?;
        let url = format!("http://{listen}");
        let anonymous = Rest::new(&url, None);
        let up = wait_for("tidemark serve to answer", START_DEADLINE, || {
            process.still_running()?;
            Ok(anonymous.get("/api/v1/health").ok().filter(|answer| answer.status == 200))
        });
        up.with_context(|| format!("log of the server:\n{}", tail(&log)))?;
        let token = read_token(&data_folder(&options.folder))?;
        Ok(Self { process, options: options.clone(), url, token })
    }

    /// The command line as the administrator.
    ///
    /// # Errors
    /// Where the product is not built.
    pub fn cli(&self) -> Result<Cli> {
        Ok(Cli::new(&binaries::tidemark()?, &self.url, &self.token))
    }

    /// The REST interface as the administrator.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(&self.url, Some(&self.token))
    }

    /// Its data folder.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        data_folder(&self.options.folder)
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        log_file(&self.options.folder)
    }

    /// Its process number.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.process.pid().context("the server does not run")
    }

    /// Whether the process has not ended yet.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// An orderly stop; done too where it has ended already.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn stop(&mut self) -> Result<()> {
        if self.is_running() {
            self.process.stop()?;
        }
        Ok(())
    }

    /// SIGKILL, then a new start on the same data folder.
    ///
    /// # Errors
    /// Where it does not come up again.
    pub fn kill_and_restart(mut self) -> Result<Self> {
        self.process.kill()?;
        Self::start(&self.options)
    }

    /// A new start on the same data folder, after a stop.
    ///
    /// # Errors
    /// Where it does not come up again.
    pub fn restart_stopped(self) -> Result<Self> {
        Self::start(&self.options)
    }

    /// An orderly stop, then a new start on the same data folder.
    ///
    /// # Errors
    /// Where it does not stop or come up again.
    pub fn restart(mut self) -> Result<Self> {
        self.process.stop()?;
        Self::start(&self.options)
    }

    /// Stops it in order and reads its log: only `expected` complaints may be there.
    ///
    /// # Errors
    /// Where it ends badly or complained of something else.
    pub fn finish(mut self, expected: &[&str]) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "tidemark serve ended with {status}\n{}", tail(&self.log()));
        logs::no_surprises(&self.log(), expected)
    }

    /// Lets it live on; answers its process number.
    #[must_use]
    pub fn leave_running(self) -> Option<u32> {
        self.process.leave_running()
    }
}

/// The data folder below a server's folder.
#[must_use]
pub fn data_folder(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// The file that holds the administrator's token.
#[must_use]
pub fn token_file(data_folder: &Path) -> PathBuf {
    data_folder.join("admin.token")
}

fn serve_command(options: &ServerOptions, listen: &str) -> Result<Command> {
    let tidemark = binaries::tidemark()?;
    let mut command = match options.wrapper.split_first() {
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args).arg(&tidemark);
            command
        }
        None => Command::new(&tidemark),
    };
    command.args(["serve", "--listen", listen, "--data-dir"]).arg(data_folder(&options.folder));
    command.arg("--plugins").arg(binaries::plugins());
    if let Some(url) = &options.database_url {
        command.args(["--database-url", url]);
    }
    command.args(&options.arguments);
    // The outside world's settings must not change a test.
    command.env_remove("TIDEMARK_URL").env_remove("TIDEMARK_TOKEN").env_remove("RUST_LOG");
    command.env("NO_COLOR", "1").envs(options.environment.iter().cloned());
    command.stdout(Stdio::null());
    Ok(command)
}

fn read_token(data_folder: &Path) -> Result<String> {
    let path = token_file(data_folder);
    let token = fs::read_to_string(&path).with_context(|| format!("no token at {}", path.display()))?;
    Ok(token.trim().to_owned())
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("serve.log")
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// An address nobody listens on at this moment; the product wants to know its port beforehand.
pub(crate) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
