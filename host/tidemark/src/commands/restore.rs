//! `tidemark restore`

use anyhow::{Context as _, Result};
use tidemark_api::wire::{RestoreDisk, RestoreFormat};

use super::finish;
use crate::args::{FormatArg, RestoreVerb};
use crate::client::{Client, escape};
use crate::output::{Ended, Output};

impl From<FormatArg> for RestoreFormat {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Raw => Self::Raw,
            FormatArg::Qcow2 => Self::Qcow2,
        }
    }
}

pub(crate) fn run(verb: RestoreVerb, client: &Client, output: &Output) -> Result<Ended> {
    let RestoreVerb::Disk { id, disk, to, format, wait } = verb;
    // Relative to where the user stands; the server's working folder means nothing to them.
    let to = std::path::absolute(&to).with_context(|| to.display().to_string())?;
    let order = RestoreDisk { disk_index: disk, to: to.clone(), format: format.into() };
    let accepted = client.post(&format!("/api/v1/backups/{}/actions/restore", escape(&id)), &order)?;
    finish(client, output, accepted, &wait, |_| format!("disk {disk} of backup {id} is in {}", to.display()))
}
