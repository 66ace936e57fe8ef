//! The binary `tidemark`: the server and the command line, which speaks REST only.
//!
//! Documents and tables go to standard output, messages to standard error. It ends with 0 when the work is done,
//! 1 when it failed, 2 on wrong usage, 3 when it is done with warnings.

mod args;
mod client;
mod commands;
mod config;
mod output;
mod serve;
mod servers;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use tidemark_plugins::CompileLimits;

use crate::args::{Cli, CompileArgs, Noun};
use crate::client::{Client, Refused};
use crate::commands::{backup, connector, flow, job, plugin, policy, prune, repository, restore, token, vm};
use crate::output::{Ended, Output};

fn main() -> ExitCode {
    // Wrong usage ends inside with 2, help and version with 0.
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    match run(cli, &output) {
        Ok(ended) => ExitCode::from(ended.code()),
        Err(error) => {
            let refused = error.downcast_ref::<Refused>();
            output.failure(&error, refused.map(Refused::problem));
            ExitCode::from(if error.is::<config::Usage>() { 2 } else { Ended::Failed.code() })
        }
    }
}

/// Its standard output is code, and its standard error the words of a failure: nothing else may be written.
fn compile(args: CompileArgs) -> anyhow::Result<Ended> {
    let CompileArgs { kind, memory_bytes, seconds } = args;
    let kind = serde_json::from_value(serde_json::Value::String(kind))?;
    let compiled = tidemark_plugins::run_compiler(kind, CompileLimits { memory_bytes, seconds });
    Ok(match compiled {
        Ok(()) => Ended::Done,
        Err(words) => {
            eprintln!("{words}");
            Ended::Failed
        }
    })
}

fn run(cli: Cli, output: &Output) -> anyhow::Result<Ended> {
    let Cli { global, noun } = cli;
    // Built only where it is needed: local commands work without a token.
    let client = || Client::new(&global);
    match noun {
        Noun::Serve(args) => serve::run(args, output),
        Noun::Plugin(verb) => plugin::run(verb, &client, output),
        Noun::Connector(verb) => connector::run(verb, &client()?, output),
        Noun::Repository(verb) => repository::run(verb, &client()?, output),
        Noun::Vm(verb) => vm::run(verb, &client()?, output),
        Noun::Backup(verb) => backup::run(verb, &client()?, output),
        Noun::Policy(verb) => policy::run(verb, &client, output),
        Noun::Flow(verb) => flow::run(verb, &client()?, output),
        Noun::Prune(verb) => prune::run(verb, &client()?, output),
        Noun::Restore(verb) => restore::run(verb, &client()?, output),
        Noun::Job(verb) => job::run(verb, &client()?, output),
        Noun::Token(verb) => token::run(verb, &client()?, output),
        Noun::CompileComponent(args) => compile(args),
    }
}
