//! A raw file over NBD by somebody else's server (`qemu-nbd`): a source that owes nothing to the product or the
//! simulator.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Guarded, wait_for};
use crate::server::free_address;

/// A program that only opens a file is up at once or never.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// The running server; it ends with this.
#[derive(Debug)]
pub struct NbdServer {
    process: Guarded,
    address: String,
}

impl NbdServer {
    /// Serves `file` read-only under the export's name `disk`, to any number of clients.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start(file: &Path) -> Result<Self> {
        let address = free_address()?;
        let (host, port) = address.rsplit_once(':').context("an address with a port")?;
        let mut command = Command::new("qemu-nbd");
        command.args(["--read-only", "--persistent", "--shared=0", "--format=raw", "--export-name=disk"]);
        command.args(["--bind", host, "--port", port]).arg(file).stdout(Stdio::null());
        let mut process = Guarded::start("qemu-nbd", &mut command, &file.with_extension("nbd.log"))?;
        wait_for("qemu-nbd to answer", START_DEADLINE, || {
            process.still_running()?;
            Ok(TcpStream::connect(&address).ok())
        })?;
        Ok(Self { process, address })
    }

    /// Where the file is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nbd://{}/disk", self.address)
    }

    /// The capability that a plugin needs to name it.
    #[must_use]
    pub fn capability(&self) -> String {
        format!("nbd:{}", self.address)
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop().map(drop)
    }
}
