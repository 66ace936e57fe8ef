//! The inventory: virtual machines page by page through a container view, with the folders they are in.
//!
//! A listing lives in the session that began it. Where the session is renewed on the way, the view and the token
//! are gone: the listing then starts again by itself and leaves out what it has already answered.

use std::collections::{HashMap, HashSet, VecDeque};

use tidemark_plugin::connector::VirtualMachine;
use tidemark_plugin::{Error, Result, debug};

use crate::machine::{Machine, PATHS};
use crate::property::{self, Page};
use crate::session::{Repeat, Session};
use crate::xml::{Element, Ref};

const MAX_PAGE: u32 = 100;
/// Deeper folders are cut: a loop of parents must not hold us.
const MAX_FOLDER_DEPTH: usize = 64;
/// Requests for one page of ours; each brings something new, but for the ones after a restart.
const MAX_FETCHES: usize = 1_000;
const MAX_RESTARTS: u32 = 3;

/// A listing under way.
#[derive(Debug)]
pub(crate) struct Listing {
    view: Ref,
    token: Option<String>,
    seen: HashSet<String>,
    pending: VecDeque<Machine>,
    pages: u64,
    logins: u64,
    restarts: u32,
}

/// Names and parents of folders and datacenters, by reference.
#[derive(Debug, Default)]
pub(crate) struct Ancestors {
    known: HashMap<Ref, (String, Option<Ref>)>,
}

/// The names of custom fields by their number; read once.
#[derive(Debug, Default)]
pub(crate) struct CustomFields(Option<HashMap<String, String>>);

impl Listing {
    pub(crate) fn begin(session: &mut Session, limit: u32) -> Result<Self> {
        let mut listing = Self {
            view: Ref::new("", ""),
            token: None,
            seen: HashSet::new(),
            pending: VecDeque::new(),
            pages: 0,
            logins: 0,
            restarts: 0,
        };
        listing.start(session, limit)?;
        Ok(listing)
    }

    /// What `next` of the last answered page was.
    pub(crate) fn cursor(&self) -> String {
        format!("page-{}", self.pages)
    }

    /// The next machines, at most `limit`, and whether there are more.
    pub(crate) fn page(&mut self, session: &mut Session, limit: u32) -> Result<(Vec<Machine>, bool)> {
        let limit = limit.clamp(1, MAX_PAGE);
        let wanted = usize::try_from(limit).unwrap_or(1);
        let mut fetched = 0;
        while self.pending.len() < wanted {
            let Some(token) = self.token.take() else { break };
            fetched += 1;
            if fetched > MAX_FETCHES {
                return Err(Error::corrupt("the property collector goes on without showing anything new"));
            }
            let answer = property::next(session, &token)?;
            match answer {
                Ok(page) => self.take(page)?,
                Err(_) if session.logins() != self.logins && self.restarts < MAX_RESTARTS => {
                    debug!("the listing starts again in the new session");
                    self.restarts += 1;
                    self.start(session, limit)?;
                }
                Err(fault) => return Err(fault.to_error("listing virtual machines")),
            }
        }
        let machines: Vec<Machine> = self.pending.drain(..wanted.min(self.pending.len())).collect();
        self.pages += 1;
        Ok((machines, !self.pending.is_empty() || self.token.is_some()))
    }

    /// Gives the view back; a view that is gone already is no matter.
    pub(crate) fn end(self, session: &mut Session) {
        let ended = session.try_call("DestroyView", &self.view, Repeat::Never, &|xml| xml);
        if !matches!(ended, Ok(Ok(_))) {
            debug!("the view {} was not destroyed; the server drops it with the session", self.view.id);
        }
    }

    fn start(&mut self, session: &mut Session, limit: u32) -> Result<()> {
        let container = container(session)?;
        let manager = session.content()?.view_manager.clone();
        let doing = "listing virtual machines";
        let answer = session.call("CreateContainerView", &manager, Repeat::Safe, doing, &|xml| {
            xml.reference("container", &container)
                .element("type", "VirtualMachine")
                .element("recursive", "true")
        })?;
        self.view =
            answer.ref_of("returnval").ok_or_else(|| Error::corrupt("CreateContainerView gave no view"))?;
        self.logins = session.logins();
        let limit = limit.clamp(1, MAX_PAGE);
        let page = property::first_of_view(session, &self.view, "VirtualMachine", &PATHS, limit)?;
        self.take(page.map_err(|fault| fault.to_error(doing))?)
    }

    fn take(&mut self, page: Page) -> Result<()> {
        self.token = page.token;
        for object in page.objects {
            if object.of.kind == "VirtualMachine" && self.seen.insert(object.of.id.clone()) {
                self.pending.push_back(Machine::parse(&object)?);
            }
        }
        Ok(())
    }
}

