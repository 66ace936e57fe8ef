//! Patience with a task of the hypervisor that takes longer than one call of its plugin.

use std::time::{Duration, Instant};

use tidemark_plugins::{Connector, OwnSnapshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// How long a hypervisor may take over one task, such as merging a snapshot of many days.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Patience with a task of the hypervisor: a call itself is short, what it began need not be. The plugin then answers
/// `unavailable` with a time to wait, and wants to be called again.
pub(crate) struct Patience {
    begun: Instant,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now() }
    }

    /// Waits, where calling again makes sense.
    ///
    /// # Errors
    /// The error itself where it does not; cancelled.
    pub(crate) async fn wait(
        &self,
        error: tidemark_plugins::Error,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let running = *error.kind() == tidemark_plugins::ErrorKind::Unavailable;
        let Some(pause) = error.retry_after().filter(|_| running && self.begun.elapsed() < PATIENCE) else {
            return Err(error.into());
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = cancel.cancelled() => Err(Error::cancelled()),
        }
    }
}

/// Removes a snapshot, however long that takes. The host's stop does not stop it: a snapshot that stays costs the VM.
pub(crate) async fn remove_snapshot(connector: &mut Connector, vm_key: &str, token: &str) -> Result<()> {
    let (patience, never) = (Patience::new(), CancellationToken::new());
    while let Err(error) = connector.remove_snapshot(vm_key, token).await {
        patience.wait(error, &never).await?;
    }
    Ok(())
}

/// Our snapshots on a VM, the one included that is still being taken.
pub(crate) async fn list_own_snapshots(connector: &mut Connector, vm_key: &str) -> Result<Vec<OwnSnapshot>> {
    let (patience, never) = (Patience::new(), CancellationToken::new());
    loop {
        match connector.list_own_snapshots(vm_key).await {
            Ok(snapshots) => return Ok(snapshots),
            Err(error) => patience.wait(error, &never).await?,
        }
    }
}

/// Ends a hypervisor's session. What was done stands, so a failure is of no consequence.
pub(crate) async fn log_out(connector: Connector) {
    if let Err(error) = connector.close().await {
        tracing::debug!(error = %error, "logging out failed");
    }
}
