//! The contract between host and plugins: what was released stays as it is, and what is written of it for people is what the
//! WIT says. The rules are in `sdk/wit/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tidemark_tests::binaries::checkout;
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

/// Set, the reference is written and not compared.
const WRITE: &str = "TIDEMARK_WRITE_CONTRACT";
/// Every interface of every kind of plugin in one world, so that each is described once.
const ALL: &str = "
    package tidemark:reference;
    world contract {
        include tidemark:plugin/connector@0.3.0;
        include tidemark:plugin/storage-target@0.3.0;
        include tidemark:plugin/guest-filesystem@0.3.0;
        include tidemark:plugin/volume-reader@0.3.0;
        include tidemark:plugin/policy@0.3.0;
    }
";
const OPENING: &str = "<!-- Made of sdk/wit by `TIDEMARK_WRITE_CONTRACT=1 cargo test --release --workspace --test contract`. -->

# The contract between host and plugins

Every interface of contract 0.3.0, as `sdk/wit` declares it. What a plugin of each kind exports and may import:

| kind (world) | exports | may export | may import |
|---|---|---|---|
| connector | `hypervisor` | `about` | `log`, `clock`, `http` |
| storage-target | `storage` | | `log`, `crypto` |
| guest-filesystem | `filesystem` | `attributes`, `placement` | `log`, `disk` |
| volume-reader | `volumes` | | `log`, `disk` |
| policy | `decisions` | | `log` |

How plugins are written, installed and judged is in [plugins.md](plugins.md), and what of this may ever change in
[sdk/wit/README.md](../sdk/wit/README.md).

";

#[test]
fn what_was_released_stays_as_it_is() -> Result<()> {
    let folder = checkout().join("sdk/wit");
    let (mut released, mut contracts) = (BTreeMap::new(), BTreeMap::new());
    for line in fs::read_to_string(folder.join("released.txt"))?.lines().filter(|line| !line.starts_with('#'))
    {
        let [digest, contract, file] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("released.txt: '{line}' is no digest, contract and file");
        };
        // Each contract has both: what it says, and components that were built for it.
        let (says, built): &mut (bool, bool) = contracts.entry(contract.to_owned()).or_default();
        *(if file.ends_with(".wasm") { built } else { says }) = true;
        released.insert(file.to_owned(), digest.to_owned());
    }
    ensure!(contracts.values().all(|has| *has == (true, true)), "without golden components: {contracts:?}");
    let mut found = BTreeMap::new();
    collect(&folder, "", &mut found)?;
    for contract in contracts.keys() {
        let place = format!("tests/golden/contract-{contract}/");
        collect(&checkout().join(&place), &place, &mut found)?;
    }
    for (file, digest) in &found {
        let known = released.get(file).with_context(|| format!("{file} is not in released.txt: {digest}"))?;
        ensure!(known == digest, "{file} was released and has changed: what is new goes into a new contract");
    }
    ensure!(found.len() == released.len(), "a released file is gone: {released:?}");
    Ok(())
}

/// The digest of every WIT file and component below a folder.
fn collect(folder: &Path, below: &str, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let place = format!("{below}{name}");
        if path.is_dir() {
            collect(&path, &format!("{place}/"), found)?;
        } else if path.extension().is_some_and(|extension| extension == "wit" || extension == "wasm") {
            found.insert(place, hex::encode(Sha256::digest(fs::read(&path)?)));
        }
    }
    Ok(())
}

#[test]
fn the_reference_is_what_the_wit_says() -> Result<()> {
    let path = checkout().join("docs/contract.md");
    let reference = reference()?;
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, reference)?;
        return Ok(());
    }
    let written = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(written == reference, "docs/contract.md is not what sdk/wit says: run this test with {WRITE}=1");
    Ok(())
}

fn reference() -> Result<String> {
    let mut resolve = Resolve::default();
    for folder in ["sdk/wit", "sdk/wit/0.2", "sdk/wit/0.3"] {
        resolve.push_path(checkout().join(folder))?;
    }
    let package = resolve.push_str("reference.wit", ALL)?;
    let world = resolve.select_world(&[package], Some("contract"))?;
    let mut files = Files::default();
    wit_bindgen_markdown::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    let (_, text) =
        files.iter().find(|(name, _)| name.ends_with(".md")).context("the generator made no Markdown")?;
    let text = String::from_utf8(text.to_vec())?;
    // The opening says what the world's own listing would.
    let (_, interfaces) = text.split_once("## ").context("no interface was described")?;
    Ok(format!("{OPENING}## {}\n", interfaces.trim_end()))
}
