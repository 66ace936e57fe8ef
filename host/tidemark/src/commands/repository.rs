//! `tidemark repository`

use anyhow::Result;
use serde_json::Value;
use tidemark_api::wire::{ConnectionEntry, JobEntry, RepositoryList};

use super::connection::{self, Bounds};
use super::finish;
use crate::args::{Bandwidth, RepositoryVerb};
use crate::client::{Client, escape};
use crate::output::{Ended, Output};

pub(crate) fn run(verb: RepositoryVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        RepositoryVerb::Add { connection: args, bound: Bandwidth { bandwidth } } => {
            let bounds = Bounds { bandwidth, ..Bounds::default() };
            let added = connection::add(client, "repositories", args, bounds)?;
            output.document(added, |entry: ConnectionEntry| format!("repository '{}' added", entry.name))?;
        }
        RepositoryVerb::Update { name, values, bound: Bandwidth { bandwidth } } => {
            let bounds = Bounds { bandwidth, ..Bounds::default() };
            let updated = connection::update(client, "repositories", &name, values, bounds)?;
            output
                .document(updated, |entry: ConnectionEntry| format!("repository '{}' changed", entry.name))?;
        }
        RepositoryVerb::List => {
            let list = client.list("/api/v1/repositories", "repositories")?;
            output.document(list, |list: RepositoryList| {
                connection::table(list.repositories, "no repositories")
            })?;
        }
        RepositoryVerb::Show { name } => {
            let shown = client.get(&format!("/api/v1/repositories/{}", escape(&name)))?;
            output.document(shown, connection::show)?;
        }
        RepositoryVerb::Import { name, wait } => {
            let accepted = client.act(&format!("/api/v1/repositories/{}/actions/import", escape(&name)))?;
            return finish(client, output, accepted, &wait, imported);
        }
        RepositoryVerb::Remove { name } => {
            client.delete(&format!("/api/v1/repositories/{}", escape(&name)))?;
            output.done(&format!("repository '{name}' is forgotten; its files stay"))?;
        }
    }
    Ok(Ended::Done)
}

fn imported(job: &JobEntry) -> String {
    let number = |key: &str| {
        job.result.as_ref().and_then(|result| result.get(key)).and_then(Value::as_u64).unwrap_or(0)
    };
    format!("{} backups imported, {} were known already", number("imported"), number("already_known"))
}
