//! `tidemark restore`: a disk into a file on the server's machine, by a job, or to standard output here, by download.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tidemark_api::wire::{RestoreDisk, RestoreFormat};

use super::{files, finish};
use crate::args::{FormatArg, RestoreVerb};
use crate::client::{Client, Download, escape};
use crate::config::Usage;
use crate::output::{Ended, Output, size};

/// What is passed on at once.
const PIECE: usize = 256 << 10;

impl From<FormatArg> for RestoreFormat {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Raw => Self::Raw,
            FormatArg::Qcow2 => Self::Qcow2,
            FormatArg::Vmdk => Self::Vmdk,
        }
    }
}

pub(crate) fn run(verb: RestoreVerb, client: &Client, output: &Output) -> Result<Ended> {
    let (id, disk, to, format, wait) = match verb {
        RestoreVerb::Disk { id, disk, to, format, wait } => (id, disk, to, format, wait),
        RestoreVerb::Files(verb) => return files::run(verb, client, output),
    };
    if to.as_os_str() == "-" {
        if wait.no_wait {
            return Err(Usage("--no-wait has no meaning with --to -".to_owned()).into());
        }
        return to_standard_output(client, output, &id, disk, format.into());
    }
    // Relative to where the user stands; the server's working folder means nothing to them.
    let to = std::path::absolute(&to).with_context(|| to.display().to_string())?;
    let order = RestoreDisk { disk_index: disk, to: to.clone(), format: format.into() };
    let accepted = client.post(&format!("/api/v1/backups/{}/actions/restore", escape(&id)), &order)?;
    finish(client, output, accepted, &wait, |_| format!("disk {disk} of backup {id} is in {}", to.display()))
}

/// Standard output takes the disk and nothing else: whatever there is to say, JSON or not, goes to standard error.
fn to_standard_output(
    client: &Client,
    output: &Output,
    id: &str,
    disk: u32,
    format: RestoreFormat,
) -> Result<Ended> {
    if io::stdout().is_terminal() {
        return Err(
            Usage("standard output is a terminal; send the disk to a file or a pipe".to_owned()).into()
        );
    }
    let word = match format {
        RestoreFormat::Raw => "raw",
        RestoreFormat::Qcow2 => "qcow2",
        RestoreFormat::Vmdk => "vmdk",
    };
    let path = format!("/api/v1/backups/{}/disks/{disk}/export?format={word}", escape(id));
    let mut out = standard_output()?;
    match client.download(&path).and_then(|download| pass_on(download, &mut out, output)) {
        Ok(bytes) => {
            output.note(&format!("disk {disk} of backup {id}: {} sent", size(bytes)));
            Ok(Ended::Done)
        }
        Err(error) => {
            output.complaint(&error);
            Ok(Ended::Failed)
        }
    }
}

/// Standard output, unbuffered: the library's own handle looks for line ends in all that passes.
pub(super) fn standard_output() -> Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned().context("standard output")?))
}

/// Passes a download on to its last byte, with a progress bar where somebody looks; answers with how much it was.
pub(super) fn pass_on(download: Download, out: &mut File, output: &Output) -> Result<u64> {
    let Download { length, mut body } = download;
    let bar = progress(output, length);
    let (mut buffer, mut passed) = (vec![0; PIECE], 0);
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(anyhow!(error).context(incomplete(passed))),
        };
        out.write_all(&buffer[..count]).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => anyhow!("standard output was closed after {}", size(passed)),
            _ => anyhow!(error).context(format!("writing after {}", size(passed))),
        })?;
        passed += count as u64;
        bar.set_position(passed);
    }
    bar.finish_and_clear();
    if length.is_some_and(|length| length != passed) {
        bail!(incomplete(passed));
    }
    Ok(passed)
}

fn incomplete(passed: u64) -> String {
    format!("the server broke off after {}: what was written is incomplete, do not use it", size(passed))
}

fn progress(output: &Output, length: Option<u64>) -> ProgressBar {
    if output.is_json() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{spinner} sending  {wide_bar} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta}",
        ),
        None => (ProgressBar::no_length(), "{spinner} sending  {bytes}  {binary_bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
