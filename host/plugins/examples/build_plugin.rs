//! Builds one plugin: `cargo run -p tidemark-plugins --example build_plugin -- DIR OUT.wasm`.

use std::path::Path;
use std::process::ExitCode;

use tidemark_plugins::build::{BuildOptions, build_plugin};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, out] = arguments.as_slice() else {
        eprintln!("usage: build_plugin DIR OUT.wasm");
        return ExitCode::from(2);
    };
    match build_plugin(Path::new(dir), &BuildOptions { out: Some(out.into()), target_dir: None }) {
        Ok(built) => {
            println!(
                "{} {} {} by {}",
                built.path.display(),
                built.manifest.version,
                built.digest,
                built.method
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
