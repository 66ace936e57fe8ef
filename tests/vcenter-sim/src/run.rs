//! Starts everything, says where it is, and runs until a signal.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use tidemark_nbd::Server;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::options::Options;
use crate::serve::{control, https, nbd, tls};
use crate::state::Simulator;
use crate::state::faults::FaultName;

/// Runs the simulator until SIGTERM or SIGINT.
///
/// # Errors
/// Options that make no sense, disks that cannot be taken over, addresses that cannot be bound.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Installed before the address is announced: whoever reads it may signal at once.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let temporary = tempfile::Builder::new().prefix("vcenter-sim-").tempdir()?;
    let state = options.state_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let simulator = Simulator::new(options.vcenter(&state)?);
    for text in &options.faults {
        set_fault(&simulator, text)?;
    }
    let identity = tls::Identity::create()?;
    let sdk = TcpListener::bind(options.listen).await.context("cannot listen for HTTPS")?;
    let controls = TcpListener::bind(options.control_listen).await.context("cannot listen for control")?;
    let exports = Arc::new(nbd::Exports(simulator.clone()));
    let disks = Server::bind_tcp(options.nbd_listen, exports, nbd::options(simulator.clone()));
    let disks = disks.await.context("cannot listen for NBD")?;
    let nbd_address = disks.local_addr().context("the NBD server has no address")?;
    let addresses = json!({
        "url": format!("https://{}/sdk", sdk.local_addr()?),
        "username": options.username,
        "password": options.password,
        "thumbprint": identity.thumbprint,
        "thumbprint_sha1": identity.thumbprint_sha1,
        "nbd_url": format!("nbd://{nbd_address}"),
        "control_url": format!("http://{}", controls.local_addr()?),
    });
    let https = tokio::spawn(https::serve(simulator.clone(), sdk, identity.config));
    let control = tokio::spawn(control::serve(simulator, controls));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{addresses}")?;
    out.flush()?;
    drop(out);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    https.abort();
    control.abort();
    disks.shutdown().await;
    Ok(())
}

/// Sets a switch given as `NAME[=ARG]`.
fn set_fault(simulator: &Simulator, text: &str) -> anyhow::Result<()> {
    let (name, arg) = match text.split_once('=') {
        Some((name, arg)) => (name, Some(arg.to_owned())),
        None => (text, None),
    };
    let fault = FaultName::parse(name).with_context(|| format!("there is no fault switch {name}"))?;
    simulator.set_fault(fault, arg, None).map_err(anyhow::Error::msg)
}
