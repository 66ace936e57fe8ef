//! The command line, read into VMs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::path::Path;

use crate::disk::Disk;
use crate::soap::value::MoRef;
use crate::state::machine::{DiskKind, Vm, VmDisk};
use crate::state::{Settings, Vcenter};

/// A vCenter for tests and the demo: SOAP, changed block tracking, snapshots, NBD.
#[derive(Debug, Parser)]
#[command(name = "vcenter-sim", version)]
pub struct Options {
    /// Where HTTPS listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where NBD listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub nbd_listen: SocketAddr,
    /// Where the control routes listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub control_listen: SocketAddr,
    /// A VM and its raw disks, which are read and never written.
    #[arg(long = "vm", value_name = "NAME=DISK.raw[,DISK.raw…]", required = true)]
    pub vms: Vec<String>,
    /// A trait of a VM: `template`, `poweredoff`, `rdm=N` or `independent=N`, disks counted from 0.
    #[arg(long = "vm-option", value_name = "NAME:OPTION")]
    pub vm_options: Vec<String>,
    /// A fault switch that is set from the start.
    #[arg(long = "fault", value_name = "NAME[=ARG]")]
    pub faults: Vec<String>,
    /// Where the disks' state is kept; a temporary folder otherwise.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Who may log in.
    #[arg(long, default_value = "administrator@vsphere.local")]
    pub username: String,
    /// With which password.
    #[arg(long, default_value = "simulated-password")]
    pub password: String,
    /// When an idle session ends, in seconds.
    #[arg(long, default_value_t = 1800)]
    pub session_idle_s: u64,
    /// How long a task is queued, and then running, in milliseconds.
    #[arg(long, default_value_t = 20)]
    pub task_step_ms: u64,
    /// The most changed areas on a page.
    #[arg(long, default_value_t = 2000)]
    pub areas_per_page: usize,
    /// The most objects on a page of properties.
    #[arg(long, default_value_t = 100)]
    pub objects_per_page: usize,
}

impl Options {
    /// The vCenter that the options describe, with its disks in `state`.
    ///
    /// # Errors
    /// An option that makes no sense, or a disk that cannot be taken over.
    pub fn vcenter(&self, state: &Path) -> anyhow::Result<Vcenter> {
        let mut vms: Vec<Vm> = Vec::new();
        for (index, text) in self.vms.iter().enumerate() {
            let (name, disks) = text.split_once('=').context("a --vm is NAME=DISK.raw[,DISK.raw…]")?;
            ensure!(is_name(name), "{name:?} is no name for a VM: letters, digits, dot, dash and underscore");
            ensure!(vms.iter().all(|vm| vm.name != name), "there are two VMs named {name}");
            let folder = state.join(name);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let mut built = Vec::new();
            for (number, source) in disks.split(',').enumerate() {
                built.push(open_disk(name, number, Path::new(source), &folder)?);
            }
            let reference = MoRef::new("VirtualMachine", format!("vm-{}", index + 10));
            let uuids = (uuid_of(&format!("bios:{name}")), uuid_of(&format!("instance:{name}")));
            vms.push(Vm::new(reference, name, uuids, built));
        }
        for text in &self.vm_options {
            apply(&mut vms, text)?;
        }
        Ok(Vcenter::new(self.settings(), vms))
    }

    fn settings(&self) -> Settings {
        Settings {
            username: self.username.clone(),
            password: self.password.clone(),
            session_idle: Duration::from_secs(self.session_idle_s),
            task_step: Duration::from_millis(self.task_step_ms),
            areas_per_page: self.areas_per_page,
            objects_per_page: self.objects_per_page,
            datacenter: "Datacenter".to_owned(),
            datastore: "datastore1".to_owned(),
        }
    }
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ');
    !text.is_empty() && !text.starts_with('.') && text.chars().all(plain)
}

fn open_disk(vm: &str, number: usize, source: &Path, folder: &Path) -> anyhow::Result<VmDisk> {
    let disk = Disk::open(source, &folder.join(format!("disk-{number}.blocks")))
        .with_context(|| format!("cannot take over the disk {}", source.display()))?;
    let base = match number {
        0 => format!("{vm}/{vm}"),
        number => format!("{vm}/{vm}_{number}"),
    };
    Ok(VmDisk {
        key: 2000 + u32::try_from(number)?,
        kind: DiskKind::Flat,
        uuid: uuid_of(&format!("disk:{vm}:{number}")).replacen(|_: char| true, "6", 1),
        disk: Arc::new(disk),
        file: format!("{base}.vmdk"),
        base,
    })
}

/// A uuid that is the same at every start, so that a restarted simulator shows the same VMs.
fn uuid_of(text: &str) -> String {
    let digest = Sha256::digest(text);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn apply(vms: &mut [Vm], text: &str) -> anyhow::Result<()> {
    let (name, option) = text.split_once(':').context("a --vm-option is NAME:OPTION")?;
    let vm = vms.iter_mut().find(|vm| vm.name == name).with_context(|| format!("there is no VM {name}"))?;
    let (option, number) = match option.split_once('=') {
        Some((option, number)) => (option, Some(number.parse::<usize>().context("a disk number")?)),
        None => (option, None),
    };
    let kind = match option {
        "template" => {
            (vm.template, vm.powered_on) = (true, false);
            return Ok(());
        }
        "poweredoff" => {
            vm.powered_on = false;
            return Ok(());
        }
        "rdm" => DiskKind::PhysicalRdm,
        "independent" => DiskKind::Independent,
        other => bail!("there is no VM option {other}"),
    };
    let disk = vm.disks.get_mut(number.context("this option needs a disk: NAME:rdm=0")?);
    disk.with_context(|| format!("{name} has no such disk"))?.kind = kind;
    Ok(())
}
