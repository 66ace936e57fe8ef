//! The same questions to the engine itself, in this process: what they take without HTTP, JSON and a socket.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::StreamExt as _;
use tidemark_engine::{Clock, Engine, EngineOptions, Limits, PluginOptions};
use tidemark_model::BackupId;

use super::FilesArgs;
use crate::data::MIB;

/// Who asks, for the audit.
const ACTOR: &str = "bench";

/// What each round took.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) listing: Vec<Duration>,
    pub(super) content: Vec<Duration>,
}

/// Asks an engine over the data folder of a server that has stopped.
pub(super) fn measure(data_dir: &Path, backup: &str, disk: usize, args: &FilesArgs) -> Result<Taken> {
    let backup: BackupId = backup.parse().map_err(|error| anyhow!("{backup}: {error}"))?;
    let options = EngineOptions {
        data_dir: data_dir.to_owned(),
        database_url: None,
        plugins: PluginOptions::default(),
        owner: None,
        limits: Limits::default(),
        mail: None,
        clock: Clock::System,
        abort_at_step: None,
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let engine = Engine::start(options).await.map_err(|error| anyhow!(error.chain()))?;
        let taken = rounds(&engine, backup, disk, args).await;
        engine.shutdown().await;
        taken
    })
}

async fn rounds(engine: &Engine, backup: BackupId, disk: usize, args: &FilesArgs) -> Result<Taken> {
    let mount = engine.mount(ACTOR, backup, u32::try_from(disk)?).await?;
    let partition = mount.partitions.first().context("no partition")?;
    let mut taken = Taken::default();
    // The first finds nothing in memory, and is not of the hot ones.
    for round in 0..=args.rounds {
        let began = Instant::now();
        let listing = engine.files(&mount.id, &format!("/{}/many", partition.name), |file| file).await?;
        ensure!(listing.files.len() as u64 == args.files, "{} files were listed", listing.files.len());
        let listed = began.elapsed();
        let began = Instant::now();
        let large = engine.open_download(ACTOR, &mount.id, &format!("/{}/large", partition.name)).await?;
        let (mut content, mut sum) = (large.context("a folder")?.stream(), 0);
        while let Some(piece) = content.next().await {
            sum += piece?.len() as u64;
        }
        ensure!(sum == args.large * MIB, "{sum} bytes came");
        if round > 0 {
            taken.listing.push(listed);
            taken.content.push(began.elapsed());
        }
    }
    engine.unmount(ACTOR, &mount.id).await?;
    Ok(taken)
}
