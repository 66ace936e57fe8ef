//! How versions of plugins come and go: installed, activated after a self-check, rolled back, released, removed.
//!
//! ```text
//! install ─▶ installed ──activate──▶ active ──activate another, rollback──▶ installed ──remove──▶ gone
//!                │ asks for more than the one before?                            ▲
//!                └─ an administrator approves          two strikes ─▶ quarantine ┘ release
//! ```
//! Jobs keep the version they began with ([`crate::step::PluginPin`]), whatever becomes active meanwhile.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidemark_catalog::{Grant, PluginVersion};
use tidemark_model::{JobState, UtcMillis};
use tidemark_plugins::{Capability, Grants, Inspection, Manifest, inspect};

use super::PluginHost;
use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::flows;
use crate::policies::PLUGIN_PREFIX;
use crate::step::{Leftovers, PluginPin};

/// Who installs and grants the plugins that came with the product.
const FIRST_PARTY: &str = "host";

/// A component to be installed.
#[derive(Debug, Clone, Default)]
pub struct NewPlugin {
    /// The component.
    pub component: Vec<u8>,
    /// The text of its minisign signature file.
    pub signature: Option<String>,
}

impl PluginHost {
    /// Installs what came with the product: new versions are granted what they ask for (their code is ours and the
    /// administrator chose the folder) and activated where no other version of the plugin is.
    pub(crate) async fn install_first_party(&self, dir: &Path) -> Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("reading {}", dir.display()), error)),
        };
        let mut files: Vec<PathBuf> =
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
        files.sort_unstable();
        for path in files {
            let bytes =
                std::fs::read(&path).map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
            let installed = self.install_one_first_party(bytes).await;
            installed.map_err(|e| e.context(format!("installing {}", path.display())))?;
        }
        Ok(())
    }

    async fn install_one_first_party(&self, bytes: Vec<u8>) -> Result<()> {
        let inspection = inspect(&bytes)?;
        let Manifest { name, version, .. } = &inspection.manifest;
        let known = self.catalog.list_plugins().await?;
        let same = known.iter().find(|known| known.name == *name && known.version == *version);
        if same.is_some_and(|same| same.digest != inspection.digest) {
            tracing::warn!(
                plugin = name,
                version,
                "the folder holds other bytes under the installed version; they are not used"
            );
            return Ok(());
        }
        let never = self.catalog.last_activated_plugin(name).await?.is_none();
        if same.is_some() {
            // It may be known only from before the catalog had components, or from a host that died half-way.
            if !self.path(&inspection.digest).exists() {
                self.keep(&inspection.digest, &bytes).await?;
            }
            self.catalog.keep_plugin_component(&inspection.digest, &bytes).await?;
            if !never {
                return Ok(());
            }
        } else {
            // The folder is the administrator's: what lies in it needs no signature.
            match self.install(bytes, None).await {
                // Another host that starts with the same folder was quicker.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                installed => drop(installed?),
            }
        }
        let only_one = known.iter().all(|known| known.name != *name || known.version == *version);
        if never && only_one {
            for capability in &inspection.manifest.capabilities {
                self.grant(FIRST_PARTY, name, &capability.name).await?;
            }
        }
        if self.catalog.active_plugin(name).await?.is_none() {
            self.check(name, version).await?;
            self.catalog.activate_plugin(name, version, UtcMillis::now()).await?;
        }
        tracing::info!(plugin = name, version, "installed a plugin that came with the product");
        Ok(())
    }

    /// Stores a component and compiles it. It is not active yet.
    async fn install(&self, bytes: Vec<u8>, signed_by: Option<String>) -> Result<PluginVersion> {
        // Bytes that are no plugin are the uploader's matter, not a plugin's misbehaviour.
        let unusable = |error: tidemark_plugins::Error| Error::invalid(error.to_string());
        let inspection: Inspection = inspect(&bytes).map_err(unusable)?;
        if let Some(problem) = inspection.problem {
            return Err(Error::invalid(format!(
                "plugin '{}' does not fit its world: {problem}",
                inspection.manifest.name
            )));
        }
        let record = PluginVersion {
            name: inspection.manifest.name.clone(),
            version: inspection.manifest.version.clone(),
            kind: inspection.manifest.kind.as_str().to_owned(),
            digest: inspection.digest.clone(),
            manifest_json: inspection.manifest.to_json()?,
            installed_at: UtcMillis::now(),
            active: false,
            quarantine: None,
            signed_by,
            strikes: 0,
        };
        let plugin = self.runtime.load(&bytes).await.map_err(unusable)?;
        self.keep(&record.digest, &bytes).await?;
        self.catalog.add_plugin_version(&record, &bytes).await?;
        self.loaded().insert(record.digest.clone(), plugin);
        Ok(record)
    }

    /// Sees that a version starts and describes itself as its manifest does.
    async fn check(&self, name: &str, version: &str) -> Result<()> {
        let record = self.catalog.plugin_version(name, version).await?;
        let plugin = self.load(&record).await?;
        Ok(self.runtime.self_check(&plugin).await?)
    }

    /// What a version asks for that the one before it did not; nothing where there is none before. The version before it
    /// is the one that was active last, in quarantine now or not, or else one that was granted anything.
    async fn asks_for_more(&self, name: &str, version: &str) -> Result<Vec<Capability>> {
        let mut before = match self.catalog.active_plugin(name).await? {
            Some(active) => Some(active),
            None => self.catalog.last_activated_plugin(name).await?,
        };
        if before.is_none() && !self.catalog.list_grants(name).await?.is_empty() {
            let all = self.catalog.list_plugins().await?;
            before = all.into_iter().rfind(|known| known.name == name && known.version != version);
        }
        let Some(before) = before.filter(|before| before.version != version) else { return Ok(Vec::new()) };
        let wishes = |record: &PluginVersion| -> Result<Vec<Capability>> {
            Ok(Manifest::from_json(record.manifest_json.as_bytes())?.capabilities)
        };
        let known = wishes(&before)?;
        let wanted = wishes(&self.catalog.plugin_version(name, version).await?)?;
        Ok(wanted.into_iter().filter(|wish| !known.iter().any(|old| covers(old, wish))).collect())
    }

    async fn grant(&self, actor: &str, plugin: &str, capability: &str) -> Result<()> {
        if self.catalog.list_plugins().await?.iter().all(|known| known.name != plugin) {
            return Err(Error::not_found("plugin", plugin));
        }
        Grants::parse([capability]).map_err(|e| Error::invalid(e.to_string()))?;
        let grant = Grant {
            plugin: plugin.to_owned(),
            capability: capability.to_owned(),
            granted_by: actor.to_owned(),
            granted_at: UtcMillis::now(),
        };
        Ok(self.catalog.add_grant(&grant).await?)
    }

    fn forget(&self, record: &PluginVersion) {
        self.loaded().remove(&record.digest);
        if let Err(error) = std::fs::remove_file(self.path(&record.digest)) {
            tracing::debug!(%error, digest = record.digest, "the copy of a removed plugin stays");
        }
    }
}

