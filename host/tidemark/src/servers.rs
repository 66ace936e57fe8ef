//! Where the servers of this user on this machine keep their tokens, so that the command line works beside
//! `tidemark serve` without being told a token.
//!
//! `serve` notes its URL and the path of its token file in `servers.json` below `$XDG_STATE_HOME/tidemark`
//! (`~/.local/state/tidemark`), mode 0600. The note holds no secret; whoever cannot read the token file gains
//! nothing from it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// URL → token file.
type Notes = BTreeMap<String, PathBuf>;

fn notes_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    Some(state.join("tidemark/servers.json"))
}

/// The token of the server at `url`.
pub(crate) fn token_of(url: &str) -> Result<String> {
    let advice = "give a token by --token or TIDEMARK_TOKEN";
    let Some(file) = notes_file() else { bail!("{advice}") };
    let Some(token_file) = read(&file).remove(&canonical(url)) else {
        bail!("no server of this user runs at {url}, as far as {} says: {advice}", file.display());
    };
    let token = std::fs::read_to_string(&token_file)
        .with_context(|| format!("the token file {} cannot be read: {advice}", token_file.display()))?;
    Ok(token.trim().to_owned())
}

/// Notes a server. One that listens on every address is also found by the loopback's.
pub(crate) fn note(url: &str, token_file: &Path) -> Result<()> {
    let Some(file) = notes_file() else { return Ok(()) };
    note_in(&file, url, token_file)
}

fn note_in(file: &Path, url: &str, token_file: &Path) -> Result<()> {
    let mut notes = read(file);
    // Servers that are gone for good took their data folder along.
    notes.retain(|_, token_file| token_file.exists());
    notes.insert(canonical(url), token_file.to_owned());
    let folder = file.parent().context("a note without a folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    // Its own name and a rename: another server may be doing the same.
    let fresh = folder.join(format!("servers.json.{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| fresh.display().to_string())?;
    out.write_all(&serde_json::to_vec_pretty(&notes)?)?;
    std::fs::rename(&fresh, file).with_context(|| file.display().to_string())
}

/// Unreadable notes are no notes: they are a convenience and are written again at the next start.
fn read(file: &Path) -> Notes {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// One spelling for the ways to say "this machine".
fn canonical(url: &str) -> String {
    let url = url.trim_end_matches('/').to_ascii_lowercase();
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let rest = match rest.strip_prefix("localhost") {
        Some(port) => format!("127.0.0.1{port}"),
        None => rest.to_owned(),
    };
    match rest.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() || address.ip().is_loopback() => {
            format!("{scheme}://127.0.0.1:{}", address.port())
        }
        _ => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn this_machine_has_one_spelling() {
        for url in
            ["http://localhost:8082/", "http://0.0.0.0:8082", "http://[::]:8082", "HTTP://127.0.0.1:8082"]
        {
            assert_eq!(canonical(url), "http://127.0.0.1:8082", "{url}");
        }
        assert_eq!(canonical("https://backup.example.org"), "https://backup.example.org");
    }

    #[test]
    fn notes_are_private_and_forget_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let (file, token) = (dir.path().join("state/servers.json"), dir.path().join("admin.token"));
        std::fs::write(&token, "t").unwrap();
        note_in(&file, "http://127.0.0.1:1", &dir.path().join("gone")).unwrap();
        note_in(&file, "http://127.0.0.1:2", &token).unwrap();
        let notes = read(&file);
        assert_eq!(notes.keys().collect::<Vec<_>>(), ["http://127.0.0.1:2"]);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "{ damaged").unwrap();
        assert!(read(&file).is_empty());
    }
}
