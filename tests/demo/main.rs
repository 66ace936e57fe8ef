//! `make demo`: a VM with two disks full of real files is discovered, backed up, changed, backed up again,
//! verified and restored, before the eyes of the user; a report says what was moved and whether all of it is right.
//!
//! Exit codes: 0 when every check passed, 1 otherwise. `tidemark-demo stop` ends what an earlier demo left running.

mod guest;
mod report;
mod running;
mod story;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    match std::env::args().nth(1).as_deref() {
        None => story::tell(keep_running()),
        Some("stop") => running::stop().map(|()| true),
        Some(other) => bail!("'{other}' is no command of the demo; there is only 'stop'"),
    }
}

/// A person at a terminal wants to go on with what the demo built; a script wants its machine back.
fn keep_running() -> bool {
    let asked = std::env::var_os("DEMO_KEEP").is_some_and(|value| value == "1");
    asked || (std::io::stdin().is_terminal() && std::io::stdout().is_terminal())
}