/// Whether who was allowed `old` may do all of `new`; the reason does not matter.
fn covers(old: &Capability, new: &Capability) -> bool {
    let all = |new: &[String], old: &[String]| new.iter().all(|target| old.contains(target));
    old.name == new.name
        && all(&new.targets, &old.targets)
        && new.networks.iter().all(|network| old.networks.contains(network))
}

/// Capabilities for people and programs.
fn told(capabilities: &[Capability]) -> (String, Value) {
    let words = capabilities.iter().map(|wish| {
        let targets =
            if wish.targets.is_empty() { String::new() } else { format!(" to {}", wish.targets.join(", ")) };
        format!("{}{targets} ({})", wish.name, wish.reason)
    });
    (words.collect::<Vec<_>>().join("; "), json!(capabilities))
}

impl Engine {
    /// Installs a component; it is active only once [`Engine::activate_plugin`] says so.
    ///
    /// # Errors
    /// Invalid where it is no component that fits its world, or not signed as this server wants it; conflict where the
    /// version is installed already.
    pub async fn install_plugin(&self, actor: &str, new: NewPlugin) -> Result<PluginVersion> {
        let NewPlugin { component, signature } = new;
        let plugins = &self.shared.plugins;
        let signer = plugins.trust.signer(&component, signature.as_deref());
        let signer = signer.map_err(|e| Error::invalid_field("signature", e.to_string()))?;
        let record = plugins.install(component, signer).await?;
        let detail =
            json!({ "version": record.version, "digest": record.digest, "signed_by": record.signed_by });
        self.shared.audit(actor, "plugin.install", &record.name, detail).await;
        Ok(record)
    }

    /// New jobs use this version from now on; running ones keep theirs. One that asks for more than the version before
    /// it has to be approved, which grants it that.
    ///
    /// # Errors
    /// Not found; plugin where its self-check fails; conflict where it asks for more and is not approved.
    pub async fn activate_plugin(&self, actor: &str, name: &str, version: &str, approve: bool) -> Result<()> {
        let plugins = &self.shared.plugins;
        let more = plugins.asks_for_more(name, version).await?;
        let (words, document) = told(&more);
        if !more.is_empty() && !approve {
            let message = format!(
                "plugin {name} {version} asks for more than the version before it: {words}; approve that \
                 (`tidemark plugin activate {name} {version} --approve`), which grants it"
            );
            return Err(
                Error::new(ErrorKind::Conflict, message).with_detail(json!({ "asks_for_more": document }))
            );
        }
        plugins.check(name, version).await?;
        // Granted first: an active version that lacks what was approved would fail every job.
        for wish in &more {
            plugins.grant(actor, name, &wish.name).await?;
        }
        self.catalog().activate_plugin(name, version, UtcMillis::now()).await?;
        let detail = json!({ "version": version, "approved": document });
        self.shared.audit(actor, "plugin.activate", name, detail).await;
        Ok(())
    }

