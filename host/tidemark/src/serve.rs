//! `tidemark serve`: the engine and its REST interface until SIGTERM or SIGINT.
//!
//! Start: lock the data folder ▶ engine (recovers what a dead process left) ▶ listen ▶ note for clients.
//! Stop: no new requests ▶ running requests end ▶ engine (running jobs clean up) ▶ exit 0. A second signal ends the
//! process at once; the next start recovers.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tidemark_api::{Server, ServerOptions, TlsFiles};
use tidemark_engine::{ADMIN_TOKEN_FILE, Clock, Engine, EngineOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::args::ServeArgs;
use crate::config::{Settings, Usage};
use crate::output::{Ended, Output};
use crate::servers;

/// For tests: a file with the milliseconds by which the clock of schedules and ages is moved.
const CLOCK_VARIABLE: &str = "TIDEMARK_TEST_CLOCK";
/// For tests of recovery: the process aborts right after a backup recorded this step.
const ABORT_VARIABLE: &str = "TIDEMARK_ABORT_AT_STEP";

/// Runs the server.
pub(crate) fn run(args: ServeArgs, output: &Output) -> Result<Ended> {
    let settings = Settings::new(args)?;
    start_log(settings.log.as_deref())?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(serve(settings, output))?;
    Ok(Ended::Done)
}

async fn serve(settings: Settings, output: &Output) -> Result<()> {
    let Settings { data_dir, listen, database_url, plugins, tls, log: _, limits, mail } = settings;
    // From here on a signal is an orderly stop, also while the engine still starts.
    let mut stops = Stops::new()?;
    std::fs::create_dir_all(&data_dir).with_context(|| data_dir.display().to_string())?;
    let data_dir = std::path::absolute(&data_dir).with_context(|| data_dir.display().to_string())?;
    let _lock = lock(&data_dir)?;
    let options = EngineOptions {
        data_dir: data_dir.clone(),
        database_url,
        plugins,
        owner: None,
        limits,
        mail,
        clock: std::env::var_os(CLOCK_VARIABLE).map_or(Clock::System, |file| Clock::Moved(file.into())),
        abort_at_step: std::env::var(ABORT_VARIABLE).ok().filter(|step| !step.is_empty()),
    };
    let engine = Engine::start(options).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
    let tls = tls.map(|(certificates, key)| TlsFiles { certificates, key });
    let bound = Server::bind(engine.clone(), &ServerOptions { listen, tls }).await;
    let served = match bound {
        Ok(server) => answer(server, &data_dir, output, &mut stops).await,
        Err(error) => Err(error.into()),
    };
    tracing::info!("stopping");
    tokio::select! {
        () = engine.shutdown() => {}
        () = stops.next() => tracing::info!("stopped at once, as asked for twice; the next start cleans up"),
    }
    served
}

async fn answer(server: Server, data_dir: &Path, output: &Output, stops: &mut Stops) -> Result<()> {
    let url = server.url();
    let token_file = data_dir.join(ADMIN_TOKEN_FILE);
    if let Err(error) = servers::note(&url, &token_file) {
        // A convenience of the command line: the server does not need it.
        tracing::info!("clients need --token, as this server could not be noted for them: {error:#}");
    }
    tracing::info!("listening on {url}");
    if output.is_json() {
        output.json_line(&json!({ "url": url, "token_file": token_file }))?;
    }
    server.run(stops.next()).await;
    Ok(())
}

/// Two servers on one data folder would each take the other's running jobs for a dead one's.
fn lock(data_dir: &Path) -> Result<File> {
    let path = data_dir.join("serve.lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another server uses {}", data_dir.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn start_log(filter: Option<&str>) -> Result<()> {
    let filter = match filter {
        Some(text) => EnvFilter::try_new(text).map_err(|error| Usage(format!("--log: {error}")))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let colours =
        std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    Ok(())
}
