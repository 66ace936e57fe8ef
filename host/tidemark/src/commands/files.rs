//! `tidemark restore mount`, `ls`, `info`, `get`, `search`, `diff`: files out of backups.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidemark_api::wire::{FileEntry, FileList, FoundFiles, MountBackup, MountEntry, MountList};

use super::restore::{pass_on, standard_output};
use crate::args::{ArchiveArg, FilesVerb};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, fields, moment, or_dash, size};

/// Files by their paths, each with what tells a change: kind, size and time.
type Tree = BTreeMap<String, (String, u64, Option<String>)>;

pub(super) fn run(verb: FilesVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        FilesVerb::Mount { id, disk } => {
            output.document(mount(client, &id, disk)?, |mount: MountEntry| {
                let MountEntry { mount_id, vm_name, disk_index, .. } = &mount;
                format!("mount {mount_id} ({vm_name}, disk {disk_index})\n{}", partitions(&mount))
            })?;
        }
        FilesVerb::Mounts => {
            output.document(client.get("/api/v1/restore/mounts")?, |list: MountList| mounts(list))?;
        }
        FilesVerb::Unmount { mount } => {
            client.delete(&format!("/api/v1/restore/{}", escape(&mount)))?;
            output.done(&format!("mount {mount} has ended"))?;
        }
        FilesVerb::Ls { mount, path } => {
            output.document(list(client, &mount, &path)?, |list: FileList| {
                table(list.files, |file| file.name.clone())
            })?;
        }
        FilesVerb::Info { mount, path } => {
            output.document(info(client, &mount, &path)?, |file: FileEntry| about(file))?;
        }
        FilesVerb::Search { mount, name, path } => {
            let place = format!(
                "/api/v1/restore/{}/search?path={}&name={}",
                escape(&mount),
                escape(&path),
                escape(&name)
            );
            return search(client, output, &place);
        }
        FilesVerb::Get { mount, path, to, format } => return get(client, output, &mount, &path, to, format),
        FilesVerb::Diff { from, to, disk, path } => {
            let difference = diff(client, &from, &to, disk, &path)?;
            output.document(difference, |document: Value| {
                let lines = ["added", "removed", "changed"].into_iter().zip(['+', '-', '~']).flat_map(
                    |(key, sign)| {
                        let files = document[key].as_array().cloned().unwrap_or_default();
                        files.into_iter().filter_map(move |file| Some(format!("{sign} {}", file.as_str()?)))
                    },
                );
                let lines: Vec<String> = lines.collect();
                if lines.is_empty() { "no file differs".to_owned() } else { lines.join("\n") }
            })?;
        }
    }
    Ok(Ended::Done)
}

fn mount(client: &Client, id: &str, disk: u32) -> Result<Value> {
    client.post("/api/v1/restore/mount", &MountBackup { backup_id: id.to_owned(), disk_index: disk })
}

fn list(client: &Client, mount: &str, path: &str) -> Result<Value> {
    client.get(&format!("/api/v1/restore/{}/files?path={}", escape(mount), escape(path)))
}

fn info(client: &Client, mount: &str, path: &str) -> Result<Value> {
    client.get(&format!("/api/v1/restore/{}/file-info?path={}", escape(mount), escape(path)))
}

fn about(file: FileEntry) -> String {
    let time = |time: &Option<String>| or_dash(time.as_deref().map(moment));
    let streams: Vec<String> =
        file.streams.iter().map(|stream| format!("{} ({})", stream.name, size(stream.size))).collect();
    let mut pairs = vec![
        ("path", file.path.clone()),
        ("type", file.kind.clone()),
        ("size", format!("{} bytes", file.size)),
        ("modified", time(&file.modified_time)),
        ("created", time(&file.created_time)),
        ("accessed", time(&file.accessed_time)),
        ("mode", or_dash(file.mode)),
        ("owner", or_dash(file.owner)),
        ("group", or_dash(file.group)),
        ("links", or_dash(file.links.map(|links| links.to_string()))),
        ("attributes", or_dash(Some(file.attributes.join(", ")))),
        ("access", or_dash(file.access_list)),
        ("streams", or_dash(Some(streams.join(", ")))),
    ];
    pairs.extend(file.target.map(|target| ("leads to", target)));
    fields(&pairs)
}

fn partitions(mount: &MountEntry) -> String {
    let mut table = Table::new(&["PARTITION", "FILE SYSTEM", "SIZE", "NOTE"]);
    for partition in &mount.partitions {
        let mut notes = partition.warnings.clone();
        if !partition.readable {
            notes.insert(0, "cannot be read".to_owned());
        }
        table.row([
            partition.name.clone(),
            partition.filesystem.clone(),
            size(partition.size_bytes),
            or_dash(Some(notes.join("; "))),
        ]);
    }
    table.render("no partitions")
}

fn mounts(list: MountList) -> String {
    let mut table = Table::new(&["MOUNT", "VM", "DISK", "BACKUP", "PARTITIONS", "MEMORY", "ENDS"]);
    for mount in list.mounts {
        let count = mount.partitions.len().to_string();
        let ends = moment(&mount.expires_at);
        table.row([
            mount.mount_id,
            mount.vm_name,
            mount.disk_index.to_string(),
            mount.backup_id,
            count,
            size(mount.memory_bytes),
            ends,
        ]);
    }
    table.render("no mounts")
}

