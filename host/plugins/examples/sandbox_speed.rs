//! How much the sandbox costs: medians over many repetitions, on the components that `make build guests` leaves in
//! `target`.
//!
//! ```text
//! cargo build --release --locked --workspace --example sandbox_speed && target/release/examples/sandbox_speed
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use tidemark_model::{ByteLen, ChangeId, DiskKey};
use tidemark_plugins::{Connector, Plugin, Runtime, RuntimeOptions, Session, Since};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 2000;
const MANY: u64 = 100_000;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn told(what: &str, times: Vec<Duration>, wanted_us: u32) {
    let taken = median(times).as_secs_f64() * 1e6;
    println!("{what:<44} {taken:>10.1} µs   (wanted: < {wanted_us} µs)");
}

async fn open(runtime: &Runtime, plugin: &Plugin, settings: &str) -> Outcome<Connector> {
    let session = Session { settings_json: settings.to_owned(), ..Session::bare("speed") };
    Ok(runtime.connector(plugin, session).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let component = |path: &str| std::fs::read(Path::new(&target).join(path));
    let (guest, vcenter) = (component("guests/connector.wasm")?, component("plugins/vcenter.wasm")?);
    let runtime = Runtime::new(RuntimeOptions::default())?;
    let plugin = runtime.load(&guest).await?;

    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        runtime.self_check(&plugin).await?;
        times.push(begun.elapsed());
    }
    told("instantiate + one call", times, 200);

    let mut connector = open(&runtime, &plugin, "{}").await?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        connector.keep_alive().await?;
        times.push(begun.elapsed());
    }
    told("one call that does nothing", times, 5);

    let mut connector = open(&runtime, &plugin, r#"{"behave":"many"}"#).await?;
    let (disk, since) = (DiskKey("2000".to_owned()), Since::ChangeId(ChangeId("static/1".to_owned())));
    let mut times = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        let areas = connector.changed_areas("vm-1", "s", &disk, &since, ByteLen(MANY * 1024)).await?;
        times.push(begun.elapsed());
        assert_eq!(areas.len() as u64, MANY, "all of them came across");
    }
    told("100,000 extents in ten pages, checked", times, 20_000);

    let folder = tempfile::tempdir()?;
    let fresh = || {
        let cache_dir = Some(folder.path().join("compiled"));
        Runtime::new(RuntimeOptions { cache_dir, ..RuntimeOptions::default() })
    };
    fresh()?.load_blocking(&vcenter)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let runtime = fresh()?;
        let begun = Instant::now();
        let loaded = runtime.load_blocking(&vcenter)?;
        times.push(begun.elapsed());
        assert!(loaded.from_cache(), "it was compiled before");
    }
    told("vcenter from the cache of compiled components", times, 5_000);
    Ok(())
}