    /// Goes back to the version that was active before.
    ///
    /// # Errors
    /// Not found where there is none.
    pub async fn rollback_plugin(&self, actor: &str, name: &str) -> Result<PluginVersion> {
        let record = self.catalog().rollback_plugin(name, UtcMillis::now()).await?;
        self.shared.audit(actor, "plugin.rollback", name, json!({ "version": record.version })).await;
        Ok(record)
    }

    /// Lets a version out of quarantine; it may be activated again.
    ///
    /// # Errors
    /// Not found; conflict where it is in none.
    pub async fn release_plugin(&self, actor: &str, name: &str, version: &str) -> Result<()> {
        let record = self.catalog().plugin_version(name, version).await?;
        let Some(reason) = record.quarantine else {
            let message = format!("plugin {name} {version} is in no quarantine");
            return Err(Error::new(ErrorKind::Conflict, message));
        };
        self.catalog().release_plugin(name, version).await?;
        let detail = json!({ "version": version, "reason": reason });
        self.shared.audit(actor, "plugin.release", name, detail).await;
        Ok(())
    }

    /// Removes a version that nothing uses.
    ///
    /// # Errors
    /// Not found; conflict while it is active and in use, or a job began with it.
    pub async fn remove_plugin(&self, actor: &str, name: &str, version: &str) -> Result<()> {
        let record = self.catalog().plugin_version(name, version).await?;
        self.shared.refuse_while_pinned(&record).await?;
        if record.active {
            self.refuse_while_asked(name).await?;
        }
        self.catalog().remove_plugin_version(name, version).await?;
        self.shared.plugins.forget(&record);
        self.shared.audit(actor, "plugin.remove", name, json!({ "version": version })).await;
        Ok(())
    }

    /// Flows that ask a policy plugin.
    async fn refuse_while_asked(&self, name: &str) -> Result<()> {
        let policy = format!("{PLUGIN_PREFIX}{name}");
        for flow in self.catalog().list_flows().await? {
            if flows::definition_of(&flow)?.uses_policy(&policy) {
                let message = format!("flow '{}' asks plugin '{name}'", flow.name);
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        }
        Ok(())
    }

    /// Gives a plugin a right. Open sessions keep the rights they began with.
    ///
    /// # Errors
    /// Not found; invalid where it is no capability.
    pub async fn grant_plugin(&self, actor: &str, name: &str, capability: &str) -> Result<()> {
        self.shared.plugins.grant(actor, name, capability).await?;
        self.shared.audit(actor, "plugin.grant", name, json!({ "capability": capability })).await;
        Ok(())
    }

    /// Takes a right away.
    ///
    /// # Errors
    /// Not found.
    pub async fn revoke_grant(&self, actor: &str, name: &str, capability: &str) -> Result<()> {
        self.catalog().remove_grant(name, capability).await?;
        self.shared.audit(actor, "plugin.revoke", name, json!({ "capability": capability })).await;
        Ok(())
    }
}

impl Shared {
    /// A job that began with a version ends with it, and so does the undoing of what it leaves.
    async fn refuse_while_pinned(&self, record: &PluginVersion) -> Result<()> {
        let is_it = |pin: &PluginPin| pin.name == record.name && pin.version == record.version;
        for job in self.jobs_in_progress().await? {
            if job.state != JobState::Running {
                continue;
            }
            let left = Leftovers::from_steps(&self.catalog.steps(job.id).await?)?;
            let pins = left.pins.iter().flat_map(|(connector, storage)| [connector, storage]);
            if pins.chain(left.merge.iter().map(|(_, pin, _)| pin)).any(is_it) {
                let PluginVersion { name, version, .. } = record;
                let message = format!(
                    "job {} works with plugin {name} {version}; remove it when that has ended",
                    job.id
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidemark_plugins::Network;

    use super::*;

    #[test]
    fn more_targets_or_networks_are_more_and_other_words_are_not() {
        let wish = |name: &str, targets: &[&str], networks: &[Network]| Capability {
            name: name.to_owned(),
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            networks: networks.to_vec(),
            reason: targets.join(" "),
        };
        let old = wish("http", &["a", "b"], &[Network::Private]);
        assert!(covers(&old, &wish("http", &["b"], &[])));
        assert!(covers(&old, &Capability { reason: "other words".to_owned(), ..old.clone() }));
        for more in [
            wish("nbd", &["a"], &[]),
            wish("http", &["a", "c"], &[]),
            wish("http", &["a"], &[Network::Private, Network::Loopback]),
        ] {
            assert!(!covers(&old, &more), "{more:?}");
        }
        let (words, document) = told(&[old]);
        assert_eq!(words, "http to a, b (a b)");
        assert_eq!(document[0]["targets"][1], "b");
    }
}