fn table(files: Vec<FileEntry>, name: impl Fn(&FileEntry) -> String) -> String {
    let mut table = Table::new(&["TYPE", "MODE", "SIZE", "MODIFIED", "NAME"]);
    for file in files {
        let bytes = if file.kind == "file" { size(file.size) } else { "-".to_owned() };
        let modified = or_dash(file.modified_time.as_deref().map(moment));
        let name = name(&file);
        table.row([file.kind, or_dash(file.mode), bytes, modified, name]);
    }
    table.render("nothing")
}

/// For people line by line while the search goes on, as a document where that is wanted.
fn search(client: &Client, output: &Output, place: &str) -> Result<Ended> {
    if output.is_json() {
        output.document(client.get(place)?, |_: FoundFiles| String::new())?;
        return Ok(Ended::Done);
    }
    let mut count = 0_u64;
    for line in BufReader::new(client.lines(place)?.body).lines() {
        let line = line.with_context(|| format!("the server broke off after {count} were found"))?;
        let file: FileEntry =
            serde_json::from_str(&line).context("the server's answer is not as expected")?;
        let bytes = if file.kind == "file" { size(file.size) } else { "-".to_owned() };
        let modified = or_dash(file.modified_time.as_deref().map(moment));
        output.done(&format!("{:<9} {bytes:>10}  {modified:<20} {}", file.kind, file.path))?;
        count += 1;
    }
    output.note(&format!("{count} found"));
    Ok(Ended::Done)
}

fn get(
    client: &Client,
    output: &Output,
    mount: &str,
    path: &str,
    to: Option<PathBuf>,
    format: ArchiveArg,
) -> Result<Ended> {
    let place = |route: &str| format!("/api/v1/restore/{}/{route}?path={}", escape(mount), escape(path));
    let about: FileEntry = serde_json::from_value(info(client, mount, path)?)?;
    let ending = match format {
        ArchiveArg::Zip => "zip",
        ArchiveArg::TarGz => "tar.gz",
    };
    let (route, name) = if about.kind == "directory" {
        (format!("{}&format={ending}", place("download-directory")), format!("{}.{ending}", about.name))
    } else {
        (place("download"), about.name.clone())
    };
    let to = to.unwrap_or_else(|| PathBuf::from(&name));
    if to.as_os_str() == "-" {
        let sent = client
            .download(&route)
            .and_then(|download| pass_on(download, &mut standard_output()?, output))?;
        output.note(&format!("{path}: {} sent", size(sent)));
        return Ok(Ended::Done);
    }
    let to = if to.is_dir() { to.join(&name) } else { to };
    let bytes = into_file(client, &route, &to, output)?;
    let document = json!({ "path": path, "to": to, "bytes": bytes });
    output.document(document, |_: Value| format!("{path} is in {}: {}", to.display(), size(bytes)))?;
    Ok(Ended::Done)
}

/// A new file that exists only whole: it gets its name after the last byte.
fn into_file(client: &Client, route: &str, to: &Path, output: &Output) -> Result<u64> {
    ensure!(!to.exists(), "{} exists already; --to names another file", to.display());
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut file = File::create_new(&partial).with_context(|| format!("making {}", partial.display()))?;
    let mut write = || -> Result<u64> {
        let bytes = client.download(route).and_then(|download| pass_on(download, &mut file, output))?;
        file.sync_all().with_context(|| format!("writing {}", partial.display()))?;
        // A link never replaces a file that came to be meanwhile.
        std::fs::hard_link(&partial, to).with_context(|| format!("naming {}", to.display()))?;
        Ok(bytes)
    };
    let written = write();
    // Whole or not, the name that counts is the other one.
    std::fs::remove_file(&partial).with_context(|| format!("removing {}", partial.display()))?;
    written
}

/// All files below a path of a mount.
fn tree(client: &Client, mount: &str, path: &str) -> Result<Tree> {
    let (mut found, mut waiting) = (Tree::new(), vec![path.to_owned()]);
    while let Some(folder) = waiting.pop() {
        let listed: FileList = serde_json::from_value(list(client, mount, &folder)?)?;
        for file in listed.files {
            if file.kind == "directory" {
                waiting.push(file.path);
            } else {
                found.insert(file.path, (file.kind, file.size, file.modified_time));
            }
        }
    }
    Ok(found)
}

fn diff(client: &Client, from: &str, to: &str, disk: u32, path: &str) -> Result<Value> {
    let look = |id: &str| {
        let mounted: MountEntry = serde_json::from_value(mount(client, id, disk)?)?;
        let files = tree(client, &mounted.mount_id, path);
        client.delete(&format!("/api/v1/restore/{}", escape(&mounted.mount_id)))?;
        files.with_context(|| format!("backup {id}"))
    };
    let (before, after) = (look(from)?, look(to)?);
    let missing = |of: &Tree, than: &Tree| -> Vec<String> {
        of.keys().filter(|path| !than.contains_key(*path)).cloned().collect()
    };
    let changed = before.iter().filter(|(path, file)| after.get(*path).is_some_and(|other| other != *file));
    Ok(json!({
        "from": from,
        "to": to,
        "added": missing(&after, &before),
        "removed": missing(&before, &after),
        "changed": changed.map(|(path, _)| path).collect::<Vec<_>>(),
    }))
}
