//! What a new plugin is made of: a template of each kind, and the SDK with the contract, all within this binary, so that
//! an author needs nothing but it and cargo.
//!
//! The templates are plugins themselves, built and tested where they lie (`sdk/templates`). In a copy their name and
//! their way to the SDK change, and nothing else does.

use crate::args::TemplateArg;

/// What the templates call themselves.
const TEMPLATE_NAME: &str = "my-plugin";
/// Where the SDK lies from a template, and from a new plugin.
const SDK_FROM_TEMPLATE: &str = "../../rust";
const SDK_FROM_PLUGIN: &str = "sdk/rust";

/// A file by its place in the folder.
type File = (&'static str, &'static str);

/// Files of `sdk/<folder>`, each at the same place below `$at`.
macro_rules! files {
    ($folder:literal, $at:literal, [$($name:literal),+ $(,)?]) => {
        &[$((
            concat!($at, $name),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/", $folder, "/", $name)),
        )),+]
    };
}

const SDK: &[&[File]] = &[
    files!(
        "rust",
        "sdk/rust/",
        [
            "Cargo.toml",
            "src/bindings.rs",
            "src/clock.rs",
            "src/connector.rs",
            "src/error.rs",
            "src/guest_filesystem.rs",
            "src/http.rs",
            "src/lib.rs",
            "src/log.rs",
            "src/policy.rs",
            "src/storage_target.rs",
        ]
    ),
    files!(
        "wit",
        "sdk/wit/",
        ["connector.wit", "guest-filesystem.wit", "host.wit", "policy.wit", "storage-target.wit",]
    ),
];

const CONNECTOR: &[File] = files!(
    "templates/connector",
    "",
    [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/lib.rs",]
);

const STORAGE_TARGET: &[File] = files!(
    "templates/storage-target",
    "",
    [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/lib.rs",]
);

const GUEST_FILESYSTEM: &[File] = files!(
    "templates/guest-filesystem",
    "",
    [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/archive.rs", "src/lib.rs",]
);

const POLICY: &[File] =
    files!("templates/policy", "", [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/lib.rs",]);

fn template(kind: TemplateArg) -> &'static [File] {
    match kind {
        TemplateArg::Connector => CONNECTOR,
        TemplateArg::StorageTarget => STORAGE_TARGET,
        TemplateArg::GuestFilesystem => GUEST_FILESYSTEM,
        TemplateArg::Policy => POLICY,
    }
}

/// All files of a new plugin by their places in its folder, the SDK's last.
pub(super) fn files_of(kind: TemplateArg, name: &str) -> Vec<(&'static str, String)> {
    let own = template(kind).iter().map(|(place, text)| {
        let text = text.replace(TEMPLATE_NAME, name);
        (*place, if *place == "Cargo.toml" { text.replace(SDK_FROM_TEMPLATE, SDK_FROM_PLUGIN) } else { text })
    });
    let sdk = SDK.iter().copied().flatten().map(|(place, text)| (*place, (*text).to_owned()));
    own.chain(sdk).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sdk() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk")
    }

    /// The files that belong to the sources of `folder`.
    fn on_disk(folder: &Path) -> BTreeSet<String> {
        let (mut found, mut waiting) = (BTreeSet::new(), vec![folder.to_owned()]);
        while let Some(at) = waiting.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap().to_owned();
                if path.is_dir() {
                    waiting.extend((name != "target").then_some(path));
                } else if name != "Cargo.lock" {
                    found.insert(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        found
    }

    fn places(files: &[File], below: &str) -> BTreeSet<String> {
        files.iter().map(|(place, _)| place.strip_prefix(below).unwrap().to_owned()).collect()
    }

    #[test]
    fn nothing_of_the_sdk_and_the_templates_is_left_out() {
        assert_eq!(places(SDK[0], "sdk/rust/"), on_disk(&sdk().join("rust")));
        assert_eq!(places(SDK[1], "sdk/wit/"), on_disk(&sdk().join("wit")));
        for (folder, files) in [
            ("connector", CONNECTOR),
            ("storage-target", STORAGE_TARGET),
            ("guest-filesystem", GUEST_FILESYSTEM),
            ("policy", POLICY),
        ] {
            assert_eq!(places(files, ""), on_disk(&sdk().join("templates").join(folder)), "{folder}");
        }
    }

    #[test]
    fn a_copy_has_its_own_name_and_its_own_sdk() {
        for kind in [
            TemplateArg::Connector,
            TemplateArg::StorageTarget,
            TemplateArg::GuestFilesystem,
            TemplateArg::Policy,
        ] {
            let files = files_of(kind, "mine");
            assert!(files.iter().all(|(_, text)| !text.contains(TEMPLATE_NAME)), "{kind:?}");
            let text = |place: &str| &files.iter().find(|(known, _)| *known == place).unwrap().1;
            assert!(text("plugin.toml").starts_with("name = \"mine\"\n"));
            assert!(text("Cargo.toml").contains("path = \"sdk/rust\""));
            assert!(text("src/lib.rs").contains("description(\"mine\""));
        }
    }
}
