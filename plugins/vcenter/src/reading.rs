//! Where the host reads the bytes of a frozen disk: a descriptor for each transport, or why it would be wrong.

use tidemark_plugin::connector::{HttpSource, Lease, NbdSource, Transport, VddkSource};
use tidemark_plugin::{Error, Result};

use crate::inventory::Ancestors;
use crate::machine::{Disk, Machine};
use crate::property;
use crate::session::Session;
use crate::settings::{PASSWORD, TransportKind};
use crate::xml::Ref;

/// A lease on one disk of a snapshot. Nothing is held on the server for it.
pub(crate) fn open(
    session: &mut Session,
    ancestors: &mut Ancestors,
    vm: &Ref,
    snapshot: &Ref,
    disk: &Disk,
) -> Result<Lease> {
    if let Some(reason) = disk.not_protected() {
        return Err(Error::unsupported(format!("{} cannot be read: {reason}", disk.label)));
    }
    let transport = match session.settings().transport {
        TransportKind::Nbd => nbd(session, vm, snapshot, disk)?,
        TransportKind::Vddk => vddk(session, vm, snapshot, disk)?,
        TransportKind::Https => https(session, ancestors, vm, snapshot, disk)?,
    };
    Ok(Lease { token: format!("{}/{}/{}", vm.id, snapshot.id, disk.key), transport })
}

fn nbd(session: &Session, vm: &Ref, snapshot: &Ref, disk: &Disk) -> Result<Transport> {
    let url = session.settings().nbd_url.as_deref();
    let url = url.ok_or_else(|| Error::config("transport nbd needs nbd_url"))?.trim_end_matches('/');
    Ok(Transport::Nbd(NbdSource { uri: format!("{url}/{}/{}/{}", vm.id, snapshot.id, disk.key) }))
}

fn vddk(session: &Session, vm: &Ref, snapshot: &Ref, disk: &Disk) -> Result<Transport> {
    let settings = session.settings();
    if parse_file(&disk.file).is_none() {
        return Err(Error::corrupt(format!(
            "{} has the file '{}', which is no datastore path",
            disk.label, disk.file
        )));
    }
    Ok(Transport::Vddk(VddkSource {
        server: settings.host.clone(),
        port: settings.port,
        username: settings.username.clone(),
        password_secret: PASSWORD.to_owned(),
        thumbprint: settings.vddk_thumbprint()?,
        vm_moref: vm.id.clone(),
        snapshot_moref: snapshot.id.clone(),
        file: disk.file.clone(),
        modes: settings.vddk_modes.clone(),
    }))
}

/// The flat file under `/folder` holds the frozen disk only while it is the base, everything since lies in the one
/// delta of our own snapshot, and the datastore has flat files at all. In every other case the bytes would be those
/// of another moment, so it is refused.
fn https(
    session: &mut Session,
    ancestors: &mut Ancestors,
    vm: &Ref,
    snapshot: &Ref,
    disk: &Disk,
) -> Result<Transport> {
    let refuse =
        |reason: String| Err(Error::unsupported(format!("{}: transport https: {reason}", disk.label)));
    let machine = Machine::read(session, &vm.id)?;
    if machine.snapshots.len() != 1 || machine.snapshots.first().is_none_or(|node| node.of.id != snapshot.id)
    {
        return refuse(format!(
            "{} has other snapshots, so the flat file is not the frozen disk",
            machine.name
        ));
    }
    if disk.has_parent {
        return refuse("the frozen disk holds only differences to another file".to_owned());
    }
    if disk.backing != "VirtualDiskFlatVer2BackingInfo" {
        return refuse(format!("a {} has no flat file", disk.backing));
    }
    let current = machine.disks.iter().find(|current| current.key == disk.key);
    if current.is_some_and(|current| current.file == disk.file) {
        return refuse("the machine still writes to the file that the snapshot names".to_owned());
    }
    let Some(datastore) = &disk.datastore else { return refuse("its datastore is not shown".to_owned()) };
    let summary = property::of_object(session, datastore, &["summary"], "reading the datastore")?;
    let kind =
        summary.get("summary").and_then(|summary| summary.text_of("type")).unwrap_or_default().to_owned();
    if !matches!(kind.as_str(), "VMFS" | "NFS" | "NFS41") {
        return refuse(format!("a datastore of type '{kind}' has no flat files"));
    }
    let Some((store, path)) = parse_file(&disk.file) else {
        return refuse(format!("'{}' is no datastore path", disk.file));
    };
    let Some(base) = path.strip_suffix(".vmdk") else { return refuse(format!("'{path}' is no .vmdk")) };
    let datacenter = ancestors.datacenter_path(session, &machine)?;
    let settings = session.settings();
    let url = format!(
        "{}/folder/{}-flat.vmdk?dcPath={}&dsName={}",
        settings.origin(),
        percent(base, true),
        percent(&datacenter, false),
        percent(store, false)
    );
    let thumbprint = settings.thumbprint.clone();
    if settings.ca_pem.is_some() {
        return refuse(
            "it needs the server pinned by thumbprint or a certificate that the machine believes".to_owned(),
        );
    }
    let headers = vec![session.cookie_header()?];
    Ok(Transport::HttpRange(HttpSource { url, headers, thumbprint }))
}

/// `[datastore] folder/file.vmdk` in its two parts.
fn parse_file(file: &str) -> Option<(&str, &str)> {
    let (store, path) = file.strip_prefix('[')?.split_once("] ")?;
    let plain =
        !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    (plain && !store.is_empty()).then_some((store, path))
}

fn percent(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slashes && byte == b'/');
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datastore_paths_come_apart() {
        assert_eq!(parse_file("[SSD 1] web 01/web 01.vmdk"), Some(("SSD 1", "web 01/web 01.vmdk")));
        for file in ["", "web.vmdk", "[] a.vmdk", "[a]b.vmdk", "[a] ../b.vmdk", "[a] "] {
            assert_eq!(parse_file(file), None, "{file}");
        }
    }

    #[test]
    fn urls_hold_no_bare_specials() {
        assert_eq!(percent("web 01/ä&b", true), "web%2001/%C3%A4%26b");
        assert_eq!(percent("a/b", false), "a%2Fb");
    }
}