/// The root folder, or the datacenter that the settings name.
fn container(session: &mut Session) -> Result<Ref> {
    let content = session.content()?;
    let Some(path) = session.settings().datacenter.clone() else { return Ok(content.root_folder.clone()) };
    let index = content.search_index.clone();
    let index = index
        .ok_or_else(|| Error::unsupported("the server has no search index to find the datacenter by"))?;
    let doing = format!("looking for the datacenter '{path}'");
    let answer = session.call("FindByInventoryPath", &index, Repeat::Safe, &doing, &|xml| {
        xml.element("inventoryPath", &path)
    })?;
    answer.ref_of("returnval").ok_or_else(|| Error::not_found(format!("there is no datacenter '{path}'")))
}

impl Ancestors {
    /// Learns the ancestors of these objects, one call for each level of folders.
    fn learn(&mut self, session: &mut Session, of: impl Iterator<Item = Ref>) -> Result<()> {
        let mut unknown: HashSet<Ref> = of.filter(|parent| !self.known.contains_key(parent)).collect();
        for _ in 0..MAX_FOLDER_DEPTH {
            if unknown.is_empty() {
                break;
            }
            let mut wanted: Vec<Ref> = unknown.drain().collect();
            wanted.sort();
            let found = property::of_objects(session, &wanted, &["name", "parent"], "reading folders")?;
            for folder in found {
                let name = folder.text("name").unwrap_or_default().to_owned();
                self.known.insert(folder.of.clone(), (name, folder.get("parent").and_then(Element::as_ref)));
            }
            for asked in wanted {
                // Not shown to this user: the path begins below it.
                let (_, parent) = self.known.entry(asked).or_default();
                unknown.extend(parent.clone());
            }
            unknown.retain(|parent| !self.known.contains_key(parent));
        }
        Ok(())
    }

    /// The references from the outermost folder (the server's root left out) down to `parent`.
    fn path(&self, parent: Option<&Ref>) -> Vec<(&Ref, &str)> {
        let mut path = Vec::new();
        let mut current = parent;
        while let Some((of, (name, above))) = current.and_then(|of| self.known.get_key_value(of)) {
            if above.is_some() && path.len() < MAX_FOLDER_DEPTH {
                path.push((of, name.as_str()));
            }
            current = above.as_ref().filter(|_| path.len() < MAX_FOLDER_DEPTH);
        }
        path.reverse();
        path
    }

    /// The inventory path of the datacenter that a machine is in, as `/folder` URLs want it.
    pub(crate) fn datacenter_path(&mut self, session: &mut Session, machine: &Machine) -> Result<String> {
        self.learn(session, machine.parent.clone().into_iter())?;
        let path = self.path(machine.parent.as_ref());
        let end = path.iter().position(|(of, _)| of.kind == "Datacenter");
        let end =
            end.ok_or_else(|| Error::not_found(format!("the datacenter of {} is not shown", machine.name)))?;
        let names: Vec<&str> = path.iter().take(end + 1).map(|(_, name)| *name).collect();
        Ok(names.join("/"))
    }
}

impl CustomFields {
    /// A server without custom fields, or a user who may not read them, has no names: the values are left out.
    fn names(&mut self, session: &mut Session) -> Result<&HashMap<String, String>> {
        if self.0.is_none() {
            let manager = session.content()?.custom_fields_manager.clone();
            let read = manager
                .map(|manager| property::of_object(session, &manager, &["field"], "reading custom fields"));
            let fields = match read {
                Some(Ok(object)) => object.get("field").map(|list| list.children.clone()).unwrap_or_default(),
                Some(Err(error)) => {
                    debug!("custom values are left out: {}", error.message);
                    Vec::new()
                }
                None => Vec::new(),
            };
            let pair =
                |field: &Element| Some((field.text_of("key")?.to_owned(), field.text_of("name")?.to_owned()));
            self.0 = Some(fields.iter().filter_map(pair).collect());
        }
        Ok(self.0.get_or_insert_default())
    }
}

/// The machines as the contract describes them.
pub(crate) fn describe(
    session: &mut Session,
    ancestors: &mut Ancestors,
    fields: &mut CustomFields,
    machines: &[Machine],
) -> Result<Vec<VirtualMachine>> {
    ancestors.learn(session, machines.iter().filter_map(|machine| machine.parent.clone()))?;
    let nothing = HashMap::new();
    let names = if machines.iter().any(|machine| !machine.custom_values.is_empty()) {
        fields.names(session)?
    } else {
        &nothing
    };
    let describe = |machine: &Machine| {
        let folder: Vec<&str> =
            ancestors.path(machine.parent.as_ref()).into_iter().map(|(_, name)| name).collect();
        let custom = machine.custom_values.iter();
        let custom = custom.filter_map(|(key, value)| names.get(key).map(|name| format!("{name}={value}")));
        VirtualMachine {
            key: machine.of.id.clone(),
            name: machine.name.clone(),
            power: machine.power,
            guest_os: machine.guest_os.clone(),
            folder: folder.join("/"),
            tags: machine.tags.iter().cloned().chain(custom).collect(),
            datastores: machine.datastore_names(),
            disks: machine.disks.iter().map(crate::machine::Disk::to_contract).collect(),
            change_tracking: machine.tracking,
            not_protected: machine.not_protected(),
        }
    };
    Ok(machines.iter().map(describe).collect())
}
