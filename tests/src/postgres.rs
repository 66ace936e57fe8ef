//! A throw-away PostgreSQL on a unix socket, from the distribution's server package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Guarded, wait_for};

/// The running database server; dropping it stops it. Its files live in the folder it was given.
#[derive(Debug)]
pub struct Postgres {
    process: Guarded,
    socket: PathBuf,
}

impl Postgres {
    /// Makes a cluster in `folder` and starts it.
    ///
    /// # Errors
    /// Where no server package is installed or it does not come up.
    pub fn start(folder: &Path) -> Result<Self> {
        let programs = programs()?;
        let home = folder.join("postgres");
        fs::create_dir_all(&home)?;
        give_to_server(folder, &home)?;
        let (data, socket) = (home.join("data"), home.clone());
        let mut init = as_server(&programs.join("initdb"))?;
        init.args(["--auth=trust", "--username=tidemark", "--no-sync", "--encoding=UTF8", "-D"]).arg(&data);
        let output = init.output().context("cannot start initdb")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let mut server = as_server(&programs.join("postgres"))?;
        server.arg("-D").arg(&data).arg("-k").arg(&socket);
        server.args(["-c", "listen_addresses=", "-c", "fsync=off"]).stdout(Stdio::null());
        let mut process = Guarded::start("postgres", &mut server, &folder.join("postgres.log"))?;
        wait_for("PostgreSQL to listen", Duration::from_secs(60), || {
            process.still_running()?;
            Ok(accepts(&programs, &socket).then_some(()))
        })?;
        Ok(Self { process, socket })
    }

    /// The address of its ordinary database.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://tidemark@localhost/postgres?host={}", self.socket.display())
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// Where it does not stop.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop()?;
        Ok(())
    }
}

fn accepts(programs: &Path, socket: &Path) -> bool {
    let mut ready = Command::new(programs.join("pg_isready"));
    ready.args(["-q", "-U", "tidemark", "-h"]).arg(socket);
    ready.status().is_ok_and(|status| status.success())
}

/// The newest installed server's programs.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL's server is not installed")?;
    let mut folders: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    folders.retain(|folder| folder.join("postgres").is_file());
    folders.sort_by_key(|folder| major_version(folder));
    folders.pop().context("PostgreSQL's server is not installed (run `scripts/setup test`)")
}

fn major_version(programs: &Path) -> u32 {
    let name = programs.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// PostgreSQL refuses to run as root; the package's own user serves instead.
fn as_server(program: &Path) -> Result<Command> {
    if !rustix::process::getuid().is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    Ok(command)
}

fn give_to_server(folder: &Path, home: &Path) -> Result<()> {
    if rustix::process::getuid().is_root() {
        // The temporary folder is 0700: its server must be able to pass through it.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        let status = Command::new("chown").arg("postgres").arg(home).status().context("chown")?;
        ensure!(status.success(), "cannot give {} to the user postgres", home.display());
    }
    Ok(())
}
