//! The simulator's command: starts it, prints one line of JSON with its addresses, ends on SIGTERM or SIGINT.

use clap::Parser;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    vcenter_sim::run(vcenter_sim::options::Options::parse()).await
}
