//! pyvmomi, an independent client, drives the real binary from login to removal.
//!
//! It needs a Python with pyvmomi (`TIDEMARK_PYTHON`, or `.venv/bin/python` at the workspace's root), nbdcopy,
//! nbdinfo and qemu-img; `scripts/setup` installs them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test a failed step is a failed test")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

const BLOCK: usize = 64 * 1024;

/// A running simulator that is ended with SIGTERM, as an operator would.
struct Running {
    child: Child,
    addresses: String,
}

impl Running {
    fn start(args: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vcenter-sim"))
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the simulator starts");
        let mut addresses = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut addresses).unwrap();
        Self { child, addresses }
    }

    /// Ends it and returns how it ended.
    fn stop(mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let chosen = std::env::var_os("TIDEMARK_PYTHON");
    let python = chosen.map_or_else(|| root.join(".venv/bin/python"), PathBuf::from);
    let works = Command::new(&python).args(["-c", "import pyVmomi"]).output();
    assert!(
        works.is_ok_and(|output| output.status.success()),
        "{} has no pyvmomi: run scripts/setup, or name a Python that has it in TIDEMARK_PYTHON",
        python.display()
    );
    python
}

/// A sparse disk whose data is the same at every run and different in every block.
fn disk(folder: &Path, name: &str, bytes: usize, data: &[(usize, usize)]) -> String {
    use std::os::unix::fs::FileExt;
    let path = folder.join(name);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(bytes as u64).unwrap();
    for &(offset, length) in data {
        let content: Vec<u8> =
            (offset..offset + length).map(|at| u8::try_from((at / 509 + at) % 251).unwrap()).collect();
        file.write_all_at(&content, offset as u64).unwrap();
    }
    path.display().to_string()
}

fn arguments(folder: &Path) -> Vec<String> {
    let web = [
        disk(folder, "web0", 64 * BLOCK, &[(0, 25 * BLOCK), (40 * BLOCK, 100)]),
        disk(folder, "web1", 16 * BLOCK + 512, &[]),
    ];
    let small = |name| disk(folder, name, 8 * BLOCK, &[(0, BLOCK)]);
    let vms = [
        format!("web={},{}", web[0], web[1]),
        format!("db={},{}", small("db0"), small("db1")),
        format!("golden={}", small("golden")),
    ];
    let mut arguments: Vec<String> = vms.into_iter().flat_map(|vm| ["--vm".to_owned(), vm]).collect();
    for option in ["golden:template", "db:independent=0", "db:rdm=1"] {
        arguments.extend(["--vm-option".to_owned(), option.to_owned()]);
    }
    arguments.extend(["--areas-per-page", "3", "--objects-per-page", "2"].map(str::to_owned));
    arguments
}

#[test]
fn pyvmomi_backs_a_vm_up_from_login_to_removal() {
    let folder = TempDir::new().unwrap();
    let arguments = arguments(folder.path());
    let sources: Vec<Vec<u8>> =
        ["web0", "web1"].map(|name| std::fs::read(folder.path().join(name)).unwrap()).to_vec();
    let running = Running::start(&arguments);
    let addresses = folder.path().join("addresses.json");
    std::fs::write(&addresses, &running.addresses).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("pyvmomi/end_to_end.py");
    let output = Command::new(python()).arg(script).arg(&addresses).arg(folder.path()).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(running.stop("-TERM"), Some(0), "the simulator did not end cleanly");
    for (name, source) in ["web0", "web1"].iter().zip(sources) {
        let now = std::fs::read(folder.path().join(name)).unwrap();
        assert!(now == source, "the source disk {name} was written to");
    }
}

#[test]
fn the_first_line_is_the_contract_and_an_interrupt_ends_it() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let vm = format!("one={}", disk(folder.path(), "one.raw", BLOCK, &[(0, 512)]));
    let options = ["--vm", &vm, "--fault", "SlowAnswers=1", "--state-dir", state.to_str().unwrap()];
    let running = Running::start(&options.map(str::to_owned));
    let addresses: serde_json::Value = serde_json::from_str(&running.addresses).unwrap();
    let text = |name: &str| addresses[name].as_str().unwrap().to_owned();
    assert!(text("url").starts_with("https://127.0.0.1:") && text("url").ends_with("/sdk"));
    assert!(text("nbd_url").starts_with("nbd://127.0.0.1:"));
    assert!(text("control_url").starts_with("http://127.0.0.1:"));
    assert!(!text("username").is_empty() && !text("password").is_empty());
    assert_eq!((text("thumbprint").len(), text("thumbprint_sha1").len()), (32 * 3 - 1, 20 * 3 - 1));
    assert!(state.join("one/disk-0.blocks").exists());
    assert_eq!(running.stop("-INT"), Some(0));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let folder = TempDir::new().unwrap();
    let good = format!("one={}", disk(folder.path(), "one.raw", BLOCK, &[]));
    let odd = format!("odd={}", disk(folder.path(), "odd.raw", 1000, &[]));
    for wrong in [
        vec!["--vm", "one"],
        vec!["--vm", "one=/nowhere/disk.raw"],
        vec!["--vm", &odd],
        vec!["--vm", &good, "--vm", &good],
        vec!["--vm", &good, "--vm-option", "two:template"],
        vec!["--vm", &good, "--vm-option", "one:rdm=1"],
        vec!["--vm", &good, "--fault", "Earthquake"],
        vec!["--vm", &good, "--fault", "NoPermission"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vcenter-sim")).args(&wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
}
