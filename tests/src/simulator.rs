//! A running `vcenter-sim` and its control routes: what a guest, an administrator or an accident would do.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::binaries;
use crate::process::Guarded;
use crate::rest::Rest;

/// One VM to simulate: its name and its raw disks.
#[derive(Debug, Clone)]
pub struct SimulatedVm {
    /// Its name in the inventory.
    pub name: String,
    /// Its disks, read once and never written in place.
    pub disks: Vec<PathBuf>,
}

/// Where the simulator can be reached.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The SOAP interface.
    pub url: String,
    /// Who may log in.
    pub username: String,
    /// With what.
    pub password: String,
    /// The certificate's fingerprint.
    pub thumbprint: String,
    /// The NBD server.
    pub nbd_url: String,
    /// The control routes.
    pub control_url: String,
}

/// The running simulator.
#[derive(Debug)]
pub struct Simulator {
    process: Guarded,
    control: Rest,
    /// Where it can be reached.
    pub endpoints: Endpoints,
}

impl Simulator {
    /// Starts it on free ports with its state and log in `folder`, and with more `arguments`.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start(folder: &Path, vms: &[SimulatedVm], arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binaries::vcenter_sim()?);
        command.args(["--listen", "127.0.0.1:0", "--state-dir"]).arg(folder.join("simulator"));
        for vm in vms {
            let disks: Vec<_> = vm.disks.iter().map(|disk| disk.to_string_lossy()).collect();
            command.arg("--vm").arg(format!("{}={}", vm.name, disks.join(",")));
        }
        command.args(arguments).stdout(Stdio::piped());
        let log = folder.join("simulator.log");
        let mut process = Guarded::start("vcenter-sim", &mut command, &log)?;
        let stdout = process.child()?.stdout.take().context("the simulator's standard output")?;
        let mut lines = BufReader::new(stdout);
        let mut first = String::new();
        lines.read_line(&mut first)?;
        ensure!(!first.is_empty(), "vcenter-sim ended at once, see {}", log.display());
        // Later lines are read away, or a full pipe would stop the simulator.
        thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let endpoints = endpoints(&first)?;
        Ok(Self { process, control: Rest::new(&endpoints.control_url, None), endpoints })
    }

    /// A guest writes.
    ///
    /// # Errors
    /// Where the simulator refuses.
    pub fn write(&self, vm: &str, disk: usize, offset: u64, content: &[u8]) -> Result<()> {
        let path = format!("/vms/{vm}/disks/{disk}/write?offset={offset}");
        self.posted(&path, content)
    }

    /// A guest discards.
    ///
    /// # Errors
    /// Where the simulator refuses.
    pub fn trim(&self, vm: &str, disk: usize, offset: u64, length: u64) -> Result<()> {
        self.posted(&format!("/vms/{vm}/disks/{disk}/trim?offset={offset}&length={length}"), &[])
    }

    /// Switches a fault on for its next `times` occasions.
    ///
    /// # Errors
    /// Where the simulator does not know it.
    pub fn fault(&self, name: &str, arg: Option<&str>, times: u32) -> Result<()> {
        let answer = self.control.post("/faults", &json!({"name": name, "arg": arg, "times": times}))?;
        ensure!((200..300).contains(&answer.status), "fault {name}: {} {}", answer.status, answer.text);
        Ok(())
    }

    /// The switches that are set and have not struck to their end.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn faults(&self) -> Result<Vec<Value>> {
        let set = self.control.get("/faults")?.expect(200)?;
        Ok(set["faults"].as_array().context("'faults'")?.clone())
    }

    /// The hypervisor's own key of a VM.
    ///
    /// # Errors
    /// Where the simulator does not know the VM.
    pub fn key_of(&self, vm: &str) -> Result<String> {
        let all = self.control.get("/vms")?.expect(200)?;
        let found = all["vms"].as_array().context("'vms'")?.iter().find(|found| found["name"] == vm);
        let key = found.and_then(|found| found["moref"].as_str());
        key.map(str::to_owned).with_context(|| format!("the simulator has no VM '{vm}'"))
    }

    /// The VM's snapshots as the hypervisor has them.
    ///
    /// # Errors
    /// Where the simulator does not know the VM.
    pub fn snapshots(&self, vm: &str) -> Result<Vec<Value>> {
        let list = self.control.get(&format!("/vms/{vm}/snapshots"))?.expect(200)?;
        let list = if list.is_array() { &list } else { &list["snapshots"] };
        Ok(list.as_array().context("a list of snapshots")?.clone())
    }

    /// Saves the frozen bytes of a disk in a snapshot.
    ///
    /// # Errors
    /// Where there is no such snapshot.
    pub fn save_frozen(&self, vm: &str, disk: usize, snapshot: &str, to: &Path) -> Result<u64> {
        let file = File::create(to).with_context(|| to.display().to_string())?;
        self.control.download(&format!("/vms/{vm}/disks/{disk}/frozen/{snapshot}"), file)
    }

    /// The hypervisor goes away without a word.
    ///
    /// # Errors
    /// Where it is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Lets it live on; answers its process number.
    #[must_use]
    pub fn leave_running(self) -> Option<u32> {
        self.process.leave_running()
    }

    fn posted(&self, path: &str, body: &[u8]) -> Result<()> {
        let headers = [("content-type", "application/octet-stream")];
        let answer = self.control.send("POST", path, &headers, Some(body))?;
        ensure!((200..300).contains(&answer.status), "POST {path}: {} {}", answer.status, answer.text);
        Ok(())
    }
}

impl Endpoints {
    /// The host and port of the SOAP interface, as a connector's settings name them.
    ///
    /// # Errors
    /// Where the address has another shape.
    pub fn host_port(&self) -> Result<(&str, &str)> {
        let rest = self.url.strip_prefix("https://").context("an https address")?;
        let authority = rest.split('/').next().unwrap_or(rest);
        authority.rsplit_once(':').context("an address with a port")
    }

    /// The host and port of the NBD server.
    ///
    /// # Errors
    /// Where the address has another shape.
    pub fn nbd_host_port(&self) -> Result<(&str, &str)> {
        let rest = self.nbd_url.strip_prefix("nbd://").context("an nbd address")?;
        rest.trim_end_matches('/').rsplit_once(':').context("an address with a port")
    }
}

fn endpoints(line: &str) -> Result<Endpoints> {
    let line: Value =
        serde_json::from_str(line).with_context(|| format!("the first line is no JSON: {line}"))?;
    let text = |field: &str| {
        line[field].as_str().map(str::to_owned).with_context(|| format!("the first line lacks '{field}'"))
    };
    Ok(Endpoints {
        url: text("url")?,
        username: text("username")?,
        password: text("password")?,
        thumbprint: text("thumbprint")?,
        nbd_url: text("nbd_url")?,
        control_url: text("control_url")?,
    })
}
